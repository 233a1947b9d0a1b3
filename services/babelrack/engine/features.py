"""Log-mel features as Whisper was trained on them, batched, on the model's device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

SAMPLE_RATE = 16_000
HOP_SAMPLES = 160
_FFT_SAMPLES = 400


class LogMel:
    """Log-mel spectrogram: 25 ms Hann windows each 10 ms, Slaney mel bands up to 8 kHz.

    Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2: the
    logarithm is clamped to 8 decades (base 10) below the loudest band of the window, then scaled to about [-1, 1].
    """

    def __init__(self, bands: int, device: torch.device) -> None:
        self._window = torch.hann_window(_FFT_SAMPLES, device=device)
        self._filters = torch.from_numpy(mel_filters(bands)).to(device)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Features of float samples [windows, samples] as float32 [windows, bands, samples / 160]."""
        spectrum = torch.stft(samples, _FFT_SAMPLES, HOP_SAMPLES, window=self._window, return_complex=True)
        power = torch.view_as_real(spectrum[..., :-1]).square_().sum(-1)
        log = torch.matmul(self._filters, power).clamp_(min=1e-10).log10_()
        floor = log.amax(dim=(1, 2), keepdim=True) - 8.0
        return torch.maximum(log, floor).add_(4.0).div_(4.0)


def mel_filters(bands: int) -> npt.NDArray[np.float32]:
    """Triangular filters [bands, 201] on the Slaney mel scale, each of unit area (Slaney 1998, Auditory Toolbox)."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, _FFT_SAMPLES // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(SAMPLE_RATE / 2), bands + 2))
    rising = (frequencies[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return np.asarray(filters, dtype=np.float32)


# Linear below 1 kHz (3 mel per 200 Hz), logarithmic above.
_LINEAR_HERTZ = 200.0 / 3
_BREAK_HERTZ = 1000.0
_BREAK_MEL = _BREAK_HERTZ / _LINEAR_HERTZ
_LOG_STEP = np.log(6.4) / 27.0


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _LINEAR_HERTZ
    return float(_BREAK_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP)


def _mel_to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mel * _LINEAR_HERTZ
    logarithmic = _BREAK_HERTZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, linear, logarithmic)
