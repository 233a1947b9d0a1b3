"""Personal and card data in a transcript, seen through spaces, hyphens, commas and number words.

What carries a check digit is found by it: cards (Luhn), IBAN (ISO 7064), Aadhaar (Verhoeff) and, by its shape, the
Indian PAN. Where a recogniser may have got a digit wrong, or there is no check, the words before it tell:
`card number`, `account`, `CVV`, `expires`, `my number is`. Names and postal addresses are not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import phonenumbers
from stdnum import iban, luhn
from stdnum.in_ import aadhaar, pan

from babelrack.writing.digits import Piece, digits_of, runs
from babelrack.writing.lexicon import words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from babelrack.writing.lexicon import Words

# Both: an account number is personal, and the reference counts it as payment data.
PII = frozenset({"PHONENUMBER", "EMAIL", "ACCOUNTNUMBER", "AADHAAR", "PAN"})
PCI = frozenset({"CARDNUMBER", "CARDCVV", "CARDEXPIRY", "ACCOUNTNUMBER"})

# Whose national numbers are known without a country code.
_REGIONS: Mapping[str, tuple[str, ...]] = {
    "ar": ("SA", "AE", "EG"),
    "da": ("DK",),
    "de": ("DE", "AT", "CH"),
    "en": ("US", "GB", "IN", "AU"),
    "es": ("ES", "MX", "AR", "CO"),
    "fr": ("FR", "BE", "CH"),
    "id": ("ID",),
    "it": ("IT",),
    "ja": ("JP",),
    "ms": ("MY", "SG"),
    "nl": ("NL", "BE"),
    "no": ("NO",),
    "pl": ("PL",),
    "pt": ("PT", "BR"),
    "ru": ("RU",),
    "sv": ("SE",),
    "tr": ("TR",),
    "ur": ("PK",),
    "zh": ("CN", "TW", "HK"),
}
_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{2,4}|\d{4}([./-])\d{1,2}\2\d{1,2}")
_LETTERS = re.compile(r"[A-Za-z]+")
_LONGEST_CODE = 5  # letters in a row in an IBAN or a PAN
_CODE = re.compile(r"[A-Z][0-9]")
_IBAN_STARTS = re.compile(r"[A-Z]{2}[0-9]{2}")
_INDIAN = frozenset({"as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "pa", "sa", "sd", "ta", "te"})
# Between `card number` and the number: `is, let me see,`.
_MOST_WORDS_BETWEEN = 4
_FARTHEST_BEFORE = 60  # characters
_LONGEST_PHONE = 15  # digits, by ITU-T E.164
_LAST_WORD = re.compile(r"(\+|[^\s+]+)[\s(]*$")
_LONGEST_LAST_WORD = 20


@dataclass(frozen=True, slots=True)
class Entity:
    """Characters `start` to `end` of a text: what kind of entity they are, and which one, however it is spelled."""

    start: int
    end: int
    kind: str
    value: str


# Which pieces of some that follow each other, from and to, are an entity of which kind; None when none are.
_Rule = Callable[[Sequence[Piece]], tuple[int, int, str] | None]


def entities_of(text: str, language: str) -> list[Entity]:
    """The entities in `text`, in order and without overlap.

    Whether some characters are an entity depends on them, on what is before them, and on what follows only as far
    as it goes on with digits, letters or an e-mail address; `babelrack.writing.tail` counts on it.
    """
    words = words_of(language)
    found = [Entity(*match.span(), "EMAIL", _address(match.group(), words)) for match in words.email.finditer(text)]
    digits = digits_of(text, language)
    for run in runs(text, _outside(found, _with_letters(text, digits))):
        if not _CODE.search(_value(run)):
            continue
        rest = _claimed(found, [run], _windows(range(15, 35), "ACCOUNTNUMBER", _is_iban))
        _claimed(found, rest, _windows(range(10, 11), "PAN", pan.is_valid))
    for run in runs(text, _outside(found, digits)):
        found += _Numbers(text, run, language, words).entities()
    ordered: list[Entity] = []
    for entity in sorted(found, key=lambda entity: entity.start):
        # A plus sign or a month before a number may be the end of an e-mail address as well.
        before = ordered[-1].end if ordered else 0
        ordered.append(replace(entity, start=max(entity.start, before)))
    return ordered


class _Numbers:
    """What a run of digits is: the surest first, and what is left over after it."""

    def __init__(self, text: str, run: list[Piece], language: str, words: Words) -> None:
        self._text = text
        self._run = run
        self._language = language
        self._words = words
        self._card_ends: int | None = None
        self._has_expiry = False

    def entities(self) -> list[Entity]:
        found: list[Entity] = []
        rest = self._international(found)
        rest = _claimed(found, rest, _windows(range(13, 20), "CARDNUMBER", _is_card))
        self._card_ends = next((entity.end for entity in found if entity.kind == "CARDNUMBER"), None)
        for rule in (self._announced, _windows(range(12, 13), "AADHAAR", aadhaar.is_valid), self._phone):
            rest = _claimed(found, rest, rule)
        return [self._whole(entity) for entity in found]

    def _international(self, found: list[Entity]) -> list[list[Piece]]:
        last = _LAST_WORD.search(self._text, self._before(self._run), self._run[0].start)
        if last and (last.group(1) == "+" or last.group(1).lower() in self._words.plus):
            for count, value in _prefixes(self._run, range(15, 6, -1)):
                if known := _e164(f"+{value}", None):
                    found.append(Entity(last.start(1), self._run[count - 1].end, "PHONENUMBER", known))
                    return [self._run[count:]] if self._run[count:] else []
        return [self._run]

    def _announced(self, pieces: Sequence[Piece]) -> tuple[int, int, str] | None:
        words, count = self._words, len(_value(pieces))
        after_card = self._card_ends is not None and pieces[0].start >= self._card_ends
        expiry = (after_card and not self._has_expiry) or self._about(words.expiry_about, pieces)
        if expiry and (length := self._expiry(pieces)):
            self._has_expiry = True
            return 0, length, "CARDEXPIRY"
        if (after_card or self._about(words.code_about, pieces)) and (code := _CARD_CODE(pieces)):
            return code
        if 12 <= count <= 19 and self._about(words.card_about, pieces):
            return 0, len(pieces), "CARDNUMBER"
        if 6 <= count <= 18 and self._about(words.account_about, pieces):
            return 0, len(pieces), "ACCOUNTNUMBER"
        return None

    def _phone(self, pieces: Sequence[Piece]) -> tuple[int, int, str] | None:
        value = _value(pieces)
        if len(value) > _LONGEST_PHONE:
            # Several numbers, if the first of them is known; nothing else of ten digits or more is said often enough
            # to let a number pass that isn't.
            known = (count for count, part in _prefixes(pieces, (12, 11, 10)) if self._national(part))
            return 0, next(known, len(pieces)), "PHONENUMBER"
        if len(value) < 10:
            about = len(value) >= 6 and self._about(self._words.phone_about, pieces)
            national = len(value) >= 7 and self._national(value)
            if not (about or national) or _DATE.fullmatch(self._text, pieces[0].start, pieces[-1].end):
                return None
        return 0, len(pieces), "PHONENUMBER"

    def _expiry(self, pieces: Sequence[Piece]) -> int | None:
        """How many pieces are a month and a year, or the year alone after a month's name."""
        if self._month(pieces):
            return next((count for count, _ in _prefixes(pieces, (4, 2))), None)
        for count, value in _prefixes(pieces, (6, 4, 3)):
            if 1 <= int(value[: -4 if len(value) == 6 else -2]) <= 12:
                return count
        return None

    def _month(self, pieces: Sequence[Piece]) -> re.Match[str] | None:
        last = _LAST_WORD.search(self._text, self._before(pieces), pieces[0].start)
        return last if last and last.group(1).strip(",.").lower() in self._words.months else None

    def _about(self, announcement: re.Pattern[str], pieces: Sequence[Piece]) -> bool:
        """Whether `announcement` is said a few words before `pieces`."""
        start = pieces[0].start
        return any(
            len(self._text[match.end() : start].split()) <= _MOST_WORDS_BETWEEN
            for match in announcement.finditer(self._text, max(0, start - _FARTHEST_BEFORE), start)
        )

    def _before(self, pieces: Sequence[Piece]) -> int:
        return max(0, pieces[0].start - _LONGEST_LAST_WORD)

    def _national(self, value: str) -> str | None:
        regions = _REGIONS.get(self._language, ("IN",) if self._language in _INDIAN else ())
        return next((number for region in regions if (number := _e164(value, region))), None)

    def _whole(self, entity: Entity) -> Entity:
        """`entity` as it is known again: a phone number with its country, an expiry date with its month's name."""
        start, end, kind, value = entity.start, entity.end, entity.kind, entity.value
        if kind == "PHONENUMBER" and not value.startswith("+"):
            return Entity(start, end, kind, self._national(value) or value)
        if kind == "CARDEXPIRY" and (month := self._month([Piece(start, end, value)])):
            return Entity(month.start(1), end, kind, f"{month.group(1).lower()} {value}")
        return entity


def _claimed(found: list[Entity], segments: list[list[Piece]], rule: _Rule) -> list[list[Piece]]:
    """Move what `rule` knows in `segments` to `found`; what is left."""
    todo, rest = segments[::-1], []
    while todo:
        segment = todo.pop()
        hit = rule(segment)
        if hit is None:
            rest.append(segment)
            continue
        first, last, kind = hit
        pieces = segment[first:last]
        found.append(Entity(pieces[0].start, pieces[-1].end, kind, _value(pieces)))
        if segment[:first]:
            rest.append(segment[:first])
        if segment[last:]:
            todo.append(segment[last:])
    return rest


def _windows(lengths: range, kind: str, is_valid: Callable[[str], bool]) -> _Rule:
    """The rule that the leftmost pieces of so many characters that `is_valid` are a `kind`; of these the longest."""

    def rule(pieces: Sequence[Piece]) -> tuple[int, int, str] | None:
        for first in range(len(pieces)):
            for count, value in _prefixes(pieces[first : first + lengths.stop], lengths[::-1]):
                if is_valid(value):
                    return first, first + count, kind
        return None

    return rule


def _prefixes(pieces: Sequence[Piece], lengths: Sequence[int]) -> Iterator[tuple[int, str]]:
    """How many pieces from the first one on have so many characters, and these, for each of `lengths` that fits."""
    values: dict[int, tuple[int, str]] = {}
    value = ""
    for count, piece in enumerate(pieces, start=1):
        value += piece.value
        values[len(value)] = count, value
        if len(value) > max(lengths):
            break
    yield from (values[length] for length in lengths if length in values)


def _value(pieces: Sequence[Piece]) -> str:
    return "".join(piece.value for piece in pieces)


def _outside(found: list[Entity], pieces: list[Piece]) -> list[Piece]:
    taken = bytearray(max((entity.end for entity in found), default=0))
    for entity in found:
        taken[entity.start : entity.end] = b"\1" * (entity.end - entity.start)
    return [piece for piece in pieces if not any(taken[piece.start : piece.end])]


def _with_letters(text: str, digits: list[Piece]) -> list[Piece]:
    """`digits`, and between them letters that are spelled or that may be a code's."""
    said = bytearray(len(text) + 1)
    for piece in digits:
        said[piece.start : piece.end] = b"\1" * (piece.end - piece.start)
    letters = []
    for match in _LETTERS.finditer(text):
        start, end = match.span()
        short = end - start == 1 or (end - start <= _LONGEST_CODE and match.group().isupper())
        beside_digits = bool(said[end] or (start and said[start - 1]))
        if (short or beside_digits or end - start == _LONGEST_CODE) and not any(said[start:end]):
            letters.append(Piece(start, end, match.group().upper()))
    return sorted([*digits, *letters], key=lambda piece: piece.start)


def _is_iban(value: str) -> bool:
    return _IBAN_STARTS.match(value) is not None and iban.is_valid(value)


def _is_card(value: str) -> bool:
    return value[0] not in "01" and luhn.is_valid(value)


def _e164(value: str, region: str | None) -> str | None:
    """The valid phone number as `+49…`; without a `region`, a possible one will do, and `value` has its country."""
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        return None
    fits = phonenumbers.is_valid_number(number) if region else phonenumbers.is_possible_number(number)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) if fits else None


def _address(said: str, words: Words) -> str:
    """The e-mail address as it is written."""
    for link, sign in ((words.at, "@"), (words.dot, "."), ("underscore", "_"), ("dash|hyphen|minus", "-")):
        said = re.sub(rf"\s+(?:{link})\s+", sign, said, flags=re.IGNORECASE)
    return re.sub(r"\s+", "", said).lower()


_CARD_CODE = _windows(range(3, 5), "CARDCVV", str.isdecimal)
