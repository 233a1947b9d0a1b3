"""The final form of a transcript: its text, words and utterances, as the options of a request want them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from babelrack.api_server.text import written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from babelrack import pairing

_PAUSE_SECONDS = 0.8
_SENTENCE_ENDS = tuple(".?!…。？！।॥؟۔｡។።။")
_CLOSING = "\"'”’»)]}」』）"


class Word(BaseModel):
    """A word with its times in seconds and a `confidence` from 0 to 1."""

    word: str
    start: float
    end: float
    confidence: float


class Utterance(BaseModel):
    """A sentence, or what is said between two pauses, with its times in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Wording:
    """What is said: `words` and `utterances` only where words were asked for, and then the same text."""

    text: str
    words: list[Word]
    utterances: list[Utterance]


def wording(text: str, words: Sequence[pairing.Word], wanted: Mapping[str, Any]) -> Wording:
    """A transcript as `format`, `punctuate` and `capitalize` want it; a word that was nothing but marks is gone."""
    utterances = [
        Utterance(text=said, start=stretch[0].start, end=stretch[-1].end)
        for stretch in _stretches(words)
        if (said := in_form("".join(word.word for word in stretch), wanted))
    ]
    formed = [
        Word(word=said, start=word.start, end=word.end, confidence=min(max(word.probability, 0.0), 1.0))
        for word in words
        if (said := in_form(word.word, wanted))
    ]
    return Wording(in_form(text, wanted), formed, utterances)


def in_form(text: str, wanted: Mapping[str, Any]) -> str:
    """`text` as `format`, `punctuate` and `capitalize` want it."""
    return written(
        text.strip(),
        punctuate=wanted["format"] and wanted["punctuate"],
        capitalize=wanted["format"] and wanted["capitalize"],
    )


def _stretches(words: Iterable[pairing.Word]) -> list[list[pairing.Word]]:
    """`words` cut after each sentence and at each pause."""
    stretches: list[list[pairing.Word]] = []
    for word in words:
        before = stretches[-1][-1] if stretches else None
        if before is None or _ends_sentence(before.word) or word.start - before.end >= _PAUSE_SECONDS:
            stretches.append([])
        stretches[-1].append(word)
    return stretches


def _ends_sentence(word: str) -> bool:
    return word.rstrip(_CLOSING + " ").endswith(_SENTENCE_ENDS)
