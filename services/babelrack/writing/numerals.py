"""Spoken numbers in written form (inverse text normalisation), in the languages that text2num reads.

The numbers themselves, ordinals and decimals among them, are text2num's. What is added is small: percent and
currency signs, digits that are said one by one, and English years.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import text_to_num

from babelrack.writing.transcript import Edit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NUMERAL_LANGUAGES = ("da", "de", "en", "es", "fr", "it", "nl", "pt")

# text2num leaves an isolated number below it as the word that it is: `one of them`, `first of all`.
_SMALLEST_ALONE = 3.0
_PIECE = re.compile(r"\w+|\s+|.", re.DOTALL)
_NUMERAL = re.compile(r"(?<![\w.,$€₹])\d+(?:[.,]\d+)*(?!\w)")

# What is said after a number, and how the two are written together.
_SIGNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "da": ((r"procent", "{} %"), (r"kroner", "{} kr."), (r"euro", "{} €"), (r"dollars?", "{} $")),
    "de": ((r"prozent", "{} %"), (r"euros?", "{} €"), (r"dollars?", "{} $")),
    "en": ((r"per\s?cent", "{}%"), (r"dollars?", "${}"), (r"euros?", "€{}"), (r"rupees?", "₹{}")),
    "es": ((r"por\s+ciento", "{} %"), (r"euros?", "{} €"), (r"dólar(?:es)?", "{} $")),
    "fr": ((r"pour\s?cents?", "{} %"), (r"euros?", "{} €"), (r"dollars?", "{} $")),
    "it": ((r"per\s?cento", "{}%"), (r"euro", "{} €"), (r"dollar[oi]", "{} $")),
    "nl": ((r"procent", "{}%"), (r"euro", "€ {}"), (r"dollars?", "$ {}")),
    "pt": ((r"por\s+cento", "{}%"), (r"reais", "R$ {}"), (r"euros?", "{} €"), (r"dólar(?:es)?", "{} $")),
}
_SIGN = {
    language: tuple((re.compile(rf"\s+{said}\b", re.IGNORECASE), form) for said, form in signs)
    for language, signs in _SIGNS.items()
}
_AND = re.compile(r"\s+(?:and\s+)?", re.IGNORECASE)
_CENTS = re.compile(r"\s+cents?\b", re.IGNORECASE)
_BEFORE_A_YEAR = re.compile(
    r"\b(?:(?:in|since|until|from|by|of|year)|(?:january|february|march|april|may|june|july|august|september|october"
    r"|november|december)(?:\s+(?:the\s+)?[^\s,]+(?:\s+[^\s,]+)?)?),?\s+$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is said: characters `start` to `end` of the text, its numerals, whether it is an ordinal."""

    start: int
    end: int
    numerals: str
    ordinal: bool = False


class _Piece:
    """A piece of text as text2num takes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text(self) -> str:
        return self._text

    def nt_separated(self, previous: text_to_num.Token) -> bool:
        return False

    def not_a_number_part(self) -> bool:
        return False


def spoken(text: str, language: str, smallest_alone: float = 0.0) -> list[Number]:
    """The numbers in `text` that are said in words, in order; isolated ones from `smallest_alone` on."""
    if language not in NUMERAL_LANGUAGES:
        return []
    pieces = _PIECE.findall(text)
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    found = text_to_num.find_numbers([_Piece(piece) for piece in pieces], language, smallest_alone)
    return [Number(offsets[each.start], offsets[each.end], each.text, each.is_ordinal) for each in found]


def in_numerals(text: str, language: str) -> list[Edit]:
    """The edits that write the numbers of `text` in numerals."""
    if language not in NUMERAL_LANGUAGES:
        return []
    plain = {number.start: number for number in spoken(text, language, _SMALLEST_ALONE)}
    written = [Number(*match.span(), match.group()) for match in _NUMERAL.finditer(text)]
    numbers = sorted([*spoken(text, language), *written], key=lambda number: number.start)
    edits: list[Edit] = []
    for index, number in enumerate(numbers):
        done = edits[-1].end if edits else 0
        if number.start < done:
            # `treinta por ciento y veinticinco`: the percent sign's `ciento` was read into the number after it.
            plain |= {each.start: each for each in _within(text, done, number.end, language, _SMALLEST_ALONE)}
            numbers[index + 1 : index + 1] = _within(text, done, number.end, language, 0.0)
        elif edit := (
            _with_sign(text, language, numbers, index)
            or (language == "en" and _year(text, numbers, index))
            or _said_digit_by_digit(text, plain, number)
        ):
            edits.append(edit)
        elif number.start in plain:
            edits.append(Edit(number.start, number.end, number.numerals))
    return edits


def _within(text: str, start: int, end: int, language: str, smallest_alone: float) -> list[Number]:
    return [
        Number(number.start + start, number.end + start, number.numerals, number.ordinal)
        for number in spoken(text[start : max(start, end)], language, smallest_alone)
    ]


def _with_sign(text: str, language: str, numbers: list[Number], index: int) -> Edit | None:
    number = numbers[index]
    if number.ordinal:
        return None
    for words, form in _SIGN[language]:
        if match := words.match(text, number.end):
            amount, end = number.numerals, match.end()
            if form == "${}" and amount.isdecimal():
                amount, end = _with_cents(text, numbers[index + 1 : index + 2], amount, end)
            return Edit(number.start, end, form.format(amount))
    return None


def _with_cents(text: str, following: list[Number], amount: str, end: int) -> tuple[str, int]:
    link = _AND.match(text, end)
    for number in following:
        cents = _CENTS.match(text, number.end)
        if link and cents and number.start == link.end() and number.numerals.isdecimal() and len(number.numerals) <= 2:
            return f"{amount}.{number.numerals:>02}", cents.end()
    return amount, end


def _year(text: str, numbers: list[Number], index: int) -> Edit | None:
    """`nineteen eighty four` after a word that a year follows; text2num reads 19 and 84."""
    pair = numbers[index : index + 2]
    if len(pair) < 2 or any(number.ordinal or not number.numerals.isdecimal() for number in pair):
        return None
    century, year = pair
    said = text[century.start : year.end]
    if any(letter.isdecimal() for letter in said) or text[century.end : year.start].strip():
        return None
    # As far back as a month and its day.
    announced = _BEFORE_A_YEAR.search(text, max(0, century.start - 40), century.start)
    if announced and 11 <= int(century.numerals) <= 20 and 10 <= int(year.numerals) <= 99:
        return Edit(century.start, year.end, century.numerals + year.numerals)
    return None


def _said_digit_by_digit(text: str, plain: Mapping[int, Number], first: Number) -> Edit | None:
    """Three digits or more that are said one by one are one number."""
    digits = list(_digits_from(text, plain, first))
    if len(digits) < 3:
        return None
    return Edit(first.start, digits[-1].end, "".join(digit.numerals for digit in digits))


def _digits_from(text: str, plain: Mapping[int, Number], number: Number) -> Iterator[Number]:
    current: Number | None = plain.get(number.start)
    while current and len(current.numerals) == 1 and not current.ordinal:
        yield current
        following = current.end
        while following < len(text) and text[following].isspace():
            following += 1
        current = plain.get(following)
