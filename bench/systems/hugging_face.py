"""Hugging Face transformers, fp32, greedy, padded to 30 s: the reference for word error rate."""

import os
from collections.abc import Sequence

import torch
from tests.speech import RATE
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from bench.checkpoints import WHISPER_BASE
from bench.workload import Request


class HuggingFace:
    """`WhisperForConditionalGeneration.generate` on static batches."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._processor = WhisperProcessor.from_pretrained(WHISPER_BASE)
        self._model = WhisperForConditionalGeneration.from_pretrained(WHISPER_BASE, dtype=torch.float32).eval()

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        return [
            text
            for start in range(0, len(requests), at_once)
            for text in self._batch(requests[start : start + at_once])
        ]

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request]) -> list[str]:
        audio = [request.floats() for request in requests]
        inputs = self._processor(audio, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        # Without a task it loops on this checkpoint.
        tokens = self._model.generate(
            **inputs,
            task="transcribe",
            language=[request.language for request in requests],
            do_sample=False,
            num_beams=1,
        )
        texts: list[str] = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def processes(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        del self._model


def load(threads: int) -> HuggingFace:
    """Load the weights in fp32."""
    return HuggingFace(threads)
