"""The written form of a transcript, as a request's options want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelrack.writing.digits import digits_of
from babelrack.writing.entities import PCI, PII, entities_of
from babelrack.writing.lexicon import reads_digit_words
from babelrack.writing.marks import without_capitals, without_punctuation
from babelrack.writing.numbering import TOKEN, Numbering
from babelrack.writing.numerals import NUMERAL_LANGUAGES, in_numerals
from babelrack.writing.tail import settled
from babelrack.writing.transcript import Edit, Transcript, Word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FEWEST_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the text shall look like: `numerals` for spoken numbers, `pii` and `pci` for what is redacted."""

    punctuate: bool = True
    capitalize: bool = True
    numerals: bool = False
    pii: bool = False
    pci: bool = False

    @property
    def redacts(self) -> frozenset[str]:
        """The kinds of entities that are replaced."""
        return (PII if self.pii else frozenset()) | (PCI if self.pci else frozenset())


@dataclass(frozen=True)
class Written:
    """A text and its words in their written form, which agree: each word is found in the text, in order.

    `origins` are the words that were given, by index, from which each word was made. `warnings` has a sentence for
    each option that had no effect, or less than its name says.
    """

    text: str
    words: tuple[Word, ...]
    origins: tuple[range, ...]
    warnings: tuple[str, ...]
    _transcript: Transcript

    def passage(self, first: int, last: int) -> str:
        """The text of the given words `first` to `last` (not included), an utterance for instance.

        A word made of words of two passages belongs to the one that it begins in, so that passages which follow
        each other have every word once.
        """
        places = [place for place in self._transcript.places if first <= place.first < last]
        return self.text[places[0].start : places[-1].end] if places else ""


def write(
    text: str,
    words: Sequence[Word] = (),
    *,
    language: str,
    form: Form,
    numbering: Numbering | None = None,
    partial: bool = False,
) -> Written:
    """`text` and its `words` in `form`.

    Args:
        text: what was recognised.
        words: the words of `text`, in order; none when they aren't wanted.
        language: of the text, as Whisper has it.
        form: what to do; one that changes nothing returns the text as it is.
        numbering: the session's, so that an entity keeps its token; a new one for a text that stands alone.
        partial: whether the text may still grow. When something is redacted, the end that could still become part
            of an entity is left out of the text and the words, so that no part of it is shown too early. Numerals
            may still change with what follows: `twenty` is 20 until `five` is said.

    Raises:
        ValueError: when the words aren't in the text.
    """
    transcript = Transcript.of(text, words)
    if form.redacts:
        if partial:
            transcript = transcript.until(settled(text, language))
        transcript = _redacted(transcript, language, form.redacts, numbering or Numbering())
    if form.numerals:
        transcript = transcript.edited(in_numerals(transcript.text, language))
    if not form.punctuate:
        transcript = without_punctuation(transcript)
    if not form.capitalize:
        transcript = without_capitals(transcript)
    written = tuple(
        Word(
            text=transcript.text[place.start : place.end],
            start=words[place.first].start,
            end=words[place.last - 1].end,
            # As sure as the least sure of the words that it was made of.
            confidence=min(word.confidence for word in words[place.first : place.last]),
        )
        for place in transcript.places
    )
    origins = tuple(range(place.first, place.last) for place in transcript.places)
    return Written(transcript.text, written, origins, tuple(_warnings(language, form)), transcript)


def unfinished(text: str, language: str, form: Form, *, paused: bool) -> int:
    """The character from which `text` may be the beginning of an entity that is said to its end in the next text.

    It is the text's length when nothing has to wait. Where the text was cut while somebody spoke, all that isn't
    `settled` waits. Where they paused, only digits do, three or more that aren't part of an entity yet: people pause
    within the numbers that they read out.
    """
    if not form.redacts:
        return len(text)
    start = settled(text, language)
    if not paused:
        return start
    redacted = write(text[start:], language=language, form=Form(pii=form.pii, pci=form.pci)).text
    digits = sum(len(piece.value) for piece in digits_of(TOKEN.sub(" ", redacted), language))
    return start if digits >= _FEWEST_DIGITS else len(text)


def _redacted(transcript: Transcript, language: str, kinds: frozenset[str], numbering: Numbering) -> Transcript:
    return transcript.edited(
        Edit(entity.start, entity.end, numbering.token(entity.kind, entity.value))
        for entity in entities_of(transcript.text, language)
        if entity.kind in kinds
    )


def _warnings(language: str, form: Form) -> Iterator[str]:
    if form.numerals and language not in NUMERAL_LANGUAGES:
        yield f"itn_normalize has no effect in language {language}; it knows {', '.join(NUMERAL_LANGUAGES)}."
    if form.pii:
        yield "redact_pii doesn't find names and postal addresses; they are in the text as they were said."
    if form.redacts and not reads_digit_words(language):
        yield f"redaction reads numerals only in language {language}; digits said in its words stay in the text."
