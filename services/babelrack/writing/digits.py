"""The digits of a text, however they are spelled: numerals of any script, number words, `double four`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelrack.writing.lexicon import START, words_of
from babelrack.writing.numerals import spoken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NUMERALS = re.compile(r"\d+")
_REPEATED = {"double": 2, "triple": 3, "quadruple": 4, "डबल": 2, "ट्रिपल": 3}
_REPEAT = re.compile(rf"{START}(?:{'|'.join(_REPEATED)})\s+$", re.IGNORECASE)
_LONGEST_REPEAT = 12
# What may stand between the parts of one number.
_WITHIN = re.compile(r"[\s,.;?!…\-‐‑‒–—()/·、，。？！।،؟۔]*")


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters `start` to `end` of a text, and the digits or letters that they say."""

    start: int
    end: int
    value: str


def digits_of(text: str, language: str) -> list[Piece]:
    """What is said in `text` digit by digit or number by number, in order and without overlap."""
    known = words_of(language)
    found = [
        Piece(number.start, number.end, _ascii(number.numerals))
        for each in dict.fromkeys((language, "en"))
        for number in spoken(text, each)
        if not number.ordinal
    ]
    found += [Piece(*match.span(), _ascii(match.group())) for match in _NUMERALS.finditer(text)]
    found += [Piece(*match.span(), known.digits[match.group().lower()]) for match in known.digit.finditer(text)]
    pieces: list[Piece] = []
    # Of two readings the longer one: `zero six` is in `twenty zero six`, `four` in `forty four`.
    for piece in sorted(found, key=lambda piece: (piece.start, -piece.end)):
        before = pieces[-1].end if pieces else 0
        if piece.start >= before and piece.value:
            pieces.append(_repeated(text, piece, before))
    return pieces


def runs(text: str, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces that have nothing but spaces and punctuation between them, together."""
    run: list[Piece] = []
    for piece in pieces:
        if run and not _WITHIN.fullmatch(text, run[-1].end, piece.start):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _repeated(text: str, piece: Piece, before: int) -> Piece:
    match = _REPEAT.search(text, max(before, piece.start - _LONGEST_REPEAT), piece.start)
    if not match:
        return piece
    times = _REPEATED[match.group().strip().lower()]
    return Piece(match.start(), piece.end, piece.value[0] * times + piece.value[1:])


def _ascii(numerals: str) -> str:
    return "".join(str(unicodedata.decimal(digit)) for digit in numerals if digit.isdecimal())
