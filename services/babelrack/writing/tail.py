"""How much of a text that still grows may become part of an entity: it must not be shown yet."""

from __future__ import annotations

import re
from bisect import bisect_left

from babelrack.writing.digits import digits_of
from babelrack.writing.lexicon import UNSPACED, words_of

_REPEATS = frozenset({"double", "triple", "quadruple", "डबल", "ट्रिपल"})
_SPACED, _EACH = re.compile(r"\S+"), re.compile(r"[\x21-\x7e]+|\S")
_SAYS_NOTHING = re.compile(r"[^\w\s]+")
_CODE = re.compile(r"[A-Za-z]{5}|[A-Z]{2,5}")
# The last word may be cut short, and the one before it may turn out to belong to what the last one will be.
_WILD = 2


def settled(text: str, language: str) -> int:
    """The character of `text` up to which no entity, however the text goes on, begins or goes on.

    The last two words are always behind it, and before them whatever they could go on from: digits and number
    words, spelled letters, parts of an e-mail address, the name of a month. In a script without spaces a word is a
    character.
    """
    known = words_of(language)
    tokens = list((_EACH if language in UNSPACED else _SPACED).finditer(text))
    pieces = digits_of(text, language)
    starts = [piece.start for piece in pieces]

    def is_link(index: int) -> bool:
        return tokens[index].group().strip(",.").lower() in known.links

    def goes_on(index: int) -> bool:
        token, said = tokens[index], tokens[index].group()
        # A number of several words, `quatre-vingt` or `dois mil e vinte`, begins before some of its words.
        before = bisect_left(starts, token.end()) - 1
        if before >= 0 and pieces[before].end > token.start():
            return True
        bare = said.strip(".,;:!?()'\"").lower()
        return (
            len(bare) <= 1
            or bare in known.months
            or bare in _REPEATS
            or any(letter.isdecimal() for letter in said)
            or _SAYS_NOTHING.fullmatch(said) is not None
            or said.rstrip(",.").isupper()
            or "@" in said
        )

    first = max(0, len(tokens) - _WILD)
    while 0 < first < len(tokens) and (goes_on(first - 1) or is_link(first - 1) or is_link(first)):
        first -= 1
    # An Indian PAN may begin with letters that were recognised as a word.
    if first > 0 and _CODE.fullmatch(tokens[first - 1].group()):
        first -= 1
    return tokens[first].start() if tokens else 0
