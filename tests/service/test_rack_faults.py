"""Two packs under load while processes are killed, paused and crowded: answers or clean errors, and none hangs."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import time

import httpx
import pytest

from rack import running_rack
from speech import clip

ANSWER_SECONDS = 120
CLIENTS = 8


@pytest.fixture(scope="module")
def rack(tmp_path_factory):
    with running_rack(["indic", "future"], tmp_path_factory.mktemp("faults")) as running:
        yield running


class Load:
    """Clients in a closed loop at one pack; every request ends in `answers` or `refusals`, or the test fails."""

    def __init__(self, rack, language, file, clients=CLIENTS):
        self.answers, self.refusals = 0, []
        self._url = f"{rack.gateway}/waves/v1/pulse/get_text?language={language}"
        self._headers = rack.headers
        self._audio = clip(file).path.read_bytes()
        self._clients = clients
        self._on = True

    async def __aenter__(self):
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(headers=self._headers, timeout=ANSWER_SECONDS, trust_env=False, limits=limits)
        self._tasks = [asyncio.create_task(self._loop()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_):
        self._on = False
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self._http.aclose()

    async def _loop(self):
        while self._on:
            try:
                answer = await self._http.post(self._url, content=self._audio)
            except httpx.TimeoutException:
                raise AssertionError("a request hung") from None
            except httpx.TransportError as error:
                self.refusals.append(error)
                await asyncio.sleep(0.2)
                continue
            if answer.status_code == 200:
                assert answer.json()["transcription"]
                self.answers += 1
                continue
            assert answer.status_code in (429, 502, 503), answer.text
            assert answer.json()["message"]
            assert "Retry-After" in answer.headers
            self.refusals.append(answer)
            await asyncio.sleep(0.2)

    async def progress(self, more):
        """Wait until so many more requests are answered."""
        wanted = self.answers + more
        async with asyncio.timeout(ANSWER_SECONDS):
            while self.answers < wanted:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("role", ["model_server", "api_server", "license_proxy", "redis", "gateway"])
async def test_a_process_killed_under_load_costs_its_own_requests_at_most(rack, role):
    rack.until_healthy()
    pack = "indic" if role in ("model_server", "api_server") else None
    async with Load(rack, "en", "en-3s-a") as hurt, Load(rack, "es", "es-3s-a", clients=2) as other:
        await hurt.progress(2)
        victim = rack.process(role, pack)
        os.kill(victim.pid, signal.SIGKILL)
        await asyncio.to_thread(rack.until, lambda: rack.process(role, pack) not in (None, victim))
        await asyncio.to_thread(rack.until_healthy)
        await hurt.progress(CLIENTS)
        await other.progress(2)
    if role in ("license_proxy", "redis"):
        assert not hurt.refusals, "neither is on the path of a request"
    if role != "gateway":
        assert not other.refusals, "a broken pack breaks only itself"


async def test_with_redis_and_the_licence_proxy_away_requests_go_on_and_health_says_degraded(rack):
    rack.until_healthy()
    away = [rack.process("redis"), rack.process("license_proxy")]
    health = f"{rack.url('api_server', 'indic')}/health"
    async with Load(rack, "en", "en-3s-a") as load:
        try:
            for process in away:
                os.kill(process.pid, signal.SIGSTOP)
            async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(ANSWER_SECONDS):
                while (answer := (await http.get(health)).json())["status"] != "degraded":
                    await asyncio.sleep(0.2)
            assert answer["reason"]
            await load.progress(2 * CLIENTS)
        finally:
            for process in away:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
    assert not load.refusals
    rack.until_healthy()


async def test_a_crowd_at_one_pack_fails_nothing_of_the_other(rack):
    rack.until_healthy()
    async with Load(rack, "en", "en-3s-a", clients=200) as crowd, Load(rack, "es", "es-3s-a", clients=1) as other:
        await crowd.progress(40)
        await other.progress(3)
    assert not other.refusals
    rack.until_healthy()


async def test_usage_is_counted_once_though_servers_are_killed(rack):
    """What was answered is in the ledger or in the journals, each request once."""
    rack.until_healthy()
    ledger = rack.state
    before = counted(rack, ledger)
    async with Load(rack, "fr", "fr-4s", clients=4) as load:
        for role, pack in (("api_server", "future"), ("license_proxy", None)):
            await load.progress(3)
            os.kill(rack.process(role, pack).pid, signal.SIGKILL)
            await asyncio.to_thread(rack.until_healthy)
        await load.progress(3)
    deadline = time.monotonic() + ANSWER_SECONDS
    while (now := counted(rack, ledger)) < before + load.answers:
        assert time.monotonic() < deadline, f"{now - before} of {load.answers} requests were counted"
        await asyncio.sleep(0.5)
    # A request that was counted, but whose answer was lost with the killed server, is counted rightly.
    assert now - before <= load.answers + len(load.refusals)


def counted(rack, ledger):
    """Requests in French that ended well, as the licence proxy has them."""
    database = next(ledger.rglob("usage.sqlite3"))
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        query = "SELECT COALESCE(SUM(requests), 0) FROM daily WHERE language = 'fr' AND status = 200"
        return connection.execute(query).fetchone()[0]
