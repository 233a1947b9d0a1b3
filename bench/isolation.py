"""Two packs on one machine: one client of the one, alone and while 200 clients saturate the other."""

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import workload
from bench.load import Answer, Load
from bench.rack import Rack

BUSY_LANGUAGES = ("en", "it")
STEADY_LANGUAGES = ("es", "pt")
CLIENTS = 200
REQUESTS = 60
RAMP_S = 10.0
LENGTH = 11


@dataclass(frozen=True)
class Isolation:
    """What one client of the steady pack saw.

    Attributes:
        alone_s, during_s: its median latency while the busy pack was idle, and while it was saturated.
        failures: of its requests, in both.
        busy: answers of the busy pack by HTTP status; 429 and 503 are overload that was answered.
    """

    clients: int
    requests: int
    alone_s: float
    during_s: float
    failures: int
    busy: dict[str, int]

    @property
    def ratio(self) -> float:
        """How many times longer it waited."""
        return self.during_s / self.alone_s


def measure(cores: int, say: Callable[[str], None], *, quick: bool) -> Isolation:
    """Bring two packs up, each with half of the cores, and measure one beside the other."""
    say("isolation: starting two packs")
    with Rack("neighbours", max(1, cores // 2)) as rack:
        return asyncio.run(_measure(Load(rack.gateway, rack.key), say, quick=quick))


async def _measure(load: Load, say: Callable[[str], None], *, quick: bool) -> Isolation:
    clients, count, ramp_s = (4, 4, 1.0) if quick else (CLIENTS, REQUESTS, RAMP_S)
    steady = _speaking(STEADY_LANGUAGES)
    steady = (steady * count)[:count]
    await load.each(steady[:2], 1)
    say("isolation: one pack alone")
    alone = await load.each(steady, 1)
    stop = asyncio.Event()
    say(f"isolation: beside a pack with {clients} clients")
    saturating = asyncio.create_task(load.until(stop, _speaking(BUSY_LANGUAGES), clients))
    try:
        await asyncio.sleep(ramp_s)
        during = await load.each(steady, 1)
    finally:
        stop.set()
        busy = await saturating
    failures = sum(answer.status != 200 for answer in [*alone, *during])
    statuses = Counter(str(answer.status) for answer in busy)
    return Isolation(clients, count, _median(alone), _median(during), failures, dict(statuses))


def _speaking(languages: Sequence[str]) -> list[workload.Request]:
    every = workload.requests(LENGTH, workload.DIFFERENT)
    return [request for request in every if request.language in languages]


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.seconds for answer in answers)
