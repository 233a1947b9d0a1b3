"""Audio in, windows of speech out.

Decoding is the API server's side, voice activity and windows are the model server's. What goes between them is 16 kHz
mono PCM, signed 16-bit little-endian. Nothing here imports torch.
"""

from typing import Final

SAMPLE_RATE: Final = 16_000
"""Hz of all PCM inside Babelrack."""

PCM_CHUNK_BYTES: Final = 65_536
"""The largest piece of PCM handed on at once: two seconds, and the size of a pipe's buffer."""
