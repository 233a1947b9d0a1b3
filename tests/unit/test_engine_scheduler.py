"""The scheduler's promises, without tensors."""

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.engine.scheduler import Scheduler


@dataclass(eq=False)
class Work:
    """What the scheduler sees of a sequence."""

    seconds: float
    steps: int
    retries: int = 0
    slot: int | None = None
    encoding: bool = False
    encoded: float = 0.0
    cancelled: bool = False
    decoded: int = field(default=0)
    words: int = 0
    aligning: bool = False
    live: bool = False

    @property
    def window(self):
        return self

    def preempt(self):
        self.encoded = 0.0

    @property
    def spelled(self):
        return range(self.words)

    @property
    def needs_audio(self):
        return self.encoded != self.seconds


def encode(scheduler, works):
    """What the encoder does with a batch."""
    for work in works:
        work.encoded = work.seconds
    scheduler.encoded(works)


def run_step(scheduler, budget, encoder=None):
    """One step as the engine runs it, with an encoder that is done at once or with `encoder`; returns what ended."""
    step = scheduler.schedule(encode=encoder is None or len(encoder) < 2)
    assert len({work.seconds for work in step.encode}) <= 1, "windows of one length are encoded together"
    assert len(step.encode) <= 1 or sum(work.seconds for work in step.encode) <= budget
    assert all(work.encoding and work not in step.decode for work in step.encode)
    if encoder is None:
        encode(scheduler, step.encode)
    elif step.encode:
        encoder.append(step.encode)
    assert len(step.align) <= 1 or sum(work.words for work in step.align) <= 512
    assert all(work.aligning and not work.encoding and work not in step.decode for work in step.align)
    ended = list(step.align)
    for work in step.align:
        scheduler.finish(work)
    for work in step.decode:
        assert work.slot is not None
        assert not work.needs_audio
        assert not work.encoding
        work.decoded += 1
        if work.decoded < work.steps:
            continue
        if work.retries:
            work.retries -= 1
            work.decoded = 0
            work.seconds = 30.0
        elif work.words:
            work.aligning = True
        else:
            scheduler.finish(work)
            ended.append(work)
    return ended


@settings(max_examples=200, deadline=None)
@given(
    slots=st.integers(1, 6),
    budget=st.sampled_from([5.0, 12.0, 30.0, 60.0]),
    windows=st.lists(
        st.tuples(
            st.sampled_from([5.0, 6.0, 12.0, 30.0]),
            st.integers(1, 5),
            st.integers(0, 2),
            st.sampled_from([0, 40, 200, 600]),
        ),
        max_size=30,
    ),
    seed=st.integers(0, 2**16),
)
def test_no_window_is_lost_or_run_twice_and_the_budget_holds(slots, budget, windows, seed):
    chance = random.Random(seed)
    scheduler = Scheduler(slots, budget)
    arriving = [Work(seconds, steps, retries, words=words) for seconds, steps, retries, words in windows]
    everything = list(arriving)
    ended, encoder = [], []
    for _ in range(3000):
        while arriving and chance.random() < 0.6:
            scheduler.add(arriving.pop())
        if chance.random() < 0.1 and everything:
            chance.choice(everything).cancelled = True
        if chance.random() < 0.01:
            lost = scheduler.drop_all()  # a step that failed
            assert len({id(work) for work in lost}) == len(lost)
            for work in lost:
                work.cancelled = True
        if encoder and chance.random() < 0.4:
            batch = encoder.pop(chance.randrange(len(encoder)))
            assert all(work.slot is not None for work in batch), "a slot is kept while the encoder writes there"
            encode(scheduler, batch)
        ended += run_step(scheduler, budget, encoder)
        assert scheduler.running <= slots
        held = [work.slot for work in everything if work.slot is not None]
        assert len(held) == len(set(held)) == scheduler.running
        if scheduler.idle and not arriving:
            break
    assert scheduler.idle, "every window is served in the end"
    assert len({id(work) for work in ended}) == len(ended)
    for work in everything:
        assert work.slot is None
        assert work.cancelled or work in ended


def test_the_window_that_waits_longest_is_never_overtaken_for_good():
    scheduler = Scheduler(slots=2, encode_seconds=30.0)
    first = Work(30.0, 3)
    scheduler.add(first)
    for _ in range(50):
        scheduler.add(Work(5.0, 3))
    assert first in scheduler.schedule().encode


def test_a_burst_is_admitted_in_parts_so_that_running_decodes_go_on():
    scheduler = Scheduler(slots=64, encode_seconds=24.0)
    running = Work(12.0, 1000)
    scheduler.add(running)
    run_step(scheduler, 24.0)
    for _ in range(40):
        scheduler.add(Work(12.0, 1000))
    step = scheduler.schedule()
    assert len(step.encode) == 2
    assert running in step.decode


def test_a_cancelled_window_frees_its_slot_at_the_next_step():
    scheduler = Scheduler(slots=1, encode_seconds=30.0)
    gone, next_one = Work(5.0, 1000), Work(5.0, 1)
    scheduler.add(gone)
    run_step(scheduler, 30.0)
    scheduler.add(next_one)
    gone.cancelled = True
    run_step(scheduler, 30.0)
    assert run_step(scheduler, 30.0) == [next_one]


def test_a_window_that_is_cancelled_in_the_encoder_keeps_its_slot_until_the_encoder_lets_go():
    scheduler = Scheduler(slots=1, encode_seconds=30.0)
    gone, next_one = Work(5.0, 1), Work(5.0, 1)
    scheduler.add(gone)
    scheduler.add(next_one)
    assert scheduler.schedule().encode == [gone]
    gone.cancelled = True
    assert scheduler.schedule().encode == []
    assert gone.slot == 0
    encode(scheduler, [gone])
    assert scheduler.schedule().encode == [next_one]


def test_windows_that_end_together_are_aligned_together_up_to_a_bound_and_the_first_go_first():
    scheduler = Scheduler(slots=64, encode_seconds=1000.0)
    running = Work(5.0, 1000)
    ending = [Work(5.0, 1, words=100) for _ in range(12)]
    for work in (running, *ending):
        scheduler.add(work)
    run_step(scheduler, 1000.0)
    run_step(scheduler, 1000.0)
    for batch in (ending[:5], ending[5:10], ending[10:]):
        step = scheduler.schedule()
        assert step.align == batch
        assert step.decode == [running]
        for work in batch:
            scheduler.finish(work)
    assert scheduler.running == 1


def test_slots_in_use_stay_low_so_that_wide_attention_stays_narrow():
    scheduler = Scheduler(slots=8, encode_seconds=1000.0)
    batch = [Work(5.0, 100) for _ in range(8)]
    for work in batch:
        scheduler.add(work)
    run_step(scheduler, 1000.0)
    for work in batch[:4]:
        scheduler.finish(work)
    late = Work(5.0, 100)
    scheduler.add(late)
    scheduler.schedule()
    assert late.slot == 0
