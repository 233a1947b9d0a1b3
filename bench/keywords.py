"""Keywords: what ten thousand of them cost in decode time, beside none in the same run."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from bench import workload
from bench.process import Process

if TYPE_CHECKING:
    from bench.systems.babelrack_engine import BabelrackEngine

SYSTEM = "engine"
_PHRASES = 10_000
_AT_ONCE = 16
_LENGTH = 11
_CLIPS = 32
_TURNS = 5
_ENDS = (
    "ander",
    "elia",
    "mont",
    "ovic",
    "stead",
    "uma",
    "wick",
    "ynne",
    "ardo",
    "berg",
    "dale",
    "essa",
    "field",
    "gate",
    "son",
)


@dataclass(frozen=True)
class Keywords:
    """The decode steps of the same clips with keywords and without.

    Attributes:
        phrases: how many were listened for.
        made_s: what it took to make them ready, once a request.
        step_s: seconds a decode step with them.
        plain_step_s: without.
    """

    phrases: int
    made_s: float
    step_s: float
    plain_step_s: float

    @property
    def cost(self) -> float:
        """The share that keywords add to decode time."""
        return self.step_s / self.plain_step_s - 1


def phrases(count: int) -> list[tuple[str, float]]:
    """Names that nobody has, of one word and of two, with intensifiers from 1 to 3."""
    parts = itertools.product(_ENDS, ascii_lowercase, ascii_lowercase)
    names = (f"{first}{second}{end}".title() for end, first, second in parts)
    both = zip(names, itertools.cycle(["", " Varn", " Olmsted"]), strict=False)
    return [(first + last, 1.0 + index % 3) for index, (first, last) in enumerate(itertools.islice(both, count))]


def inside(transcriber: "BabelrackEngine", *, quick: bool) -> dict[str, Any]:
    """Decode clips with keywords and without, in turns, so that both meet the same neighbours."""
    requests = workload.requests(_LENGTH, 4 if quick else _CLIPS)
    asked = phrases(_PHRASES)
    begun = time.perf_counter()
    ready = transcriber.keywords(asked)
    made = time.perf_counter() - begun
    turns = [
        (transcriber.step_seconds(requests, _AT_ONCE, None), transcriber.step_seconds(requests, _AT_ONCE, ready))
        for _ in range(1 if quick else _TURNS)
    ]
    # The middle of the turns' ratios: a neighbour that comes and goes is in both halves of a turn or in neither.
    plain = median(without for without, _ in turns)
    ratio = median(with_them / without for without, with_them in turns)
    return {"phrases": len(asked), "made_s": made, "step_s": plain * ratio, "plain_step_s": plain}


def measure(process: Process, say: Callable[[str], None], *, quick: bool) -> Keywords:
    """Have the loaded engine decode with keywords and without."""
    say(f"{process.title}: keywords")
    return Keywords(**process.ask("keywords", quick=quick))
