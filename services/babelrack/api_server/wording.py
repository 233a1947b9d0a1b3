"""The final form of a transcript: its text, words and utterances, as the options of a request want them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from babelrack import writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from babelrack import pairing
    from babelrack.api_server.transcription import Transcript

_PAUSE_SECONDS = 0.8
_SENTENCE_ENDS = tuple(".?!…。？！।॥؟۔｡។።။")
_WITH_TIMES = ("word_timestamps", "sentence_timestamps", "timestamps")
_CLOSING = "\"'”’»)]}」』）"


class Word(BaseModel):
    """A word with its times in seconds and a `confidence` from 0 to 1.

    With `diarize` it has its speaker, counted from 0, and a `speaker_confidence` from 0 to 1.
    """

    word: str
    start: float
    end: float
    confidence: float
    speaker: int | None = None
    speaker_confidence: float | None = None


class Utterance(BaseModel):
    """A sentence, or what one speaker says between two pauses, with its times in seconds; `speaker` with `diarize`."""

    text: str
    start: float
    end: float
    speaker: int | None = None


@dataclass(frozen=True)
class Wording:
    """What is said: `words` and `utterances` only where words were asked for, and then the same text.

    `warnings` has a sentence for each option that had no effect, or less than its name says.
    """

    text: str
    words: list[Word]
    utterances: list[Utterance]
    warnings: list[str]


async def wording(transcript: Transcript, wanted: Mapping[str, Any]) -> Wording:
    """A transcript as the options want it; one that a path doesn't have is off."""
    # Hours of speech take a second or two, and other requests don't wait for it.
    return await asyncio.to_thread(worded, transcript.done.text, transcript.words, transcript.done.language, wanted)


def form_of(wanted: Mapping[str, Any]) -> writing.Form:
    """The written form that options ask for; one that a path doesn't have is off."""
    kept = wanted["format"]
    return writing.Form(
        punctuate=kept and wanted["punctuate"],
        capitalize=kept and wanted["capitalize"],
        numerals=kept and wanted.get("itn_normalize", False),
        pii=wanted.get("redact_pii", False),
        pci=wanted.get("redact_pci", False),
    )


def worded(
    text: str,
    words: Sequence[pairing.Word],
    language: str,
    wanted: Mapping[str, Any],
    numbering: writing.Numbering | None = None,
) -> Wording:
    """`text` and its `words` in their written form; a word that was nothing but marks is gone."""
    form = form_of(wanted)
    said = [writing.Word(word.word, word.start, word.end, min(max(word.probability, 0.0), 1.0)) for word in words]
    written = writing.write(text.strip(), said, language=language, form=form, numbering=numbering)
    return Wording(
        text=written.text,
        words=[
            Word(
                word=word.text,
                start=word.start,
                end=word.end,
                confidence=word.confidence,
                **_speaker(words[origin.start : origin.stop]),
            )
            for word, origin in zip(written.words, written.origins, strict=True)
        ],
        utterances=[
            Utterance(text=passage, start=words[first].start, end=words[last - 1].end, **_voice(words[first]))
            for first, last in _stretches(words)
            if (passage := written.passage(first, last))
        ],
        warnings=[*written.warnings, *_warnings(wanted)],
    )


def _voice(word: pairing.Word) -> dict[str, Any]:
    return {} if word.speaker is None else {"speaker": word.speaker}


def _speaker(words: Sequence[pairing.Word]) -> dict[str, Any]:
    """Who says a word that was written of `words`: who began it, as sure as the least sure of them."""
    sure = [word.speaker_confidence for word in words if word.speaker_confidence is not None]
    return _voice(words[0]) | ({"speaker_confidence": min(sure)} if sure else {})


def _warnings(wanted: Mapping[str, Any]) -> Iterator[str]:
    if wanted.get("diarize") and not any(wanted.get(name) for name in _WITH_TIMES):
        yield "diarize has no effect without word_timestamps=true, which fills the words that have speakers."


def _stretches(words: Sequence[pairing.Word]) -> Iterator[tuple[int, int]]:
    """First and last (not included) of the words of each sentence, and of what a speaker says between two pauses."""
    first = 0
    for index in range(1, len(words)):
        before = words[index - 1]
        if _ends_sentence(before.word) or _pause(before, words[index]) or before.speaker != words[index].speaker:
            yield first, index
            first = index
    if words:
        yield first, len(words)


def _pause(before: pairing.Word, after: pairing.Word) -> bool:
    return after.start - before.end >= _PAUSE_SECONDS


def _ends_sentence(word: str) -> bool:
    return word.rstrip(_CLOSING + " ").endswith(_SENTENCE_ENDS)
