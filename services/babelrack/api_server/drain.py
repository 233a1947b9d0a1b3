"""The end of a server: no new requests, time for the running ones, then out."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from babelrack.api_server.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babelrack.api_server.client_watch import ClientWatch

_LOOK_SECONDS = 0.25


class Drain:
    """`begin` on SIGTERM; `over` when the last request has ended, which it must within `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.requests = 0
        self._seconds = seconds
        self._begun: float | None = None
        self._watched: set[ClientWatch] = set()

    @property
    def draining(self) -> bool:
        """Whether the server takes no new requests."""
        return self._begun is not None

    def begin(self) -> None:
        """Take no new requests from now on."""
        if self._begun is None:
            self._begun = time.monotonic()

    async def begun(self) -> None:
        """Wait until the server takes no new requests."""
        while not self.draining:  # noqa: ASYNC110 - it begins in a signal's handler, which must not touch the loop
            await asyncio.sleep(_LOOK_SECONDS)

    def over(self) -> bool:
        """Whether the server may stop. Past the time, what still runs is ended with a 503."""
        if self._begun is None:
            return False
        if self.requests == 0:
            return True
        if time.monotonic() - self._begun < self._seconds:
            return False
        for watch in list(self._watched):
            watch.interrupt(self.refusal())
        return True

    def refusal(self) -> Unavailable:
        """What a request is told that can't be served any more."""
        return Unavailable("this server is shutting down; send the request again.", code="DRAINING", retry_after=2)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A request is under way, from its head to the end of its answer."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def watching(self, watch: ClientWatch) -> Iterator[None]:
        """A request's work may be interrupted."""
        self._watched.add(watch)
        try:
            yield
        finally:
            self._watched.discard(watch)
