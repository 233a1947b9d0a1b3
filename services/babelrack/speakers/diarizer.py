"""Who speaks when in a recording: voice segments, windows of 1.6 s each 0.8 s, their embeddings, and turns at the end.

The audio is let go as soon as its windows have embeddings, 1 KB each, so that hours take little memory; speakers are
known at the end only, because they are clustered over the whole recording.
"""

from __future__ import annotations

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


class Diarizer:
    """The encoder and the one thread that it computes in: one for a process, shared by all recordings and sessions."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        # One thread's kernels are enough, and leave the other cores to the engine.
        self._thread = ThreadPoolExecutor(1, "speakers", initializer=torch.set_num_threads, initargs=(1,))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The diarizer with the model in `directory`."""
        return cls(Encoder.load(directory))

    def embed(self, windows: NDArray[np.int16]) -> Future[NDArray[np.float32]]:
        """(windows, embedding) for (windows, samples), when it is their turn."""
        return self._thread.submit(self.encoder.embed, windows)

    def close(self) -> None:
        """Embed no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Segment:
    """Frames `first` to `last` (not included), in which somebody speaks, and where the windows in it begin."""

    first: int
    last: int
    places: list[int] = field(default_factory=list)


class Diarization:
    """One recording: `feed` it, in order and in pieces of any size, then ask for its `turns`."""

    def __init__(self, diarizer: Diarizer) -> None:
        self._diarizer = diarizer
        self._samples = np.zeros(0, np.int16)
        self._samples_from = 0
        self._frames = 0
        self._open: _Segment | None = None
        self._segments: list[_Segment] = []
        self._waiting: list[NDArray[np.int16]] = []
        self._running: deque[Future[NDArray[np.float32]]] = deque()
        self._embeddings: list[NDArray[np.float32]] = []

    def feed(self, samples: NDArray[np.int16], speech: NDArray[np.float32]) -> None:
        """Take `samples` at 16 kHz and the speech probabilities of the frames of 512 that are complete by now."""
        self._samples = np.concatenate((self._samples, samples))
        for probability in speech.tolist():
            self._step(probability)
        needed = (self._open.first if self._open else self._frames) * FRAME_SAMPLES
        if needed > self._samples_from:
            self._samples = self._samples[needed - self._samples_from :].copy()
            self._samples_from = needed
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
        if self._open is not None:
            self._close(self._open)
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

    def _step(self, probability: float) -> None:
        frame, self._frames = self._frames, self._frames + 1
        if self._open is None:
            if probability >= _BEGINS:
                self._open = _Segment(frame, frame + 1)
            return
        if probability >= _GOES_ON:
            self._open.last = frame + 1
        if frame + 1 - self._open.last >= _PAUSE_FRAMES or frame + 1 - self._open.first >= _LONGEST_FRAMES:
            self._close(self._open)

    def _close(self, segment: _Segment) -> None:
        self._open = None
        self._segments.append(segment)
        first = segment.first * FRAME_SAMPLES
        spoken = self._samples[first - self._samples_from : segment.last * FRAME_SAMPLES - self._samples_from]
        for place, window in windows_of(spoken, self._diarizer.encoder.window_samples):
            segment.places.append(first + place)
            self._waiting.append(window)

    def _embed(self) -> None:
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._running.append(self._diarizer.embed(np.stack(batch)))

    def _runs(self, likely: NDArray[np.float32]) -> Iterator[Turn]:
        """The stretches of one speaker in each segment."""
        window = self._diarizer.encoder.window_samples
        done = 0
        for segment in self._segments:
            shares = likely[done : done + len(segment.places)]
            done += len(segment.places)
            at = (np.arange(segment.first, segment.last) + 0.5) * FRAME_SAMPLES
            middles = np.array(segment.places) + min(window, (segment.last - segment.first) * FRAME_SAMPLES) / 2
            # A window says most of what is in its middle.
            weight = np.maximum(1e-3, 1.0 - np.abs(at[:, None] - middles) / (window / 2))
            frames = (weight @ shares) / weight.sum(axis=1, keepdims=True)
            speakers = np.argmax(frames, axis=1).tolist()
            begin = 0
            for speaker, run in groupby(speakers):
                end = begin + len(list(run))
                yield Turn(
                    _seconds(segment.first + begin),
                    _seconds(segment.first + end),
                    speaker,
                    float(frames[begin:end, speaker].mean()),
                )
                begin = end


def windows_of(spoken: NDArray[np.int16], window: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
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
