"""Whisper-family speech recognition with continuous batching; knows no HTTP and no files but checkpoints."""

from babelrack.engine.engine import CONCURRENCY, Engine, EngineOptions, Load
from babelrack.engine.errors import EngineError
from babelrack.engine.keywords import Keywords
from babelrack.engine.weights import Precision
from babelrack.engine.window import (
    MAX_SECONDS,
    Admitted,
    Detected,
    Event,
    Listener,
    Lost,
    Spoken,
    SpokenSegment,
    SpokenWord,
    Task,
    Transcribed,
    Window,
)
from babelrack.engine.words import stands_alone

__all__ = [
    "CONCURRENCY",
    "MAX_SECONDS",
    "Admitted",
    "Detected",
    "Engine",
    "EngineError",
    "EngineOptions",
    "Event",
    "Keywords",
    "Listener",
    "Load",
    "Lost",
    "Precision",
    "Spoken",
    "SpokenSegment",
    "SpokenWord",
    "Task",
    "Transcribed",
    "Window",
    "stands_alone",
]
