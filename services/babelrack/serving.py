"""How every server starts and ends: settings that can't be used, and a drain before the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pydantic import ValidationError


def complain(server: str, sentence: str) -> None:
    """Say on stderr why `server` can't start."""
    sys.stderr.write(f"{server}: {sentence}\n")


def complain_of_settings(server: str, error: ValidationError) -> None:
    """One sentence for each setting that can't be used, by its environment variable; values are never shown."""
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in fault["loc"]).upper() or "settings"
        complain(server, f"{name}: {fault['msg'].removeprefix('Value error, ')}")


class DrainingServer(uvicorn.Server):
    """Goes on listening while it drains, so that `/health` and new requests are answered instead of refused.

    The first signal calls `drain`; the server stops when `drained` says so, or at the second signal.
    """

    def __init__(self, config: uvicorn.Config, *, drain: Callable[[], None], drained: Callable[[], bool]) -> None:
        super().__init__(config)
        self._drain = drain
        self._drained = drained
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._told:
            self.should_exit = self.force_exit = True
        self._told = True
        self._drain()

    async def on_tick(self, counter: int) -> bool:
        """Stop when the drain is over; asked ten times a second."""
        if self._drained():
            self.should_exit = True
        return await super().on_tick(counter)
