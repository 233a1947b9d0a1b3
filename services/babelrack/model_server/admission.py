"""Bounds what each checkpoint takes on: so many requests active, so many behind them, the rest refused at once."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


class Overloaded(Exception):
    """The queue is full."""


class Admission:
    """One checkpoint's places: `concurrency` active and `queue` waiting, first come, first served, live streams first.

    Streams and files share the places.
    """

    def __init__(self, concurrency: int, queue: int) -> None:
        self.concurrency = concurrency
        self.active = 0
        self._queue = queue
        self._streams = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_live: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """Requests that wait, streams among them."""
        return len(self._waiting) + len(self._waiting_live)

    @property
    def streams(self) -> int:
        """Streams that are active."""
        return self._streams - len(self._waiting_live)

    @property
    def streams_queued(self) -> int:
        """Streams that wait."""
        return len(self._waiting_live)

    @contextmanager
    def place(self, *, live: bool = False) -> Iterator[Callable[[], Awaitable[None]]]:
        """Hold a place, active or in the queue; awaiting what it gives waits until it is active.

        Raises:
            Overloaded: at once, when as many wait as may; streams and files are counted apart.
        """
        waiting = self._waiting_live if live else self._waiting
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.active < self.concurrency:
            self.active += 1
            turn.set_result(None)
        elif len(waiting) < self._queue:
            waiting.append(turn)
        else:
            raise Overloaded
        self._streams += live
        try:
            yield lambda: asyncio.shield(turn)
        finally:
            self._streams -= live
            if turn.done():
                self._leave()
            else:
                waiting.remove(turn)
                turn.cancel()

    def _leave(self) -> None:
        if waiting := self._waiting_live or self._waiting:
            waiting.popleft().set_result(None)  # the place passes on; `active` stays as it is
        else:
            self.active -= 1
