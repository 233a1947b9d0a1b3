"""Times of words: how far from where they are said, and what they cost in throughput."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from tests import speech

from bench import workload
from bench.process import Process
from bench.systems import SYSTEMS, Transcriber

AT_ONCE = 16
_LENGTH = 11
_CLIPS = 40
_TURNS = 3


@dataclass(frozen=True)
class Words:
    """One system's word times on the timed fixtures.

    Attributes:
        boundaries: how many were compared; two for each word that was heard right.
        median_s: the middle of their errors, in seconds without sign.
        p90_s: what nine of ten errors are below.
        rtfx: audio seconds a second with words.
        plain_rtfx: the same clips without.
    """

    system: str
    boundaries: int
    median_s: float
    p90_s: float
    rtfx: float
    plain_rtfx: float

    @property
    def cost(self) -> float:
        """The share of throughput that words take."""
        return 1 - self.rtfx / self.plain_rtfx


def inside(transcriber: Transcriber, *, at_once: int, quick: bool) -> dict[str, Any]:
    """Find the words of the timed fixtures, then time clips with words and without, in turns."""
    timed = workload.timed()
    found = transcriber.words([request for request, _ in timed], at_once)
    pairs = zip(timed, found, strict=True)
    errors = [error for (_, said), heard in pairs for error in speech.boundary_errors(said, heard)]
    requests = workload.requests(_LENGTH, 4 if quick else _CLIPS)
    seconds = workload.seconds(requests)
    with_words, without = list[float](), list[float]()
    for _ in range(1 if quick else _TURNS):
        without.append(seconds / _seconds(lambda: transcriber.transcribe(requests, at_once)))
        with_words.append(seconds / _seconds(lambda: transcriber.words(requests, at_once)))
    return {"errors": errors, "rtfx": median(with_words), "plain_rtfx": median(without)}


def measure(process: Process, say: Callable[[str], None], *, quick: bool) -> Words:
    """Have a loaded system find words, and score their times."""
    say(f"{process.title}: words")
    at_once = 1 if SYSTEMS[process.name].alone else AT_ONCE
    answer = process.ask("words", at_once=at_once, quick=quick)
    return scored(process.name, answer["errors"], answer["rtfx"], answer["plain_rtfx"])


def scored(system: str, errors: list[float], rtfx: float, plain_rtfx: float) -> Words:
    """Score errors of boundaries, in seconds."""
    sizes = [abs(error) for error in errors]
    return Words(system, len(sizes), median(sizes), quantiles(sizes, n=10)[-1], rtfx, plain_rtfx)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
