"""Key-value memory of one checkpoint: a fixed number of slots, each of which holds one window in decode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from babelrack.engine.dimensions import Dimensions


@dataclass(frozen=True, slots=True)
class Span:
    """The rows [first, last) of a decode batch that belong to one slot, whose cache already holds `position` tokens."""

    slot: int
    position: int
    first: int
    last: int

    @property
    def length(self) -> int:
        """Tokens in the cache once this span's are in it."""
        return self.position + self.last - self.first


def slot_bytes(dimensions: Dimensions, dtype: torch.dtype) -> int:
    """Bytes of one slot: keys and values of self-attention over all tokens and of cross-attention over 30 s."""
    positions = dimensions.text_positions + dimensions.audio_positions
    return 2 * dimensions.decoder_layers * positions * dimensions.width * dtype.itemsize


class KeyValueMemory:
    """Preallocated keys and values; attention reads them in place.

    Layout: for each layer `[slots, heads, positions, width / heads]`, zero at first, so that what a mask hides is never
    NaN. Pages of slots that were never used cost nothing on a CPU, since the kernel hands out zeros only when asked.
    """

    def __init__(self, dimensions: Dimensions, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        heads = dimensions.decoder_heads
        head_width = dimensions.width // heads

        def allocate(positions: int) -> list[torch.Tensor]:
            shape = (slots, heads, positions, head_width)
            return [_zeros(shape, device, dtype) for _ in range(dimensions.decoder_layers)]

        self.slots = slots
        self._heads = heads
        self._self_keys = allocate(dimensions.text_positions)
        self._self_values = allocate(dimensions.text_positions)
        self._cross_keys = allocate(dimensions.audio_positions)
        self._cross_values = allocate(dimensions.audio_positions)
        self._audio_lengths = [0] * slots
        # A GPU wants few wide kernels, whatever they read in vain; a CPU reads little in vain.
        self._wide = device.type != "cpu"
        self._alike = 0.0 if self._wide else 0.8

    def write_audio(self, layer: int, slots: Sequence[int], keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep the cross-attention keys and values [windows, positions, width] of `layer`, a window a slot."""
        windows, positions, _ = keys.shape
        keys = keys.view(windows, positions, self._heads, -1).transpose(1, 2)
        values = values.view(windows, positions, self._heads, -1).transpose(1, 2)
        for index, slot in enumerate(slots):
            self._cross_keys[layer][slot, :, :positions] = keys[index]
            self._cross_values[layer][slot, :, :positions] = values[index]
            self._audio_lengths[slot] = positions

    def attend_text(
        self, layer: int, spans: Sequence[Span], queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Causal self-attention of a ragged batch; `queries`, `keys`, `values` and the result are [rows, width]."""
        queries, keys, values = (self._by_head(rows) for rows in (queries, keys, values))
        cache_keys, cache_values = self._self_keys[layer], self._self_values[layer]
        if all(span.last - span.first == 1 for span in spans):
            slots = torch.tensor([span.slot for span in spans], device=queries.device)
            positions = torch.tensor([span.position for span in spans], device=queries.device)
            cache_keys[slots, :, positions] = keys.transpose(0, 1)
            cache_values[slots, :, positions] = values.transpose(0, 1)
        else:
            for span in spans:
                cache_keys[span.slot, :, span.position : span.length] = keys[:, span.first : span.last]
                cache_values[span.slot, :, span.position : span.length] = values[:, span.first : span.last]
        lengths = [span.length for span in spans]
        return self._attend(spans, queries, cache_keys, cache_values, lengths, causal=True)

    def attend_audio(self, layer: int, spans: Sequence[Span], queries: torch.Tensor) -> torch.Tensor:
        """Cross-attention of a ragged batch [rows, width] over each slot's own audio."""
        lengths = [self._audio_lengths[span.slot] for span in spans]
        return self._attend(
            spans, self._by_head(queries), self._cross_keys[layer], self._cross_values[layer], lengths, causal=False
        )

    def audio_length(self, slot: int) -> int:
        """Positions of the audio in `slot`."""
        return self._audio_lengths[slot]

    def audio_scores(
        self, layer: int, heads: Sequence[int], spans: Sequence[Span], queries: torch.Tensor, positions: int
    ) -> torch.Tensor:
        """Scaled products of `queries` [rows, width] with the first `positions` of each slot's audio, for some heads.

        The result is float32 [spans, heads, rows of the longest span, positions]; what lies beyond a span's own is
        undefined.
        """
        by_head = self._by_head(queries)[list(heads)].float() * (queries.shape[1] // self._heads) ** -0.5
        longest = max(span.last - span.first for span in spans)
        padded = by_head.new_zeros(len(spans), len(heads), longest, by_head.shape[-1])
        for index, span in enumerate(spans):
            padded[index, :, : span.last - span.first] = by_head[:, span.first : span.last]
        keys = torch.stack([self._cross_keys[layer][span.slot, list(heads), :positions] for span in spans])
        return torch.matmul(padded, keys.float().transpose(2, 3))

    def _by_head(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(rows.shape[0], self._heads, -1).transpose(0, 1)

    def _attend(
        self,
        spans: Sequence[Span],
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        lengths: Sequence[int],
        *,
        causal: bool,
    ) -> torch.Tensor:
        """Attention of `queries` [heads, rows, head width] by span; the result is [rows, width]."""
        result = torch.empty_like(queries)
        for run in self._runs(spans, lengths):
            part, longest = spans[run], max(lengths[run])
            first, last = part[0], part[-1]
            rows = slice(first.first, last.last)
            if len(part) == 1:
                key, value = keys[first.slot, None, :, :longest], values[first.slot, None, :, :longest]
                mask = _causal(first, longest, queries) if causal and rows.stop - rows.start > 1 else None
                attended = F.scaled_dot_product_attention(queries[None, :, rows], key, value, attn_mask=mask)[0]
            else:
                slots = slice(first.slot, last.slot + 1)
                query = queries[:, rows].transpose(0, 1).unsqueeze(2)
                key, value = keys[slots, :, :longest], values[slots, :, :longest]
                mask = _within(lengths[run], longest, queries)
                attended = self._attend_one_row(query, key, value, mask).squeeze(2).transpose(0, 1)
            result[:, rows] = attended
        return result.transpose(0, 1).reshape(result.shape[1], -1)

    def _runs(self, spans: Sequence[Span], lengths: Sequence[int]) -> Iterator[slice]:
        """Neighbours of one row each, in neighbouring slots and of like length, go through one kernel."""
        start = 0
        for index in range(1, len(spans) + 1):
            if index < len(spans) and self._joins(spans, lengths, start, index):
                continue
            yield slice(start, index)
            start = index

    def _joins(self, spans: Sequence[Span], lengths: Sequence[int], start: int, index: int) -> bool:
        before, after = spans[index - 1], spans[index]
        single = after.last - after.first == before.last - before.first == 1
        alike = min(lengths[start], lengths[index]) >= self._alike * max(lengths[start], lengths[index])
        return single and after.slot == before.slot + 1 and alike

    def _attend_one_row(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention of one row a slot, `query` [slots, heads, 1, head width]."""
        if self._wide:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        # On a CPU a product of matrices reads the memory faster than the fused kernel does for a single row.
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(2, 3))
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        return torch.matmul(torch.softmax(scores, -1), value)


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Zeros that, on a CPU, take no memory before they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def _within(lengths: Sequence[int], longest: int, like: torch.Tensor) -> torch.Tensor | None:
    """Which positions each slot has: bool [slots, 1, 1, longest], or None when all have all."""
    if min(lengths) == longest:
        return None
    valid = torch.tensor(lengths, device=like.device)
    return (torch.arange(longest, device=like.device) < valid[:, None])[:, None, None]


def _causal(span: Span, length: int, like: torch.Tensor) -> torch.Tensor:
    """Row i of the span sees the cache up to its own position: bool [rows, length]."""
    rows = torch.arange(span.position, length, device=like.device)
    return torch.arange(length, device=like.device) <= rows[:, None]
