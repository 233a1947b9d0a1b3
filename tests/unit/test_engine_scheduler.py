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
    preempted: int = 0

    @property
    def window(self):
        return self

    def preempt(self):
        """The decode goes on from what was said: `decoded` stays."""
        assert not self.live
        assert not self.encoding
        assert self.slot is None
        self.encoded = 0.0
        self.preempted += 1

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


def assert_live_goes_first(scheduler, step, before, came, *, encode_live):
    """A live window waits only for the encoder, or where each slot is of another one or is being written to."""
    waiting = [work for work in came if work.live and work.slot is None and not work.cancelled]
    if any(work in before and not work.live for work in step.encode):
        assert scheduler.slots - scheduler.running >= len(waiting), "no file takes a slot that a live window waits for"
    if waiting and encode_live and not any(work.live for work in step.encode):
        assert all(work.live or work.encoding for work in came if work.slot is not None)


def run_step(scheduler, budget, encoder=None, came=()):
    """One step as the engine runs it, with an encoder that is done at once or with `encoder`; returns what ended.

    That encoder takes two batches of files, and two of live windows, at a time. `came` are all that arrived and have
    not ended.
    """
    busy = [batch[0].live for batch in encoder or ()]
    before = [work for work in came if work.slot is None]
    step = scheduler.schedule(encode=busy.count(False) < 2, encode_live=busy.count(True) < 2)
    assert len({work.live for work in step.encode}) <= 1
    assert_live_goes_first(scheduler, step, before, came, encode_live=busy.count(True) < 2)
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
            st.sampled_from([False, False, True]),
        ),
        max_size=30,
    ),
    seed=st.integers(0, 2**16),
)
def test_no_window_is_lost_or_run_twice_and_the_budget_holds(slots, budget, windows, seed):
    chance = random.Random(seed)
    scheduler = Scheduler(slots, budget)
    arriving = [Work(*each, words=words, live=live) for *each, words, live in windows]
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
        came = [work for work in everything if work not in arriving and work not in ended]
        ended += run_step(scheduler, budget, encoder, came)
        assert scheduler.running <= slots
        held = [work.slot for work in everything if work.slot is not None]
        assert len(held) == len(set(held)) == scheduler.running
        assert not any(work.preempted and work.live for work in everything)
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


def test_a_live_window_takes_the_slot_of_the_file_that_was_admitted_last_which_goes_on_later():
    scheduler = Scheduler(slots=2, encode_seconds=5.0)
    first, last, behind = Work(5.0, 4), Work(5.0, 4), Work(5.0, 1)
    for work in (first, last, behind):
        scheduler.add(work)
    for _ in range(3):
        run_step(scheduler, 5.0)
    assert (first.decoded, last.decoded) == (2, 1)
    live = Work(5.0, 2, live=True)
    scheduler.add(live)
    step = scheduler.schedule()
    assert (step.encode, step.decode) == ([live], [first])
    assert last.slot is None
    encode(scheduler, [live])
    while not scheduler.idle:
        run_step(scheduler, 5.0)
    assert (last.preempted, last.decoded, first.preempted, live.decoded) == (1, 4, 0, 2)


def test_files_that_lost_their_slots_come_back_in_their_order_before_those_that_waited():
    scheduler = Scheduler(slots=2, encode_seconds=60.0)
    files = [Work(5.0, 10) for _ in range(4)]
    for work in files:
        scheduler.add(work)
    run_step(scheduler, 60.0)
    for _ in range(2):
        scheduler.add(Work(5.0, 1, live=True))
    run_step(scheduler, 60.0)
    assert [work.slot for work in files] == [None] * 4
    run_step(scheduler, 60.0)
    assert scheduler.schedule().encode == files[:2]


def test_a_slot_that_the_encoder_writes_to_is_not_taken():
    scheduler = Scheduler(slots=1, encode_seconds=60.0)
    file, live = Work(5.0, 3), Work(5.0, 1, live=True)
    scheduler.add(file)
    scheduler.schedule()
    scheduler.add(live)
    assert scheduler.schedule().encode == []
    assert file.slot == 0
    encode(scheduler, [file])
    assert scheduler.schedule().encode == [live]


def test_files_are_encoded_in_smaller_batches_while_somebody_speaks():
    scheduler = Scheduler(slots=64, encode_seconds=40.0)
    scheduler.add(Work(5.0, 1000, live=True))
    run_step(scheduler, 40.0)
    for _ in range(8):
        scheduler.add(Work(5.0, 1000))
    assert len(scheduler.schedule().encode) == 2


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
