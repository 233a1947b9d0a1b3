"""Bare samples into 16 kHz PCM as they arrive, in the process that receives them: there is nothing to parse in them."""

from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from babelrack.audio import SAMPLE_RATE


class Resampler:
    """Mono float samples at `rate` in, 16-bit samples at 16 kHz out, in step with time: no delay is left at the end."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream: Any = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.int16]:
        """Take any number of samples and return those that are ready."""
        return _to_int16(samples if self._stream is None else self._stream.resample_chunk(samples))

    def flush(self) -> NDArray[np.int16]:
        """Return the rest."""
        nothing = np.zeros(0, np.float32)
        return _to_int16(nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True))


def _to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    rounded: NDArray[np.int16] = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    return rounded


def _alaw() -> NDArray[np.float32]:
    """ITU-T G.711, A-law: what each of the 256 bytes means, in [-1, 1]."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768).astype(np.float32)


def _mulaw() -> NDArray[np.float32]:
    """ITU-T G.711, mu-law: what each of the 256 bytes means, in [-1, 1]."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 15) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768).astype(np.float32)


_COMPANDED: Final = {"alaw": _alaw(), "mulaw": _mulaw()}
_WIDTHS: Final = {"linear16": 2, "linear32": 4, "alaw": 1, "mulaw": 1}


class SampleStream:
    """Mono samples in `encoding` at `rate` Hz, in pieces of any size; how they are cut changes nothing in the result.

    `encoding` is `linear16`, `linear32`, `alaw` or `mulaw`, little-endian.
    """

    def __init__(self, encoding: str, rate: int) -> None:
        self._encoding = encoding
        self._width = _WIDTHS[encoding]
        self._odd = b""
        self._plain = encoding == "linear16" and rate == SAMPLE_RATE
        self._resampler = Resampler(rate)

    def push(self, data: bytes) -> bytes:
        """Take the next bytes and return what is ready of it: 16 kHz mono s16le."""
        data = self._odd + data
        whole = len(data) - len(data) % self._width
        self._odd = data[whole:]
        if self._plain:
            return data[:whole]
        return self._resampler.push(self._samples(data[:whole])).tobytes()

    def flush(self) -> bytes:
        """Return the rest; half a sample at the end is left out."""
        return self._resampler.flush().tobytes()

    def _samples(self, data: bytes) -> NDArray[np.float32]:
        if self._encoding == "linear16":
            return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        if self._encoding == "linear32":
            return (np.frombuffer(data, "<i4") / 2147483648).astype(np.float32)
        return _COMPANDED[self._encoding][np.frombuffer(data, np.uint8)]
