"""Babelrack as clients see it: nginx, API server, model server, and the load generator, all on the same cores."""

import asyncio
from collections.abc import Sequence

from bench.load import Load
from bench.rack import Rack
from bench.workload import Request


class BabelrackHTTP:
    """A rack with one pack, and a closed loop of clients in this process."""

    def __init__(self, threads: int) -> None:
        self._rack = Rack("alone", threads)
        self._rack.__enter__()
        self._load = Load(self._rack.gateway, self._rack.key)

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        answers = asyncio.run(self._load.each(requests, at_once))
        refused = [answer for answer in answers if answer.status != 200]
        if refused:
            raise RuntimeError(f"{len(refused)} requests failed, the first with {refused[0].status}: {refused[0].text}")
        return [answer.text for answer in answers]

    def transcribe_long(self, request: Request) -> str:
        """As one upload."""
        return self.transcribe([request], 1)[0]

    def processes(self) -> list[int]:
        return self._rack.processes()

    def close(self) -> None:
        self._rack.__exit__(None, None, None)


def load(threads: int) -> BabelrackHTTP:
    """Bring the rack up."""
    return BabelrackHTTP(threads)
