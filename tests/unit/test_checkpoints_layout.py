"""A checkpoint's folder is what it must be, or the refusal names the file."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from babelrack.checkpoints import CheckpointError, inspect, weight_files
from babelrack.checkpoints.weights import read_header
from checkpoint_samples import BASE_TOKENS, LANGUAGES, SPECIAL, edit_json, tensors, tokenizer, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "tiny")


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        inspect(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("dtype", "called"), [(np.float16, "F16"), (np.float32, "F32")])
def test_a_checkpoint_is_described_without_loading_it(tmp_path, dtype, called):
    layout = inspect(write_checkpoint(tmp_path / "x", dtype=dtype))
    assert layout.dtypes == (called,)
    assert layout.parameters == sum(tensor.size for tensor in tensors().values())
    assert layout.languages == set(LANGUAGES)
    assert layout.dimensions["d_model"] == 64
    assert layout.files["model.safetensors"] == (tmp_path / "x" / "model.safetensors").stat().st_size


def test_a_sharded_checkpoint_is_the_same_checkpoint(tmp_path):
    whole, sharded = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", shards=3)
    assert inspect(sharded).parameters == inspect(whole).parameters
    assert [path.name for path in weight_files(sharded)] == [
        f"model-0000{shard}-of-00003.safetensors" for shard in (1, 2, 3)
    ]


def test_a_missing_shard_is_named(tmp_path):
    sharded = write_checkpoint(tmp_path / "b", shards=2)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: missing" in refusal(sharded)


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "x.bin", "model-00001-of-00002.safetensors/x", 7]
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, shard):
    sharded = write_checkpoint(tmp_path / "b", shards=2)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    assert "weight_map" in refusal(sharded)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    assert f"has no {name}" in refusal(checkpoint)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert f"{tmp_path / 'gone'}: no such folder" in refusal(tmp_path / "gone")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "model.pkl"])
def test_a_pickle_is_refused_with_the_way_out(checkpoint, name):
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    message = refusal(checkpoint)
    assert f"{name} is a pickle" in message
    assert "safe_serialization=True" in message


def test_a_pickle_beside_safetensors_is_ignored(checkpoint):
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin" not in inspect(checkpoint).files


def test_a_ctranslate2_model_is_told_how_to_convert(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.bin").write_bytes(struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<I", 3))
    assert "babelrack checkpoints convert" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2'"),
        ({"d_model": 128}, "config.json calls for 128"),
        ({"encoder_layers": 3}, "lack model.encoder.layers.2"),
        ({"d_model": "64"}, "d_model must be a number"),
        ({"d_model": True}, "d_model must be a number"),
        ({"encoder_layers": 10**9}, "encoder_layers must be a number from 1 to 256"),
        ({"decoder_attention_heads": 7}, "no multiple of decoder_attention_heads"),
        ({"vocab_size": 1900}, "config.json calls for 1900"),
    ],
)
def test_a_config_of_another_model_is_refused(checkpoint, changes, says):
    edit_json(checkpoint / "config.json", **changes)
    assert says in refusal(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"model_type": "whisper"}', "[" * 100_000])
def test_a_config_that_is_no_config_is_refused(checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    assert "config.json" in refusal(checkpoint)


@pytest.mark.parametrize("token", ["<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>", "<|startofprev|>"])
def test_a_tokenizer_without_a_special_token_is_refused(checkpoint, token):
    added = [entry for entry in tokenizer()["added_tokens"] if entry["content"] != token]
    edit_json(checkpoint / "tokenizer.json", added_tokens=added)
    assert token in refusal(checkpoint)


@pytest.mark.parametrize("added", [None, {}, [1, 2], [{"content": 3}]])
def test_a_tokenizer_that_is_none_is_refused(checkpoint, added):
    edit_json(checkpoint / "tokenizer.json", added_tokens=added)
    assert "tokenizer.json" in refusal(checkpoint)


def test_a_tokenizer_without_timestamp_tokens_is_enough(checkpoint):
    added = [entry for entry in tokenizer()["added_tokens"] if not entry["content"][2:3].isdigit()]
    edit_json(checkpoint / "tokenizer.json", added_tokens=added)
    assert inspect(checkpoint).languages == set(LANGUAGES)


def test_timestamps_in_another_place_are_refused(checkpoint):
    added = tokenizer()["added_tokens"]
    added[SPECIAL.index("<|0.00|>")]["id"] = BASE_TOKENS
    edit_json(checkpoint / "tokenizer.json", added_tokens=added)
    assert "timestamp tokens" in refusal(checkpoint)


def test_an_english_only_whisper_is_refused(checkpoint):
    edit_json(checkpoint / "generation_config.json", is_multilingual=False)
    assert "English-only" in refusal(checkpoint)


def rewrite_header(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


NAME = "model.encoder.conv1.bias"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header[NAME].update(dtype="I8"), "must be F16, BF16 or F32"),
        (lambda header: header[NAME].update(shape=[32]), "don't fit its shape"),
        (lambda header: header[NAME].update(shape=[-64]), "described wrongly"),
        (lambda header: header[NAME].update(shape=[64.0]), "described wrongly"),
        (lambda header: header[NAME].update(data_offsets=[0]), "described wrongly"),
        (lambda header: header[NAME].update(data_offsets=[0, 128]), "overlap or leave gaps"),
        (lambda header: header.update({NAME: 3}), "described wrongly"),
        (lambda header: header.pop(NAME), "overlap or leave gaps"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(checkpoint, change, says):
    rewrite_header(checkpoint / "model.safetensors", change)
    message = refusal(checkpoint)
    assert says in message
    assert "model.safetensors" in message


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_truncated_weights_are_refused(checkpoint, keep):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "model.safetensors" in refusal(checkpoint)


def test_weights_with_something_behind_them_are_refused(checkpoint):
    with (checkpoint / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert "truncated or damaged" in refusal(checkpoint)


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((4 << 30).to_bytes(8, "little"))
        file.truncate(5 << 30)  # sparse
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_safetensors_file_is_an_error_or_consistent(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("w") / "x.safetensors"
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.zeros(4, np.float32)}, path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole))
    try:
        found = read_header(path)
    except CheckpointError:
        return
    size = {"F16": 2, "BF16": 2, "F32": 4}
    length = int.from_bytes(whole[:8], "little")
    assert sum(tensor.elements * size[tensor.dtype] for tensor in found.values()) == len(whole) - 8 - length
