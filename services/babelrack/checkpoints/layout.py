"""What a checkpoint's directory must hold: Whisper in the Hugging Face layout, as safetensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.manifest import MANIFEST
from babelrack.checkpoints.weights import Tensor, read_header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
REQUIRED = ("config.json", "tokenizer.json")
OPTIONAL = ("generation_config.json", "preprocessor_config.json", MANIFEST)
SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_LARGEST_JSON = 64 << 20
_LARGEST_DIMENSION = 1 << 20
_MOST_LAYERS = 256
_TIMESTAMP_TOKENS = 1501
_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|transcribe|>",
    "<|translate|>",
    "<|startofprev|>",
    "<|notimestamps|>",
)
_LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
_DIMENSIONS = (
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "num_mel_bins",
    "vocab_size",
    "max_source_positions",
    "max_target_positions",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What `inspect` found: `dimensions` as in config.json, the languages that the tokenizer knows, files in bytes."""

    path: Path
    dimensions: dict[str, int]
    dtypes: tuple[str, ...]
    parameters: int
    languages: frozenset[str]
    files: dict[str, int]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a reference is expected to hold: the small files that are there or may be, and the check of the whole."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    inspect: Callable[[Path], Layout]


def is_checkpoint_file(name: str) -> bool:
    """Whether a file of this name belongs to a checkpoint; no other is fetched or unpacked."""
    return name in {*REQUIRED, *OPTIONAL, WEIGHTS, INDEX} or SHARD.fullmatch(name) is not None


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The safetensors files of the checkpoint in `directory`: one, or the shards that its index names, sorted.

    Raises:
        CheckpointError: when there is none, above all when there are pickles instead.
    """
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if (directory / INDEX).is_file():
        paths = tuple(directory / name for name in shard_names(directory / INDEX))
        for path in paths:
            if not path.is_file():
                raise CheckpointError(f"{path}: missing, and {INDEX} names it; fetch the checkpoint again")
        return paths
    pickles = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(PICKLE_SUFFIXES))
    if "model.bin" in pickles and _is_ctranslate2(directory / "model.bin"):
        raise CheckpointError(
            f"{directory}: is a CTranslate2 model; convert it: babelrack checkpoints convert {directory} OUT_DIR"
        )
    if pickles:
        raise CheckpointError(f"{directory}: {pickle_sentence(pickles[0])}")
    raise CheckpointError(f"{directory}: has no {WEIGHTS}; give the folder of a Whisper checkpoint in safetensors")


def _is_ctranslate2(path: Path) -> bool:
    with path.open("rb") as file:
        return b"WhisperSpec" in file.read(32)


def pickle_sentence(name: str) -> str:
    """Why a pickle isn't loaded and what to do."""
    return (
        f"{name} is a pickle, which can run code when it is opened and is never loaded; convert it to safetensors "
        "(with transformers: model.save_pretrained(folder, safe_serialization=True))"
    )


def shard_names(index: Path) -> list[str]:
    """The shard files that an index names, sorted, each in the index's own folder."""
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and _all_text(weight_map) else set()
    if not names or not all(SHARD.fullmatch(name) for name in names):
        raise CheckpointError(f"{index}: its weight_map doesn't name model-00001-of-0000N.safetensors files")
    return sorted(names)


def _all_text(mapping: dict[str, Any]) -> bool:
    return all(isinstance(value, str) for value in mapping.values())


def inspect(directory: Path) -> Layout:
    """Read and check the checkpoint in `directory`: files, weights against config.json, special tokens.

    No tensor is loaded. `manifest.json` is not looked at.

    Raises:
        CheckpointError: naming the file that is missing or wrong.
    """
    try:
        return _inspect(directory)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or directory}: {error.strerror}; check the path and its permissions"
        ) from error


def _inspect(directory: Path) -> Layout:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such folder; check the path")
    weights = weight_files(directory)
    for name in REQUIRED:
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory}: has no {name}; give the whole folder of a Whisper checkpoint")
    tensors: dict[str, Tensor] = {}
    for path in weights:
        tensors |= read_header(path)
    dimensions = _dimensions(directory / "config.json")
    _check_tensors(directory, dimensions, tensors)
    languages = _check_tokenizer(directory / "tokenizer.json", dimensions["vocab_size"])
    _check_generation(directory / "generation_config.json")
    files = sorted(
        (*weights, *(directory / name for name in (*REQUIRED, *OPTIONAL, INDEX) if (directory / name).is_file()))
    )
    return Layout(
        path=directory,
        dimensions=dimensions,
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors.values()})),
        parameters=sum(tensor.elements for name, tensor in tensors.items() if name != "proj_out.weight"),
        languages=languages,
        files={path.name: path.stat().st_size for path in files},
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a checkpoint's file, of bounded size."""
    if path.stat().st_size > _LARGEST_JSON:
        raise CheckpointError(f"{path}: larger than 64 MiB, which no checkpoint's file is; fetch it again")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object; fetch it again")
    return value


def _dimensions(path: Path) -> dict[str, int]:
    config = read_json(path)
    if config.get("model_type") != "whisper":
        raise CheckpointError(
            f"{path}: model_type is {str(config.get('model_type'))[:40]!r}; only Whisper checkpoints can be served"
        )
    dimensions = {}
    for name in _DIMENSIONS:
        value = config.get(name)
        most = _MOST_LAYERS if name.endswith("_layers") else _LARGEST_DIMENSION
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(f"{path}: {name} must be a number from 1 to {most}; fetch the file again")
        dimensions[name] = value
    for side in ("encoder", "decoder"):
        if dimensions["d_model"] % dimensions[f"{side}_attention_heads"]:
            raise CheckpointError(f"{path}: d_model is no multiple of {side}_attention_heads; fetch the file again")
    return dimensions


def _check_tensors(directory: Path, dimensions: dict[str, int], tensors: dict[str, Tensor]) -> None:
    check_shapes(directory, _expected_shapes(dimensions), tensors)


def check_shapes(directory: Path, expected: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]) -> None:
    """Refuse weights that aren't what config.json calls for.

    Raises:
        CheckpointError: naming the first tensor that is missing or of another shape.
    """
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise CheckpointError(
                f"{directory}: its weights lack {name}, which config.json calls for; fetch both again"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{directory}: {name} is {_shape(tensor.shape)} and config.json calls for {_shape(shape)}; "
                "the files are of different checkpoints: fetch them again"
            )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _expected_shapes(dimensions: dict[str, int]) -> dict[str, tuple[int, ...]]:
    width = dimensions["d_model"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (width, dimensions["num_mel_bins"], 3),
        "model.encoder.conv1.bias": (width,),
        "model.encoder.conv2.weight": (width, width, 3),
        "model.encoder.conv2.bias": (width,),
        "model.encoder.embed_positions.weight": (dimensions["max_source_positions"], width),
        "model.decoder.embed_positions.weight": (dimensions["max_target_positions"], width),
        "model.decoder.embed_tokens.weight": (dimensions["vocab_size"], width),
    }

    def linear(name: str, out: int, into: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    for side in ("encoder", "decoder"):
        hidden = dimensions[f"{side}_ffn_dim"]
        norms = [f"model.{side}.layer_norm"]
        for layer in range(dimensions[f"{side}_layers"]):
            prefix = f"model.{side}.layers.{layer}"
            for attention in ("self_attn", "encoder_attn")[: 1 if side == "encoder" else 2]:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{prefix}.{attention}.{part}", width, width, bias=part != "k_proj")
                norms.append(f"{prefix}.{attention}_layer_norm")
            linear(f"{prefix}.fc1", hidden, width)
            linear(f"{prefix}.fc2", width, hidden)
            norms.append(f"{prefix}.final_layer_norm")
        for name in norms:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    return shapes


def _check_tokenizer(path: Path, vocabulary: int) -> frozenset[str]:
    """The languages that the tokenizer has a token for."""
    added = read_json(path).get("added_tokens")
    if not isinstance(added, list):
        raise CheckpointError(f"{path}: has no added_tokens, so it isn't a Whisper tokenizer; fetch it again")
    tokens = [(token.get("content"), token.get("id")) for token in added if isinstance(token, dict)]
    ids = {content: number for content, number in tokens if isinstance(content, str) and isinstance(number, int)}
    for content in _SPECIAL_TOKENS:
        if not 0 <= ids.get(content, -1) < vocabulary:
            raise CheckpointError(f"{path}: lacks the token {content}, or it lies past vocab_size; fetch it again")
    first_timestamp = ids["<|notimestamps|>"] + 1
    if first_timestamp + _TIMESTAMP_TOKENS > vocabulary or ids.get("<|0.00|>", first_timestamp) != first_timestamp:
        raise CheckpointError(f"{path}: its timestamp tokens don't follow <|notimestamps|>; fetch it again")
    codes = (_LANGUAGE_TOKEN.fullmatch(content) for content in ids)
    return frozenset(match[1] for match in codes if match)


def _check_generation(path: Path) -> None:
    if path.is_file() and read_json(path).get("is_multilingual") is False:
        raise CheckpointError(
            f"{path}: is an English-only Whisper, which knows no languages; use a multilingual checkpoint"
        )


WHISPER = Kind(REQUIRED, OPTIONAL, inspect)
