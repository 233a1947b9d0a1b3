"""Who speaks when in a recording: voice segments, windows of 1.6 s each 0.8 s, their embeddings, and turns at the end.

The audio is let go as soon as its windows have embeddings, 1 KB each, so that hours take little memory; speakers are
known at the end only, because they are clustered over the whole recording.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch

from babelrack.speakers.clustering import cluster, probabilities
from babelrack.speakers.embedding import SAMPLE_RATE, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

FRAME_SAMPLES: Final = 512
"""Samples of one speech probability: 32 ms."""

_STEP_SAMPLES: Final = 12_800
_BATCH: Final = 32
_BATCHES_AHEAD: Final = 3
_BEGINS, _GOES_ON = 0.5, 0.35
_PAUSE_FRAMES: Final = 8
_LONGEST_FRAMES: Final = 30 * SAMPLE_RATE // FRAME_SAMPLES
_SAME_TURN_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Turn:
    """From `start` to `end`, in seconds, the speaker of that number is heard; `confidence` from 0 to 1."""

    start: float
    end: float
    speaker: int
    confidence: float


_Job = tuple[Future["NDArray[np.float32]"], "NDArray[np.int16]"]


class Diarizer:
    """The encoder and the one thread that it computes in: one for a process, shared by all recordings and sessions.

    `model` tells its weights from others: only embeddings of one model can be compared.
    """

    def __init__(self, encoder: Encoder, model: str) -> None:
        self.encoder = encoder
        self.model = model
        # One thread's kernels are enough, and leave the other cores to the engine.
        self._thread = ThreadPoolExecutor(1, "speakers", initializer=torch.set_num_threads, initargs=(1,))
        self._live: deque[_Job] = deque()
        self._patient: deque[_Job] = deque()

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The diarizer with the model in `directory`."""
        with (directory / "model.safetensors").open("rb") as weights:
            model = hashlib.file_digest(weights, "sha256").hexdigest()
        return cls(Encoder.load(directory), model)

    def embed(self, windows: NDArray[np.int16], *, live: bool = False) -> Future[NDArray[np.float32]]:
        """(windows, embedding) for (windows, samples), when it is their turn; those of live sessions go first."""
        future: Future[NDArray[np.float32]] = Future()
        (self._live if live else self._patient).append((future, windows))
        self._thread.submit(self._next)
        return future

    def _next(self) -> None:
        future, windows = (self._live or self._patient).popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(self.encoder.embed(windows))
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """Embed no more; what waits is cancelled."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        for future, _ in (*self._live, *self._patient):
            future.cancel()


@dataclass(slots=True)
class Segment:
    """Frames `first` to `last` (not included), in which somebody speaks; its windows, by the samples they begin at."""

    first: int
    last: int
    windows: list[tuple[int, NDArray[np.int16]]] = field(default_factory=list)


class Segmenter:
    """Parts audio into segments of speech, and these into windows; it holds the segment that is open."""

    def __init__(self, window_samples: int) -> None:
        self._window_samples = window_samples
        self._samples = np.zeros(0, np.int16)
        self._samples_from = 0
        self._frames = 0
        self._open: Segment | None = None

    def feed(self, samples: NDArray[np.int16], speech: NDArray[np.float32]) -> list[Segment]:
        """Take `samples` and the probabilities of the frames that are complete by now; returns what has ended."""
        self._samples = np.concatenate((self._samples, samples))
        ended: list[Segment] = []
        for probability in speech.tolist():
            ended += self._step(probability)
        needed = (self._open.first if self._open else self._frames) * FRAME_SAMPLES
        if needed > self._samples_from:
            self._samples = self._samples[needed - self._samples_from :].copy()
            self._samples_from = needed
        return ended

    def cut(self, before: float = float("inf")) -> list[Segment]:
        """End the segment that is open, if it begins before that sample."""
        return self._close() if self._open is not None and self._open.first * FRAME_SAMPLES < before else []

    def _step(self, probability: float) -> list[Segment]:
        frame, self._frames = self._frames, self._frames + 1
        if self._open is None:
            if probability >= _BEGINS:
                self._open = Segment(frame, frame + 1)
            return []
        if probability >= _GOES_ON:
            self._open.last = frame + 1
        silence, length = frame + 1 - self._open.last, frame + 1 - self._open.first
        return self._close() if silence >= _PAUSE_FRAMES or length >= _LONGEST_FRAMES else []

    def _close(self) -> list[Segment]:
        segment, self._open = self._open, None
        assert segment is not None  # noqa: S101 - only an open one is closed
        first = segment.first * FRAME_SAMPLES
        spoken = self._samples[first - self._samples_from : segment.last * FRAME_SAMPLES - self._samples_from]
        segment.windows = [(first + place, window) for place, window in _windows_of(spoken, self._window_samples)]
        return [segment]


class Diarization:
    """One recording: `feed` it, in order and in pieces of any size, then `end` it and ask for its `turns`."""

    def __init__(self, diarizer: Diarizer) -> None:
        self._diarizer = diarizer
        self._segmenter = Segmenter(diarizer.encoder.window_samples)
        self._segments: list[tuple[int, int, list[int]]] = []  # first and last frame, where windows begin
        self._waiting: list[NDArray[np.int16]] = []
        self._running: deque[Future[NDArray[np.float32]]] = deque()
        self._embeddings: list[NDArray[np.float32]] = []

    def feed(self, samples: NDArray[np.int16], speech: NDArray[np.float32]) -> None:
        """Take `samples` at 16 kHz and the speech probabilities of the frames of 512 that are complete by now."""
        self._keep(self._segmenter.feed(samples, speech))
        while len(self._waiting) >= _BATCH:
            self._embed()
        while self._running and self._running[0].done():
            self._embeddings.append(self._running.popleft().result())

    @property
    def behind(self) -> Future[NDArray[np.float32]] | None:
        """What to wait for before more is fed, when enough windows wait for their embeddings."""
        return self._running[0] if len(self._running) > _BATCHES_AHEAD else None

    def end(self) -> list[Future[NDArray[np.float32]]]:
        """The recording ends here; `turns` waits for what is returned."""
        self._keep(self._segmenter.cut())
        while self._waiting:
            self._embed()
        return list(self._running)

    def turns(self) -> list[Turn]:
        """Who speaks when in the recording that has ended, in order and without overlap.

        Speakers are counted from 0 as they are heard first. Computes for some seconds after hours of speech.
        """
        while self._running:
            self._embeddings.append(self._running.popleft().result())
        if not self._embeddings:
            return []
        embeddings = np.concatenate(self._embeddings)
        likely = probabilities(embeddings, cluster(embeddings))
        return _joined(list(self._runs(likely)))

    def _keep(self, segments: list[Segment]) -> None:
        for segment in segments:
            self._segments.append((segment.first, segment.last, [place for place, _ in segment.windows]))
            self._waiting += [window for _, window in segment.windows]

    def _embed(self) -> None:
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._running.append(self._diarizer.embed(np.stack(batch)))

    def _runs(self, likely: NDArray[np.float32]) -> Iterator[Turn]:
        """The stretches of one speaker in each segment."""
        window = self._diarizer.encoder.window_samples
        done = 0
        for first, last, places in self._segments:
            shares = likely[done : done + len(places)]
            done += len(places)
            at = (np.arange(first, last) + 0.5) * FRAME_SAMPLES
            middles = np.array(places) + min(window, (last - first) * FRAME_SAMPLES) / 2
            # A window says most of what is in its middle.
            weight = np.maximum(1e-3, 1.0 - np.abs(at[:, None] - middles) / (window / 2))
            frames = (weight @ shares) / weight.sum(axis=1, keepdims=True)
            speakers = np.argmax(frames, axis=1).tolist()
            begin = 0
            for speaker, run in groupby(speakers):
                end = begin + len(list(run))
                yield Turn(
                    _seconds(first + begin),
                    _seconds(first + end),
                    speaker,
                    float(frames[begin:end, speaker].mean()),
                )
                begin = end


def _windows_of(spoken: NDArray[np.int16], window: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Windows of `window` samples and where they begin in `spoken`, evenly over it, some 0.8 s apart.

    What is shorter than a window is said again until it fills one.
    """
    if len(spoken) <= window:
        yield 0, np.resize(spoken, window)
        return
    count = 1 + -(-(len(spoken) - window) // _STEP_SAMPLES)
    for place in np.linspace(0, len(spoken) - window, count).astype(int).tolist():
        yield place, spoken[place : place + window]


def _joined(runs: list[Turn]) -> list[Turn]:
    """Runs of one speaker that follow each other closely are one turn; speakers in the order of their first turn."""
    numbers: dict[int, int] = {}
    turns: list[Turn] = []
    for run in runs:
        speaker = numbers.setdefault(run.speaker, len(numbers))
        before = turns[-1] if turns else None
        if before and before.speaker == speaker and run.start - before.end < _SAME_TURN_SECONDS:
            said, more = before.end - before.start, run.end - run.start
            confidence = (before.confidence * said + run.confidence * more) / (said + more)
            turns[-1] = Turn(before.start, run.end, speaker, confidence)
        else:
            turns.append(Turn(run.start, run.end, speaker, run.confidence))
    return turns


def _seconds(frame: int) -> float:
    return round(frame * FRAME_SAMPLES / SAMPLE_RATE, 3)
