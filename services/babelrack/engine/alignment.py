"""When each token of a decoded window was spoken, from the decoder's attention to the audio.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", and its reference implementation:
some cross-attention heads follow the speech. Their weights over the audio, normalised and smoothed, make a cost of each
token at each moment; dynamic time warping finds the cheapest way through it that never goes back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from babelrack.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from babelrack.engine.dimensions import Dimensions

FRAMES_A_SECOND: Final = 50
_MEDIAN_REACH: Final = 3
# Exchanges after which the fourth of seven values is their median (Devillard 1998, "Fast median search").
_MEDIAN_OF_SEVEN: Final = (
    (0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4),
)  # fmt: skip


def alignment_heads(directory: Path, dimensions: Dimensions) -> dict[int, list[int]]:
    """The decoder's heads that follow the speech, by layer, as the checkpoint's `generation_config.json` names them.

    A checkpoint that names none has all heads of the upper half of its layers taken, as the reference does.

    Raises:
        EngineError: when it names one that isn't there.
    """
    path = directory / "generation_config.json"
    named = json.loads(path.read_text()).get("alignment_heads") if path.exists() else None
    if not named:
        upper = range(dimensions.decoder_layers // 2, dimensions.decoder_layers)
        return {layer: list(range(dimensions.decoder_heads)) for layer in upper}
    heads: dict[int, list[int]] = {}
    for layer, head in named:
        if not (0 <= layer < dimensions.decoder_layers and 0 <= head < dimensions.decoder_heads):
            raise EngineError(f"{path} names the alignment head [{layer}, {head}], which the decoder does not have")
        heads.setdefault(layer, []).append(head)
    return heads


def followed(scores: torch.Tensor, rows: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
    """How closely each token follows each moment: sum over the heads, float32 [windows, rows, frames].

    `scores`, float32 [windows, heads, rows, frames], are products of queries and keys; each window has its own count of
    `rows` and `frames`, and what lies beyond them has no meaning.
    """
    device, longest = scores.device, scores.shape[-1]
    row_counts = torch.tensor(rows, device=device)[:, None, None, None]
    frame_counts = torch.tensor(frames, device=device)[:, None]
    columns = torch.arange(longest, device=device)
    beyond = (columns >= frame_counts)[:, None, None]
    weights = torch.softmax(scores.masked_fill(beyond, -torch.inf), -1)
    weights.masked_fill_(torch.arange(scores.shape[2], device=device)[:, None] >= row_counts, 0.0)
    mean = weights.sum(2, keepdim=True) / row_counts
    variance = weights.square().sum(2, keepdim=True) / row_counts - mean.square()
    weights = (weights - mean) * variance.clamp_(min=1e-12).rsqrt_()
    # Each window is mirrored at its own ends.
    around = torch.arange(-_MEDIAN_REACH, longest + _MEDIAN_REACH, device=device).abs()
    last = frame_counts - 1
    around = torch.where(around > last, 2 * last - around, around).clamp_(min=0)
    mirrored = weights.gather(-1, around[:, None, None].expand(*weights.shape[:3], -1))
    return median_filter(mirrored).sum(1)


def median_filter(values: torch.Tensor) -> torch.Tensor:
    """The median of each seven neighbours of the last dimension, which gets six shorter."""
    longest = values.shape[-1] - 2 * _MEDIAN_REACH
    lanes = [values[..., shift : shift + longest] for shift in range(2 * _MEDIAN_REACH + 1)]
    for low, high in _MEDIAN_OF_SEVEN:
        lanes[low], lanes[high] = torch.minimum(lanes[low], lanes[high]), torch.maximum(lanes[low], lanes[high])
    return lanes[_MEDIAN_REACH]


def warp(costs: npt.NDArray[np.float32], rows: Sequence[int], frames: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Dynamic time warping: the frame at which each row begins on the cheapest path, for each window.

    `costs` is [windows, rows, frames], each window's own part of it `rows` by `frames`. A path goes from the first row
    and frame to the last, and steps to the next row, the next frame or both. A row of totals needs only the row above
    it: within a row, the cheapest way to a frame is a running minimum over where the row was entered.
    """
    along = np.cumsum(costs, axis=2, dtype=np.float64)
    before = along - costs
    totals = np.empty_like(along)
    entries = np.empty_like(along)
    totals[:, 0] = along[:, 0]
    for row in range(1, costs.shape[1]):
        above, entry = totals[:, row - 1], entries[:, row]
        entry[:, 0] = above[:, 0]
        np.minimum(above[:, 1:], above[:, :-1], out=entry[:, 1:])
        entry -= before[:, row]
        np.add(np.minimum.accumulate(entry, axis=1), along[:, row], out=totals[:, row])
    return [_starts(totals[w], entries[w], rows[w], frames[w]) for w in range(len(rows))]


def _starts(
    totals: npt.NDArray[np.float64], entries: npt.NDArray[np.float64], rows: int, frames: int
) -> npt.NDArray[np.int64]:
    starts = np.zeros(rows, dtype=np.int64)
    frame = frames - 1
    for row in range(rows - 1, 0, -1):
        frame = int(entries[row, : frame + 1].argmin())
        starts[row] = frame
        if frame and totals[row - 1, frame - 1] <= totals[row - 1, frame]:
            frame -= 1
    return starts
