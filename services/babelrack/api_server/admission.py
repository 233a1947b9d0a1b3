"""How many requests may be here, and how many of them may be at the model server at once.

A request takes a place before its body is read and a slot once the body is there, so that a slow upload holds up
nobody's transcription. There are as many slots as the checkpoints have concurrency, and `max_queue` places more.
What is patient, because nobody waits for its answer, takes no place and gets a slot when no request wants it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from babelrack.api_server.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_LONGEST_RETRY = 60


class Admission:
    """First come, first served; what doesn't fit is told so at once."""

    def __init__(self, max_queue: int | None, max_wait_seconds: float) -> None:
        self.slots = 1
        self.here = 0
        self.running = 0
        self._max_queue = max_queue
        self._max_wait = max_wait_seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._usual_seconds = 1.0

    @property
    def places(self) -> int:
        """Requests that may be here: in a slot, waiting for one, or sending their body."""
        return self.slots + (2 * self.slots if self._max_queue is None else self._max_queue)

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def resize(self, slots: int) -> None:
        """Set the number of slots; those that are taken stay taken."""
        self.slots = max(1, slots)
        self._hand_on()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be here. Raises Unavailable at once when there is no place left."""
        if self.here >= self.places:
            raise self._overloaded(f"this server already has {self.here} requests, which is all that it takes")
        self.here += 1
        try:
            yield
        finally:
            self.here -= 1

    @asynccontextmanager
    async def slot(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Wait for a slot and hold it. Raises Unavailable when none gets free in time; who is patient waits on."""
        loop = asyncio.get_running_loop()
        if self.running < self.slots and not self._waiting:
            self.running += 1
        elif patient:
            await self._wait(loop.create_future(), self._patient, None)
        else:
            await self._wait(loop.create_future(), self._waiting, self._max_wait)
        begun = loop.time()
        try:
            yield
        finally:
            self._usual_seconds += 0.1 * (loop.time() - begun - self._usual_seconds)
            self.running -= 1
            self._hand_on()

    async def _wait(
        self, turn: asyncio.Future[None], queue: deque[asyncio.Future[None]], seconds: float | None
    ) -> None:
        queue.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # Handed over in the very moment that this request gave up: pass it on.
                self.running -= 1
                self._hand_on()
            else:
                with suppress(ValueError):
                    queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"no slot was free within {self._max_wait:g} seconds") from None
            raise

    def _hand_on(self) -> None:
        while self.running < self.slots and (queue := self._waiting or self._patient):
            turn = queue.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _overloaded(self, what: str) -> Unavailable:
        wait = math.ceil(self._usual_seconds * (1 + self.queued / self.slots))
        return Unavailable(
            f"{what}; send the request again later.", code="OVERLOADED", retry_after=min(wait, _LONGEST_RETRY)
        )
