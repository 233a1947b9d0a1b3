"""One utterance while it is spoken: text that is certain, text that may still change, words with their times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from babelrack.model_server.agreement import Piece, agreed, text_of
from babelrack.model_server.decoding import separator
from babelrack.pairing import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babelrack.engine import SpokenWord

_PROMPT_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word by the stream's clock in seconds, with the space before it and the punctuation after it."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(slots=True)
class Hypothesis:
    """What the last decode said of the window: the first `stable` pieces are certain.

    `words`, where they were asked for, are each with the index of the character after it.
    """

    pieces: list[Piece] = field(default_factory=list)
    stable: int = 0
    words: list[tuple[int, TimedWord]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the window."""
        return text_of(self.pieces)


class Utterance:
    """The text of one utterance: what was committed, its audio gone, and the hypothesis for the window after it.

    `context` is text before it, where it begins in the middle of speech.

    Attributes:
        language: None until it is given or detected; it is kept once text is certain.
        checkpoint: which decodes it.
    """

    def __init__(self, language: str | None, checkpoint: str, context: str = "") -> None:
        self.language = language
        self.checkpoint = checkpoint
        self._context = context
        self._earliest = 0.0
        self._committed = ""
        self._words: list[TimedWord] = []
        self._logprobs: list[float] = []
        self._now = Hypothesis()

    @property
    def text(self) -> str:
        """All of it."""
        return self._joined(self._now.text)

    @property
    def stable(self) -> int:
        """How many characters of the text are certain."""
        return len(self._joined(text_of(self._now.pieces[: self._now.stable])))

    @property
    def words(self) -> list[TimedWord]:
        """The words of the text, as far as they were asked for; they concatenate to it."""
        return [*self._words, *(word for _, word in self._now.words)]

    @property
    def prefix(self) -> list[Piece]:
        """What the next decode of the window begins with."""
        return self._now.pieces[: self._now.stable]

    @property
    def rest(self) -> list[Piece]:
        """What the last decode said after that, and the next may say again."""
        return self._now.pieces[self._now.stable :]

    @property
    def prompt(self) -> str | None:
        """The end of what was said before the window, from a word's beginning on."""
        before = f"{self._context} {self._committed}".strip()
        tail = before[-_PROMPT_CHARACTERS:]
        if len(tail) < len(before) and " " in tail:
            tail = tail[tail.index(" ") :]
        return tail.strip() or None

    @property
    def confidence(self) -> float:
        """The mean probability of the text's tokens."""
        logprobs = [*self._logprobs, *(value for piece in self._now.pieces for value in piece.logprobs)]
        return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0

    def hear(self, pieces: list[Piece], words: Sequence[SpokenWord], start: int, *, hold: int = 1) -> None:
        """Take a new hypothesis for the window that begins at sample `start`."""
        stable = agreed(self._now.pieces, pieces, least=self._now.stable, hold=hold)
        self._now = Hypothesis(pieces, stable, self._placed(text_of(pieces), words, start))

    def forget(self) -> None:
        """The next hypothesis is in another language, or from another checkpoint: nothing to agree with."""
        self._now = Hypothesis()

    def settle(self) -> None:
        """All of the hypothesis is certain."""
        self._now.stable = len(self._now.pieces)

    def settle_until(self, end: float) -> None:
        """The words that end before `end` seconds of the stream are certain, whatever the next decode says."""
        sure = max((offset for offset, word in self._now.words if word.end <= end), default=0)
        self._now.stable = max(self._now.stable, self._pieces_within(sure))

    def commit(self) -> None:
        """The window is over: what was heard in it stays, and the next begins anew."""
        self._commit(len(self._now.pieces))

    def trim(self, earliest: float, latest: float) -> int | None:
        """Commit stable words, at the longest pause after one that ends from `earliest` to `latest` seconds.

        Returns:
            The sample after them at which the window goes on, None when there is no such word.
        """
        words = self._now.words
        best: tuple[float, int, float] | None = None
        for index, (offset, word) in enumerate(words):
            count = self._pieces_within(offset)
            if count > self._now.stable or len(text_of(self._now.pieces[:count])) != offset:
                continue
            after = words[index + 1][1].start if index + 1 < len(words) else word.end
            if earliest <= word.end <= latest and (best is None or after - word.end >= best[0]):
                best = (after - word.end, count, (word.end + after) / 2)
        if best is None:
            return None
        self._commit(best[1])
        return round(best[2] * SAMPLE_RATE)

    def split(self, words: int) -> tuple[Utterance, float] | None:
        """Split off the first `words` words once they are certain; needs their times.

        Returns:
            An utterance of these words, and when they end in seconds of the stream; the rest stays. None when there
            are not as many.
        """
        now = self._now
        needed = words - len(self._words)
        stable = len(text_of(now.pieces[: now.stable]))
        if len(now.words) < needed or now.words[needed - 1][0] > stable:
            return None
        offset, last = now.words[needed - 1]
        count = self._pieces_within(offset)
        inside = len(text_of(now.pieces[:count]))
        first = Utterance(self.language, self.checkpoint)
        first._committed = self._joined(now.text[:offset])
        first._words = self.words[:words]
        first._logprobs = [*self._logprobs, *(value for piece in now.pieces[:count] for value in piece.logprobs)]
        rest, kept = now.pieces[count:], max(0, now.stable - count)
        if inside < offset:  # a piece of two words: the tokens of the second are not known
            rest, kept = [Piece(rest[0].text[offset - inside :], (), ()), *rest[1:]], 0
        self._context = first._committed
        self._committed, self._words, self._logprobs = "", [], []
        left = [(end - offset, word) for end, word in now.words[needed:]]
        if left:
            left[0] = (left[0][0], replace(left[0][1], text=left[0][1].text.lstrip()))
        self._now = Hypothesis(rest, kept, left)
        self._earliest = last.end
        return first, last.end

    def _pieces_within(self, offset: int) -> int:
        """How many pieces the first `offset` characters of the hypothesis hold in whole."""
        count = length = 0
        for piece in self._now.pieces:
            length += len(piece.text)
            if length > offset:
                break
            count += 1
        return count

    def _commit(self, count: int) -> None:
        now = self._now
        gone = now.pieces[:count]
        length = len(text_of(gone))
        self._committed = self._joined(text_of(gone))
        words = [word for offset, word in now.words if offset <= length]
        self._words += words
        self._logprobs += [value for piece in gone for value in piece.logprobs]
        rest = [(offset - length, word) for offset, word in now.words if offset > length]
        self._now = Hypothesis(now.pieces[count:], max(0, now.stable - count), rest)

    def _placed(self, text: str, words: Sequence[SpokenWord], start: int) -> list[tuple[int, TimedWord]]:
        """The words of the hypothesis by the stream's clock, each spelled as it stands in the text."""
        placed: list[tuple[int, TimedWord]] = []
        begun = 0
        latest = self._words[-1].end if self._words else self._earliest
        offset_s = start / SAMPLE_RATE
        for index, word in enumerate(words):
            bare = word.text.strip()
            at = text.find(bare, begun)
            end = at + len(bare) if at >= 0 else min(len(text), begun + len(word.text))
            if index + 1 == len(words):
                end = len(text)
            spelling = text[begun:end]
            if begun == 0:
                spelling = self._joined(spelling)[len(self._joined("")) :]
            began = max(latest, offset_s + word.start)
            latest = max(began, offset_s + word.end)
            placed.append((end, TimedWord(spelling, began, latest, word.probability)))
            begun = end
        return placed

    def _joined(self, text: str) -> str:
        """The committed text with that of a window, or its beginning, after it."""
        text = text.lstrip()
        if not text:
            return self._committed
        gap = separator(self.language) if self._committed and text[0] not in _CLOSING else ""
        return self._committed + gap + text


_CLOSING: Final = frozenset(".,;:?!…)]}%’”»。、，！？；：।॥؟،")
