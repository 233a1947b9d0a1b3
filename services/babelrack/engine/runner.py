"""The tensors of one checkpoint: encodes and decodes what the scheduler chose, and knows no queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from babelrack.engine import alignment
from babelrack.engine.dimensions import Dimensions
from babelrack.engine.features import SAMPLE_RATE, LogMel
from babelrack.engine.memory import KeyValueMemory, Span
from babelrack.engine.model import Decoder, Encoder
from babelrack.engine.sampling import Sampler
from babelrack.engine.tokens import Vocabulary
from babelrack.engine.weights import Precision, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows
    from pathlib import Path

    from babelrack.engine.sequence import Sequence


class Runner:
    """One loaded checkpoint."""

    def __init__(self, directory: Path, device: torch.device, precision: Precision) -> None:
        self.dimensions = Dimensions.read(directory)
        self.vocabulary = Vocabulary(directory)
        weights = Weights(directory, device, precision)
        self.precision = weights.precision
        self.dtype = weights.dtype
        self._device = device
        self._mel = LogMel(self.dimensions.mel_bands, device)
        self._encoder = Encoder(weights, self.dimensions)
        self._decoder = Decoder(weights, self.dimensions)
        self._alignment_heads = alignment.alignment_heads(directory, self.dimensions)
        self._sampler = Sampler(self.vocabulary, self.dimensions.vocabulary, device)
        self._memory: KeyValueMemory | None = None
        self._guessed: dict[Sequence, torch.Tensor] = {}

    def allocate(self, slots: int) -> None:
        """Preallocate key-value memory for `slots` windows."""
        self._memory = KeyValueMemory(self.dimensions, slots, self._device, self.dtype)

    @property
    def memory(self) -> KeyValueMemory:
        """The key-value memory, once `allocate` made it."""
        assert self._memory is not None  # noqa: S101
        return self._memory

    @torch.inference_mode()
    def encode(self, sequences: Rows[Sequence]) -> None:
        """Encode the audio of `sequences`, all of the same encoder length, into their slots."""
        seconds = sequences[0].seconds
        samples = np.zeros((len(sequences), round(seconds * SAMPLE_RATE)), dtype=np.float32)
        for row, sequence in enumerate(sequences):
            window = sequence.window.samples[: samples.shape[1]]
            np.multiply(window, 1 / 32768, out=samples[row, : len(window)])
        audio = self._encoder(self._mel(torch.from_numpy(samples).to(self._device)))
        self._decoder.write_audio(audio, [_slot(sequence) for sequence in sequences], self.memory)
        for sequence in sequences:
            sequence.encoded = seconds

    @torch.inference_mode()
    def decode(self, sequences: Rows[Sequence]) -> list[tuple[int, float] | None]:
        """Feed every sequence its tokens and give each its next one with log-probability.

        A sequence whose feed holds the start of transcript learns how likely it is silence; one that detects its
        language learns that instead of getting a token, and has None. `follow` has more where guesses are right.
        """
        spans: list[Span] = []
        rows = 0
        for sequence in sequences:
            spans.append(
                Span(_slot(sequence), sequence.position, rows, rows + len(sequence.feed) + len(sequence.guess))
            )
            rows = spans[-1].last
        tokens = torch.tensor([token for s in sequences for token in (*s.feed, *s.guess)], device=self._device)
        positions = torch.tensor([p for span in spans for p in range(span.position, span.length)], device=self._device)
        states = self._decoder(tokens, positions, spans, self.memory)
        for sequence, span in zip(sequences, spans, strict=True):
            sequence.position = span.length - len(sequence.guess)
        detecting = self._read_starts(states, sequences, spans)
        talking = [
            (s, span.last - len(s.guess) - 1) for s, span in zip(sequences, spans, strict=True) if s not in detecting
        ]
        self._guessed = {
            s: self._decoder.logits(states[span.last - len(s.guess) : span.last])
            for s, span in zip(sequences, spans, strict=True)
            if s.guess
        }
        picked: dict[Sequence, tuple[int, float]] = {}
        if talking:
            last_rows = torch.tensor([row for _, row in talking], device=self._device)
            talkers = [sequence for sequence, _ in talking]
            picked = dict(
                zip(talkers, self._sampler.sample(self._decoder.logits(states[last_rows]), talkers), strict=True)
            )
        return [picked.get(sequence) for sequence in sequences]

    @torch.inference_mode()
    def follow(self, sequences: Rows[Sequence]) -> list[tuple[int, float]]:
        """The next tokens of sequences whose last one was guessed right in the step before, with log-probabilities."""
        logits = torch.stack([self._guessed[sequence][sequence.follows - 1] for sequence in sequences])
        return self._sampler.sample(logits, sequences)

    @torch.inference_mode()
    def align(self, sequences: Rows[Sequence]) -> list[list[float]]:
        """When the text tokens of decoded windows begin, in seconds, and when the last of each ends.

        One pass over the decoder, with each window's audio still in its slot; the slots' text is written over.
        """
        spans: list[Span] = []
        for sequence in sequences:
            first = spans[-1].last if spans else 0
            spans.append(Span(_slot(sequence), 0, first, first + len(sequence.spelled)))
        frames = [
            max(1, min(self.memory.audio_length(span.slot), round(s.window.seconds * alignment.FRAMES_A_SECOND)))
            for s, span in zip(sequences, spans, strict=True)
        ]
        followed: list[torch.Tensor] = []

        def watch(layer: int, queries: torch.Tensor) -> None:
            if heads := self._alignment_heads.get(layer):
                scores = self.memory.audio_scores(layer, heads, spans, queries, max(frames))
                followed.append(alignment.followed(scores, [span.length for span in spans], frames))

        tokens = torch.tensor([token for s in sequences for token in s.spelled], device=self._device)
        positions = torch.tensor([p for span in spans for p in range(span.length)], device=self._device)
        self._decoder(tokens, positions, spans, self.memory, watch)
        costs = -torch.stack(followed).sum(0).cpu().numpy()
        # The row of a token says where the next one is: the last before the text begins it, the last of it ends it.
        rows = [len(sequence.text_tokens) + 1 for sequence in sequences]
        opening = len(sequences[0].spelled) - rows[0] - 1
        starts = alignment.warp(costs[:, opening : opening + max(rows)], rows, frames)
        return [(each / alignment.FRAMES_A_SECOND).tolist() for each in starts]

    def _read_starts(self, states: torch.Tensor, sequences: Rows[Sequence], spans: Rows[Span]) -> set[Sequence]:
        """Read language and silence off the rows at the start of transcript; returns who detected its language."""
        starts = [
            (sequence, span.first + sequence.start_row)
            for sequence, span in zip(sequences, spans, strict=True)
            if sequence.start_row is not None
        ]
        if not starts:
            return set()
        logits = self._decoder.logits(states[torch.tensor([row for _, row in starts], device=self._device)])
        detecting: set[Sequence] = set()
        for (sequence, _), row, no_speech in zip(starts, logits, self._sampler.no_speech(logits), strict=True):
            sequence.start_row = None
            sequence.no_speech_prob = no_speech
            if sequence.detects:
                detecting.add(sequence)
                sequence.detected(*self._sampler.language(row, sequence.window.languages))
        return detecting


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None  # noqa: S101
    return sequence.slot
