"""Speech-to-text packs on GPU hosts that their users own."""

__version__ = "0.1.0"
