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
    """One checkpoint's places: `concurrency` active and `queue` waiting, first come, first served."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self.concurrency = concurrency
        self.active = 0
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @contextmanager
    def place(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Hold a place, active or in the queue; awaiting what it gives waits until it is active.

        Raises:
            Overloaded: at once, when as many wait as may.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.active < self.concurrency:
            self.active += 1
            turn.set_result(None)
        elif self.queued < self._queue:
            self._waiting.append(turn)
        else:
            raise Overloaded
        try:
            yield lambda: asyncio.shield(turn)
        finally:
            if turn.done():
                self._leave()
            else:
                self._waiting.remove(turn)
                turn.cancel()

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)  # the place passes on; `active` stays as it is
        else:
            self.active -= 1
