"""Where utterances begin and end, by what voice activity says of each frame of 32 ms: policy without sockets.

It depends on the audio alone, never on a clock, so that a file that is pushed at once is cut as it would be at the pace
of speech. An utterance consists of stretches: a pause that is worth leaving out parts two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from babelrack.audio.voice_activity import FRAME_SAMPLES
from babelrack.pairing import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Iterable

Cause = Literal["endpoint", "finalize", "max_words", "length", "end"]


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """When speech begins, pauses and ends. Times in seconds."""

    threshold: float = 0.5
    """From this probability on a frame begins speech, …"""
    silence: float = 0.35
    """… and below this one it is part of a pause."""
    first_frames: int = 2
    """As many frames in a row begin speech; fewer may be a click."""
    before: float = 0.3
    """Kept of what comes before speech: soft beginnings score little."""
    after: float = 0.3
    """Kept of the silence after speech; a pause of this length is one."""
    rest: float = 1.0
    """A pause longer than this is left out, and parts two stretches."""
    long: float = 20.0
    """An utterance of this length ends at the next pause between words, …"""
    longer: float = 24.0
    """… one of this length at the next weak frame, …"""
    longest: float = 27.0
    """… and one of this length at once."""
    breath: float = 0.16
    """The least silence that is a pause between words."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Somebody begins to speak (`begins`) or has ended, at sample `at`."""

    at: int
    begins: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """A stretch of speech begins at sample `at`, with what is kept before it."""

    at: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The stretch may be over: what was spoken lies before sample `at`, with what is kept after it."""

    at: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The stretch goes on after a pause."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The stretch is over, and ends at sample `at`."""

    at: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The utterance, whose stretches are closed, ends at sample `at`."""

    at: int
    cause: Cause


Mark = Speech | Opened | Paused | Resumed | Closed | Cut


class Endpointer:
    """Goes through one stream, frame by frame."""

    def __init__(
        self, *, endpointing: bool, eou_timeout_ms: int, bounded: bool, policy: EndpointPolicy | None = None
    ) -> None:
        self._policy = policy or EndpointPolicy()
        self._endpointing = endpointing
        self._timeout = eou_timeout_ms * SAMPLE_RATE // 1000
        self._bounded = bounded
        self._frame = 0
        self._settled = 0
        self._run = 0
        self._speaking = False
        self._maybe: int | None = None
        self._speech_end = 0
        self._open = False
        self._paused = False
        self._spoken = 0
        self._begun = False

    def feed(self, probabilities: Iterable[float]) -> list[Mark]:
        """What the next frames bring, in the order of time."""
        marks: list[Mark] = []
        for probability in probabilities:
            marks += self._hear(probability)
            self._frame += 1
        return marks

    @property
    def needed_from(self) -> int:
        """The sample from which on audio may still be wanted by a stretch that isn't open yet."""
        margin = _samples(self._policy.before) + self._policy.first_frames * FRAME_SAMPLES
        earliest = self._frame * FRAME_SAMPLES - margin
        if self._maybe is not None:
            earliest = min(earliest, self._maybe - margin)
        return max(self._settled, earliest)

    def cut(self, at: int, cause: Cause) -> list[Mark]:
        """End the utterance at sample `at`, where all that was fed ends, whatever is being said."""
        marks: list[Mark] = []
        if not self._open and self._maybe is not None:
            # Too short to begin speech, but somebody waits for it.
            self._speech_end = self._frame * FRAME_SAMPLES
            marks.append(self._begin(self._maybe))
        if self._open:
            marks.append(self._close(self._heard(at)))
        if cause == "end" and self._speaking:
            marks.append(Speech(min(self._speech_end, at), begins=False))
        marks.append(self._end(at, cause))
        return marks

    def _hear(self, probability: float) -> list[Mark]:
        policy = self._policy
        start = self._frame * FRAME_SAMPLES
        end = start + FRAME_SAMPLES
        marks: list[Mark] = []
        if not self._speaking:
            marks += self._await_speech(start, sounds=probability >= policy.threshold)
        if self._speaking and probability >= policy.silence:
            self._speech_end = end
            if self._paused:
                self._paused = False
                marks.append(Resumed())
            if not self._open:
                marks.append(self._begin(start))
        if self._open:
            self._spoken += FRAME_SAMPLES
        silent = end - self._speech_end
        if self._open and not self._paused and silent >= min(_samples(policy.after), self._timeout):
            self._paused = True
            marks.append(Paused(self._heard(end)))
        marks += self._await_silence(end, silent)
        if self._bounded and self._open and self._is_long(silent, probability):
            marks += [self._close(self._heard(end)), self._end(end, "length")]
        return marks

    def _await_speech(self, start: int, *, sounds: bool) -> list[Mark]:
        """The frame at sample `start`, while nobody speaks."""
        self._run = self._run + 1 if sounds else 0
        if sounds and self._maybe is None:
            self._maybe = start
        if self._run < self._policy.first_frames:
            if self._maybe is not None and start - self._maybe > self._timeout:
                self._maybe = None
            return []
        self._speaking, self._maybe = True, None
        first = start - (self._run - 1) * FRAME_SAMPLES
        marks: list[Mark] = [Speech(first, begins=True)]
        return marks if self._open else [*marks, self._begin(first)]

    def _await_silence(self, end: int, silent: int) -> list[Mark]:
        """What comes to its end where `silent` samples before `end` hold no speech."""
        ended = self._speaking and silent >= self._timeout
        marks: list[Mark] = []
        if self._open and (silent >= _samples(self._policy.rest) or (ended and self._endpointing)):
            marks.append(self._close(self._heard(end)))
        if ended:
            self._speaking, self._run = False, 0
            marks.append(Speech(self._speech_end, begins=False))
            if self._endpointing and self._begun:
                marks.append(self._end(end, "endpoint"))
        return marks

    def _begin(self, speech: int) -> Opened:
        self._open = self._begun = True
        self._paused = False
        begin = max(self._settled, speech - _samples(self._policy.before))
        self._spoken += max(0, speech - begin)
        return Opened(begin)

    def _heard(self, now: int) -> int:
        """Where the speech so far ends, with what is kept after it."""
        return min(now, self._speech_end + min(_samples(self._policy.after), self._timeout))

    def _close(self, heard: int) -> Closed:
        self._open = self._paused = False
        self._settled = heard
        return Closed(heard)

    def _end(self, at: int, cause: Cause) -> Cut:
        self._begun = False
        self._spoken, self._settled, self._maybe = 0, at, None
        return Cut(at, cause)

    def _is_long(self, silent: int, probability: float) -> bool:
        policy = self._policy
        if self._spoken < _samples(policy.long):
            return False
        weak = self._spoken >= _samples(policy.longer) and probability < policy.threshold
        return silent >= _samples(policy.breath) or weak or self._spoken >= _samples(policy.longest)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
