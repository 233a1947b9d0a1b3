"""faster-whisper's `BatchedInferencePipeline`, int8, beam 1."""

import os
from collections.abc import Sequence

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from tests.speech import RATE

from bench.checkpoints import WHISPER_BASE_CT2
from bench.systems.faster_whisper_plain import GREEDY
from bench.workload import Request

LONG_BATCH = 16


class FasterWhisperBatched:
    """Its batches are stretches of one recording, so requests are strung together and their ends told to it.

    It takes one language a call; a batch in several languages is left to its own detection, one decoder step.
    """

    def __init__(self, threads: int) -> None:
        self._model = WhisperModel(str(WHISPER_BASE_CT2), device="cpu", compute_type="int8", cpu_threads=threads)
        self._pipeline = BatchedInferencePipeline(self._model)

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        return [
            text
            for start in range(0, len(requests), at_once)
            for text in self._batch(requests[start : start + at_once])
        ]

    def _batch(self, requests: Sequence[Request]) -> list[str]:
        ends = np.cumsum([len(request.samples) for request in requests]) / RATE
        starts = [0.0, *ends[:-1]]
        segments, _ = self._pipeline.transcribe(
            np.concatenate([request.floats() for request in requests]),
            language=requests[0].language,
            multilingual=len({request.language for request in requests}) > 1,
            clip_timestamps=[{"start": start, "end": end} for start, end in zip(starts, ends, strict=True)],
            batch_size=len(requests),
            **GREEDY,
        )
        texts = [""] * len(requests)
        for segment in segments:
            # Its times are rounded to milliseconds, maybe down to before the clip.
            texts[int(np.searchsorted(ends, segment.start + 0.01, side="right"))] += segment.text
        return texts

    def transcribe_long(self, request: Request) -> str:
        """Cut by its own voice activity detection."""
        segments, _ = self._pipeline.transcribe(
            request.floats(), language=request.language, batch_size=LONG_BATCH, **GREEDY
        )
        return " ".join(segment.text.strip() for segment in segments)

    def processes(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._model.model.unload_model()


def load(threads: int) -> FasterWhisperBatched:
    """Load the weights in int8."""
    return FasterWhisperBatched(threads)
