"""Words of a decoded window: where they are cut, and when each begins and ends.

A script that parts its words by spaces is cut there; one that doesn't is cut into characters as readers see them, with
the marks that belong to them. Punctuation stays with the word that it is written at, and takes no part in its times:
what is spoken there is a pause.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from babelrack.engine.features import SAMPLE_RATE
from babelrack.engine.window import SpokenWord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

# Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Han and their extensions.
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U0003ffff]"
)
# Written after a character and part of it, though not marks by their category: joiners, Thai and Lao am, the long
# vowel of kana, skin tones.
_PART_OF_CHARACTER = re.compile("[\u200c\u200d\u0e33\u0eb3\u30fc\uff70\U0001f3fb-\U0001f3ff]")
# The letter after one of these is written under the one before it: Khmer, Burmese; or is one sign with it: emoji.
_JOINS_NEXT: Final = "\u17d2\u1039\u200d"
_OPENING: Final = frozenset("¿¡")
_SPOKEN_MARKS: Final = frozenset("&@%#*/\\‰§")
_SENTENCE_ENDS: Final = (".", "?", "!", "…", "。", "？", "！", "।", "॥", "؟", "۔", "။", "។")
_ENDS_WORD: Final = ("—", "…", "...", "。", "、", "，", "！", "？", "；", "：", "।", "॥")

# On speech of two synthesisers in four languages, whose words have known times, attention comes 60 to 120 ms early.
_LEAD_SECONDS: Final = 0.08
_LONGEST_SECONDS: Final = 1.0
_LOUDNESS_SAMPLES: Final = SAMPLE_RATE // 100
# Of a word's loudest moment: 30 dB below it.
_QUIET: Final = 0.03


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in the tokens: `share` of the way through those of piece number `piece`."""

    piece: int
    share: float


@dataclass(frozen=True, slots=True)
class Character:
    """One character as a reader sees it, and the stretch of tokens that it is spoken in."""

    text: str
    start: Moment
    end: Moment

    @property
    def spoken(self) -> bool:
        """Whether it is more than punctuation."""
        return _spoken(self.text)

    @property
    def stands_alone(self) -> bool:
        """Whether it is a word of its own, as its script has no spaces."""
        return stands_alone(self.text)

    @property
    def opens(self) -> bool:
        """Whether it is punctuation that belongs to what follows."""
        return self.text in _OPENING or unicodedata.category(self.text[0]) in ("Ps", "Pi", "Pd")


Spelling = list[Character]
"""The characters of a word, its punctuation and the space before it among them."""


def stands_alone(character: str) -> bool:
    """Whether a character is a word of its own, as its script has no spaces."""
    return bool(WITHOUT_SPACES.match(character)) and not character[0].isdigit()


def characters(pieces: Sequence[str]) -> list[Character]:
    """The characters of a text in `pieces`, spread evenly over the tokens of the piece that they begin in."""
    text = "".join(pieces)
    piece_at = [number for number, piece in enumerate(pieces) for _ in piece]
    edges = [*_edges(text), len(text)]
    clusters = [(first, last) for first, last in pairwise(edges)]
    shares = [0] * len(pieces)
    for first, last in clusters:
        shares[piece_at[first]] += _spoken(text[first:last])
    taken = [0] * len(pieces)
    found: list[Character] = []
    for first, last in clusters:
        begins, ends = piece_at[first], piece_at[last - 1]
        parts = max(1, shares[begins])
        start = Moment(begins, min(taken[begins], parts) / parts)
        taken[begins] += _spoken(text[first:last])
        if ends == begins:
            end = Moment(begins, min(taken[begins], parts) / parts)
        else:
            end = Moment(ends, 0.0 if shares[ends] else 1.0)
        found.append(Character(text[first:last], start, end))
    return found


def _edges(text: str) -> Iterator[int]:
    """Where the characters of `text` begin."""
    for index, c in enumerate(text):
        mark = unicodedata.category(c)[0] == "M" or _PART_OF_CHARACTER.match(c)
        if index == 0 or not (mark or text[index - 1] in _JOINS_NEXT):
            yield index


@lru_cache(maxsize=4096)
def _spoken(character: str) -> bool:
    return any(c in _SPOKEN_MARKS or unicodedata.category(c)[0] not in "PZC" for c in character)


def spelled(pieces: Sequence[str]) -> list[Spelling]:
    """The words of a text that comes in `pieces`; each has something that is spoken, and the space before it."""
    cut: list[Spelling] = []
    space: Spelling = []
    for character in characters(pieces):
        if character.text.isspace():
            space = [replace(character, text=" ")]
            continue
        if not cut or space or _begins_word(cut[-1], character):
            cut.append(space)
        cut[-1].append(character)
        space = []
    return _with_punctuation(cut)


def _begins_word(word: Spelling, character: Character) -> bool:
    """Whether `character`, written right after `word`, is of another."""
    last = next((c for c in reversed(word) if c.spoken), None)
    if last is None:
        return False
    if character.spoken:
        ended = _text(word).endswith(_ENDS_WORD)
        return ended or character.stands_alone or last.stands_alone
    wide = unicodedata.east_asian_width(character.text[0]) in "WF"
    return character.opens and (wide or last.stands_alone)


def _with_punctuation(cut: Sequence[Spelling]) -> list[Spelling]:
    """Give punctuation that is written apart to the word before it, or after it where it opens something."""
    words: list[Spelling] = []
    waiting: Spelling = []
    for word in cut:
        first = next(character for character in word if character.text != " ")
        if any(character.spoken for character in word):
            words.append([*waiting, *word])
            waiting = []
        elif first.opens or not words:
            waiting += word
        else:
            words[-1] += word
    if waiting and words:
        words[-1] += waiting
    return words


def _text(word: Spelling) -> str:
    return "".join(character.text for character in word)


def timed(
    pieces: Sequence[tuple[str, int]], times: Sequence[float], logprobs: Sequence[float], seconds: float
) -> list[tuple[int, SpokenWord]]:
    """The words of a window of that many seconds, each with the index of the token that it begins in.

    `pieces` are texts and how many tokens each takes; `times` has the seconds at which each token begins, and one more
    for the end of the last; `logprobs` one for each token.
    """
    first_tokens = [0]
    for _, count in pieces:
        first_tokens.append(first_tokens[-1] + count)

    def time(moment: Moment) -> float:
        begin, end = (times[first_tokens[moment.piece + more]] for more in (0, 1))
        return begin + moment.share * (end - begin)

    words: list[tuple[int, SpokenWord]] = []
    for word in spelled([text for text, _ in pieces]):
        spoken = [character for character in word if character.spoken]
        start, end = spoken[0].start, spoken[-1].end
        first = first_tokens[start.piece]
        last = first_tokens[end.piece + (end.share > 0 or end.piece == start.piece)]
        probability = sum(math.exp(logprob) for logprob in logprobs[first:last]) / (last - first)
        began = min(time(start), seconds)
        words.append((first, SpokenWord(_text(word), began, max(began, min(time(end), seconds)), probability)))
    return words


def settled(words: Sequence[tuple[int, SpokenWord]], samples: npt.NDArray[np.int16]) -> list[tuple[int, SpokenWord]]:
    """The words with the times that attention gave them, corrected by the audio and by what a word can last.

    `samples` are those of the window. Attention runs ahead of the speech, and leaves nothing out: a pause is always
    some word's. So all moves back by the lead, what is quiet at a word's ends is taken from it, and a word beside a
    sentence's end that is still long beyond belief is cut there.
    """
    seconds = len(samples) / SAMPLE_RATE
    loudness = _loudness(samples)
    found = [(first, _without_quiet(_later(word, seconds), loudness)) for first, word in words]
    durations = [word.end - word.start for _, word in found]
    longest = max(_LONGEST_SECONDS, 2 * statistics.median(durations)) if durations else 0.0
    for index, (first, word) in enumerate(found):
        if word.end - word.start <= longest:
            continue
        if word.text.endswith(_SENTENCE_ENDS):
            found[index] = (first, replace(word, end=word.start + longest))
        elif index == 0 or found[index - 1][1].text.endswith(_SENTENCE_ENDS):
            found[index] = (first, replace(word, start=word.end - longest))
    return found


def _later(word: SpokenWord, seconds: float) -> SpokenWord:
    start = word.start + _LEAD_SECONDS if word.start > 0 else 0.0
    return replace(word, start=min(start, seconds), end=min(word.end + _LEAD_SECONDS, seconds))


def _loudness(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Root mean square of each hundredth of a second."""
    whole = len(samples) // _LOUDNESS_SAMPLES * _LOUDNESS_SAMPLES
    parts = samples[:whole].astype(np.float32).reshape(-1, _LOUDNESS_SAMPLES)
    loudness: npt.NDArray[np.float32] = np.sqrt(np.square(parts).mean(axis=1))
    return loudness


def _without_quiet(word: SpokenWord, loudness: npt.NDArray[np.float32]) -> SpokenWord:
    a_second = SAMPLE_RATE / _LOUDNESS_SAMPLES
    first = int(word.start * a_second)
    within = loudness[first : math.ceil(word.end * a_second)]
    loud = np.flatnonzero(within > _QUIET * within.max()) if within.size else within
    if not loud.size:
        return word
    start = max(word.start, (first + int(loud[0])) / a_second)
    return replace(word, start=start, end=max(start, min(word.end, (first + int(loud[-1]) + 1) / a_second)))
