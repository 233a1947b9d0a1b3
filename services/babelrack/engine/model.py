"""The Whisper encoder-decoder, for ragged batches over key-value slots.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2: two convolutions and
pre-norm transformer blocks over log-mel frames; a decoder with causal self-attention and cross-attention; tied token
embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812

from babelrack.engine.linear import Int8Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from babelrack.engine.dimensions import Dimensions
    from babelrack.engine.linear import Linear
    from babelrack.engine.memory import KeyValueMemory, Span
    from babelrack.engine.weights import Weights

    Watch = Callable[[int, torch.Tensor], None]


# Logits so close to the largest that int8 may have exchanged them, and how many of them a row has at most.
_NEAR = 1.0
_MOST_NEAR = 64


class _Norm:
    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weight = weights[f"{prefix}.weight"]
        self._bias = weights[f"{prefix}.bias"]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias)


class _Projections:
    """Reads projections of one attention block; several become one layer, whose product is split again."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights = weights
        self._prefix = prefix

    def fused(self, *names: str) -> Linear:
        weight = torch.cat([self._weights[f"{self._prefix}.{name}.weight"] for name in names])
        biases = [self._bias(name) for name in names]
        return self._weights.linear(weight, torch.cat(biases))

    def _bias(self, name: str) -> torch.Tensor:
        bias = self._weights.get(f"{self._prefix}.{name}.bias")
        # Whisper's key projection has none.
        return bias if bias is not None else torch.zeros_like(self._weights[f"{self._prefix}.{name}.weight"][:, 0])


class _FeedForward:
    def __init__(self, weights: Weights, prefix: str) -> None:
        self._norm = _Norm(weights, f"{prefix}.final_layer_norm")
        self._up = weights.linear(weights[f"{prefix}.fc1.weight"], weights[f"{prefix}.fc1.bias"])
        self._down = weights.linear(weights[f"{prefix}.fc2.weight"], weights[f"{prefix}.fc2.bias"])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._down(F.gelu(self._up(self._norm(x))))


class _EncoderLayer:
    def __init__(self, weights: Weights, prefix: str, heads: int) -> None:
        self._heads = heads
        self._norm = _Norm(weights, f"{prefix}.self_attn_layer_norm")
        projections = _Projections(weights, f"{prefix}.self_attn")
        self._qkv = projections.fused("q_proj", "k_proj", "v_proj")
        self._out = projections.fused("out_proj")
        self._feed_forward = _FeedForward(weights, prefix)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        windows, positions, width = x.shape
        qkv = self._qkv(self._norm(x)).view(windows, positions, 3, self._heads, width // self._heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).contiguous()  # heads apart: attention reads them a third faster
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self._out(attended.transpose(1, 2).reshape(windows, positions, width))
        return x + self._feed_forward(x)


class Encoder:
    """Log-mel frames [windows, bands, frames] to audio states [windows, frames / 2, width]."""

    def __init__(self, weights: Weights, dimensions: Dimensions) -> None:
        prefix = "model.encoder"
        self._convolutions = [
            (weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"], stride)
            for name, stride in (("conv1", 1), ("conv2", 2))
        ]
        self._positions = weights[f"{prefix}.embed_positions.weight"]
        self._layers = [
            _EncoderLayer(weights, f"{prefix}.layers.{layer}", dimensions.encoder_heads)
            for layer in range(dimensions.encoder_layers)
        ]
        self._norm = _Norm(weights, f"{prefix}.layer_norm")

    def __call__(self, mel: torch.Tensor) -> torch.Tensor:
        x = mel.to(self._positions.dtype)
        for weight, bias, stride in self._convolutions:
            x = F.gelu(F.conv1d(x, weight, bias, stride=stride, padding=1))
        x = x.transpose(1, 2)
        x = x + self._positions[: x.shape[1]]
        for layer in self._layers:
            x = layer(x)
        return self._norm(x)


class _DecoderLayer:
    def __init__(self, weights: Weights, prefix: str) -> None:
        self._text_norm = _Norm(weights, f"{prefix}.self_attn_layer_norm")
        text = _Projections(weights, f"{prefix}.self_attn")
        self._qkv = text.fused("q_proj", "k_proj", "v_proj")
        self._text_out = text.fused("out_proj")
        self._audio_norm = _Norm(weights, f"{prefix}.encoder_attn_layer_norm")
        audio = _Projections(weights, f"{prefix}.encoder_attn")
        self._query = audio.fused("q_proj")
        self._audio_out = audio.fused("out_proj")
        self.audio_key_value = audio.fused("k_proj", "v_proj")
        self._feed_forward = _FeedForward(weights, prefix)

    def __call__(
        self, x: torch.Tensor, layer: int, spans: Sequence[Span], memory: KeyValueMemory, watch: Watch | None
    ) -> torch.Tensor:
        query, key, value = self._qkv(self._text_norm(x)).chunk(3, dim=-1)
        x = x + self._text_out(memory.attend_text(layer, spans, query, key, value))
        query = self._query(self._audio_norm(x))
        if watch is not None:
            watch(layer, query)
        x = x + self._audio_out(memory.attend_audio(layer, spans, query))
        return x + self._feed_forward(x)


class Decoder:
    """Tokens of many windows, a ragged batch, to logits."""

    def __init__(self, weights: Weights, dimensions: Dimensions) -> None:
        prefix = "model.decoder"
        self._embedding = weights[f"{prefix}.embed_tokens.weight"]
        self._positions = weights[f"{prefix}.embed_positions.weight"]
        self._layers = [
            _DecoderLayer(weights, f"{prefix}.layers.{layer}") for layer in range(dimensions.decoder_layers)
        ]
        self._norm = _Norm(weights, f"{prefix}.layer_norm")
        self._logits = weights.linear(self._embedding, None)

    def write_audio(self, audio: torch.Tensor, slots: Sequence[int], memory: KeyValueMemory) -> None:
        """Fill the cross-attention memory of `slots` from audio states [windows, positions, width]."""
        for index, layer in enumerate(self._layers):
            keys, values = layer.audio_key_value(audio).chunk(2, dim=-1)
            memory.write_audio(index, slots, keys, values)

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        spans: Sequence[Span],
        memory: KeyValueMemory,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        """States [rows, width] of `tokens` at `positions` (both [rows]); `spans` say which rows are whose.

        `watch` is shown each layer's queries to the audio, [rows, width].
        """
        x = F.embedding(tokens, self._embedding) + F.embedding(positions, self._positions)
        for index, layer in enumerate(self._layers):
            x = layer(x, index, spans, memory, watch)
        return x

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of `states` [rows, width], as float32.

        In int8 those near a row's largest are computed again in float32: rounding must not decide between them.
        """
        states = self._norm(states)
        logits = self._logits(states).float()
        if isinstance(self._logits, Int8Linear):
            rows, tokens = torch.nonzero(logits > logits.amax(1, keepdim=True) - _NEAR, as_tuple=True)
            # A row with so many has no winner that could be missed.
            if len(rows) <= _MOST_NEAR * len(logits):
                logits[rows, tokens] = (states[rows] * self._embedding[tokens]).sum(1)
        return logits
