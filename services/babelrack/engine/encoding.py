"""Encoding beside the decode: batches of windows in worker threads, so that both of the engine's halves keep busy."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from babelrack.engine.runner import Runner
    from babelrack.engine.sequence import Sequence

# Encoding is some two thirds of the work: two batches beside the decode fill a CPU, and more would wait for memory.
_WORKERS: Final = 2
# One more that only live windows get: a batch of files may take seconds, and nobody who speaks waits for it.
_LIVE_WORKERS: Final = 1


@dataclass(eq=False, slots=True)
class EncodeJob:
    """Windows of one checkpoint, all of one length, on their way through its encoder; `error` when that failed."""

    runner: Runner
    sequences: list[Sequence]
    error: Exception | None = None
    began: float = 0.0

    @property
    def live(self) -> bool:
        """Whether somebody waits for them while speaking."""
        return self.sequences[0].window.live


class Encoding:
    """Runs encoder batches in threads of its own on a CPU, and at once, in order with the decode, on a GPU.

    The decode and each worker compute with their share of the CPU's threads while all are busy, and with more when
    they are alone: a single window has the whole CPU for its encode and then for its decode. One worker is kept from
    batches of files, so that a live window never waits for one: smaller batches alone would still let it wait.
    """

    def __init__(self, device: torch.device, threads: int, wake: Callable[[], None]) -> None:
        self._threads = threads
        self._wake = wake
        self._jobs: queue.SimpleQueue[EncodeJob | None] = queue.SimpleQueue()
        self._done: deque[EncodeJob] = deque()
        self._lock = threading.Lock()
        self._pending = {True: 0, False: 0}
        self._at_work: set[EncodeJob] = set()
        self._decoding = False
        self.workers = min(_WORKERS, threads) if device.type == "cpu" and threads > 1 else 0
        self._running: list[threading.Thread] = []

    def start(self) -> None:
        """Start the workers; before this, batches are encoded at once."""
        for number in range(self.workers and self.workers + _LIVE_WORKERS):
            worker = threading.Thread(target=self._work, name=f"encoder-{number}", daemon=True)
            worker.start()
            self._running.append(worker)

    def stop(self) -> None:
        """End the workers after the batches that they have."""
        for _ in self._running:
            self._jobs.put(None)
        for worker in self._running:
            worker.join()
        self._running.clear()

    @property
    def free(self) -> bool:
        """Whether another batch of files would be begun at once."""
        return self._room(live=False)

    @property
    def free_for_live(self) -> bool:
        """Whether another batch of live windows would be begun at once."""
        return self._room(live=True)

    def _room(self, *, live: bool) -> bool:
        with self._lock:
            return self._pending[live] < max(1, self.workers) and self._at_once < max(1, len(self._running))

    @property
    def _at_once(self) -> int:
        return sum(self._pending.values())

    @property
    def began(self) -> list[float]:
        """When the batches began that are being encoded now, by the monotonic clock."""
        with self._lock:
            return [job.began for job in self._at_work]

    def submit(self, job: EncodeJob) -> None:
        """Encode a batch; `finished` has it when it is done."""
        with self._lock:
            self._pending[job.live] += 1
        if self._running:
            self._jobs.put(job)
        else:
            self._encode(job)

    @property
    def done(self) -> bool:
        """Whether `finished` has any."""
        return bool(self._done)

    def finished(self) -> list[EncodeJob]:
        """The batches that are done since it was last asked."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def share(self, *, decoding: bool) -> None:
        """Give the calling thread its share of the CPU; called before each decode, and when there is none."""
        self._decoding = decoding
        if self._running and decoding:
            _set_threads(max(1, self._threads // (1 + self._at_once)))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            others = self._at_once - 1 + self._decoding
            _set_threads(max(1, self._threads // (1 + others)))
            self._encode(job)
            self._wake()

    def _encode(self, job: EncodeJob) -> None:
        job.began = time.monotonic()
        with self._lock:
            self._at_work.add(job)
        try:
            job.runner.encode(job.sequences)
        except Exception as error:
            job.error = error
        with self._lock:
            self._pending[job.live] -= 1
            self._at_work.remove(job)
        self._done.append(job)


def _set_threads(threads: int) -> None:
    """Threads of the kernels that the calling thread starts; other threads keep theirs."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
