"""What a safetensors file says it holds, without loading it.

The format: eight bytes, the header's length N (little-endian); N bytes of JSON, each tensor's dtype, shape and offsets;
then the data.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from babelrack.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_HEADER = 16 << 20
_ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's dtype (`F16`, `BF16` or `F32`) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of the safetensors file at `path` by name.

    Raises:
        CheckpointError: when the header is no such header, or doesn't describe every byte of the file exactly once.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise CheckpointError(f"{path}: not a safetensors file, or a truncated one; fetch or convert it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its safetensors header is not JSON; fetch or convert it again")
    header.pop("__metadata__", None)
    spans: list[tuple[int, int]] = []
    tensors = {name: _tensor(path, name, entry, spans) for name, entry in header.items()}
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise CheckpointError(f"{path}: its tensors overlap or leave gaps; fetch or convert it again")
        end = stop
    if end != size - 8 - length:
        raise CheckpointError(
            f"{path}: its header describes {end:,} bytes of tensors and the file holds {size - 8 - length:,}; "
            "it is truncated or damaged: fetch or convert it again"
        )
    return tensors


def _tensor(path: Path, name: str, entry: Any, spans: list[tuple[int, int]]) -> Tensor:
    try:
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: {name!r} is described wrongly; fetch or convert it again") from None
    if dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{path}: {name!r} is {str(dtype)[:20]}; weights must be F16, BF16 or F32, so convert them"
        )
    numbers = [begin, stop, *shape] if isinstance(shape, list) else [None]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise CheckpointError(f"{path}: {name!r} is described wrongly; fetch or convert it again")
    if stop - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise CheckpointError(f"{path}: {name!r} has offsets that don't fit its shape; fetch or convert it again")
    spans.append((begin, stop))
    return Tensor(dtype, tuple(shape))
