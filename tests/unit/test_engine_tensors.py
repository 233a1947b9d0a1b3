"""The tensors of the engine against oracles and against each other, on the demo's checkpoint."""

import numpy as np
import pytest
import torch

from babelrack.engine.errors import EngineError
from babelrack.engine.features import LogMel
from babelrack.engine.linear import Int8Linear
from babelrack.engine.memory import KeyValueMemory, Span
from babelrack.engine.runner import Runner
from babelrack.engine.weights import choose_precision
from speech import clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runner(checkpoint):
    made = Runner(checkpoint, CPU, "float32")
    made.allocate(4)
    return made


def test_features_are_those_of_the_reference_extractor():
    from faster_whisper.feature_extractor import FeatureExtractor

    samples = clip("en-11s-a").samples().astype(np.float32) / 32768
    samples = samples[: len(samples) // 160 * 160]
    ours = LogMel(80, CPU)(torch.from_numpy(samples)[None])[0].numpy()
    theirs = FeatureExtractor()(samples, padding=0)
    assert ours.shape[1] == len(samples) // 160
    assert np.abs(ours - theirs[:, : ours.shape[1]]).max() < 2e-3


def test_the_encoder_is_that_of_the_oracle_on_the_same_weights(runner, checkpoint):
    import ctranslate2

    samples = torch.from_numpy(clip("en-3s-a").samples().astype(np.float32) / 32768)
    samples = torch.nn.functional.pad(samples, (0, 480_000 - len(samples)))[None]
    mel = runner._mel(samples)
    oracle = ctranslate2.models.Whisper(f"{checkpoint}-ct2", compute_type="float32", intra_threads=1)
    theirs = np.array(oracle.encode(ctranslate2.StorageView.from_array(mel.numpy())))
    with torch.inference_mode():
        ours = runner._encoder(mel).numpy()
    assert ours.shape == theirs.shape == (1, 1500, 512)
    assert np.abs(ours - theirs).max() < 5e-3


@pytest.mark.parametrize("inputs", [64, 1024])
def test_a_row_of_an_int8_layer_does_not_depend_on_its_neighbours(inputs):
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(96, inputs) * 0.05, torch.randn(96))
    rows = torch.randn(33, inputs) * torch.logspace(-3, 3, 33)[:, None]
    together = layer(rows)
    alone = torch.cat([layer(row[None]) for row in rows])
    assert torch.equal(together, alone)


def int8_error(x, weight, bias=None):
    """How far an int8 layer is from its weights in float32, as a share of what they give."""
    exact = torch.nn.functional.linear(x, weight, bias)
    return (Int8Linear(weight, bias)(x) - exact).abs().mean() / exact.abs().mean()


@pytest.mark.parametrize("inputs", [80, 384, 512, 2048])
def test_an_int8_layer_is_close_to_its_float_weights(inputs):
    torch.manual_seed(1)
    x = torch.nn.functional.gelu(torch.randn(64, inputs) * 3)
    assert int8_error(x, torch.randn(256, inputs) * 0.05, torch.randn(256)) < 0.02


def test_one_large_activation_coarsens_its_own_group_only(monkeypatch):
    torch.manual_seed(2)
    x, weight = torch.nn.functional.gelu(torch.randn(64, 2048)), torch.randn(256, 2048) * 0.05
    x[:, 7], weight[:, 7] = 40.0, 0.0
    in_groups = int8_error(x, weight)
    monkeypatch.setattr(Int8Linear, "_GROUP_INPUTS", 2048)
    assert in_groups < 0.6 * int8_error(x, weight)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_attention_of_a_batch_equals_attention_slot_by_slot(runner, seed, device):
    """Slots side by side go through one kernel, by the rules of a CPU or of a GPU; none sees another's positions."""
    torch.manual_seed(seed)
    together = KeyValueMemory(runner.dimensions, 6, CPU, torch.float32)
    if device == "gpu":
        together._wide, together._alike = True, 0.0
    apart = KeyValueMemory(runner.dimensions, 6, CPU, torch.float32)
    apart._joins = lambda *_: False
    width = runner.dimensions.width
    slots = sorted(torch.randperm(6)[:5].tolist())
    for slot in slots:
        audio = torch.randn(2, 1, int(torch.randint(40, 60, ())), width)
        for memory in (together, apart):
            memory.write_audio(0, [slot], *audio)
    positions = dict.fromkeys(slots, 0)
    for _ in range(5):
        spans, rows = [], 0
        for slot in slots:
            count = int(torch.randint(1, 4, ())) if positions[slot] == 0 else 1
            spans.append(Span(slot, positions[slot], rows, rows + count))
            rows += count
            positions[slot] += count
        query, key, value = torch.randn(3, rows, width)
        for call in ("attend_text", "attend_audio"):
            arguments = (0, spans, query, key, value) if call == "attend_text" else (0, spans, query)
            torch.testing.assert_close(getattr(together, call)(*arguments), getattr(apart, call)(*arguments))


def test_attention_is_that_of_the_textbook(runner):
    torch.manual_seed(3)
    memory = KeyValueMemory(runner.dimensions, 1, CPU, torch.float32)
    width, heads = runner.dimensions.width, runner.dimensions.decoder_heads
    query, key, value = torch.randn(3, 5, width)
    ours = memory.attend_text(0, [Span(0, 0, 0, 5)], query, key, value)
    q, k, v = (x.view(5, heads, -1).transpose(0, 1) for x in (query, key, value))
    scores = q @ k.transpose(1, 2) / (width / heads) ** 0.5
    scores += torch.full((5, 5), -torch.inf).triu(1)
    torch.testing.assert_close(ours, (scores.softmax(-1) @ v).transpose(0, 1).reshape(5, width))


def test_precision_fits_the_device():
    assert choose_precision("auto", torch.device("cuda")) == "float16"
    assert choose_precision("auto", CPU) in ("bfloat16", "int8")
    with pytest.raises(EngineError, match="int8 is for CPUs"):
        choose_precision("int8", torch.device("cuda"))
    with pytest.raises(EngineError, match="unknown precision 'float8'"):
        choose_precision("float8", CPU)


def test_int8_does_not_decide_between_logits_that_are_near_each_other(runner, checkpoint):
    exact, rounded = runner._decoder, Runner(checkpoint, CPU, "int8")._decoder
    torch.manual_seed(3)
    states = torch.randn(64, 512)
    with torch.inference_mode():
        true, said = exact.logits(states), rounded.logits(states)
    assert torch.equal(true.argmax(1), said.argmax(1))
    best = true.amax(1, keepdim=True)
    assert (true - said).abs()[true > best - 0.5].max() < 1e-3
    assert (true - said).abs().max() > 1e-2
