"""Continuous batching over one to three checkpoints: one thread that schedules, runs and hands out."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from babelrack.engine.encoding import EncodeJob, Encoding
from babelrack.engine.errors import EngineError
from babelrack.engine.features import SAMPLE_RATE
from babelrack.engine.keywords import Keywords
from babelrack.engine.memory import slot_bytes
from babelrack.engine.runner import Runner
from babelrack.engine.scheduler import Scheduler
from babelrack.engine.sequence import Sequence
from babelrack.engine.window import Admitted, Lost, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Sequence as Rows
    from pathlib import Path

    from babelrack.engine.weights import Precision
    from babelrack.engine.window import Event, Listener

log = structlog.get_logger(__name__)

# Windows in one batch, by the number of checkpoints that share the process.
CONCURRENCY = {1: 128, 2: 64, 3: 48}
_MAX_FAULTS = 3
# No step and no batch of the encoder takes so long, on the slowest machine; one that does will never end.
_STUCK_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the engine runs.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`.
        threads: of torch's CPU kernels; None leaves torch's own choice.
        memory_bytes: for keys and values of all checkpoints together; None takes a share of what the device has.
        encode_seconds: of audio that one step may encode before it decodes again; None chooses by device.
    """

    device: str = "cpu"
    precision: Precision = "auto"
    threads: int | None = None
    memory_bytes: int | None = None
    encode_seconds: float | None = None


@dataclass(slots=True)
class Totals:
    """What one checkpoint has done since it was loaded."""

    windows: int = 0
    audio_seconds: float = 0.0
    retries: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """Windows of one checkpoint in decode and waiting, and how many may be in decode."""

    running: int
    waiting: int
    slots: int
    totals: Totals


@dataclass(eq=False, slots=True)
class _Lane:
    """One checkpoint's scheduler and runner."""

    scheduler: Scheduler
    runner: Runner
    arrivals: deque[Sequence] = field(default_factory=deque)
    totals: Totals = field(default_factory=Totals)


class Engine:
    """Transcribes windows with the checkpoints it loaded.

    `submit` may be called from any thread; listeners are called on the engine's own. A checkpoint's windows join and
    leave its batch between decode steps; the checkpoints take turns.
    """

    def __init__(self, checkpoints: Mapping[str, Path], options: EngineOptions) -> None:
        if len(checkpoints) not in CONCURRENCY:
            raise EngineError(f"a process holds one to three checkpoints, not {len(checkpoints)}")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError(f"device {options.device} was asked for, but this host has no usable CUDA device")
        self.concurrency = CONCURRENCY[len(checkpoints)]
        runners = {name: Runner(path, self.device, options.precision) for name, path in checkpoints.items()}
        self.precision = next(iter(runners.values())).precision
        share = (options.memory_bytes or _default_memory(self.device)) // len(runners)
        encode_seconds = options.encode_seconds or (48.0 if self.device.type == "cpu" else 240.0)
        self._lanes = {name: self._lane(name, runner, share, encode_seconds) for name, runner in runners.items()}
        self._condition = threading.Condition()
        self._encoding = Encoding(self.device, torch.get_num_threads(), self._wake)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._faults = 0
        self._step_began: float | None = None

    def _lane(self, name: str, runner: Runner, share: int, encode_seconds: float) -> _Lane:
        each = slot_bytes(runner.dimensions, runner.dtype)
        slots = min(self.concurrency, share // each)
        if slots < 1:
            raise EngineError(
                f"checkpoint {name} needs {each / 2**20:.0f} MiB of key-value memory a window and has "
                f"{share / 2**20:.0f} MiB; give it more memory or load fewer checkpoints"
            )
        runner.allocate(slots)
        return _Lane(Scheduler(slots, encode_seconds), runner)

    @property
    def healthy(self) -> bool:
        """False once steps have failed several times in a row."""
        return self._faults < _MAX_FAULTS

    @property
    def alive(self) -> bool:
        """False when a started engine is stuck in a step or in the encoder, or its thread is gone."""
        began = [moment for moment in (self._step_began, *self._encoding.began) if moment is not None]
        stuck = began and time.monotonic() - min(began) > _STUCK_SECONDS
        return not stuck and (self._thread is None or self._stopping or self._thread.is_alive())

    def languages(self, checkpoint: str) -> frozenset[str]:
        """The languages that the checkpoint's vocabulary has tokens for."""
        return frozenset(self._lanes[checkpoint].runner.vocabulary.languages)

    def load(self, checkpoint: str) -> Load:
        """How busy a checkpoint is."""
        lane = self._lanes[checkpoint]
        scheduler = lane.scheduler
        return Load(scheduler.running, scheduler.waiting + len(lane.arrivals), scheduler.slots, replace(lane.totals))

    def keywords(self, checkpoint: str, phrases: Rows[tuple[str, float]]) -> Keywords:
        """Phrases with their intensifiers for windows of `checkpoint`; on any thread: thousands take a while."""
        return Keywords(phrases, self._lanes[checkpoint].runner.vocabulary, self.device)

    def submit(self, checkpoint: str, window: Window, listener: Listener) -> Sequence:
        """Queue a window; the listener hears of it until `Transcribed` or `Lost`.

        Raises:
            EngineError: when the engine is stopped or the vocabulary lacks one of the window's languages.
        """
        lane = self._lanes[checkpoint]
        vocabulary = lane.runner.vocabulary
        unknown = [language for language in window.languages if language not in vocabulary.languages]
        if unknown:
            raise EngineError(f"the vocabulary of checkpoint {checkpoint} has no language {unknown[0]!r}")
        if window.keywords is not None and window.keywords.vocabulary is not vocabulary:
            raise EngineError(f"the window's keywords are of another checkpoint than {checkpoint}")
        sequence = Sequence(window, vocabulary, listener, lane.runner.dimensions.text_positions)
        with self._condition:
            if self._stopping:
                raise EngineError("the engine is stopped")
            lane.arrivals.append(sequence)
            self._condition.notify()
        return sequence

    def pieces(self, checkpoint: str, tokens: Iterable[int]) -> list[tuple[str, int]]:
        """Text tokens of a checkpoint in pieces of whole characters: the text of each, and how many tokens it takes."""
        return self._lanes[checkpoint].runner.vocabulary.pieces(list(tokens))

    def cancel(self, sequence: Sequence) -> None:
        """Stop caring for a window: it leaves the batch at the next step and its listener hears nothing more."""
        sequence.cancelled = True

    def warm_up(self) -> None:
        """Run each checkpoint once, so that the first request doesn't pay for what is set up lazily.

        Raises:
            EngineError: when a checkpoint loads but can't run.
        """
        for name, lane in self._lanes.items():
            heard: list[Event] = []
            language = next(iter(lane.runner.vocabulary.languages))
            self.submit(name, Window(np.zeros(SAMPLE_RATE, dtype=np.int16), (language,)), heard.append)
            while self.step():
                pass
            for event in heard:
                if isinstance(event, Lost):
                    raise EngineError(f"checkpoint {name} loads but can't run: {event.reason}")
            lane.totals = Totals()

    def start(self) -> None:
        """Start the engine's threads."""
        self._encoding.start()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the running step; windows that are left are lost, and told so."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()
        self._encoding.stop()
        self._collect()
        for lane in self._lanes.values():
            self._take_arrivals(lane)
            self._lose(lane.scheduler.drop_all(), "the engine stopped")

    def _run(self) -> None:
        while not self._stopping:
            self._step_began = time.monotonic()
            worked = self.step()
            self._step_began = None
            if not worked:
                with self._condition:
                    if not (
                        self._stopping or self._encoding.done or any(lane.arrivals for lane in self._lanes.values())
                    ):
                        self._condition.wait()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify()

    def step(self) -> bool:
        """One step of every checkpoint that has work; returns whether any had."""
        self._collect()
        worked = False
        for name, lane in self._lanes.items():
            self._take_arrivals(lane)
            if lane.scheduler.idle:
                continue
            try:
                worked |= self._advance(lane)
            except Exception as error:  # a step that failed must not end the others, whatever it was
                worked = True
                self._faults += 1
                log.exception("step failed", checkpoint=name)
                self._lose(lane.scheduler.drop_all(), f"the engine failed on this batch: {type(error).__name__}")
        return worked

    def _collect(self) -> None:
        """Take up the windows whose audio is encoded."""
        for job in self._encoding.finished():
            scheduler = next(lane.scheduler for lane in self._lanes.values() if lane.runner is job.runner)
            scheduler.encoded(job.sequences)
            if job.error is not None:
                self._faults += 1
                log.error("encoding failed", exc_info=job.error)
                self._lose(job.sequences, f"the engine failed on this audio: {type(job.error).__name__}")

    def _take_arrivals(self, lane: _Lane) -> None:
        while lane.arrivals:
            lane.scheduler.add(lane.arrivals.popleft())

    def _advance(self, lane: _Lane) -> bool:
        """Begin to encode, align what is decoded, decode a token of each window that can; returns whether any did."""
        step = lane.scheduler.schedule(encode=self._encoding.free, encode_live=self._encoding.free_for_live)
        for sequence in step.encode:
            if sequence.window.live and not sequence.cancelled:
                sequence.listener(Admitted())
        if step.encode:
            self._encoding.submit(EncodeJob(lane.runner, step.encode))
        self._encoding.share(decoding=bool(step.decode or step.align))
        if step.align:
            for sequence, times in zip(step.align, lane.runner.align(step.align), strict=True):
                if not sequence.cancelled:
                    sequence.aligned(times)
                    self._finish(lane, sequence)
        if step.decode:
            self._decode(lane, step.decode)
        if step.align or step.decode:
            self._faults = 0
        return bool(step.encode or step.align or step.decode)

    def _decode(self, lane: _Lane, sequences: list[Sequence]) -> None:
        going = self._hear(lane, sequences, lane.runner.decode(sequences))
        while going:
            going = self._hear(lane, going, lane.runner.follow(going))

    def _hear(
        self, lane: _Lane, sequences: list[Sequence], tokens: Iterable[tuple[int, float] | None]
    ) -> list[Sequence]:
        """Take the next token of each; returns those for which the one after it is known already."""
        going: list[Sequence] = []
        for sequence, picked in zip(sequences, tokens, strict=True):
            if sequence.cancelled or picked is None:
                continue
            lane.totals.tokens += 1
            if not sequence.said(*picked):
                if sequence.follows:
                    going.append(sequence)
                continue
            if not sequence.concluded():
                lane.totals.retries += 1
            elif not sequence.aligning:
                self._finish(lane, sequence)
        return going

    def _finish(self, lane: _Lane, sequence: Sequence) -> None:
        lane.scheduler.finish(sequence)
        lane.totals.windows += 1
        lane.totals.audio_seconds += sequence.window.seconds

    def _lose(self, sequences: Iterable[Sequence], reason: str) -> None:
        for sequence in sequences:
            if not sequence.cancelled:
                sequence.cancelled = True
                sequence.fail(reason)


def _default_memory(device: torch.device) -> int:
    """Bytes for keys and values: most of what a GPU has left, half of a CPU host's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.8)
    return _host_memory() // 2


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
