"""Segments, or words, as SubRip (srt) and WebVTT."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Timed(Protocol):
    """Text with its times in seconds."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def text(self) -> str: ...


class Cue(NamedTuple):
    """What is shown from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def _clock(seconds: float, separator: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{separator}{milliseconds % 1000:03d}"


def _cues(segments: Iterable[Timed], separator: str) -> Iterable[tuple[str, str]]:
    for segment in segments:
        # One line a cue: a blank line would end it, and an arrow would start another.
        text = " ".join(segment.text.split()).replace("-->", "->")
        if text:
            end = max(segment.end, segment.start + 0.001)
            yield f"{_clock(segment.start, separator)} --> {_clock(end, separator)}", text


def srt(segments: Iterable[Timed]) -> str:
    """SubRip: numbered cues, times with a comma."""
    return "".join(f"{number}\n{times}\n{text}\n\n" for number, (times, text) in enumerate(_cues(segments, ","), 1))


def vtt(segments: Iterable[Timed]) -> str:
    """WebVTT: a header, times with a point, text escaped as its cues need."""
    cues = (f"{times}\n{html.escape(text, quote=False)}\n\n" for times, text in _cues(segments, "."))
    return "WEBVTT\n\n" + "".join(cues)
