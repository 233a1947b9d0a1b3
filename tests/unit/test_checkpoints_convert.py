"""A CTranslate2 model becomes the very tensors that it was made of; what isn't one is refused in a sentence."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from babelrack.checkpoints import CheckpointError, convert_ctranslate2, fetch, inspect, parse_model_url
from checkpoint_samples import HEADS, LANGUAGES, LAYERS, SPECIAL, tensors, tokenizer

CTRANSLATE2_DTYPES = {"float32": 0, "int8": 1, "float16": 4}
REAL = Path(__file__).parents[2] / ".cache" / "checkpoints" / "whisper-base"


def ctranslate2_variables(hugging_face):
    """The names and fusions of CTranslate2's Whisper, written down from its model format, not from our reader."""
    variables = {}

    def put(name, tensor):
        variables[name] = tensor

    def linear(name, source):
        put(f"{name}/weight", hugging_face[f"{source}.weight"])
        put(f"{name}/bias", hugging_face[f"{source}.bias"])

    def norm(name, source):
        put(f"{name}/gamma", hugging_face[f"{source}.weight"])
        put(f"{name}/beta", hugging_face[f"{source}.bias"])

    def fused(name, source, parts):
        weights = [hugging_face[f"{source}.{part}_proj.weight"] for part in parts]
        zeros = np.zeros(len(weights[0]), weights[0].dtype)
        put(f"{name}/weight", np.concatenate(weights))
        put(f"{name}/bias", np.concatenate([hugging_face.get(f"{source}.{part}_proj.bias", zeros) for part in parts]))

    for side in ("encoder", "decoder"):
        put(f"{side}/num_heads", np.array(HEADS, np.int16))
        put(f"{side}/position_encodings/encodings", hugging_face[f"model.{side}.embed_positions.weight"])
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(LAYERS):
            to, of = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            norm(f"{to}/self_attention/layer_norm", f"{of}.self_attn_layer_norm")
            fused(f"{to}/self_attention/linear_0", f"{of}.self_attn", "qkv")
            linear(f"{to}/self_attention/linear_1", f"{of}.self_attn.out_proj")
            if side == "decoder":
                norm(f"{to}/attention/layer_norm", f"{of}.encoder_attn_layer_norm")
                fused(f"{to}/attention/linear_0", f"{of}.encoder_attn", "q")
                fused(f"{to}/attention/linear_1", f"{of}.encoder_attn", "kv")
                linear(f"{to}/attention/linear_2", f"{of}.encoder_attn.out_proj")
            norm(f"{to}/ffn/layer_norm", f"{of}.final_layer_norm")
            linear(f"{to}/ffn/linear_0", f"{of}.fc1")
            linear(f"{to}/ffn/linear_1", f"{of}.fc2")
    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    put("decoder/embeddings/weight", hugging_face["model.decoder.embed_tokens.weight"])
    return variables


def model_bin(variables, *, version=6, spec=b"WhisperSpec", revision=3):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value + b"\0"

    parts = [struct.pack("<I", version), text(spec), struct.pack("<II", revision, len(variables))]
    for name, tensor in variables.items():
        dtype = {"int16": 2}.get(tensor.dtype.name, CTRANSLATE2_DTYPES.get(tensor.dtype.name))
        parts += [text(name.encode()), struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)]
        parts += [struct.pack("<BI", dtype, tensor.nbytes), tensor.tobytes()]
    return b"".join([*parts, struct.pack("<I", 0)])


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "ct2"
    folder.mkdir()
    (folder / "model.bin").write_bytes(model_bin(ctranslate2_variables(tensors())))
    added = [entry for entry in tokenizer()["added_tokens"] if not entry["content"][2:3].isdigit()]
    ids = {entry["content"]: entry["id"] for entry in added}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer() | {"added_tokens": added}))
    decoding = {"alignment_heads": [[1, 0]], "suppress_ids": [1], "suppress_ids_begin": [2]}
    decoding["lang_ids"] = [ids[f"<|{code}|>"] for code in LANGUAGES]
    (folder / "config.json").write_text(json.dumps(decoding))
    return folder


def refusal(model):
    with pytest.raises(CheckpointError) as caught:
        convert_ctranslate2(model, model.parent / "out")
    assert "\n" not in str(caught.value)
    assert not (model.parent / "out" / "model.safetensors").exists()
    return str(caught.value)


def test_the_tensors_come_back_as_they_were(model, tmp_path):
    convert_ctranslate2(model, tmp_path / "out")
    converted, expected = load_file(tmp_path / "out" / "model.safetensors"), tensors()
    assert set(converted) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(converted[name], tensor, err_msg=name)


def test_what_is_converted_is_a_checkpoint_that_everybody_may_read(model, tmp_path):
    convert_ctranslate2(model, tmp_path / "out")
    layout = inspect(tmp_path / "out")
    assert layout.languages == set(LANGUAGES)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}
    added = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]
    assert [entry["content"] for entry in added] == list(SPECIAL)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert set(generation["lang_to_id"]) == {f"<|{code}|>" for code in LANGUAGES}


def test_converting_again_replaces(model, tmp_path):
    convert_ctranslate2(model, tmp_path / "out")
    (model / "model.bin").write_bytes(model_bin(ctranslate2_variables(tensors(seed=1))))
    convert_ctranslate2(model, tmp_path / "out")
    converted = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(converted["model.encoder.conv1.bias"], tensors(seed=1)["model.encoder.conv1.bias"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 5}, "binary version 5"),
        ({"spec": b"TransformerSpec"}, "TransformerSpec"),
        ({"revision": 9}, "revision 9"),
    ],
)
def test_another_format_is_named(model, change, says):
    (model / "model.bin").write_bytes(model_bin(ctranslate2_variables(tensors()), **change))
    assert says in refusal(model)


def test_a_quantised_model_is_refused(model):
    quantised = {name: tensor.astype(np.int8) for name, tensor in ctranslate2_variables(tensors()).items()}
    (model / "model.bin").write_bytes(model_bin(quantised))
    assert "quantised" in refusal(model)


def test_a_key_bias_is_refused(model):
    variables = ctranslate2_variables(tensors())
    variables["encoder/layer_0/self_attention/linear_0/bias"] = np.ones(192, np.float16)
    (model / "model.bin").write_bytes(model_bin(variables))
    assert "key projection has a bias" in refusal(model)


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_a_missing_or_damaged_file_is_named(model, name):
    whole = (model / name).read_bytes()
    for length in (0, 3, 20, len(whole) // 2, len(whole) - 100):
        (model / name).write_bytes(whole[:length])
        assert str(model) in refusal(model)
    (model / name).unlink()
    assert name in refusal(model)


def test_a_missing_variable_is_named(model):
    variables = ctranslate2_variables(tensors())
    del variables["decoder/layer_1/ffn/linear_0/weight"]
    (model / "model.bin").write_bytes(model_bin(variables))
    assert "decoder/layer_1/ffn/linear_0/weight" in refusal(model)


@pytest.mark.skipif(not REAL.is_dir(), reason="`make setup` hasn't made the demo's checkpoint here")
def test_the_demos_checkpoint_is_whisper_base(tmp_path):
    (ref,) = parse_model_url(f"{REAL.as_uri()}#name=base&role=multilingual&languages=hi+en")
    layout = inspect(fetch(ref, tmp_path))
    assert layout.path == REAL
    assert layout.parameters == 72_593_920
    assert len(layout.languages) == 99
    assert (layout.dimensions["d_model"], layout.dimensions["vocab_size"], layout.dtypes) == (512, 51865, ("F16",))
