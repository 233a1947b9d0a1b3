"""Key-value memory of one checkpoint: a fixed number of slots, each of which holds one window in decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    Layout: for each layer `[slots, heads, positions, width / heads]`. Pages of slots that were never used cost nothing
    on a CPU, since the memory is not touched before.
    """

    def __init__(self, dimensions: Dimensions, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        heads = dimensions.decoder_heads
        head_width = dimensions.width // heads

        def allocate(positions: int) -> list[torch.Tensor]:
            shape = (slots, heads, positions, head_width)
            return [torch.empty(shape, device=device, dtype=dtype) for _ in range(dimensions.decoder_layers)]

        self.slots = slots
        self._heads = heads
        self._self_keys = allocate(dimensions.text_positions)
        self._self_values = allocate(dimensions.text_positions)
        self._cross_keys = allocate(dimensions.audio_positions)
        self._cross_values = allocate(dimensions.audio_positions)
        self._audio_lengths = [0] * slots
        # A GPU wants one wide kernel; a CPU reads each window's own rows and nothing else.
        self._wide = device.type != "cpu"

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
        single = [index for index, span in enumerate(spans) if span.last - span.first == 1]
        wide = single if self._wide and len(single) > 1 else []
        if wide:
            self._attend_wide([spans[i] for i in wide], queries, keys, values, [lengths[i] for i in wide], result)
        done = set(wide)
        for index, (span, length) in enumerate(zip(spans, lengths, strict=True)):
            if index in done:
                continue
            query = queries[None, :, span.first : span.last]
            key, value = keys[span.slot, None, :, :length], values[span.slot, None, :, :length]
            mask = _causal(span, length, queries) if causal and span.last - span.first > 1 else None
            result[:, span.first : span.last] = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0]
        return result.transpose(0, 1).reshape(result.shape[1], -1)

    def _attend_wide(
        self,
        spans: Sequence[Span],
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        lengths: Sequence[int],
        result: torch.Tensor,
    ) -> None:
        """One row a span in one kernel over slots 0 to the highest in use, so that nothing is copied."""
        device = queries.device
        high, longest = max(span.slot for span in spans) + 1, max(lengths)
        slots = torch.tensor([span.slot for span in spans], device=device)
        rows = torch.tensor([span.first for span in spans], device=device)
        by_slot = queries.new_zeros(high, queries.shape[0], 1, queries.shape[2])
        by_slot[slots] = queries[:, rows].transpose(0, 1).unsqueeze(2)
        valid = torch.ones(high, dtype=torch.long, device=device)
        valid[slots] = torch.tensor(lengths, device=device)
        mask = torch.arange(longest, device=device) < valid[:, None]
        attended = F.scaled_dot_product_attention(
            by_slot, keys[:high, :, :longest], values[:high, :, :longest], attn_mask=mask[:, None, None]
        )
        result[:, rows] = attended[slots].squeeze(2).transpose(0, 1)


def _causal(span: Span, length: int, like: torch.Tensor) -> torch.Tensor:
    """Row i of the span sees the cache up to its own position: bool [rows, length]."""
    rows = torch.arange(span.position, length, device=like.device)
    return torch.arange(length, device=like.device) <= rows[:, None]
