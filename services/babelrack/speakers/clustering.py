"""From embeddings to speakers whose number nobody told.

Agglomerative clustering with average linkage (Day and Edelsbrunner, 1984), as is usual in diarization (Park et al.,
"A Review of Speaker Diarization", 2022, https://arxiv.org/abs/2101.09624), with two things of its own:

- The linkage of two clusters is divided by how much each agrees with itself, so that a noisy recording isn't taken for
  many speakers, nor two alike voices for one. It is 1 for two halves of one voice, whatever the noise.
- A cluster is the sum of its embeddings and their number, from which both are computed exactly. So a long recording is
  clustered in blocks and then over the blocks' clusters, in bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK: Final = 512
_KEPT_OF_A_BLOCK: Final = 24


@dataclass(frozen=True, slots=True)
class ClusteringPolicy:
    """When two clusters are one speaker."""

    same: float = 0.88
    """From this linkage on, …"""
    doubt: float = 0.2
    """… and from this much less on where one of them is a single window, half of that where it is two, and so on."""
    agreement: float = 0.78
    """What windows of one voice agree by, as far as a cluster's own don't say yet, …"""
    assumed_pairs: float = 6.0
    """… which counts as much as so many of its own pairs."""
    most: int = 32
    """More speakers than these are the nearest of them."""
    sharpness: float = 20.0
    """How fast a speaker's probability falls with the cosine."""


class Clusters:
    """Clusters that may become one: `sums` (clusters, embedding) of `counts` embeddings of length one each."""

    def __init__(self, sums: NDArray[np.float32], counts: NDArray[np.int64], policy: ClusteringPolicy) -> None:
        self.sums = sums.astype(np.float64)
        self.counts = counts.astype(np.float64)
        self._policy = policy

    def merge(self, *, least: int = 1) -> None:
        """Make one of the two nearest, again and again, until none are near enough or only `least` are left."""
        near = self._linkage(self.sums, self.counts)
        np.fill_diagonal(near, -np.inf)
        alive = np.ones(len(self.counts), bool)
        while alive.sum() > least:
            first, second = sorted(divmod(int(np.argmax(near)), len(near)))
            if near[first, second] < self._policy.same:
                break
            self.sums[first] += self.sums[second]
            self.counts[first] += self.counts[second]
            alive[second] = False
            near[second, :] = near[:, second] = -np.inf
            row = self._linkage(self.sums[first : first + 1], self.counts[first : first + 1])[0]
            row[~alive] = row[first] = -np.inf
            near[first, :] = near[:, first] = row
        self.sums, self.counts = self.sums[alive], self.counts[alive]

    def _linkage(self, sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return linkage(sums, counts, self.sums, self.counts, self._policy)


def linkage(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    others: NDArray[np.float64],
    other_counts: NDArray[np.float64],
    policy: ClusteringPolicy,
) -> NDArray[np.float64]:
    """(clusters, others), how near they are: near 1 where two are one voice."""
    between = sums @ others.T / np.outer(counts, other_counts)
    agreement = np.outer(_agreement(sums, counts, policy), _agreement(others, other_counts, policy))
    near: NDArray[np.float64] = between / np.sqrt(agreement)
    return near + policy.doubt / np.minimum.outer(counts, other_counts)


def _agreement(sums: NDArray[np.float64], counts: NDArray[np.float64], policy: ClusteringPolicy) -> NDArray[np.float64]:
    """The mean cosine of the pairs inside each cluster."""
    pairs = counts * (counts - 1) / 2
    within = np.maximum(0.0, (np.square(sums).sum(axis=1) - counts) / 2)
    assumed = policy.assumed_pairs
    agreement: NDArray[np.float64] = (within + assumed * policy.agreement) / (pairs + assumed)
    return agreement


def cluster(embeddings: NDArray[np.float32], policy: ClusteringPolicy | None = None) -> NDArray[np.float32]:
    """(speakers, embedding) voices of length one for (windows, embedding), in the order in which they are heard."""
    policy = policy or ClusteringPolicy()
    if not len(embeddings):
        return embeddings
    sums, counts = embeddings, np.ones(len(embeddings), np.int64)
    while len(sums) > _BLOCK:
        parts = []
        for first in range(0, len(sums), _BLOCK):
            part = Clusters(sums[first : first + _BLOCK], counts[first : first + _BLOCK], policy)
            part.merge(least=_KEPT_OF_A_BLOCK)
            parts.append(part)
        merged = np.concatenate([part.sums for part in parts]).astype(np.float32)
        if len(merged) == len(sums):
            break
        sums, counts = merged, np.concatenate([part.counts for part in parts]).astype(np.int64)
    clusters = Clusters(sums, counts, policy)
    clusters.merge()
    order = np.argsort(-clusters.counts, kind="stable")[: policy.most]
    voices = _unit(clusters.sums[order])
    for _ in range(3):  # what was merged early may be nearer to what another cluster has become
        nearest = np.argmax(embeddings @ voices.T, axis=1)
        heard = [speaker for speaker in range(len(voices)) if (nearest == speaker).any()]
        voices = _unit(np.stack([embeddings[nearest == speaker].sum(axis=0, dtype=np.float64) for speaker in heard]))
    nearest = np.argmax(embeddings @ voices.T, axis=1)
    first_heard = [int(np.argmax(nearest == s)) if (nearest == s).any() else len(nearest) for s in range(len(voices))]
    ordered: NDArray[np.float32] = voices[np.argsort(first_heard, kind="stable")]
    return ordered


def probabilities(
    embeddings: NDArray[np.float32], voices: NDArray[np.float32], policy: ClusteringPolicy | None = None
) -> NDArray[np.float32]:
    """(windows, speakers), how likely each of `voices` is the one that is heard in each window."""
    scaled = (policy or ClusteringPolicy()).sharpness * (embeddings @ voices.T)
    likely = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = (likely / likely.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit
