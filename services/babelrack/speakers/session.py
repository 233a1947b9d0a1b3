"""Who speaks in a live session: a speaker's number, once given, stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from babelrack.speakers.clustering import ClusteringPolicy, cluster, linkage, probabilities
from babelrack.speakers.diarizer import Diarizer, windows_of
from babelrack.speakers.embedding import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LEAST_NEW_SECONDS: Final = 1.0
_REMEMBERED: Final = 400.0


@dataclass(frozen=True, slots=True)
class Label:
    """A speaker's number, and how sure that is, from 0 to 1."""

    speaker: int
    confidence: float


class Session:
    """The speakers of one session, a sum of embeddings each: its size doesn't grow with its length.

    A voice is a new speaker only when it is far from all that were heard, and is heard for at least a second; so the
    first utterances of two alike voices may stay one speaker, which a recording that is seen whole would part.
    """

    def __init__(self, diarizer: Diarizer, policy: ClusteringPolicy | None = None) -> None:
        self._diarizer = diarizer
        self._policy = policy or ClusteringPolicy()
        self._sums = np.zeros((0, diarizer.encoder.embedding_size))
        self._counts = np.zeros(0)

    @property
    def speakers(self) -> int:
        """How many were heard."""
        return len(self._counts)

    def assign(self, samples: NDArray[np.int16], spans: Sequence[tuple[float, float]]) -> list[Label]:
        """Who speaks in each of `spans` (start and end in seconds, in order) of the utterance `samples` at 16 kHz.

        Blocks for the embeddings; call it off the event loop, one utterance after the other.
        """
        if not spans:
            return []
        window = self._diarizer.encoder.window_samples
        cut = list(windows_of(samples, window)) if len(samples) else []
        if not cut:
            return [Label(0, 0.0) for _ in spans]
        embeddings = self._diarizer.embed(np.stack([each for _, each in cut])).result()
        numbers = self._learn(embeddings, min(len(samples), window) / SAMPLE_RATE)
        likely = probabilities(embeddings, _unit(self._sums), self._policy)
        middles = (np.array([place for place, _ in cut]) + min(window, len(samples)) / 2) / SAMPLE_RATE
        labels = []
        for start, end in spans:
            weight = np.maximum(1e-3, 1.0 - np.abs((start + end) / 2 - middles) / (window / SAMPLE_RATE / 2))
            shares = weight @ likely / weight.sum()
            speaker = max(numbers, key=lambda number: shares[number])
            labels.append(Label(speaker, float(shares[speaker])))
        return labels

    def _learn(self, embeddings: NDArray[np.float32], heard_seconds: float) -> set[int]:
        """The numbers of the voices in `embeddings`, new ones among them, each known better from now on."""
        voices = cluster(embeddings, self._policy)
        nearest = np.argmax(embeddings @ voices.T, axis=1)
        numbers = set()
        for voice in range(len(voices)):
            own = embeddings[nearest == voice]
            if not len(own):
                continue
            added, count = own.sum(axis=0, dtype=np.float64), float(len(own))
            number = self._number(added, count, long_enough=heard_seconds >= _LEAST_NEW_SECONDS)
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
