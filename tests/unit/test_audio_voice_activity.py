"""Speech probabilities are Silero's own, whatever the chunking, and loading the model changes nothing else."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from babelrack.audio.decode import decode_file
from babelrack.audio.voice_activity import FRAME_SAMPLES, SpeechProbability, VoiceActivity
from babelrack.audio.windows import WindowCutter

SPEECH = Path(__file__).parents[1] / "fixtures" / "speech"


@pytest.fixture(scope="module")
def model():
    return VoiceActivity.load()


def clips(*names):
    paths = [SPEECH / name for name in names]
    if missing := [path.name for path in paths if not path.is_file()]:
        pytest.skip(f"speech fixtures are missing: {', '.join(missing)}")
    return [decode_file(path) for path in paths]


def probabilities(model, samples, sizes=(10**9,)):
    stream, found, at, turn = SpeechProbability(model), [], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        found.append(stream.feed(samples[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*found, stream.flush()])


def test_loading_imports_neither_torch_nor_silero_and_keeps_torchs_threads():
    program = """
import sys
from babelrack.audio.voice_activity import SpeechProbability, VoiceActivity
import numpy as np
SpeechProbability(VoiceActivity.load()).feed(np.zeros(5_000, np.int16))
assert "silero_vad" not in sys.modules and "torch" not in sys.modules, "imported"
import torch
torch.set_num_threads(3)
VoiceActivity.load()
assert torch.get_num_threads() == 3, torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_probabilities_are_those_of_the_frame_by_frame_model(model):
    (clip,) = clips("en-11s-a.flac")
    path = Path(find_spec("silero_vad").origin).parent / "data" / "silero_vad.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    reference = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    state, context, wanted = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    padded = np.append(clip, np.zeros(-len(clip) % FRAME_SAMPLES, np.int16)).astype(np.float32) / 32_768
    for frame in padded.reshape(-1, FRAME_SAMPLES):
        heard = np.concatenate((context, frame))[None]
        given = {"input": heard, "state": state, "sr": np.array(16_000, np.int64)}
        output, state = reference.run(None, given)
        context = frame[-64:]
        wanted.append(output[0, 0])
    np.testing.assert_allclose(probabilities(model, clip), wanted, atol=1e-4)


@pytest.mark.parametrize("sizes", [(1,), (511, 513), (512,), (3, 70_000, 640), (65_536,)])
def test_chunking_changes_nothing(model, sizes):
    (clip,) = clips("it-3s-a.flac")
    clip = np.concatenate([clip] * (1 if sizes == (1,) else 8))
    whole = probabilities(model, clip)
    assert len(whole) == -(-len(clip) // FRAME_SAMPLES)
    np.testing.assert_allclose(probabilities(model, clip, sizes), whole, atol=1e-5)


def test_a_stream_without_samples_has_no_probability(model):
    assert len(SpeechProbability(model).flush()) == 0


def test_streams_do_not_hear_each_other(model):
    (one, other) = clips("en-3s-a.flac", "es-3s-a.flac")
    first, second = SpeechProbability(model), SpeechProbability(model)
    mixed = []
    for start in range(0, len(one), 4_096):
        mixed.append(first.feed(one[start : start + 4_096]))
        second.feed(other[start : start + 4_096])
    np.testing.assert_allclose(np.concatenate([*mixed, first.flush()]), probabilities(model, one), atol=1e-5)


def test_speech_is_speech_and_silence_noise_and_tones_are_not(model):
    for clip in clips("en-11s-a.flac", "hi-5s.flac", "ar-5s.flac", "ta-5s.flac", "zh-5s.flac"):
        assert np.mean(probabilities(model, clip) > 0.5) > 0.6
    rng = np.random.default_rng(0)
    for nothing in (
        np.zeros(160_000, np.int16),
        (rng.standard_normal(160_000) * 3_000).astype(np.int16),
        (np.sin(np.arange(160_000) / 16_000 * 2 * np.pi * 440) * 10_000).astype(np.int16),
    ):
        cutter = WindowCutter(SpeechProbability(model))
        assert cutter.push(nothing.tobytes()) + cutter.flush() == []


def test_a_long_recording_is_cut_between_words(model):
    parts = clips("en-28s.flac", "es-28s.flac", "it-20s.flac", "pt-28s.flac")
    pause = np.zeros(48_000, np.int16)
    recording = np.concatenate([np.concatenate((part, pause)) for part in parts])
    cutter, windows = WindowCutter(SpeechProbability(model)), []
    for start in range(0, len(recording), 20_000):
        windows += cutter.push(recording[start : start + 20_000].tobytes())
    windows += cutter.flush()
    heard = probabilities(model, recording)
    for window in windows:
        first = round(window.start_s * 16_000)
        assert np.array_equal(window.samples, recording[first : first + len(window.samples)])
        assert window.duration_s <= 30
        assert window.speech
        for edge in (first // FRAME_SAMPLES, (first + len(window.samples)) // FRAME_SAMPLES):
            assert edge >= len(heard) or heard[edge] < 0.5
    assert len(windows) >= 4
