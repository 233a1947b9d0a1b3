"""Word error rate over all scored fixtures; every system is told the language."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tests import speech

from bench import workload
from bench.process import Process
from bench.systems import SYSTEMS, Transcriber

AT_ONCE = 6


@dataclass(frozen=True)
class Accuracy:
    """One system's transcripts of the scored fixtures, scored.

    Attributes:
        wer: word error rate over all, a share of 1.
        by_language: the same for each language.
        loops: transcripts half as long again as what was said, and five words.
        texts: the transcripts, in the order of `workload.scored`.
    """

    system: str
    wer: float
    by_language: dict[str, float]
    words: int
    loops: int
    texts: list[str]

    def same_as(self, other: "Accuracy") -> int:
        """Return how many transcripts have the same words as another system's."""
        pairs = zip(self.texts, other.texts, strict=True)
        return sum(speech.normalised(mine) == speech.normalised(theirs) for mine, theirs in pairs)


def inside(transcriber: Transcriber, *, at_once: int, quick: bool) -> dict[str, Any]:
    """Transcribe the fixtures in the system's process, one language after another."""
    requests = workload.scored(quick=quick)
    by_language = [list(group) for _, group in groupby(requests, key=lambda request: request.language)]
    return {"texts": [text for group in by_language for text in transcriber.transcribe(group, at_once)]}


def measure(process: Process, say: Callable[[str], None], *, quick: bool) -> Accuracy:
    """Have a loaded system transcribe the scored fixtures, and score what it says."""
    say(f"{process.title}: all scored fixtures")
    at_once = 1 if SYSTEMS[process.name].alone else AT_ONCE
    texts = process.ask("accuracy", at_once=at_once, quick=quick)["texts"]
    return scored(process.name, workload.scored(quick=quick), texts)


def scored(system: str, requests: list[workload.Request], texts: list[str]) -> Accuracy:
    """Score the transcripts of requests."""
    said = [request.text for request in requests]
    overall = speech.score(said, texts)
    by_language = {}
    for language in sorted({request.language for request in requests}):
        of = [index for index, request in enumerate(requests) if request.language == language]
        by_language[language] = speech.score([said[index] for index in of], [texts[index] for index in of]).wer
    return Accuracy(system, overall.wer, by_language, overall.words, overall.loops, texts)
