"""Linear layers in floating point, and in int8 for CPUs that have no fast half precision."""

from __future__ import annotations

import warnings
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812


class Linear(Protocol):
    """`x [..., inputs]` to `[..., outputs]`."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        ...


class FloatLinear:
    """A linear layer in the dtype of its weight [outputs, inputs]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


class Int8Linear:
    """A float32 layer computed in int8: weights scaled by output channel, activations by row, in groups of inputs.

    Each group of a row is mapped to [-1, 1] by its own range before it is quantised, so that a row's result never
    depends on the rows that happen to share its batch, and so that the few activations that are far larger than the
    rest, as a feed-forward layer's inner ones are, coarsen their own group only. The quantised product is FBGEMM's,
    whose AVX2 kernel adds two products in 16 bits: 8-bit activations leave 7 bits for the weights.
    """

    _WEIGHT_LEVELS = 63
    _GROUP_INPUTS = 512

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        outputs, inputs = weight.shape
        self._groups = max(1, inputs // self._GROUP_INPUTS)
        while inputs % self._groups:
            self._groups -= 1
        quantised = [_quantised(part, self._WEIGHT_LEVELS) for part in weight.float().chunk(self._groups, 1)]
        self._packed = [torch.ops.quantized.linear_prepack(part, None) for part in quantised]
        self._row_sums = torch.stack([part.dequantize().sum(1) for part in quantised])
        self._bias = torch.zeros(outputs) if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self._groups, x.shape[-1] // self._groups).transpose(0, 1)  # [groups, rows, inputs]
        low, high = rows.amin(2, keepdim=True), rows.amax(2, keepdim=True)  # aminmax is not vectorised
        middle = (low + high).mul_(0.5)
        half = (high - low).mul_(0.5).clamp_(min=1e-8)
        # The last row pins the range of the whole product to [-1, 1]: the quantiser then has one scale, always.
        unit = rows.new_empty(rows.shape[0], rows.shape[1] + 1, rows.shape[2])
        torch.sub(rows, middle, out=unit[:, :-1]).mul_(half.reciprocal())
        unit[:, -1].fill_(1.0)[:, ::2] = -1.0
        result = self._bias
        for part, packed, sums, m, h in zip(unit, self._packed, self._row_sums, middle, half, strict=True):
            product: torch.Tensor = torch.ops.quantized.linear_dynamic(part, packed)[:-1]
            result = torch.addcmul(result, product, h, out=product).addcmul_(m, sums)
        return result.view(*x.shape[:-1], result.shape[1])


def _quantised(weight: torch.Tensor, levels: int) -> torch.Tensor:
    """`weight` [outputs, inputs] in int8, each output channel with a scale of its own."""
    scales = weight.abs().amax(1).clamp_(min=1e-8).double() / levels
    with warnings.catch_warnings():
        # torch is pinned; its successor to these tensors has no AVX2 kernel yet.
        warnings.simplefilter("ignore", UserWarning)
        return torch.quantize_per_channel(weight, scales, torch.zeros(len(scales), dtype=torch.long), 0, torch.qint8)
