"""A voice as a vector: the d-vector LSTM of Wan et al., "Generalized End-to-End Loss for Speaker Verification" (2018,
https://arxiv.org/abs/1710.10467), as Resemblyzer trained it (https://github.com/resemble-ai/Resemblyzer, Apache-2.0).

A window of 1.6 s is 160 frames of 40 mel energies (not their logarithm), 10 ms apart; the last state of three LSTM
layers, projected, cut off at zero and scaled to length one, is the voice's embedding. Two embeddings of one voice have
a cosine near 1.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SAMPLE_RATE: Final = 16_000
HOP_SAMPLES: Final = 160

_FFT_SAMPLES: Final = 400
_QUIET_DBFS: Final = -30.0
_WINDOWS_A_BATCH: Final = 32


class Encoder(torch.nn.Module):
    """The LSTM and its projection. `window_frames` frames of `mel_channels` energies in, an embedding out."""

    def __init__(
        self, *, mel_channels: int, hidden_size: int, layers: int, embedding_size: int, window_frames: int
    ) -> None:
        super().__init__()
        self.mel_channels = mel_channels
        self.window_frames = window_frames
        self.embedding_size = embedding_size
        self.lstm = torch.nn.LSTM(mel_channels, hidden_size, layers, batch_first=True)
        self.linear = torch.nn.Linear(hidden_size, embedding_size)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The encoder in `directory`: `config.json` and `model.safetensors`, as `babelrack.checkpoints` has checked."""
        config = json.loads((directory / "config.json").read_bytes())
        names = ("mel_channels", "hidden_size", "layers", "embedding_size", "window_frames")
        encoder = cls(**{name: int(config[name]) for name in names})
        encoder.load_state_dict(load_file(directory / "model.safetensors"))
        return encoder.eval().requires_grad_(requires_grad=False)

    @property
    def window_samples(self) -> int:
        """How many samples a window has: 1.6 s."""
        return self.window_frames * HOP_SAMPLES

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """(windows, embedding) of length one for (windows, frames, mel) energies."""
        _, (hidden, _) = self.lstm(mels)
        return torch.nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)

    def embed(self, windows: NDArray[np.int16]) -> NDArray[np.float32]:
        """(windows, embedding) of length one for (windows, samples) at 16 kHz, `window_samples` each."""
        found = np.zeros((len(windows), self.embedding_size), np.float32)
        with torch.inference_mode():
            for first in range(0, len(windows), _WINDOWS_A_BATCH):
                batch = windows[first : first + _WINDOWS_A_BATCH]
                mels = np.stack([mel_energies(window, self.mel_channels) for window in batch])
                found[first : first + len(batch)] = self(torch.from_numpy(mels[:, : self.window_frames])).numpy()
        return found


def mel_energies(samples: NDArray[np.int16], channels: int = 40) -> NDArray[np.float32]:
    """(frames, channels) mel energies of int16 `samples`, a frame each 10 ms; quiet audio is raised first.

    The energies are librosa's `melspectrogram` with a Hann window of 25 ms.
    """
    audio = _raised(samples.astype(np.float32) / 32768.0)
    padded = np.pad(audio, _FFT_SAMPLES // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SAMPLES)[::HOP_SAMPLES]
    spectrum = torch.fft.rfft(torch.from_numpy(frames * _hann())).numpy()  # numpy's is four times as slow
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energies: NDArray[np.float32] = (power @ _mel_filters(channels)).astype(np.float32)
    return energies


def _raised(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model learnt from audio of -30 dBFS and more."""
    loudness = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0
    wanted = 10 ** (_QUIET_DBFS / 20)
    return audio if loudness == 0.0 or loudness >= wanted else audio * np.float32(wanted / loudness)


@lru_cache(maxsize=1)
def _hann() -> NDArray[np.float32]:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT_SAMPLES) / _FFT_SAMPLES)).astype(np.float32)


@lru_cache(maxsize=4)
def _mel_filters(channels: int) -> NDArray[np.float32]:
    """(bins, channels) triangles of equal area on Slaney's mel scale: linear up to 1 kHz, logarithmic from there."""
    edges = _hertz(np.linspace(0.0, _mel(SAMPLE_RATE / 2), channels + 2))
    bins = np.arange(_FFT_SAMPLES // 2 + 1) * SAMPLE_RATE / _FFT_SAMPLES
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * 2.0 / (edges[2:] - edges[:-2])).astype(np.float32)


_LINEAR_HERTZ: Final = 200.0 / 3.0
_KNEE_MEL: Final = 1000.0 / _LINEAR_HERTZ
_LOG_STEP: Final = np.log(6.4) / 27.0


def _mel(hertz: float) -> float:
    return hertz / _LINEAR_HERTZ if hertz < 1000.0 else float(_KNEE_MEL + np.log(hertz / 1000.0) / _LOG_STEP)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HERTZ, 1000.0 * np.exp(_LOG_STEP * (mel - _KNEE_MEL)))
