"""What of a hypothesis is certain: the prefix that two in a row agree on, up to a word's end.

LocalAgreement-2 of Macháček, Dabre and Bojar 2023 (https://arxiv.org/abs/2307.14743, after Liu et al. 2020), on tokens
in pieces of whole characters.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelrack.engine import stands_alone

if TYPE_CHECKING:
    from collections.abc import Sequence

# Written inside words, before a part of theirs that another hypothesis may lack.
_INSIDE_WORDS = frozenset("'\u2019-\u2010\u2011&@/\u200c\u200d")


@dataclass(frozen=True, slots=True)
class Piece:
    """The shortest run of tokens that is whole characters: its text, its tokens and their log-probabilities."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def pieces(spelled: Sequence[tuple[str, int]], tokens: Sequence[int], logprobs: Sequence[float]) -> list[Piece]:
    """The pieces of a text, from the text of each and how many of `tokens` it takes."""
    found: list[Piece] = []
    first = 0
    for text, count in spelled:
        found.append(Piece(text, tuple(tokens[first : first + count]), tuple(logprobs[first : first + count])))
        first += count
    return found


def text_of(hypothesis: Sequence[Piece]) -> str:
    """The text of pieces."""
    return "".join(piece.text for piece in hypothesis)


def agreed(before: Sequence[Piece], now: Sequence[Piece], *, least: int, hold: int = 1) -> int:
    """How many pieces of `now` are certain, given the hypothesis `before` it: at least `least`, which are already.

    The last `hold` words of `now` are none: the audio may end within them.
    """
    common = 0
    for one, other in zip(before, now, strict=False):
        if one.tokens != other.tokens:
            break
        common += 1
    stable = _without_last_words(now, common, hold)
    while stable > least and not (ends_word(now, stable) and ends_word(before, stable)):
        stable -= 1
    return max(stable, least)


def ends_word(hypothesis: Sequence[Piece], count: int) -> bool:
    """Whether the first `count` pieces end with a whole word, or in a script without spaces with a whole character."""
    if count in (0, len(hypothesis)):
        return True
    before, after = hypothesis[count - 1].text, hypothesis[count].text
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return True
    if stands_alone(after[0]) or stands_alone(before[-1]):
        return not _marks(after[0])
    return _is_punctuation(after)


def _without_last_words(hypothesis: Sequence[Piece], common: int, hold: int) -> int:
    """As many of the `common` first pieces as lie before the last `hold` words and what is written after."""
    count = len(hypothesis)
    for _ in range(hold):
        while count and not (ends_word(hypothesis, count - 1) and not _is_punctuation(hypothesis[count - 1].text)):
            count -= 1
        count = max(0, count - 1)
    return min(common, count)


def _marks(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or character in "\u0e33\u0eb3\u30fc\uff70"


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(c)[0] in "PZ" and c not in _INSIDE_WORDS for c in text)
