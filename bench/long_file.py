"""A 30-minute recording: how fast, in how much memory, how right."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests import speech

from bench import workload
from bench.memory import peak_resident
from bench.process import Process
from bench.systems import Transcriber

MINUTES = 30.0
QUICK_MINUTES = 1.0


@dataclass(frozen=True)
class LongFile:
    """One system and the recording: audio seconds a second, bytes, and word error rate as a share of 1."""

    system: str
    minutes: float
    rtfx: float
    peak_bytes: int
    wer: float


def inside(transcriber: Transcriber, *, minutes: float) -> dict[str, Any]:
    """Transcribe the recording in the system's process, after a short one as a warm-up."""
    transcriber.transcribe_long(workload.recording(0.5))
    recording = workload.recording(minutes)
    began = time.perf_counter()
    text = transcriber.transcribe_long(recording)
    wall_s = time.perf_counter() - began
    return {
        "minutes": recording.seconds / 60,
        "rtfx": recording.seconds / wall_s,
        "peak_bytes": peak_resident(transcriber.processes()),
        "wer": speech.score([recording.text], [text]).wer,
    }


def measure(process: Process, say: Callable[[str], None], *, quick: bool) -> LongFile:
    """Have a freshly loaded system transcribe the recording."""
    minutes = QUICK_MINUTES if quick else MINUTES
    say(f"{process.title}: a recording of {minutes:g} minutes")
    return LongFile(process.name, **process.ask("long_file", minutes=minutes))
