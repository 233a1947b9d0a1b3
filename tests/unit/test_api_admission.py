"""Bounded, first come first served, and no slot is ever lost or given out twice."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.api_server.admission import Admission
from babelrack.api_server.errors import Unavailable


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_does_not_fit_is_told_so_at_once_with_a_time_to_come_back():
    admission = Admission(1, 60)
    admission.resize(2)
    with admission.place(), admission.place(), admission.place():
        with pytest.raises(Unavailable) as refused, admission.place():
            raise AssertionError("there was no place")
        assert refused.value.status == 503
        assert int(refused.value.headers["retry-after"]) >= 1
    assert admission.here == 0


async def test_without_a_number_the_queue_is_twice_the_slots():
    admission = Admission(None, 60)
    admission.resize(128)
    assert admission.places == 3 * 128


async def test_slots_are_handed_on_in_the_order_of_asking():
    admission = Admission(None, 60)
    served: list[int] = []

    async def ask(number: int) -> None:
        async with admission.slot():
            served.append(number)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask(number))
    assert served == list(range(20))
    assert admission.running == admission.queued == 0


async def test_a_request_that_waited_too_long_is_told_so_and_leaves_nothing_behind():
    admission = Admission(None, 0.01)
    async with admission.slot():
        with pytest.raises(Unavailable, match="no slot was free"):
            async with admission.slot():
                raise AssertionError("there was no slot")
        assert admission.queued == 0
    assert admission.running == 0


async def test_more_slots_are_used_at_once():
    admission = Admission(None, 60)
    inside = asyncio.Event()

    async def ask() -> None:
        async with admission.slot():
            inside.set()

    async with admission.slot():
        waiting = asyncio.create_task(ask())
        await settle()
        assert not inside.is_set()
        admission.resize(2)
        await settle()
        assert inside.is_set()
    await waiting


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 40))
def test_under_random_arrivals_cancellations_and_resizes_no_slot_is_lost(seed, slots, requests):
    chance = random.Random(seed)

    async def run() -> None:
        admission = Admission(None, 60)
        admission.resize(slots)
        most = slots
        busiest = 0

        async def ask() -> None:
            nonlocal busiest
            async with admission.slot():
                busiest = max(busiest, admission.running)
                for _ in range(chance.randint(0, 3)):
                    await asyncio.sleep(0)

        tasks = []
        for _ in range(requests):
            tasks.append(asyncio.create_task(ask()))
            if chance.random() < 0.4:
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            if chance.random() < 0.1:
                resized = chance.randint(1, 5)
                most = max(most, resized)
                admission.resize(resized)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert busiest <= most
        assert admission.running == admission.queued == 0
        async with asyncio.timeout(10), admission.slot():
            pass

    asyncio.run(run())


async def test_who_is_patient_goes_after_everybody_else_and_never_gives_up():
    admission = Admission(None, 0.05)
    served: list[str] = []

    async def ask(name: str, *, patient: bool) -> None:
        async with admission.slot(patient=patient):
            served.append(name)

    async with asyncio.TaskGroup() as group, admission.slot():
        group.create_task(ask("job", patient=True))
        await settle()
        group.create_task(ask("request", patient=False))
        await settle()
        assert admission.queued == 1  # a job is nobody's queue
    assert served == ["request", "job"]
    async with asyncio.TaskGroup() as group, admission.slot():
        group.create_task(ask("late job", patient=True))
        await asyncio.sleep(0.1)
    assert served[-1] == "late job"
    assert admission.running == 0


async def test_a_patient_one_that_is_cancelled_leaves_nothing_behind():
    admission = Admission(None, 60)
    async with admission.slot():
        task = asyncio.create_task(admission.slot(patient=True).__aenter__())
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert admission.running == 0
    async with admission.slot():
        assert admission.running == 1
