"""One run of a service's process: started so that it can't outlive the supervisor, ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from babelrack.local.identity import ProcessIdentity, end_sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from babelrack.local.output import OutputLog
    from babelrack.local.service import Service

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_READ_BYTES = 1 << 16


class Child:
    """A running process that leads its own session; make it with `Child.start` inside an event loop's main thread.

    The kernel sends a parent-death signal when the *thread* that forked ends, hence the main thread.
    """

    def __init__(self, service: Service, process: subprocess.Popen[bytes], log: OutputLog) -> None:
        self.service = service
        self._process = process
        self._log = log
        self._ended = asyncio.Event()
        identity = ProcessIdentity.of(process.pid)
        # It may be a zombie already; then only its pid is known, and that is enough until it is reaped.
        self.identity = identity or ProcessIdentity(process.pid, 0, "")
        loop = asyncio.get_running_loop()
        assert process.stdout is not None  # noqa: S101  (it is a pipe, see `start`)
        self._output = process.stdout.fileno()
        os.set_blocking(self._output, False)
        loop.add_reader(self._output, self._read)
        self._pidfd = os.pidfd_open(process.pid)
        loop.add_reader(self._pidfd, self._on_end)

    @classmethod
    def start(cls, service: Service, log: OutputLog) -> Child:
        """Start the process.

        Raises:
            OSError: when it can't be executed.
        """
        log.mark()
        process = subprocess.Popen(
            service.command,
            env=dict(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            preexec_fn=_dies_with(os.getpid(), service.orphaned),  # noqa: PLW1509  (two system calls, no lock)
        )
        return cls(service, process, log)

    async def ended(self) -> int:
        """Wait for the end; the exit status, negative for a signal. What it left running in its session is killed."""
        await self._ended.wait()
        return self._process.returncode

    async def stop(self, grace_seconds: float) -> bool:
        """Ask it to end, and kill it when its grace is over; whether it ended by itself."""
        if not self._ended.is_set():
            self._process.send_signal(self.service.stop)
            try:
                async with asyncio.timeout(grace_seconds):
                    await self._ended.wait()
            except TimeoutError:
                self.kill()
                await self._ended.wait()
                return False
        return True

    def kill(self) -> None:
        """End it at once."""
        if not self._ended.is_set():
            self._process.kill()

    def _on_end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before it is reaped: until then its number can't be anybody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self.identity.boot:
            end_sessions([self.identity], grace_seconds=0)
        self._read()
        loop.remove_reader(self._output)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()
        self._ended.set()

    def _read(self) -> None:
        try:
            while output := os.read(self._output, _READ_BYTES):
                self._log.write(output)
        except BlockingIOError:
            return
        asyncio.get_running_loop().remove_reader(self._output)


def _dies_with(parent: int, signal_number: signal.Signals) -> Callable[[], None]:
    def arm() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal_number))
        if os.getppid() != parent:
            os._exit(1)  # the supervisor died between the fork and the line above

    return arm
