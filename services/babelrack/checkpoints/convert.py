"""CTranslate2 Whisper models to the Hugging Face safetensors layout.

CTranslate2 stores a model as one `model.bin`: a header (binary version, spec name, spec revision),
then named variables (name, rank, shape, dtype, bytes), then aliases; see
`ctranslate2/specs/model_spec.py` of that project. Only what a Whisper model needs is read here:
version 6, `WhisperSpec` revision 3, floating-point weights.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.layout import WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

_BINARY_VERSION = 6
_SPEC = ("WhisperSpec", 3)
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MEL_FRAMES = 3000
_TIMESTAMP_TOKENS = 1501
_TIMESTAMP_STEP_SECONDS = 0.02

Array = npt.NDArray[Any]


def convert_ctranslate2(source: Path, target: Path) -> None:
    """Write the CTranslate2 Whisper model in `source` to `target` in the Hugging Face layout.

    `source` holds `model.bin`, `config.json` and `tokenizer.json`; `target` receives
    `model.safetensors` (the dtype is kept), `config.json`, `generation_config.json`,
    `preprocessor_config.json` and `tokenizer.json` with the timestamp tokens that CTranslate2 leaves out.

    Raises:
        CheckpointError: when `model.bin` is not a float Whisper model of a known revision, or a file can't be read or
            written.
    """
    try:
        _convert(source, target)
    except OSError as error:
        raise CheckpointError(f"{error.filename or target}: {error.strerror or error}; check the path") from error
    except KeyError as error:
        raise CheckpointError(f"{source}: lacks {error}, which every Whisper model has; convert it anew") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: damaged or not a Whisper model ({error}); fetch it again") from error


def _convert(source: Path, target: Path) -> None:
    variables = _read_variables(source / "model.bin")
    decoding = json.loads((source / "config.json").read_text())
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tensors = _rename(variables)
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            raise CheckpointError(f"{source}: {name} is {tensor.dtype}, a quantised model; convert a float16 one")
    token_ids = _add_timestamp_tokens(tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    _write_json(target / "config.json", _model_config(variables, tensors))
    _write_json(target / "tokenizer.json", tokenizer)
    _write_json(target / "generation_config.json", _generation_config(decoding, token_ids))
    _write_json(
        target / "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": tensors["model.encoder.conv1.weight"].shape[1],
            "sampling_rate": 16000,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 30,
            "n_samples": 480000,
            "nb_max_frames": _MEL_FRAMES,
            "padding_side": "right",
            "padding_value": 0.0,
            "processor_class": "WhisperProcessor",
            "return_attention_mask": False,
        },
    )
    # Last and at once: a folder without weights is refused, one with half of them might not be.
    weights = target / f".{WEIGHTS}.partial"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    weights.replace(target / WEIGHTS)


def _read_variables(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        (version,) = _unpack(file, "<I")
        spec = _read_string(file)
        (revision,) = _unpack(file, "<I")
        if version != _BINARY_VERSION or (spec, revision) != _SPEC:
            raise CheckpointError(
                f"{path}: binary version {version}, {spec} revision {revision} is not supported; "
                f"expected version {_BINARY_VERSION}, {_SPEC[0]} revision {_SPEC[1]}"
            )
        (count,) = _unpack(file, "<I")
        variables: dict[str, Array] = {}
        for _ in range(count):
            name = _read_string(file)
            (rank,) = _unpack(file, "<B")
            shape = _unpack(file, f"<{rank}I")
            dtype_id, size = _unpack(file, "<BI")
            if dtype_id not in _DTYPES:
                raise CheckpointError(
                    f"{path}: variable {name} has an unknown dtype {dtype_id}; convert a float16 model"
                )
            data = file.read(size)
            if len(data) != size:
                raise CheckpointError(f"{path}: truncated inside variable {name}; fetch it again")
            variables[name] = np.frombuffer(data, dtype=_DTYPES[dtype_id]).reshape(shape)
        return variables


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(layout))
    try:
        return struct.unpack(layout, data)
    except struct.error as error:
        raise CheckpointError(f"{file.name}: truncated header; fetch it again") from error


def _read_string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<H")
    return file.read(length).rstrip(b"\0").decode()


def _rename(variables: dict[str, Array]) -> dict[str, Array]:
    """CTranslate2 variable names to Hugging Face tensor names; fused projections are split."""
    tensors: dict[str, Array] = {}

    def copy(name: str, source: str) -> None:
        tensors[name] = np.ascontiguousarray(variables[source])

    def split(prefix: str, source: str, parts: tuple[str, ...]) -> None:
        weights = np.split(variables[f"{source}/weight"], len(parts))
        biases = np.split(variables[f"{source}/bias"], len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            tensors[f"{prefix}.{part}_proj.weight"] = np.ascontiguousarray(weight)
            if part == "k":
                if np.any(bias):
                    raise CheckpointError(f"{source}: the key projection has a bias, which Whisper has not")
                continue
            tensors[f"{prefix}.{part}_proj.bias"] = np.ascontiguousarray(bias)

    def norm(prefix: str, source: str) -> None:
        copy(f"{prefix}.weight", f"{source}/gamma")
        copy(f"{prefix}.bias", f"{source}/beta")

    def linear(prefix: str, source: str) -> None:
        copy(f"{prefix}.weight", f"{source}/weight")
        copy(f"{prefix}.bias", f"{source}/bias")

    for side in ("encoder", "decoder"):
        copy(f"model.{side}.embed_positions.weight", f"{side}/position_encodings/encodings")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(_layers(variables, side)):
            source = f"{side}/layer_{layer}"
            prefix = f"model.{side}.layers.{layer}"
            norm(f"{prefix}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            split(f"{prefix}.self_attn", f"{source}/self_attention/linear_0", ("q", "k", "v"))
            linear(f"{prefix}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{prefix}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
                split(f"{prefix}.encoder_attn", f"{source}/attention/linear_0", ("q",))
                split(f"{prefix}.encoder_attn", f"{source}/attention/linear_1", ("k", "v"))
                linear(f"{prefix}.encoder_attn.out_proj", f"{source}/attention/linear_2")
            norm(f"{prefix}.final_layer_norm", f"{source}/ffn/layer_norm")
            linear(f"{prefix}.fc1", f"{source}/ffn/linear_0")
            linear(f"{prefix}.fc2", f"{source}/ffn/linear_1")
    linear("model.encoder.conv1", "encoder/conv1")
    linear("model.encoder.conv2", "encoder/conv2")
    copy("model.decoder.embed_tokens.weight", "decoder/embeddings/weight")
    return tensors


def _layers(variables: dict[str, Array], side: str) -> int:
    return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2})


def _model_config(variables: dict[str, Array], tensors: dict[str, Array]) -> dict[str, Any]:
    vocabulary, width = tensors["model.decoder.embed_tokens.weight"].shape
    heads = {side: int(variables[f"{side}/num_heads"]) for side in ("encoder", "decoder")}
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "vocab_size": vocabulary,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "d_model": width,
        "max_source_positions": tensors["model.encoder.embed_positions.weight"].shape[0],
        "max_target_positions": tensors["model.decoder.embed_positions.weight"].shape[0],
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "torch_dtype": str(tensors["model.encoder.conv1.weight"].dtype),
        "bos_token_id": 50257,
        "eos_token_id": 50257,
        "pad_token_id": 50257,
        "decoder_start_token_id": 50258,
    }
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = _layers(variables, side)
        config[f"{side}_attention_heads"] = heads[side]
        config[f"{side}_ffn_dim"] = tensors[f"model.{side}.layers.0.fc1.weight"].shape[0]
    return config


def _add_timestamp_tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Append `<|0.00|>` … `<|30.00|>` to the tokenizer; returns the ids of all special tokens."""
    added = tokenizer["added_tokens"]
    first = max(token["id"] for token in added) + 1
    for step in range(_TIMESTAMP_TOKENS):
        added.append(
            {
                "id": first + step,
                "content": f"<|{step * _TIMESTAMP_STEP_SECONDS:.2f}|>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        )
    return {token["content"]: token["id"] for token in added}


def _generation_config(decoding: dict[str, Any], token_ids: dict[str, int]) -> dict[str, Any]:
    languages = {token: id_ for token, id_ in token_ids.items() if id_ in set(decoding["lang_ids"])}
    return {
        "alignment_heads": decoding["alignment_heads"],
        "begin_suppress_tokens": decoding["suppress_ids_begin"],
        "suppress_tokens": decoding["suppress_ids"],
        "bos_token_id": 50257,
        "eos_token_id": 50257,
        "pad_token_id": 50257,
        "decoder_start_token_id": token_ids["<|startoftranscript|>"],
        "is_multilingual": True,
        "lang_to_id": languages,
        "task_to_id": {"transcribe": token_ids["<|transcribe|>"], "translate": token_ids["<|translate|>"]},
        "no_timestamps_token_id": token_ids["<|notimestamps|>"],
        "prev_sot_token_id": token_ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": 448,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2 if path.name != "tokenizer.json" else None) + "\n")
