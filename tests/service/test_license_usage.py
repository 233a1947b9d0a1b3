"""Usage is counted exactly once, whichever process is killed at whichever moment."""

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from license_rig import PATIENCE, Issuer, Proxy

from babelrack.license_proxy.ledger import read_usage
from babelrack.licensing import UsageJournal, UsageRecord

# Counts requests as an API server does, under load, and writes down which ids it was about to count and which were
# acknowledged; unbuffered, so that its own death doesn't lose the notes.
SERVER = """
import asyncio, itertools, os, signal, sys
from pathlib import Path
from babelrack.licensing import UsageJournal, UsageRecord

folder, url = Path(sys.argv[1]), sys.argv[2]
notes = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def client(journal, stop):
    for number in itertools.count():
        if stop.is_set():
            return
        record = UsageRecord(deployment="indic", language=("hi", "en")[number % 2], key="acme", audio_seconds=0.125)
        os.write(notes, f"try {record.id}\\n".encode())
        assert await journal.record(record)
        os.write(notes, f"ack {record.id}\\n".encode())
        await asyncio.sleep(0.002)

async def serve():
    key = sys.stdin.readline().strip()
    journal = UsageJournal(folder / "journal.sqlite3", proxy_url=url, license_key=key, linger=0.01)
    await journal.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.gather(*(client(journal, stop) for _ in range(8)))
    await journal.stop()

asyncio.run(serve())
"""


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path)


@pytest.fixture
def proxy(issuer, tmp_path):
    proxy = Proxy(issuer, tmp_path / "proxy")
    yield proxy
    proxy.kill()


def spawn_server(folder: Path, proxy: Proxy) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder), proxy.url], stdin=subprocess.PIPE)
    process.stdin.write(proxy.issuer.license_key.encode() + b"\n")
    process.stdin.close()
    return process


def noted(folder: Path) -> tuple[list[str], list[str]]:
    lines = (
        [line.split() for line in (folder / "notes").read_text().splitlines()] if (folder / "notes").exists() else []
    )
    return [name for what, name in lines if what == "try"], [name for what, name in lines if what == "ack"]


def rows(path: Path, query: str) -> list[tuple]:
    if not path.exists():
        return []
    database = sqlite3.connect(path, timeout=PATIENCE)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def check_books(folder: Path, proxy: Proxy) -> int:
    """Every acknowledged record is at the proxy or still in the journal, none twice in the sums; return how many."""
    tried, acknowledged = noted(folder)
    counted = [name for (name,) in rows(proxy.database, "SELECT id FROM records")]
    waiting = [name for (name,) in rows(folder / "journal.sqlite3", "SELECT id FROM records")]
    assert len(counted) == len(set(counted))
    assert len(waiting) == len(set(waiting))
    known = set(counted) | set(waiting)
    assert set(acknowledged) <= known, "acknowledged records are lost"
    assert known <= set(tried)
    assert len(known) - len(set(acknowledged)) <= len(tried) - len(acknowledged)
    sums = read_usage(proxy.database, ["pack"])
    assert sum(row.requests for row in sums) == len(counted), "the sums are not those of the records"
    assert sum(row.audio_seconds for row in sums) == pytest.approx(len(counted) * 0.125)
    return len(acknowledged)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_when_server_and_proxy_are_killed_at_any_moment(tmp_path, proxy, seed):
    chance = random.Random(seed)
    folder = tmp_path / "server"
    folder.mkdir()
    proxy.start()
    server = spawn_server(folder, proxy)
    try:
        for victims in ("server", "proxy", "both", "proxy", "server", "both", "proxy", "both"):
            before = len(noted(folder)[1])
            deadline = time.monotonic() + PATIENCE
            while len(noted(folder)[1]) < before + 100:
                assert time.monotonic() < deadline, "the server counts nothing"
                assert server.poll() is None, "the server ended"
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.3))
            if victims in ("server", "both"):
                server.kill()
                server.wait(PATIENCE)
            if victims in ("proxy", "both"):
                proxy.kill()
            if victims == "both":
                check_books(folder, proxy)
            if victims in ("proxy", "both"):
                proxy.spawn()
            if victims in ("server", "both"):
                server = spawn_server(folder, proxy)
        proxy.wait()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        server.wait(PATIENCE)
    assert check_books(folder, proxy) >= 800

    # What is left is delivered by the next run.
    async def deliver():
        journal = UsageJournal(
            folder / "journal.sqlite3", proxy_url=proxy.url, license_key=proxy.issuer.license_key, linger=0.01
        )
        await journal.start()
        async with asyncio.timeout(PATIENCE):
            while journal.pending:
                await asyncio.sleep(0.02)
        await journal.stop()

    asyncio.run(deliver())
    check_books(folder, proxy)
    _, acknowledged = noted(folder)
    assert set(acknowledged) <= {name for (name,) in rows(proxy.database, "SELECT id FROM records")}
    assert rows(folder / "journal.sqlite3", "SELECT id FROM records") == []


async def eventually(true):
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.02)


async def test_usage_waits_in_the_journal_while_the_proxy_is_away_and_arrives_when_it_is_back(tmp_path, proxy):
    journal = UsageJournal(
        tmp_path / "journal.sqlite3", proxy_url=proxy.url, license_key=proxy.issuer.license_key, linger=0.01
    )
    await journal.start()
    assert all(await asyncio.gather(*(journal.record(UsageRecord(deployment="indic")) for _ in range(700))))
    await eventually(lambda: journal.fault is not None)
    assert proxy.url in journal.fault
    assert journal.pending == 700
    proxy.start()
    await eventually(lambda: journal.pending == 0)
    await eventually(lambda: journal.fault is None)
    await journal.stop()
    assert read_usage(proxy.database, ["pack"])[0].requests == 700


async def test_a_wrong_key_delivers_nothing_and_loses_nothing(tmp_path, proxy):
    proxy.start()
    journal = UsageJournal(tmp_path / "journal.sqlite3", proxy_url=proxy.url, license_key="brl_wrong", linger=0.01)
    await journal.start()
    await journal.record(UsageRecord(deployment="indic"))
    await eventually(lambda: journal.fault is not None)
    assert "401" in journal.fault
    await journal.stop()
    assert len(rows(tmp_path / "journal.sqlite3", "SELECT id FROM records")) == 1


async def test_a_record_the_proxy_refuses_holds_up_no_other(tmp_path, proxy):
    proxy.environment["USAGE_ID_DAYS"] = "1"
    proxy.start()
    journal = UsageJournal(
        tmp_path / "journal.sqlite3", proxy_url=proxy.url, license_key=proxy.issuer.license_key, linger=0.01
    )
    await journal.start()
    await journal.record(UsageRecord(deployment="indic", at="2020-01-01T00:00:00Z"))
    await asyncio.gather(*(journal.record(UsageRecord(deployment="indic")) for _ in range(20)))
    await eventually(lambda: journal.pending == 1)
    await eventually(lambda: journal.fault is not None)
    assert "1 usage records" in journal.fault
    await journal.stop()
    assert read_usage(proxy.database, ["pack"])[0].requests == 20


async def test_a_stop_delivers_what_it_can(tmp_path, proxy):
    proxy.start()
    journal = UsageJournal(
        tmp_path / "journal.sqlite3", proxy_url=proxy.url, license_key=proxy.issuer.license_key, linger=3600
    )
    await journal.start()
    await asyncio.gather(*(journal.record(UsageRecord(deployment="indic")) for _ in range(20)))
    await journal.stop()
    delivered = read_usage(proxy.database, ["pack"])
    waiting = rows(tmp_path / "journal.sqlite3", "SELECT id FROM records")
    assert sum(row.requests for row in delivered) + len(waiting) == 20


def test_bad_records_are_named_one_by_one_and_the_rest_is_counted(proxy):
    proxy.start()
    good = json.loads(UsageRecord(deployment="indic").model_dump_json())
    batch = [good, good | {"id": "x"}, {}, good | {"audio_seconds": -1}, good | {"at": "yesterday"}, good]
    with proxy.client() as client:
        answer = client.post("/v1/usage", json={"batch_id": "one", "records": batch})
    assert answer.status_code == 200
    receipt = answer.json()
    assert (receipt["accepted"], receipt["duplicates"]) == (1, 1)
    assert [rejection["index"] for rejection in receipt["rejected"]] == [1, 2, 3, 4]
    assert "audio_seconds" in receipt["rejected"][2]["reason"]


def test_an_expired_licence_still_takes_its_usage(proxy):
    proxy.issuer.write(ends=timedelta(hours=-1))
    proxy.start()
    record = json.loads(UsageRecord(deployment="indic").model_dump_json())
    with proxy.client() as client:
        assert client.post("/v1/usage", json={"batch_id": "one", "records": [record]}).json()["accepted"] == 1
