"""The model server's state: starting, healthy, draining or unhealthy, and what it has taken on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

import structlog

from babelrack import __version__
from babelrack.checkpoints import CheckpointError, FetchStopped, Step
from babelrack.engine import EngineError
from babelrack.model_server.admission import Admission
from babelrack.model_server.loading import Loaded, load
from babelrack.pairing import CheckpointHealth, ModelHealth

if TYPE_CHECKING:
    from collections.abc import Callable

    from babelrack.licensing import LicenseGate
    from babelrack.model_server.settings import Settings
    from babelrack.pairing.messages import ModelStatus

log = structlog.get_logger(__name__)


class ModelServer:
    """Loads in the background, admits requests, drains.

    Attributes:
        loaded: the engine and its checkpoints, None while starting.
        admissions: the places of each checkpoint.
        drains: set once no new requests are taken; what has no end of its own ends then.
        fault: why loading failed, in a sentence; the process then ends.
    """

    def __init__(self, settings: Settings, gate: LicenseGate | None) -> None:
        self.settings = settings
        self.loaded: Loaded | None = None
        self.admissions: dict[str, Admission] = {}
        self.fault: str | None = None
        self.on_fault: Callable[[], None] = lambda: None
        self._gate = gate
        self._started = time.monotonic()
        self._step = "reading MODEL_URL"
        self._drain_by: float | None = None
        self.drains = asyncio.Event()
        self._stop = threading.Event()
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to load, and to ask for the licence."""
        if self._gate is not None:
            await self._gate.start()
        self._loading = asyncio.create_task(self._load())

    async def stop(self) -> None:
        """End loading or the engine; what runs is lost."""
        self._stop.set()
        if self._loading is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._loading
        if self.loaded is not None:
            await asyncio.to_thread(self.loaded.engine.stop)
            if self.loaded.diarizer is not None:
                await asyncio.to_thread(self.loaded.diarizer.close)
        if self._gate is not None:
            await self._gate.stop()

    async def _load(self) -> None:
        try:
            loaded = await asyncio.to_thread(load, self.settings, self._note, self._stop)
        except FetchStopped:
            return
        except (CheckpointError, EngineError, OSError, MemoryError) as error:
            self.fault = str(error) or type(error).__name__
            log.error("checkpoints can't be loaded", reason=self.fault)
            self.on_fault()
            return
        concurrency = loaded.engine.concurrency
        queue = 2 * concurrency if self.settings.max_queue is None else self.settings.max_queue
        self.admissions = {c.name: Admission(concurrency, queue) for c in loaded.checkpoints}
        self.loaded = loaded

    def _note(self, step: Step) -> None:
        share = f" {step.done / step.total:.0%}" if step.total else ""
        self._step = f"{step.phase} {step.checkpoint}{share}"

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return any(admission.active for admission in self.admissions.values())

    def drain(self) -> None:
        """Take no new requests from now on."""
        if self._drain_by is None:
            self._drain_by = time.monotonic() + self.settings.drain_seconds
            self.drains.set()
            log.info("draining", active=sum(admission.active for admission in self.admissions.values()))

    @property
    def draining(self) -> bool:
        """Whether no new requests are taken."""
        return self._drain_by is not None

    @property
    def drained(self) -> bool:
        """Whether the process may end."""
        return self._drain_by is not None and (not self.busy or time.monotonic() > self._drain_by)

    @property
    def status(self) -> tuple[ModelStatus, str | None]:
        """The status and the sentence that explains any but `healthy`."""
        if self.fault is not None:
            return "unhealthy", self.fault
        if self.draining:
            return "draining", "the model server is shutting down"
        if self.loaded is None:
            return "starting", f"the model server is starting: {self._step}"
        if not self.loaded.engine.healthy:
            return "unhealthy", "the engine has failed several times in a row; restart the model server"
        return "healthy", None

    def health(self) -> ModelHealth:
        """What `/health` says."""
        status, reason = self.status
        loaded = self.loaded
        return ModelHealth(
            status=status,
            reason=reason,
            deployment=self.settings.deployment_name,
            aggregator=self.settings.aggregator,
            engine="babelrack",
            device=str(loaded.engine.device) if loaded else self.settings.device,
            dtype=loaded.engine.precision if loaded else self.settings.precision,
            version=__version__,
            uptime_s=round(time.monotonic() - self._started, 1),
            license=self._gate.state if self._gate else None,
            features=["diarize"] if loaded and loaded.diarizer else [],
            checkpoints=[
                CheckpointHealth(
                    name=checkpoint.name,
                    role=checkpoint.role,
                    languages=list(checkpoint.languages),
                    concurrency=self.admissions[checkpoint.name].concurrency,
                    active=self.admissions[checkpoint.name].active,
                    queued=self.admissions[checkpoint.name].queued,
                )
                for checkpoint in (loaded.checkpoints if loaded else ())
            ],
        )
