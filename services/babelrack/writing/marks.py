"""Punctuation and capitals taken out of a transcript, for `punctuate=false` and `capitalize=false`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from babelrack.writing.numbering import TOKEN
from babelrack.writing.transcript import Edit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babelrack.writing.transcript import Transcript

# Full stop, comma, question and exclamation mark of the scripts that a pack may hold. A hyphen or an apostrophe is
# part of a word, a colon and a semicolon are not in the wire reference's list.
_MARKS = (
    ".,?!¿¡…"  # Latin, Greek, Cyrillic
    "।॥॰"  # Devanagari, Bengali and their kin
    "،؟۔؛٫٬"  # Arabic, Urdu
    "。、，．？！｡､"  # CJK, full and half width
    "෴។៕၊။።፣፧፨։՞՜՝"  # Sinhala, Khmer, Burmese, Ethiopic, Armenian
)
_WITHIN_NUMBER = re.compile(rf"(?<=\d)[{re.escape(_MARKS)}]+(?=\d)")
# One mark a match: a run of them may belong to two words of a script without spaces, which stay two.
_MARK = re.compile(f"[{re.escape(_MARKS)}]")
_SPACES = re.compile(r"^\s+|\s+$|\s{2,}|[^\S ]")


def without_punctuation(transcript: Transcript) -> Transcript:
    """`transcript` without `. , ? !` and its script's own marks; the two sides of a decimal point stay two numbers."""
    for pattern, replacement in ((_WITHIN_NUMBER, " "), (_MARK, "")):
        transcript = transcript.edited(Edit(*match.span(), replacement) for match in pattern.finditer(transcript.text))
    text = transcript.text
    return transcript.edited(
        Edit(*match.span(), "" if match.start() == 0 or match.end() == len(text) else " ")
        for match in _SPACES.finditer(text)
    )


def without_capitals(transcript: Transcript) -> Transcript:
    """`transcript` in lower case; the tokens that stand for what was redacted stay as they are."""
    return transcript.edited(_lowered(transcript.text))


def _lowered(text: str) -> Iterator[Edit]:
    lower = text.lower()
    # A sigma's lower case depends on its neighbours, so the whole text is lowered, unless a letter becomes two.
    letters = lower if len(lower) == len(text) else [letter.lower() for letter in text]
    kept = {index for token in TOKEN.finditer(text) for index in range(*token.span())}
    for index, (letter, lowered) in enumerate(zip(text, letters, strict=True)):
        if letter != lowered and index not in kept:
            yield Edit(index, index + 1, lowered)
