"""Keeps a rack's processes running, says what happens to them, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

from babelrack.local.backoff import BackOff
from babelrack.local.child import Child
from babelrack.local.output import OutputLog
from babelrack.local.service import STOP_ORDER
from babelrack.local.state import ServiceRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from babelrack.local.service import Service
    from babelrack.local.state import Condition, RackRecord, StateFolder

_STARTING_PROBE_SECONDS = 0.5
_WELL_PROBE_SECONDS = 3.0
_LAST_LINES = 5
# A request that the gateway could not finish in its time is lost, so nothing behind it needs to drain any more.
_STOP_SECONDS = 25.0
_LEAST_GRACE_SECONDS = 4.0


class Supervisor:
    """Runs the services of one rack until it is told to stop.

    `report` gets one sentence for each thing that a person should know; `record` is kept current, also on disk.
    """

    def __init__(
        self, services: Sequence[Service], record: RackRecord, state: StateFolder, report: Callable[[str], None]
    ) -> None:
        self.record = record
        self._keepers = [Keeper(service, self._changed, report) for service in services]
        self.record.services = [keeper.record for keeper in self._keepers]
        self._state = state
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """End everything in order; asked again, end it at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Start everything, keep it running until `stop`, then end it; nothing runs any more when this returns."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        keeping = [asyncio.create_task(keeper.keep(), name=keeper.service.name) for keeper in self._keepers]
        stopping: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        watched: set[asyncio.Task[Any]] = {stopping, *keeping}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.record.stopping = True
            self._changed()
            await self._end()
            stopping.cancel()
            for task in keeping:
                task.cancel()
            ends = await asyncio.gather(*keeping, return_exceptions=True)
            self._state.forget_record()
        for end in ends:
            # `keep` never returns: a task that ended otherwise than by the line above found a defect of this program.
            if isinstance(end, Exception):
                raise end

    async def _end(self) -> None:
        hurry: asyncio.Task[Any] = asyncio.create_task(self._hurry.wait())
        deadline = time.monotonic() + _STOP_SECONDS
        for keeper in self._keepers:
            keeper.retire()
        for role in STOP_ORDER:
            ending: asyncio.Future[Any] = asyncio.gather(
                *(keeper.end(deadline) for keeper in self._keepers if keeper.service.role == role)
            )
            await asyncio.wait([ending, hurry], return_when=asyncio.FIRST_COMPLETED)
            if hurry.done():
                for keeper in self._keepers:
                    keeper.kill()
            await ending
        hurry.cancel()

    def _changed(self) -> None:
        # A full disk must not end what runs; `down` still finds the processes of the last record that was written.
        with contextlib.suppress(OSError):
            self._state.write_record(self.record)


class Keeper:
    """Keeps one service running: starts it, asks how it is, starts it again with back-off when it dies."""

    def __init__(self, service: Service, changed: Callable[[], None], report: Callable[[str], None]) -> None:
        self.service = service
        self.record = ServiceRecord(service.name, service.role, service.pack, service.url)
        self._changed = changed
        self._report = report
        self._log = OutputLog(service.log)
        self._child: Child | None = None
        self._back_off = BackOff()
        self._well_since: float | None = None
        self._retired = False

    async def keep(self) -> None:
        """Keep the service running; returns never, and ends by cancellation."""
        while not self._retired:
            status = await self._run_once()
            if self._retired:
                break
            delay = self._back_off.died(self._well_seconds())
            condition: Condition = "failed" if self._back_off.failed else "waiting"
            self.record.process = None
            self.record.last_lines = self._log.last_lines(_LAST_LINES)
            self._note(condition, _ending(status))
            self._tell_death(status, delay)
            await asyncio.sleep(delay)
            self.record.restarts += 1
            if condition == "waiting":
                self._note("starting", None)
        await asyncio.Event().wait()

    async def _run_once(self) -> int | str:
        """The exit status of one run, or why there was none."""
        self._well_since = None
        try:
            self._child = Child.start(self.service, self._log)
        except OSError as error:
            return f"could not be started ({error.strerror or error})"
        self.record.process = self._child.identity
        self._changed()
        watching = asyncio.create_task(self._watch())
        try:
            return await self._child.ended()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            wrong = await self.service.probe()
            if wrong is None:
                self._well_since = self._well_since or time.monotonic()
                if self._back_off.deaths and self.record.condition != "healthy":
                    self._report(f"{self.service.name} is well again.")
                self._note("healthy", None)
            elif self._well_since is not None:
                self._well_since = None
                self._note("unhealthy", wrong)
            elif self.record.condition != "failed":
                self._note(self.record.condition, wrong)
            await asyncio.sleep(_WELL_PROBE_SECONDS if wrong is None else _STARTING_PROBE_SECONDS)

    def retire(self) -> None:
        """Don't start it again."""
        self._retired = True

    async def end(self, deadline: float) -> None:
        """End the process that runs now, if one does; after its grace, or shortly after the deadline."""
        if self._child:
            left = max(_LEAST_GRACE_SECONDS, deadline - time.monotonic())
            grace = min(self.service.grace_seconds, left)
            if not await self._child.stop(grace):
                self._report(f"{self.service.name} did not end within {grace:.0f} s and was killed.")
        self._log.close()
        self.record.process = None
        self._note("stopped", None)

    def kill(self) -> None:
        """End the process that runs now at once."""
        if self._child:
            self._child.kill()

    def _well_seconds(self) -> float:
        return time.monotonic() - self._well_since if self._well_since else 0.0

    def _note(self, condition: Condition, reason: str | None) -> None:
        if (self.record.condition, self.record.reason) != (condition, reason):
            self.record.condition, self.record.reason = condition, reason
            self._changed()

    def _tell_death(self, status: int | str, delay: float) -> None:
        self._report(f"{self.service.name} {self.record.reason}; started again in {delay:g} s.")
        # A process that was killed had no last words.
        gave_up = isinstance(status, int) and status > 0
        if gave_up and (self._back_off.deaths == 1 or self._back_off.failed):
            for line in self.record.last_lines:
                self._report(f"  {self.service.name}: {line}")


def _ending(status: int | str) -> str:
    if isinstance(status, str):
        return status
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit code {status}"
