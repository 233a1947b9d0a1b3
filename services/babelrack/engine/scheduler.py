"""Which windows run, and which are encoded next: policy without tensors."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from babelrack.engine.sequence import Sequence

_LOOK_AHEAD = 64
_LESS_BESIDE_LIVE = 4
# In one step, so that windows which end all at once don't hold up those that go on.
_ALIGN_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Step:
    """What comes next: encode `encode`, all of one length; decode a token of each of `decode`, in slot order.

    The words of `align`, whose text is final, are to be found in their audio.
    """

    encode: list[Sequence]
    decode: list[Sequence]
    align: list[Sequence]


class Scheduler:
    """Admits windows into free slots between decode steps.

    Live windows go first. Of the others the window that waits longest does; those of its length that wait near it are
    encoded with it, up to `encode_seconds` of audio a batch, so that a burst of admissions never stalls the running
    decodes for long. A live window that finds no free slot takes that of the other window that was admitted last, which
    goes back to the front of those that wait and is computed again later. A window keeps its slot while it is being
    encoded, whatever happens to it: the encoder writes there.
    """

    def __init__(self, slots: int, encode_seconds: float) -> None:
        self.slots = slots
        self._encode_seconds = encode_seconds
        self._free = list(range(slots))
        self._waiting: deque[Sequence] = deque()
        self._live: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    @property
    def running(self) -> int:
        """Windows that hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Windows that wait for one."""
        return len(self._waiting) + len(self._live)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._live and not self._running

    def add(self, sequence: Sequence) -> None:
        """Queue a window behind those that wait; a live one behind live ones only."""
        (self._live if sequence.window.live else self._waiting).append(sequence)

    def schedule(self, *, encode: bool = True, encode_live: bool = True) -> Step:
        """The next step, in which the encoder takes a batch, of live windows or of others, as far as it may.

        Cancelled windows leave first.
        """
        for sequence in [s for s in self._running.values() if s.cancelled and not s.encoding]:
            self.finish(sequence)
        self._waiting, self._live = self._without_cancelled(self._waiting), self._without_cancelled(self._live)
        batch: list[Sequence] = []
        if encode_live:
            batch = self._again(live=True) or self._admit_live()
        if encode and not batch:
            batch = self._again(live=False) or self._admit()
        for sequence in batch:
            sequence.encoding = True
        ready = [s for s in self._running.values() if not (s.encoding or s.needs_audio or s.cancelled)]
        decode = sorted((s for s in ready if not s.aligning), key=lambda sequence: sequence.slot or 0)
        return Step(batch, decode, self._align([s for s in ready if s.aligning]))

    def _align(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those that came first, as many as a step may align."""
        tokens = 0
        chosen: list[Sequence] = []
        for sequence in sequences:
            tokens += len(sequence.spelled)
            if chosen and tokens > _ALIGN_TOKENS:
                break
            chosen.append(sequence)
        return chosen

    def encoded(self, sequences: Iterable[Sequence]) -> None:
        """The encoder has let go of these windows, done or failed."""
        for sequence in sequences:
            sequence.encoding = False

    @staticmethod
    def _without_cancelled(waiting: deque[Sequence]) -> deque[Sequence]:
        gone = any(sequence.cancelled for sequence in waiting)
        return deque(sequence for sequence in waiting if not sequence.cancelled) if gone else waiting

    def _again(self, *, live: bool) -> list[Sequence]:
        """A running window whose next try wants its audio encoded anew."""
        again = (
            s
            for s in self._running.values()
            if s.window.live is live and s.needs_audio and not (s.encoding or s.cancelled)
        )
        return [sequence] if (sequence := next(again, None)) else []

    def _admit_live(self) -> list[Sequence]:
        while len(self._free) < len(self._live) and self._preempt():
            pass
        return self._place(self._live, len(self._free), self._encode_seconds)

    def _admit(self) -> list[Sequence]:
        """Windows that are not live get the slots that no live one waits for, and smaller batches beside live ones."""
        live = any(sequence.window.live for sequence in self._running.values())
        seconds = self._encode_seconds / _LESS_BESIDE_LIVE if live else self._encode_seconds
        return self._place(self._waiting, len(self._free) - len(self._live), seconds)

    def _place(self, waiting: deque[Sequence], free: int, encode_seconds: float) -> list[Sequence]:
        """Give up to `free` slots to windows of one length, of those that wait near the first."""
        if not waiting or free < 1:
            return []
        length = waiting[0].seconds
        room = min(free, max(1, int(encode_seconds / length)))
        near = [waiting[i] for i in range(min(len(waiting), _LOOK_AHEAD))]
        admitted = [sequence for sequence in near if sequence.seconds == length][:room]
        for sequence in admitted:
            waiting.remove(sequence)
            # The lowest slot first, so that the slots in use stay together.
            sequence.slot = heapq.heappop(self._free)
            self._running[sequence.slot] = sequence
        return admitted

    def _preempt(self) -> bool:
        """Take the slot of the window that was admitted last of those that are not live; False where there is none."""
        last = next((s for s in reversed(self._running.values()) if not (s.window.live or s.encoding)), None)
        if last is None:
            return False
        self.finish(last)
        last.preempt()
        self._waiting.appendleft(last)
        return True

    def finish(self, sequence: Sequence) -> None:
        """Free the slot of a window that ended."""
        assert sequence.slot is not None  # noqa: S101
        del self._running[sequence.slot]
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = None

    def drop_all(self) -> list[Sequence]:
        """Give up every window, running or waiting; returns them. Cancel them: those in the encoder leave after it."""
        dropped = [*self._running.values(), *self._live, *self._waiting]
        for sequence in list(self._running.values()):
            if not sequence.encoding:
                self.finish(sequence)
        self._waiting.clear()
        self._live.clear()
        return dropped
