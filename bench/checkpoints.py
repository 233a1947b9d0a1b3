"""Where set-up left Whisper base: the same weights in the two layouts that the systems read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
WHISPER_BASE = ROOT / ".cache" / "checkpoints" / "whisper-base"
WHISPER_BASE_CT2 = ROOT / ".cache" / "checkpoints" / "whisper-base-ct2"
