"""Who speaks in a live session: a speaker's number, once given, stays."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from babelrack.speakers.clustering import ClusteringPolicy, cluster, linkage, probabilities
from babelrack.speakers.diarizer import FRAME_SAMPLES, Diarizer, Segment, Segmenter
from babelrack.speakers.embedding import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

_LEAST_NEW_SECONDS: Final = 1.0
_REMEMBERED: Final = 400.0


@dataclass(frozen=True, slots=True)
class Label:
    """A speaker's number, and how sure that is, from 0 to 1."""

    speaker: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Heard:
    """Windows of one segment of speech, on their way to embeddings: their middles and lengths in seconds."""

    first: int
    middles: list[float]
    seconds: float
    embeddings: Future[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Voices:
    """What a session knows of its speakers: `means` (speakers, embedding) of `counts` embeddings of length one each."""

    means: NDArray[np.float32]
    counts: NDArray[np.float64]


class Session:
    """The speakers of one session, a sum of embeddings each: its size doesn't grow with its length.

    A voice is a new speaker only when it is far from all that were heard, and is heard for at least a second. With
    `known`, it goes on with the voices of a session before.
    """

    def __init__(
        self, diarizer: Diarizer, policy: ClusteringPolicy | None = None, *, known: Voices | None = None
    ) -> None:
        self.diarizer = diarizer
        self._policy = policy or ClusteringPolicy()
        self._segmenter = Segmenter(diarizer.encoder.window_samples)
        self._heard: deque[Heard] = deque()
        if known is None:
            known = Voices(np.zeros((0, diarizer.encoder.embedding_size), np.float32), np.zeros(0))
        self._sums = known.means * known.counts[:, None]
        self._counts = known.counts
        self._last = 0

    @property
    def speakers(self) -> int:
        """How many were heard."""
        return len(self._counts)

    @property
    def voices(self) -> Voices:
        """All that another session needs to know the same speakers again."""
        return Voices((self._sums / self._counts[:, None]).astype(np.float32), self._counts.copy())

    def hear(self, samples: NDArray[np.int16], speech: NDArray[np.float32]) -> None:
        """Take `samples` at 16 kHz and the speech probabilities of the frames of 512 that are complete by now."""
        self._keep(self._segmenter.feed(samples, speech))

    def utterance(self, until: int) -> list[Heard]:
        """What was heard before that sample, and in no utterance before; `assign` needs it."""
        self._keep(self._segmenter.cut(until))
        heard = []
        while self._heard and self._heard[0].first < until:
            heard.append(self._heard.popleft())
        return heard

    def assign(self, heard: list[Heard], spans: Sequence[tuple[float, float]]) -> list[Label]:
        """Who speaks in each of `spans` (start and end in seconds of the session) of an utterance.

        Blocks for the embeddings; call it off the event loop, for one utterance after the other.
        """
        if not heard or not spans:
            return [Label(self._last, 0.0) for _ in spans]
        embeddings = np.concatenate([each.embeddings.result() for each in heard])
        seconds = np.array([each.seconds for each in heard for _ in each.middles])
        numbers = sorted(self._learn(embeddings, seconds))
        likely = probabilities(embeddings, _unit(self._sums[numbers]), self._policy)
        middles = np.array([middle for each in heard for middle in each.middles])
        half = self.diarizer.encoder.window_samples / SAMPLE_RATE / 2
        labels = []
        for start, end in spans:
            weight = np.maximum(1e-3, 1.0 - np.abs((start + end) / 2 - middles) / half)
            shares = weight @ likely / weight.sum()
            best = int(np.argmax(shares))
            labels.append(Label(numbers[best], float(shares[best])))
        self._last = labels[-1].speaker
        return labels

    def _keep(self, segments: list[Segment]) -> None:
        window = self.diarizer.encoder.window_samples
        for segment in segments:
            length = min(window, (segment.last - segment.first) * FRAME_SAMPLES)
            middles = [(place + length / 2) / SAMPLE_RATE for place, _ in segment.windows]
            embeddings = self.diarizer.embed(np.stack([each for _, each in segment.windows]), live=True)
            self._heard.append(Heard(segment.first * FRAME_SAMPLES, middles, length / SAMPLE_RATE, embeddings))

    def _learn(self, embeddings: NDArray[np.float32], seconds: NDArray[np.float64]) -> set[int]:
        """The numbers of the voices in `embeddings`, new ones among them, each known better from now on."""
        voices = cluster(embeddings, self._policy)
        nearest = np.argmax(embeddings @ voices.T, axis=1)
        numbers = set()
        for voice in range(len(voices)):
            own = nearest == voice
            if not own.any():
                continue
            added, count = embeddings[own].sum(axis=0, dtype=np.float64), float(own.sum())
            number = self._number(added, count, long_enough=seconds[own].sum() >= _LEAST_NEW_SECONDS)
            if number == self.speakers:
                self._sums = np.concatenate((self._sums, np.zeros((1, len(added)))))
                self._counts = np.append(self._counts, 0.0)
            self._sums[number] += added
            self._counts[number] += count
            # A voice changes over hours, and what is newer should count.
            if self._counts[number] > _REMEMBERED:
                self._sums[number] *= _REMEMBERED / self._counts[number]
                self._counts[number] = _REMEMBERED
            numbers.add(number)
        return numbers

    def _number(self, added: NDArray[np.float64], count: float, *, long_enough: bool) -> int:
        if not self.speakers:
            return 0
        near = linkage(added[None], np.array([count]), self._sums, self._counts, self._policy)[0]
        best = int(np.argmax(near))
        is_new = near[best] < self._policy.same and long_enough and self.speakers < self._policy.most
        return self.speakers if is_new else best


def _unit(sums: NDArray[np.float64]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return unit
