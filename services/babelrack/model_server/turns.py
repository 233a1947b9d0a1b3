"""Who of the live streams decodes next.

A window that waits in the engine gets old: what is said meanwhile isn't in it. So only a few wait there, and a stream
makes its window when its turn has come, of all that it has heard by then. A stream in which somebody stopped to speak
goes before those that only have more to hear, because a final waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Turns:
    """The turns of all streams of one engine, of whose windows `ahead` may wait for its encoder."""

    def __init__(self, ahead: int) -> None:
        self._free = ahead
        self._waiting: deque[Place] = deque()

    @contextmanager
    def place(self, *, urgent: bool) -> Iterator[Place]:
        """Stand in line; leaving gives the turn up, whether or not it had come."""
        place = Place(self, urgent=urgent)
        self._waiting.append(place)
        self.hand_on()
        try:
            yield place
        finally:
            place.over()

    def leave(self, place: Place) -> None:
        """Take a turn that hasn't come out of the line, or let another come in the place of one that has."""
        if place in self._waiting:
            self._waiting.remove(place)
        else:
            self._free += 1
        self.hand_on()

    def hand_on(self) -> None:
        """Let turns come: the urgent ones first, then those that wait longest."""
        while self._free and self._waiting:
            place = next((place for place in self._waiting if place.urgent), self._waiting[0])
            self._waiting.remove(place)
            self._free -= 1
            place.come.set()


class Place:
    """One stream's place in line.

    Attributes:
        urgent: whether it goes before those that aren't; may change while it waits.
        come: set when it is the stream's turn.
    """

    def __init__(self, turns: Turns, *, urgent: bool) -> None:
        self.urgent = urgent
        self.come = asyncio.Event()
        self._turns = turns
        self._over = False

    def over(self) -> None:
        """The window waits no more; saying so again does nothing."""
        if not self._over:
            self._over = True
            self._turns.leave(self)
