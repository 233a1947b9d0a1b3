"""How much audio a second each system gets through: clips of three lengths, 1 to 48 at a time, in a closed loop."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench import workload
from bench.process import Process
from bench.systems import SYSTEMS, Transcriber

REPEATS = 3
# Of the other cells one run each shows the shape; all repeats of all of them would take most of a day.
REPEATED = {(11, 1), (11, 16)}
# A cell whose repeats take longer than this has two of them instead of three.
ENOUGH_S = 90.0


@dataclass(frozen=True)
class Cell:
    """One system, one length of clips, so many at a time: audio seconds a second, of each repeat."""

    system: str
    length: int
    at_once: int
    requests: int
    rtfx: list[float]

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.rtfx)

    @property
    def spread(self) -> float:
        """The widest distance of a repeat from the median, a share of the median."""
        return max(abs(each - self.median) for each in self.rtfx) / self.median


def requests_of(length: int, at_once: int) -> int:
    """How many requests a cell has: every clip of the length at least, and what goals compare in two rounds.

    The end, where fewer are left than are sent at a time, weighs less in two rounds than in one.
    """
    return max((2 if (length, at_once) in REPEATED else 1) * at_once, workload.DIFFERENT)


def inside(transcriber: Transcriber, *, length: int, at_once: int, quick: bool) -> dict[str, Any]:
    """Measure one cell in the system's process, after some clips of that length as a warm-up."""
    repeated = not quick and (length, at_once) in REPEATED
    requests = workload.requests(length, at_once if quick else requests_of(length, at_once))
    audio_s = workload.seconds(requests)
    warm_up = at_once if repeated else min(at_once, 4)
    transcriber.transcribe(requests[:warm_up], warm_up)
    rtfx: list[float] = []
    started = time.perf_counter()
    for _ in range(REPEATS if repeated else 1):
        began = time.perf_counter()
        transcriber.transcribe(requests, at_once)
        rtfx.append(audio_s / (time.perf_counter() - began))
        if len(rtfx) > 1 and time.perf_counter() - started > ENOUGH_S:
            break
    return {"length": length, "at_once": at_once, "requests": len(requests), "rtfx": rtfx}


def measure(
    process: Process,
    lengths: Sequence[int],
    at_once: Sequence[int],
    say: Callable[[str], None],
    *,
    quick: bool,
) -> list[Cell]:
    """Measure a loaded system at every length and number of requests at a time."""
    cells = []
    for length in lengths:
        for number in at_once if not SYSTEMS[process.name].alone else [n for n in at_once if n == 1]:
            say(f"{process.title}: clips of {length} s, {number} at a time")
            cell = process.ask("throughput", length=length, at_once=number, quick=quick)
            cells.append(Cell(process.name, **cell))
    return cells
