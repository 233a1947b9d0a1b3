"""How every server starts and ends: settings that can't be used, what systemd is told, a drain before the end."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
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


class ServiceManager:
    """What a unit with `Type=notify` hears of its process (sd_notify(3)); without systemd, nothing is sent.

    The watchdog is fed at a third of `WatchdogSec`, and a start that goes on is given another minute at a time.
    """

    def __init__(self) -> None:
        self._socket = os.environ.get("NOTIFY_SOCKET", "")
        interval = os.environ.get("WATCHDOG_USEC", "") if os.environ.get("WATCHDOG_PID") == str(os.getpid()) else ""
        self._interval_s = int(interval) / 3e6 if interval.isdecimal() else 0.0
        self._next = 0.0
        self._ready = False

    def tell(self, *states: str) -> None:
        """Send assignments such as `READY=1`; a manager that doesn't listen is no fault of the server's."""
        if self._socket:
            address = "\0" + self._socket[1:] if self._socket.startswith("@") else self._socket
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.sendto("\n".join(states).encode(), address)

    def tick(self, *, ready: bool, alive: bool) -> None:
        """Called several times a second: says once that the server is ready, and on and on that it is alive."""
        now = time.monotonic()
        if ready and not self._ready:
            self._ready = True
            self.tell("READY=1")
        elif now < self._next or not alive:
            return
        elif not ready and not self._ready:
            self.tell("EXTEND_TIMEOUT_USEC=60000000")
            self._next = now + 5
            return
        elif self._interval_s:
            self.tell("WATCHDOG=1")
        self._next = now + (self._interval_s or 5)


class ManagedServer(uvicorn.Server):
    """Tells systemd when it is `ready`, and that it goes on while it is `alive`."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        ready: Callable[[], bool] = lambda: True,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(config)
        self.manager = ServiceManager()
        self._ready = ready
        self._alive = alive

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, and say so."""
        self.manager.tell("STOPPING=1")
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Report to systemd; asked ten times a second."""
        self.manager.tick(ready=self._ready(), alive=self._alive())
        return await super().on_tick(counter)


class DrainingServer(ManagedServer):
    """Goes on listening while it drains, so that `/health` and new requests are answered instead of refused.

    The first signal calls `drain`; the server stops when `drained` says so, or at the second signal.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: Callable[[], None],
        drained: Callable[[], bool],
        ready: Callable[[], bool] = lambda: True,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(config, ready=ready, alive=alive)
        self._drain = drain
        self._drained = drained
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._told:
            self.should_exit = self.force_exit = True
        self._told = True
        self.manager.tell("STOPPING=1")
        self._drain()

    async def on_tick(self, counter: int) -> bool:
        """Stop when the drain is over; asked ten times a second."""
        if self._drained():
            self.should_exit = True
        return await super().on_tick(counter)
