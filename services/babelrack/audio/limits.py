"""What one decode may cost."""

from dataclasses import dataclass

from babelrack.audio import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on one decode; past any of them the upload is refused with a sentence that names the bound."""

    max_seconds: float = 4 * 3600.0
    """Seconds of audio, by the container's header where it can be trusted and by what was decoded in any case."""
    max_cpu_seconds: int = 300
    """Processor time; four hours of any supported codec take well under half of it."""
    max_memory_bytes: int = 128 * 1024 * 1024
    """Address space beyond what the decoder occupies before it reads the first byte."""
    min_sample_rate: int = 1_000
    max_sample_rate: int = 768_000
    max_channels: int = 64
    max_corrupt_share: float = 0.2
    """Share of packets that may be damaged and skipped; one damaged packet is always forgiven (a truncated end)."""

    @property
    def max_output_samples(self) -> int:
        """Samples at 16 kHz that a decode may put out."""
        return int(self.max_seconds * SAMPLE_RATE)
