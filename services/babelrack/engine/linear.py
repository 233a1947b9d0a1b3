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
    """A float32 layer computed in int8: weights scaled by output channel, activations by row.

    Each row of the input is mapped to [-1, 1] by its own range before it is quantised, so that a row's result never
    depends on the rows that happen to share its batch. The quantised product is FBGEMM's, whose AVX2 kernel adds
    two products in 16 bits: 8-bit activations leave 7 bits for the weights.
    """

    _WEIGHT_LEVELS = 63

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        outputs = weight.shape[0]
        scales = weight.float().abs().amax(1).clamp_(min=1e-8).double() / self._WEIGHT_LEVELS
        zero_points = torch.zeros(outputs, dtype=torch.long)
        with warnings.catch_warnings():
            # torch is pinned; its successor to these tensors has no AVX2 kernel yet.
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(weight.float(), scales, zero_points, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        self._row_sums = quantised.dequantize().sum(1)
        self._bias = bias.float() if bias is not None else None
        self._outputs = outputs

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)  # aminmax is not vectorised
        middle = (low + high).mul_(0.5)
        half = (high - low).mul_(0.5).clamp_(min=1e-8)
        # The last row pins the range of the whole product to [-1, 1]: the quantiser then has one scale, always.
        unit = rows.new_empty(rows.shape[0] + 1, rows.shape[1])
        torch.sub(rows, middle, out=unit[:-1]).mul_(half.reciprocal())
        unit[-1].fill_(1.0)[::2] = -1.0
        product: torch.Tensor = torch.ops.quantized.linear_dynamic(unit, self._packed)[:-1]
        product.mul_(half).addcmul_(middle, self._row_sums)
        if self._bias is not None:
            product.add_(self._bias)
        return product.view(*x.shape[:-1], self._outputs)
