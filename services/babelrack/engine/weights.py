"""The tensors of a checkpoint, in the precision that the device computes well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open

from babelrack.engine.errors import EngineError
from babelrack.engine.linear import FloatLinear, Int8Linear, Linear

if TYPE_CHECKING:
    from pathlib import Path

Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto`: float16 on CUDA; on a CPU bfloat16 where it has tiles for it (AMX), int8 else.

    The vector instructions for bfloat16 (AVX-512) don't count: int8 takes 0.4 times the CPU's time on such a CPU.
    """
    if precision not in get_args(Precision):
        raise EngineError(f"unknown precision {precision!r}; it is one of {', '.join(get_args(Precision))}")
    if precision == "int8" and device.type != "cpu":
        raise EngineError("precision int8 is for CPUs; on a GPU use float16 or bfloat16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "float16"
    return "bfloat16" if torch.cpu._is_amx_tile_supported() else "int8"


class Weights:
    """Reads tensors by their Hugging Face names and makes layers of them.

    In precision int8 the linear layers are int8 and everything between them is float32.
    """

    def __init__(self, directory: Path, device: torch.device, precision: Precision) -> None:
        self.precision = choose_precision(precision, device)
        self.dtype = torch.float32 if self.precision == "int8" else getattr(torch, self.precision)
        self._tensors = {name: tensor.to(device, self.dtype) for name, tensor in _read(directory).items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise EngineError(f"the checkpoint has no tensor {name}: it is not a whole Whisper checkpoint") from None

    def get(self, name: str) -> torch.Tensor | None:
        """The tensor, or None where the checkpoint has none of that name."""
        return self._tensors.get(name)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """A layer of `weight` [outputs, inputs] and `bias` [outputs] in this precision."""
        if self.precision == "int8":
            return Int8Linear(weight, bias)
        return FloatLinear(weight, bias)


def _read(directory: Path) -> dict[str, torch.Tensor]:
    index = directory / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else []
        tensors: dict[str, torch.Tensor] = {}
        for name in names or ["model.safetensors"]:
            with safe_open(directory / name, framework="pt") as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise EngineError(f"the tensors of {directory} can't be read: {error}") from error
    return tensors
