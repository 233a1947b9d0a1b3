"""vLLM on a CPU, its own continuous batching; every clip is padded to 30 s, as it does."""

import os
from collections.abc import Sequence
from itertools import islice
from typing import Any

from tests.speech import RATE
from vllm import LLM, SamplingParams

from bench.checkpoints import WHISPER_BASE
from bench.machine import machine
from bench.workload import Request

MOST_AT_ONCE = 48
MOST_TOKENS = 224


class VLLM:
    """vLLM's engine, given a request for each that ends, so that it batches them as it sees fit."""

    def __init__(self) -> None:
        self._llm = LLM(
            str(WHISPER_BASE), dtype=_dtype(), max_model_len=448, max_num_seqs=MOST_AT_ONCE,
            limit_mm_per_prompt={"audio": 1}, disable_log_stats=True, mm_processor_cache_gb=0,
        )  # fmt: skip
        self._sampling = SamplingParams(temperature=0, max_tokens=MOST_TOKENS)

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        texts = [""] * len(requests)
        engine, waiting = self._llm.llm_engine, iter(enumerate(requests))
        for index, request in islice(waiting, at_once):
            engine.add_request(str(index), _prompt(request), self._sampling)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    texts[int(output.request_id.split("-")[0])] = output.outputs[0].text
                    for index, request in islice(waiting, 1):
                        engine.add_request(str(index), _prompt(request), self._sampling)
        return texts

    def processes(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        del self._llm


def _dtype() -> str:
    """bf16 where the CPU has instructions for it; elsewhere it is emulated, several times slower than fp32."""
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(machine().flags) else "float32"


def _prompt(request: Request) -> dict[str, Any]:
    return {
        "encoder_prompt": {"prompt": "", "multi_modal_data": {"audio": (request.floats(), RATE)}},
        "decoder_prompt": f"<|startoftranscript|><|{request.language}|><|transcribe|><|notimestamps|>",
    }


def load(threads: int) -> VLLM:
    """Load the weights; the threads are bound by the process's environment (`bench.environments`)."""
    del threads
    return VLLM()
