"""Limits shared through a real Redis: across replicas, and across Redis's own deaths."""

import asyncio
import shutil
import signal
import subprocess
import sys

import pytest
from redis_rig import PASSWORD, RedisServer

from babelrack.keys import ClientKey, Limiter, LimitExceeded

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

PATIENCE = 60.0


@pytest.fixture
def server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("r"))  # short, because a socket's path has 107 bytes at most
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def replica(server):
    limiters = []

    async def start(**options):
        limiter = Limiter(server.url, "indic", password=PASSWORD, **({"probe": 0.2, "deadline": 2.0} | options))
        await limiter.start()
        limiters.append(limiter)
        return limiter

    yield start
    for limiter in limiters:
        await limiter.stop()


async def eventually(true):
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.02)


async def refusal(limiter, key):
    try:
        async with limiter.admit(key):
            return None
    except LimitExceeded as exceeded:
        return exceeded


async def test_two_replicas_share_one_rate(replica):
    first, second = await replica(), await replica()
    key = ClientKey("acme", requests_per_minute=10)
    outcomes = await asyncio.gather(*(refusal(limiter, key) for limiter in (first, second) for _ in range(20)))
    assert outcomes.count(None) == 10
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert {outcome.kind for outcome in refused} == {"rate"}
    assert all(0 < outcome.retry_after <= 60 for outcome in refused)
    assert await refusal(first, ClientKey("other", requests_per_minute=1)) is None
    assert not first.degraded


async def test_two_replicas_share_the_slots_and_give_them_back_before_the_answer_ends(replica):
    first, second = await replica(), await replica()
    key = ClientKey("acme", concurrency=3)
    async with first.admit(key), first.admit(key), second.admit(key):
        for limiter in (first, second):
            assert (await refusal(limiter, key)).kind == "concurrency"
    for _ in range(50):
        async with first.admit(key), second.admit(key), first.admit(key):
            pass


async def test_deployments_do_not_share(server, replica):
    other = Limiter(server.url, "future", password=PASSWORD)
    await other.start()
    key = ClientKey("acme", concurrency=1)
    async with (await replica()).admit(key):
        assert await refusal(other, key) is None
    await other.stop()


async def test_a_long_request_keeps_its_slot(replica):
    first, second = await replica(lease=2.4), await replica(lease=2.4)
    key = ClientKey("acme", concurrency=1)
    async with first.admit(key):
        for _ in range(8):
            await asyncio.sleep(0.6)
            assert (await refusal(second, key)).kind == "concurrency"
    assert await refusal(second, key) is None


async def test_the_slots_of_a_killed_server_come_back(server, replica):
    script = (
        "import asyncio, sys\n"
        "from babelrack.keys import ClientKey, Limiter\n"
        "async def hold():\n"
        "    limiter = Limiter(sys.argv[1], 'indic', password=sys.stdin.readline().strip(), lease=2.0, deadline=10.0)\n"
        "    async with limiter.admit(ClientKey('acme', concurrency=1)):\n"
        "        assert not limiter.degraded\n"
        "        print('held', flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "asyncio.run(hold())\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        holder.stdin.write(PASSWORD + "\n")
        holder.stdin.flush()
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        limiter, key = await replica(), ClientKey("acme", concurrency=1)
        assert (await refusal(limiter, key)).kind == "concurrency"
    finally:
        holder.kill()
        holder.communicate()
    async with asyncio.timeout(PATIENCE):
        while await refusal(limiter, key) is not None:
            await asyncio.sleep(0.05)


async def test_requests_go_on_through_the_death_and_the_return_of_redis(server, replica):
    first, second = await replica(lease=1.0), await replica(lease=1.0)
    key, served, stop = ClientKey("acme", requests_per_minute=100_000, concurrency=50), [0, 0], asyncio.Event()

    async def clients(number, limiter):
        while not stop.is_set():
            async with limiter.admit(key):
                served[number] += 1
                await asyncio.sleep(0.005)

    running = [asyncio.create_task(clients(n, limiter)) for n, limiter in enumerate((first, second)) for _ in range(5)]
    await eventually(lambda: min(served) > 20)
    server.kill()
    await eventually(lambda: first.degraded and second.degraded)
    assert "counted by each replica alone" in first.reason
    assert PASSWORD not in first.reason
    before = list(served)
    await eventually(lambda: all(now > then + 50 for now, then in zip(served, before, strict=True)))
    server.start()
    await eventually(lambda: not first.degraded and not second.degraded)
    stop.set()
    await asyncio.gather(*running)  # none was refused, none failed

    # And the limits are shared again.
    one = ClientKey("one", concurrency=1)
    async with first.admit(one):
        assert (await refusal(second, one)).kind == "concurrency"


async def test_limits_hold_in_each_replica_while_redis_is_away(server, replica):
    limiter, key = await replica(), ClientKey("acme", requests_per_minute=5)
    for _ in range(3):
        assert await refusal(limiter, key) is None
    server.kill()
    outcomes = [await refusal(limiter, key) for _ in range(5)]
    assert limiter.degraded
    assert outcomes[:2] == [None, None]  # what was admitted through Redis counts on
    assert {outcome.kind for outcome in outcomes[2:]} == {"rate"}


async def test_slots_held_since_before_the_outage_count_when_redis_is_back_empty(server, replica):
    first, second = await replica(), await replica()
    key = ClientKey("acme", concurrency=1)
    async with first.admit(key):
        server.kill()
        assert (await refusal(first, key)).kind == "concurrency"
        await eventually(lambda: first.degraded)
        await refusal(second, key)
        server.start()
        await eventually(lambda: not first.degraded and not second.degraded)
        assert (await refusal(second, key)).kind == "concurrency"
    assert await refusal(second, key) is None


async def test_a_redis_that_hangs_delays_no_request_after_the_first_ones(server, replica):
    limiter, key = await replica(deadline=0.5, probe=0.1), ClientKey("acme", requests_per_minute=1000, concurrency=100)
    waits = 0
    ask = limiter._ask

    async def counted(answer):
        nonlocal waits
        waits += 1
        return await ask(answer)

    server.signal(signal.SIGSTOP)
    try:
        assert await asyncio.gather(*(refusal(limiter, key) for _ in range(10))) == [None] * 10
        assert limiter.degraded
        limiter._task.cancel()  # the background probe, so that what is counted are requests
        limiter._ask = counted
        assert [await refusal(limiter, key) for _ in range(200)] == [None] * 200
        assert waits == 0
    finally:
        server.signal(signal.SIGCONT)


async def test_a_redis_that_hangs_and_wakes_is_used_again(server, replica):
    limiter, key = await replica(deadline=0.5), ClientKey("acme", concurrency=3)
    server.signal(signal.SIGSTOP)
    assert await refusal(limiter, key) is None
    assert limiter.degraded
    server.signal(signal.SIGCONT)
    await eventually(lambda: not limiter.degraded)
    assert await refusal(limiter, key) is None


async def test_a_redis_that_is_away_at_start_or_refuses_the_password_fails_nobody(server, tmp_path):
    key = ClientKey("acme", requests_per_minute=1000)
    for url, password in ((f"unix://{tmp_path}/nobody.sock", None), (server.url, "wrong"), (server.url, None)):
        limiter = Limiter(url, "indic", password=password)
        assert await refusal(limiter, key) is None
        assert limiter.degraded
        await limiter.stop()
