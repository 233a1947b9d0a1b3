"""A tiny random Whisper checkpoint (2+2 layers, width 64), as real as the checks need, written in milliseconds."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, HIDDEN, LAYERS, HEADS, MELS, AUDIO_POSITIONS, TEXT_POSITIONS = 64, 128, 2, 2, 80, 60, 32
LANGUAGES = ("en", "hi", "bn", "ta", "es", "yue")
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
    *(f"<|{step * 0.02:.2f}|>" for step in range(1501)),
)
BASE_TOKENS = 256
VOCABULARY = BASE_TOKENS + len(SPECIAL)


def tensors(seed=0, dtype=np.float16):
    """The tensors of the tiny model by name."""
    random = np.random.default_rng(seed)
    made = {}

    def weight(name, *shape):
        made[name] = random.standard_normal(shape).astype(dtype)

    def linear(name, out, into, *, bias=True):
        weight(f"{name}.weight", out, into)
        if bias:
            weight(f"{name}.bias", out)

    def norm(name):
        weight(f"{name}.weight", WIDTH)
        weight(f"{name}.bias", WIDTH)

    weight("model.encoder.conv1.weight", WIDTH, MELS, 3)
    weight("model.encoder.conv1.bias", WIDTH)
    weight("model.encoder.conv2.weight", WIDTH, WIDTH, 3)
    weight("model.encoder.conv2.bias", WIDTH)
    weight("model.encoder.embed_positions.weight", AUDIO_POSITIONS, WIDTH)
    weight("model.decoder.embed_positions.weight", TEXT_POSITIONS, WIDTH)
    weight("model.decoder.embed_tokens.weight", VOCABULARY, WIDTH)
    for side in ("encoder", "decoder"):
        norm(f"model.{side}.layer_norm")
        for layer in range(LAYERS):
            prefix = f"model.{side}.layers.{layer}"
            for attention in ("self_attn",) if side == "encoder" else ("self_attn", "encoder_attn"):
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{prefix}.{attention}.{part}", WIDTH, WIDTH, bias=part != "k_proj")
                norm(f"{prefix}.{attention}_layer_norm")
            linear(f"{prefix}.fc1", HIDDEN, WIDTH)
            linear(f"{prefix}.fc2", WIDTH, HIDDEN)
            norm(f"{prefix}.final_layer_norm")
    return made


def config():
    """Its config.json."""
    return {
        "model_type": "whisper",
        "d_model": WIDTH,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": HIDDEN,
        "decoder_ffn_dim": HIDDEN,
        "num_mel_bins": MELS,
        "vocab_size": VOCABULARY,
        "max_source_positions": AUDIO_POSITIONS,
        "max_target_positions": TEXT_POSITIONS,
    }


def tokenizer():
    """Its tokenizer.json, as far as special tokens go."""
    added = [{"id": BASE_TOKENS + place, "content": content, "special": True} for place, content in enumerate(SPECIAL)]
    return {"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": {}, "merges": []}}


def write_checkpoint(folder: Path, *, seed=0, dtype=np.float16, shards=1) -> Path:
    """Write the checkpoint into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tensors(seed, dtype)
    if shards == 1:
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for shard in range(shards):
            name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            part = dict(list(made.items())[shard::shards])
            save_file(part, folder / name)
            weight_map |= dict.fromkeys(part, name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "generation_config.json").write_text(json.dumps({"is_multilingual": True}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": MELS}))
    return folder


def edit_json(path: Path, **changes) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
