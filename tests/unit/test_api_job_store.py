"""Jobs on disk, when they are tried again, and what receivers can check."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import sqlite3
import tempfile
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.api_server.admission import Admission
from babelrack.api_server.drain import Drain
from babelrack.api_server.errors import BadRequest, Unavailable
from babelrack.api_server.jobs.board import Board
from babelrack.api_server.jobs.retry import pause
from babelrack.api_server.jobs.runner import Runner
from babelrack.api_server.jobs.store import DAY, JobStore, JobStoreError, Task
from babelrack.api_server.jobs.webhook import Sender, Webhook, extra_json, signature
from babelrack.api_server.metrics import Metrics

HOOK = Webhook(url="https://receiver.example/hook?token=secret-of-the-client")
AUDIO = b"sound" * 1000


class Clock:
    """A wall clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(folder, *, max_jobs=10, max_bytes=1_000_000, wall=None):
    store = JobStore(folder / "jobs", max_jobs=max_jobs, max_bytes=max_bytes, **({"wall": wall} if wall else {}))
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


def task(**facts) -> Task:
    facts = {"dialect": "pulse", "options": [("language", "en")], "features": [], "concurrency": None} | facts
    return Task(webhook=facts.pop("webhook", HOOK), **facts)


async def add(store, request_id="r1", key="k", content=AUDIO, **facts) -> Task:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        made = task(audio_bytes=len(content), **facts)
        await store.add(request_id, key, made, file.fileno())
    return made


def on_disk(folder) -> bytes:
    """Every byte that the store has on the disk."""
    return b"".join(file.read_bytes() for file in sorted((folder / "jobs").rglob("*")) if file.is_file())


async def test_a_job_is_found_as_it_was_kept_by_the_next_run(tmp_path):
    async with opened(tmp_path) as store:
        made = await add(store, options=[("language", "hi"), ("punctuate", "false")], url=None)
    async with opened(tmp_path) as store:
        (job,) = await store.due("queued", 5)
        assert job.task == made
        assert store.audio(made).read_bytes() == AUDIO
        assert (job.request_id, job.key, job.receiver) == ("r1", "k", "receiver.example:443")
        assert store.counts["queued"] == 1
        assert store.bytes == len(AUDIO)


async def test_a_kept_job_outlives_a_kill_at_once(tmp_path):
    """Another process sees it before the store is closed: nothing waits to be written."""
    async with opened(tmp_path) as store:
        await add(store)
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in (tmp_path / "jobs").glob("jobs.sqlite*"):
            (copy / file.name).write_bytes(file.read_bytes())
        with closing(sqlite3.connect(copy / "jobs.sqlite")) as database:
            assert database.execute("SELECT request_id, state FROM jobs").fetchall() == [("r1", "queued")]


async def test_every_commit_waits_for_the_disk(tmp_path):
    async with opened(tmp_path) as store:
        assert await store._do(lambda database: database.execute("PRAGMA synchronous").fetchone()[0]) == 2


async def test_audio_goes_when_it_is_transcribed_and_the_answer_when_it_is_delivered(tmp_path):
    async with opened(tmp_path) as store:
        made = await add(store)
        (job,) = await store.due("queued", 1)
        await store.answered(job, '{"text":"a confidential sentence"}')
        assert not store.audio(made).exists()
        (job,) = await store.due("delivering", 1)
        assert job.answer == '{"text":"a confidential sentence"}'
        assert store.bytes == len(job.answer)
        await store.finish(job, "delivered")
        await store.forget()
        assert store.bytes == 0
        assert b"confidential" not in on_disk(tmp_path)
        assert b"secret-of-the-client" not in on_disk(tmp_path)
        job = await store.find("k", "r1")
        assert (job.state, job.task, job.answer) == ("delivered", None, None)


async def test_a_job_that_is_over_is_forgotten_after_a_day(tmp_path):
    clock = Clock()
    async with opened(tmp_path, wall=clock) as store:
        await add(store)
        (job,) = await store.due("queued", 1)
        await store.answered(job, "{}")
        (job,) = await store.due("delivering", 1)
        await store.finish(job, "failed", "the receiver answered 500.")
        clock.now += DAY - 1
        await store.forget()
        assert (await store.find("k", "r1")).reason == "the receiver answered 500."
        clock.now += 2
        await store.forget()
        assert await store.find("k", "r1") is None
        assert store.counts["failed"] == 0


async def test_of_jobs_that_are_over_only_the_last_are_remembered(tmp_path):
    clock = Clock()
    async with opened(tmp_path, max_jobs=2, wall=clock) as store:
        for number in range(4):
            clock.now += 1
            await add(store, f"r{number}")
            (job,) = await store.due("queued", 1)
            await store.finish(job, "delivered")
        await store.forget()
        assert [await store.find("k", f"r{number}") is not None for number in range(4)] == [False, False, True, True]
        assert store.counts["delivered"] == 2


async def test_a_postponed_job_is_due_when_its_time_has_come(tmp_path):
    clock = Clock()
    async with opened(tmp_path, wall=clock) as store:
        await add(store)
        (job,) = await store.due("queued", 1)
        await store.count_try(job)
        await store.postpone(job, 60, "not now")
        assert await store.due("queued", 1) == []
        clock.now += 61
        (job,) = await store.due("queued", 1)
        assert (job.tries, job.reason) == (1, "not now")
        await store.count_try(job)
        await store.postpone(job, 0, None, counted=False)
        (job,) = await store.due("queued", 1)
        assert job.tries == 1


async def test_the_longest_waiting_goes_first_and_a_full_key_or_receiver_holds_up_nobody(tmp_path):
    clock = Clock()
    other = Webhook(url="http://other.example:8080/")
    async with opened(tmp_path, wall=clock) as store:
        for request_id, key, hook in (("a", "busy", HOOK), ("b", "busy", HOOK), ("c", "calm", other)):
            clock.now += 1
            await add(store, request_id, key, webhook=hook)
        jobs = await store.due("queued", 9)
        assert [job.request_id for job in jobs] == ["a", "b", "c"]
        assert [job.request_id for job in await store.due("queued", 9, full={"busy"})] == ["c"]
        assert [job.request_id for job in await store.due("queued", 9, running=jobs[:1])] == ["b", "c"]
        for job in jobs:
            await store.answered(job, "{}")
        due = await store.due("delivering", 9, full={"receiver.example:443"})
        assert [job.receiver for job in due] == ["other.example:8080"]


async def test_what_is_too_many_or_too_large_is_refused_and_leaves_nothing(tmp_path):
    async with opened(tmp_path, max_jobs=2, max_bytes=2 * len(AUDIO)) as store:
        with pytest.raises(Unavailable) as refused:
            await add(store, content=AUDIO * 3)
        assert refused.value.code == "JOBS_FULL"
        assert refused.value.retry_after >= 1
        await add(store, "r1", content=b"1")
        await add(store, "r2", content=b"2")
        with pytest.raises(Unavailable, match="already has 2 jobs"):
            await add(store, "r3", content=b"3")
        assert len(list((tmp_path / "jobs" / "audio").iterdir())) == 2
        (job, _) = await store.due("queued", 2)
        await store.finish(job, "failed")
        await add(store, "r3", content=b"3")


async def test_a_key_has_one_job_of_a_request_id_and_another_key_may_have_its_own(tmp_path):
    async with opened(tmp_path) as store:
        await add(store, "r1", "one")
        with pytest.raises(BadRequest, match="request id 'r1'") as refused:
            await add(store, "r1", "one")
        assert refused.value.code == "JOB_EXISTS"
        await add(store, "r1", "two")
        assert store.counts["queued"] == 2
        assert len(list((tmp_path / "jobs" / "audio").iterdir())) == 2


async def test_a_full_disk_is_a_503_and_leaves_nothing(tmp_path):
    async with opened(tmp_path) as store:
        await store._do(lambda database: database.execute("PRAGMA max_page_count=1"))
        with pytest.raises(Unavailable, match="STATE_DIR") as refused:
            await add(store, options=[("language", "x" * 100_000)])
        assert refused.value.status == 503
        assert list((tmp_path / "jobs" / "audio").iterdir()) == []
        assert store.counts["queued"] == store.bytes == 0


async def test_audio_of_a_request_that_was_cut_off_is_swept_at_the_start(tmp_path):
    async with opened(tmp_path) as store:
        made = await add(store)
        (store.audio(made).parent / "0123456789abcdef").write_bytes(b"half of it")
    async with opened(tmp_path) as store:
        assert [file.name for file in store.audio(made).parent.iterdir()] == [made.usage_id.hex]


async def test_nobody_else_may_read_what_is_kept(tmp_path):
    async with opened(tmp_path) as store:
        await add(store)
        assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0
        files = [file for file in (tmp_path / "jobs").rglob("*") if file.is_file()]
        assert {file.stat().st_mode & 0o077 for file in files} == {0}


async def test_two_servers_can_not_have_one_store(tmp_path):
    async with opened(tmp_path):
        second = JobStore(tmp_path / "jobs", max_jobs=1, max_bytes=1)
        with pytest.raises(JobStoreError, match="STATE_DIR of its own"):
            await second.start()


async def test_a_damaged_store_is_put_aside_and_new_jobs_are_taken(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.sqlite").write_bytes(os.urandom(8192))
    async with opened(tmp_path) as store:
        await add(store)
    assert len(list((tmp_path / "jobs").glob("jobs.sqlite.damaged-*"))) == 1


@given(st.integers(1, 10_000), st.floats(0.1, 100), st.floats(100, 10_000))
def test_a_pause_grows_and_stays_within_its_bounds(failures, first, longest):
    whole = min(first * 2.0 ** min(failures - 1, 30), longest)
    assert whole / 2 <= pause(failures, first=first, longest=longest) <= whole


def test_pauses_of_two_jobs_differ():
    assert len({pause(5, first=1, longest=100) for _ in range(20)}) > 10


def test_a_signature_is_the_hmac_of_the_moment_and_the_body():
    body = '{"transcription":"ठीक है"}'.encode()
    digest = hmac.new(b"s3cret", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert signature("s3cret", body, 1_700_000_000) == f"t=1700000000,v1={digest}"
    others = {signature("other", body, 1_700_000_000), signature("s3cret", body + b" ", 1_700_000_000)}
    assert f"t=1700000000,v1={digest}" not in others


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers(), st.lists).map(json.dumps), st.just("[" * 100_000)))
def test_whatever_is_given_as_extra_is_delivered_as_json(given_):
    body = HOOK.model_copy(update={"extra": extra_json(given_)}).body({"status": "success"})
    body.encode()
    delivered = json.loads(body)["webhook_extra"]
    assert delivered == given_ or delivered == json.loads(given_)


@pytest.mark.parametrize("given_", ["[NaN]", '{"a": Infinity}', '["\\ud800"]', '{"a": 1', "7", "true", '"x"', ""])
def test_what_is_no_json_object_or_list_is_delivered_as_the_text_that_it_is(given_):
    assert json.loads(extra_json(given_)) == given_


def test_an_answer_without_extra_is_delivered_as_it_is():
    assert json.loads(HOOK.body({"text": "ठीक"})) == {"text": "ठीक"}


class Web:
    """What lies outside: `calm` takes what it gets, all else fails, and the defect in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.came: list[str] = []

    @asynccontextmanager
    async def exchange(self, _method, target, _headers, _content):
        if target.host == "defect.example":
            raise RuntimeError
        self.came.append(target.host)
        yield SimpleNamespace(status=200 if target.host == "calm.example" else 500)


async def delivered(store, **hosts: str) -> dict[str, tuple[str, str | None]]:
    """Deliver a job to each host by a runner; the job's state and reason once it was tried."""
    for request_id, host in hosts.items():
        await add(store, request_id, webhook=Webhook(url=f"https://{host}/"))
    for job in await store.due("queued", 9):
        await store.answered(job, "{}")
    admission = Admission(None, 60)
    parts = {"admission": admission, "metrics": Metrics(admission, "indic"), "drain": Drain(1)}
    busy = SimpleNamespace(ready=False)
    runner = Runner(store, Sender(Web(), "secret"), Board(None, "indic"), busy, {}, **parts)
    async with asyncio.timeout(30):
        looking = asyncio.create_task(runner._look())
        tried: dict[str, tuple[str, str | None]] = {}
        while len(tried) < len(hosts):
            await asyncio.sleep(0.01)
            jobs = [await store.find("k", request_id) for request_id in hosts]
            tried = {job.request_id: (job.state, job.reason) for job in jobs if job.reason or job.task is None}
        looking.cancel()
    return tried


async def test_a_receiver_that_fails_in_an_unforeseen_way_holds_up_no_other(tmp_path):
    async with opened(tmp_path) as store:
        tried = await delivered(store, first="defect.example", second="down.example", third="calm.example")
    assert tried["first"][0] == "delivering"
    assert tried["second"] == ("delivering", "the receiver answered 500.")
    assert tried["third"] == ("delivered", None)


async def test_after_a_day_a_delivery_is_given_up_with_its_reason(tmp_path):
    clock = Clock()  # long ago, so that the day is over
    async with opened(tmp_path, wall=clock) as store:
        tried = await delivered(store, late="down.example")
    assert tried["late"] == ("failed", "the receiver answered 500.")
