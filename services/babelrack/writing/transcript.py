"""A transcript whose text and words stay one: every change is an edit of the text, and the words follow it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a transcript: `start` and `end` in seconds, `confidence` from 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Edit:
    """The characters from `start` to `end`, at least one, become `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a word is: characters `start` to `end` of the text; it was made of the words `first` to `last` (not
    included) of the ones that were given."""

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Transcript:
    """A text and where its words are in it, in order and without overlap."""

    text: str
    places: tuple[Place, ...] = ()

    @classmethod
    def of(cls, text: str, words: Sequence[Word]) -> Transcript:
        """The transcript of `text`, in which `words` come in order.

        Raises:
            ValueError: when a word isn't found in the text after the one before it.
        """
        places = []
        position = 0
        for index, word in enumerate(words):
            bare = word.text.strip()
            start = text.find(bare, position)
            if start < 0:
                # The word itself may be what has to be redacted, and errors are logged.
                raise ValueError(f"word {index + 1} of {len(words)} isn't in the text after the one before it.")
            position = start + len(bare)
            if bare:
                places.append(Place(start, position, index, index + 1))
        return cls(text, tuple(places))

    def edited(self, edits: Iterable[Edit]) -> Transcript:
        """The transcript after `edits`, which don't overlap; words that share an edit become one, empty ones go."""
        ordered = sorted(edits, key=lambda edit: edit.start)
        if not ordered:
            return self
        parts: list[str] = []
        shifts = [0]  # by how much the text after so many edits has moved
        position = 0
        for edit in ordered:
            parts += self.text[position : edit.start], edit.text
            position = edit.end
            shifts.append(shifts[-1] + len(edit.text) - (edit.end - edit.start))
        parts.append(self.text[position:])
        text = "".join(parts)
        starts = [edit.start for edit in ordered]

        def moved(place: Place) -> Place:
            before = bisect_left(starts, place.start)
            start = place.start + shifts[before]
            if before and ordered[before - 1].end > place.start:
                start = ordered[before - 1].start + shifts[before - 1]
            until = bisect_left(starts, place.end)
            end = place.end + shifts[until]
            if until and ordered[until - 1].end > place.end:
                end = ordered[until - 1].end + shifts[until]
            while start < end and text[start].isspace():
                start += 1
            while start < end and text[end - 1].isspace():
                end -= 1
            return Place(start, end, place.first, place.last)

        merged: list[Place] = []
        for place in self.places:
            if merged:
                last = merged[-1]
                before = bisect_left(starts, last.end)
                if before and ordered[before - 1].end > place.start:
                    merged[-1] = Place(last.start, place.end, last.first, place.last)
                    continue
            merged.append(place)
        places = (moved(place) for place in merged)
        return Transcript(text, tuple(place for place in places if place.start < place.end))

    def until(self, end: int) -> Transcript:
        """The transcript up to character `end`, with the words that are whole in it."""
        return Transcript(self.text[:end].rstrip(), tuple(place for place in self.places if place.end <= end))
