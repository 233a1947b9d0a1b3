"""Limits as one process counts them alone."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.keys import ClientKey, Limiter, LimitExceeded
from babelrack.keys.limiter import _Local


class Clock:
    now = 5000.0

    def __call__(self):
        return self.now


def refused(local, key):
    try:
        local.check(key)
    except LimitExceeded as refusal:
        return refusal
    return None


@settings(deadline=None)
@given(st.integers(1, 8), st.lists(st.floats(0, 30), max_size=80))
def test_no_minute_ever_sees_more_requests_than_allowed(rate, pauses):
    clock, key = Clock(), ClientKey("acme", requests_per_minute=rate)
    local, admitted = _Local(clock), []
    for pause in pauses:
        clock.now += pause
        refusal = refused(local, key)
        if refusal is not None:
            assert refusal.kind == "rate"
            assert 0 < refusal.retry_after <= 60
            clock.now += refusal.retry_after + 1e-6
            assert refused(local, key) is None  # what it said is true
        local.enter(key, "lease")
        admitted.append(clock.now)
    for first, later in zip(admitted, admitted[rate:], strict=False):
        assert later - first >= 60 - 1e-6


def test_a_rate_that_is_changed_holds_at_once():
    clock = Clock()
    local = _Local(clock)
    for _ in range(10):
        local.enter(ClientKey("acme", requests_per_minute=10), "lease")
    with pytest.raises(LimitExceeded):
        local.check(ClientKey("acme", requests_per_minute=10))
    local.check(ClientKey("acme", requests_per_minute=20))
    local.enter(ClientKey("acme", requests_per_minute=3), "lease")
    with pytest.raises(LimitExceeded):
        local.check(ClientKey("acme", requests_per_minute=3))


async def test_concurrency_is_held_and_given_back():
    limiter, key = Limiter(None, "indic"), ClientKey("acme", concurrency=2)
    async with limiter.admit(key):
        async with limiter.admit(key):
            with pytest.raises(LimitExceeded) as refusal:
                async with limiter.admit(key):
                    pytest.fail("admitted a third")
            assert refusal.value.kind == "concurrency"
            assert refusal.value.retry_after > 0
            async with limiter.admit(ClientKey("other", concurrency=1)):
                pass
        async with limiter.admit(key):
            pass
    assert not limiter.degraded
    await limiter.stop()


async def test_a_request_that_fails_or_is_cancelled_gives_its_slot_back():
    limiter, key = Limiter(None, "indic"), ClientKey("acme", concurrency=1)
    with pytest.raises(ZeroDivisionError):
        async with limiter.admit(key):
            _ = 1 / 0

    async def request():
        async with limiter.admit(key):
            await asyncio.sleep(3600)

    running = asyncio.create_task(request())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with limiter.admit(key):
        pass
    await limiter.stop()


async def test_a_request_refused_for_concurrency_does_not_use_up_the_minute():
    limiter, key = Limiter(None, "indic"), ClientKey("acme", requests_per_minute=2, concurrency=1)
    async with limiter.admit(key):
        for _ in range(5):
            with pytest.raises(LimitExceeded, match="at once"):
                async with limiter.admit(key):
                    pass
    async with limiter.admit(key):
        pass
    with pytest.raises(LimitExceeded, match="a minute"):
        async with limiter.admit(key):
            pass


def test_an_unusable_url_is_refused_without_its_password():
    with pytest.raises(ValueError, match="REDIS_URL") as refusal:
        Limiter("http://user:hush@shared:6379/0", "indic")
    assert "hush" not in str(refusal.value)
