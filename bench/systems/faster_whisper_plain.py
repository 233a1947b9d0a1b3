"""faster-whisper, int8, beam 1: one file after another."""

import os
from collections.abc import Sequence
from typing import Any

from faster_whisper import WhisperModel
from tests.speech import TimedWord

from bench.checkpoints import WHISPER_BASE_CT2
from bench.workload import Request

GREEDY: dict[str, Any] = {"beam_size": 1, "temperature": 0.0, "without_timestamps": True}


class FasterWhisper:
    """`WhisperModel.transcribe`."""

    def __init__(self, threads: int) -> None:
        self._model = WhisperModel(str(WHISPER_BASE_CT2), device="cpu", compute_type="int8", cpu_threads=threads)

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        if at_once != 1:
            raise ValueError(f"faster-whisper without its batched pipeline takes one request at a time, not {at_once}")
        return [self._text(request, **GREEDY) for request in requests]

    def transcribe_long(self, request: Request) -> str:
        """With timestamps: they are how it finds where the next window starts."""
        return self._text(request, beam_size=1, condition_on_previous_text=False)

    def words(self, requests: Sequence[Request], at_once: int) -> list[list[TimedWord]]:
        if at_once != 1:
            raise ValueError(f"faster-whisper takes one request at a time, not {at_once}")
        return [self._words(request) for request in requests]

    def _words(self, request: Request) -> list[TimedWord]:
        segments, _ = self._model.transcribe(
            request.floats(), language=request.language, word_timestamps=True, **GREEDY
        )
        return [TimedWord(word.word, word.start, word.end) for segment in segments for word in segment.words or ()]

    def _text(self, request: Request, **options: Any) -> str:
        segments, _ = self._model.transcribe(request.floats(), language=request.language, **options)
        return " ".join(segment.text.strip() for segment in segments)

    def processes(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._model.model.unload_model()


def load(threads: int) -> FasterWhisper:
    """Load the weights in int8."""
    return FasterWhisper(threads)
