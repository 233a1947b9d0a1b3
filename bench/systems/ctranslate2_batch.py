"""CTranslate2's Whisper, int8, in static batches: at 30 s each, or at the length of the longest clip in the batch."""

import os
from collections.abc import Sequence

import ctranslate2
import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor
from tokenizers import Tokenizer

from bench.checkpoints import WHISPER_BASE_CT2
from bench.workload import WINDOW_S, Request

# Without silence after the last word a third of the clips run into an endless loop; below 5 s a second isn't enough.
MARGIN_S = 1.0
SHORTEST_S = 5.0
# What a second of speech can hold at most: a loop then costs less than to the end of the positions.
TOKENS_A_SECOND = 12
POSITIONS = 448
HOP = 160
FRAMES_A_SECOND = 100


class CTranslate2:
    """`Whisper.generate` on batches in the order in which requests come."""

    def __init__(self, threads: int, padded: bool) -> None:
        self._padded = padded
        self._model = ctranslate2.models.Whisper(
            str(WHISPER_BASE_CT2), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )
        self._tokenizer = Tokenizer.from_file(str(WHISPER_BASE_CT2 / "tokenizer.json"))
        self._features = FeatureExtractor()

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        return [
            text
            for start in range(0, len(requests), at_once)
            for text in self._batch(requests[start : start + at_once])
        ]

    def _batch(self, requests: Sequence[Request]) -> list[str]:
        longest = max(request.seconds for request in requests)
        length = WINDOW_S if self._padded else min(WINDOW_S, max(SHORTEST_S, longest) + MARGIN_S)
        frames = 2 * round(length * FRAMES_A_SECOND / 2)
        mels = [self._mel(request, frames) for request in requests]
        prompts = [
            ["<|startoftranscript|>", f"<|{request.language}|>", "<|transcribe|>", "<|notimestamps|>"]
            for request in requests
        ]
        features = ctranslate2.StorageView.from_array(np.ascontiguousarray(np.stack(mels)))
        most = min(POSITIONS, len(prompts[0]) + round(TOKENS_A_SECOND * length))
        results = self._model.generate(features, prompts, beam_size=1, max_length=most)
        return [self._tokenizer.decode(result.sequences_ids[0]) for result in results]

    def _mel(self, request: Request, frames: int) -> np.ndarray:
        """Return [80, frames]: the padding is silence, not zeros in the spectrogram."""
        silence = frames * HOP - len(request.samples)
        mel: np.ndarray = self._features(np.pad(request.floats(), (0, max(0, silence))), padding=0)
        return mel[:, :frames]

    def processes(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._model.unload_model()


def load(threads: int, *, padded: bool) -> CTranslate2:
    """Load the weights in int8."""
    return CTranslate2(threads, padded)
