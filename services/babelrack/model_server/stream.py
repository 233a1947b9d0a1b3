"""One live stream: voice activity cuts utterances, and while one grows its audio is decoded again and again.

What two decodes in a row agree on is certain (`agreement`); the next is primed with it, and audio whose words are
certain is dropped, so that a second of speech costs the same however long somebody speaks.

Where utterances begin and end depends on the audio alone, `max_words` aside. Load decides when decodes happen, and so
which two hypotheses agree, what the last is primed with, and where audio is dropped: a word of a final may come out
otherwise on a busy machine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from babelrack.audio.voice_activity import SpeechProbability
from babelrack.engine import Admitted, EngineError, Window
from babelrack.model_server.agreement import pieces
from babelrack.model_server.decoding import EngineFailed, Found, decode
from babelrack.model_server.endpointing import Closed, Cut, Endpointer, Opened, Paused, Resumed, Speech
from babelrack.model_server.keywords import KeywordTrees
from babelrack.model_server.utterance import Utterance
from babelrack.model_server.voices import packed, unpacked
from babelrack.pairing import SAMPLE_RATE, Finalize, Partial, SpeechEnded, SpeechStarted, StreamDone, Word
from babelrack.pairing import Final as FinalText
from babelrack.speakers import Session as Speakers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    import numpy.typing as npt

    from babelrack.engine import Spoken
    from babelrack.model_server.decoding import Decoded
    from babelrack.model_server.endpointing import Cause, Mark
    from babelrack.model_server.loading import Loaded
    from babelrack.model_server.routing import Route
    from babelrack.model_server.turns import Place
    from babelrack.pairing import StreamEvent, StreamRequest

_STEP: Final = SAMPLE_RATE // 2
"""Speech that is new since the last decode, for the next to be worth it."""
_FIRST: Final = SAMPLE_RATE
"""Audio of the first decode of a stretch: from less, a recogniser makes things up."""
_HOLD_WORDS: Final = 2
"""The last words before the audio's end are not certain, even if two hypotheses agree: both may guess."""
_TRIM_FROM: Final = 12 * SAMPLE_RATE
"""From this length on, the window's audio is dropped as far as its words are certain, …"""
_TRIM_TO: Final = (4 * SAMPLE_RATE, 7 * SAMPLE_RATE)
"""… at a pause that leaves that much of it: shorter windows are misread, and say the text before them again."""
_FORCE_FROM: Final = 20 * SAMPLE_RATE
"""A window of this length is cut whether or not two hypotheses agree."""
_FORCE_HOLD: Final = SAMPLE_RATE
"""Words that end so late in a window are not forced."""
_LONGEST_WINDOW: Final = 28 * SAMPLE_RATE
_BACKLOG: Final = 8 * SAMPLE_RATE
"""Speech that was read and isn't decoded yet; more is not read."""


class Ring:
    """The audio that may still be needed, by its place in the stream."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._first = 0

    @property
    def end(self) -> int:
        """Samples of the stream so far."""
        return self._first + len(self._held) // 2

    def add(self, pcm: bytes) -> npt.NDArray[np.int16]:
        """Add s16le PCM, cut anywhere; returns the samples that it completes."""
        before = self.end
        self._held += pcm
        return self.samples(before, self.end)

    def samples(self, start: int, end: int) -> npt.NDArray[np.int16]:
        """The samples [start, end) of the stream."""
        first, last = (2 * (sample - self._first) for sample in (start, end))
        return np.frombuffer(bytes(self._held[first:last]), "<i2")

    def forget(self, before: int) -> None:
        """Drop what lies before a sample."""
        if before > self._first:
            del self._held[: 2 * (before - self._first)]
            self._first = before


@dataclass(eq=False, slots=True)
class _Stretch:
    """Speech without a long pause: its window begins at `start`, and is decoded up to `decoded`.

    `heard` is where it ends, once `closed`, and before that where it would, in a pause.
    """

    begin: int
    start: int
    decoded: int
    heard: int | None = None
    closed: bool = False


class Stream:
    """Runs one stream on the engine; `send` puts its events on the wire.

    Speech events go out as they are heard; the text of what was heard follows when it is decoded.
    """

    def __init__(
        self,
        request: StreamRequest,
        route: Route,
        loaded: Loaded,
        send: Callable[[StreamEvent], Awaitable[None]],
    ) -> None:
        self._request = request
        self._route = route
        self._routing = loaded.routing
        self._engine = loaded.engine
        self._turns = loaded.turns
        self._place: Place | None = None
        self._keywords = KeywordTrees(loaded.engine, request.keywords)
        self._send = send
        self._probability = SpeechProbability(loaded.voice)
        diarizer = loaded.diarizer if request.diarize and request.words else None
        self._speakers = Speakers(diarizer, known=unpacked(request.voices, diarizer)) if diarizer else None
        self._endpointer = Endpointer(
            endpointing=request.endpointing, eou_timeout_ms=request.eou_timeout_ms, bounded=request.bounded
        )
        self._ring = Ring()
        self._work: deque[_Stretch | Cut] = deque()
        self._open = _Stretch(0, 0, 0)
        self._ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._utterance = self._next_utterance()
        self._number = 0
        self._begin: int | None = None
        self._until = 0
        self._told: tuple[str, int] | None = None

    async def run(self, frames: AsyncIterator[bytes | Finalize]) -> None:
        """Transcribe s16le PCM in pieces to its end; cancelling it takes its window out of the batch.

        Raises:
            EngineFailed: when a window is lost, and is lost again.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(frames))
                tasks.create_task(self._tell())
        except* (EngineFailed, EngineError) as lost:
            raise EngineFailed(str(lost.exceptions[0])) from None

    async def _listen(self, frames: AsyncIterator[bytes | Finalize]) -> None:
        async for frame in frames:
            if isinstance(frame, Finalize):
                await self._mark(self._endpointer.cut(self._ring.end, "finalize"))
                continue
            samples = self._ring.add(frame)
            probabilities = await asyncio.to_thread(self._probability.feed, samples)
            if self._speakers is not None:
                self._speakers.hear(samples, probabilities)
            await self._mark(self._endpointer.feed(probabilities.tolist()))
            self._forget()
            while self._backlog > _BACKLOG:
                self._room.clear()
                await self._room.wait()
        probabilities = await asyncio.to_thread(self._probability.flush)
        await self._mark(self._endpointer.feed(probabilities.tolist()))
        await self._mark(self._endpointer.cut(self._ring.end, "end"))
        self._ended = True
        self._news.set()

    async def _mark(self, marks: Iterable[Mark]) -> None:
        for mark in marks:
            match mark:
                case Speech(at, begins):
                    event = SpeechStarted if begins else SpeechEnded
                    await self._send(event(at=self._clock(at)))
                case Opened(at):
                    self._open = _Stretch(at, at, at)
                    self._work.append(self._open)
                case Paused(at) | Closed(at):
                    self._open.heard, self._open.closed = min(at, self._ring.end), isinstance(mark, Closed)
                    self._hurry(urgent=True)
                case Resumed():
                    self._open.heard = None
                    self._hurry(urgent=False)
                case Cut():
                    self._work.append(mark)
        self._news.set()

    def _hurry(self, *, urgent: bool) -> None:
        if self._place is not None:
            self._place.urgent = urgent

    @property
    def _backlog(self) -> int:
        """Samples that are heard and not decoded."""
        first = next((work for work in self._work if isinstance(work, _Stretch)), None)
        return self._ring.end - first.decoded if first is not None else 0

    def _forget(self) -> None:
        """Keep the audio of the oldest stretch, and what may belong to the next."""
        starts = (work.start for work in self._work if isinstance(work, _Stretch))
        self._ring.forget(min(next(starts, self._ring.end), self._endpointer.needed_from, self._ring.end))

    async def _tell(self) -> None:
        """Decode stretches and end utterances, in the order of the audio."""
        while True:
            while await self._advance():
                self._room.set()
            if self._ended:
                break
            await self._news.wait()
            self._news.clear()
        await self._send(StreamDone(duration=round(self._ring.end / SAMPLE_RATE, 3)))

    async def _advance(self) -> bool:
        """Do what is first in line; False when there is nothing to do before more is heard."""
        if not self._work:
            return False
        work = self._work[0]
        if isinstance(work, Cut):
            self._work.popleft()
            await self._finish(work.at, work.cause)
            return True
        if self._begin is None:
            self._begin = self._until = work.begin
        if work.closed and work.heard is not None and work.decoded >= work.heard:
            self._utterance.settle()
            await self._split(work)
            self._utterance.commit()
            self._work.popleft()
            return True
        if self._decodable(work) is None:
            return False
        with self._turns.place(urgent=work.heard is not None) as self._place:
            await self._place.come.wait()
            until = self._decodable(work)  # by now more is heard
            if until is not None:
                await self._decode(work, until, self._place)
        return True

    def _decodable(self, stretch: _Stretch) -> int | None:
        """The sample up to which the stretch is worth decoding now."""
        longest = stretch.start + _LONGEST_WINDOW
        if stretch.heard is not None:
            return min(stretch.heard, longest) if stretch.heard > stretch.decoded else None
        new = self._ring.end - stretch.decoded
        least = _FIRST if stretch.decoded == stretch.begin else _STEP
        return min(self._ring.end, longest) if new >= least else None

    async def _decode(self, stretch: _Stretch, until: int, place: Place) -> None:
        utterance = self._utterance
        start = stretch.start
        long = until - start >= _TRIM_FROM
        words = self._request.words or self._request.max_words is not None or long
        prefix = utterance.prefix
        decoded = await self._ask(
            Window(
                samples=self._ring.samples(start, until),
                languages=(utterance.language,) if self._fixed and utterance.language else self._route.languages,
                prompt=utterance.prompt,
                timestamps=False,
                words=words,
                live=True,
                retry=until == stretch.heard,
                prefix=tuple(token for piece in prefix for token in piece.tokens),
                prefix_logprobs=tuple(value for piece in prefix for value in piece.logprobs),
                guess=tuple(token for piece in utterance.rest for token in piece.tokens),
            ),
            place,
        )
        answer = decoded.answer
        tokens = [token for segment in answer.segments for token in segment.tokens]
        if (answer.language, decoded.checkpoint) != (utterance.language, utterance.checkpoint):
            utterance.forget()
            utterance.checkpoint = decoded.checkpoint
        utterance.language = answer.language
        utterance.hear(
            pieces(self._engine.pieces(decoded.checkpoint, tokens), tokens, answer.logprobs),
            [word for segment in answer.segments for word in segment.words],
            start,
            hold=_HOLD_WORDS,
        )
        stretch.decoded = until
        self._until = until
        await self._split(stretch)
        if long and until != stretch.heard:
            self._trim(stretch, until)
        if not (stretch.closed and stretch.heard == until):
            await self._tell_partial()

    @property
    def _fixed(self) -> bool:
        """Whether the utterance's language is given, or was detected and has text that is certain."""
        return len(self._route.languages) == 1 or self._utterance.stable > 0

    async def _ask(self, window: Window, place: Place) -> Decoded:
        def hear(event: Admitted | Found | Spoken) -> None:
            if isinstance(event, Admitted):
                place.over()

        checkpoint = self._utterance.checkpoint if self._fixed else self._route.checkpoint
        try:
            return await decode(self._engine, self._routing, checkpoint, window, hear, self._keywords)
        except EngineFailed:
            # What failed may have been another window of the batch.
            return await decode(self._engine, self._routing, checkpoint, window, hear, self._keywords)

    def _trim(self, stretch: _Stretch, until: int) -> None:
        """Drop audio whose words are certain; where none are in a window that grows too long, some are made so."""
        latest, earliest = ((until - left) / SAMPLE_RATE for left in _TRIM_TO)
        at = self._utterance.trim(earliest, latest) or self._utterance.trim(0.0, latest)
        if at is None and until - stretch.start >= _FORCE_FROM:
            self._utterance.settle_until((until - _FORCE_HOLD) / SAMPLE_RATE)
            at = self._utterance.trim(0.0, latest) or until - _FORCE_HOLD
        if at is not None:
            stretch.start = max(stretch.start, min(at, until))
            self._forget()

    async def _split(self, stretch: _Stretch) -> None:
        """Say as many words as were asked for, as soon as they are certain."""
        if self._request.max_words is None:
            return
        while (split := self._utterance.split(self._request.max_words)) is not None:
            rest = self._utterance
            self._utterance, end = split
            at = min(round(end * SAMPLE_RATE), self._until)
            await self._finish(at, "max_words", rest)
            stretch.start, self._begin = max(stretch.start, at), at

    async def _finish(self, at: int, cause: Cause, then: Utterance | None = None) -> None:
        """Say the utterance that ends at sample `at`, and go on with the next."""
        utterance, begin = self._utterance, self._begin
        text = utterance.text
        asked = cause in ("finalize", "end")
        words = await self._words(utterance, at) if self._request.words else []
        if text or asked or self._told is not None:
            start, end = (begin, min(at, self._until)) if begin is not None else (at, at)
            await self._send(
                FinalText(
                    utterance=self._number,
                    start=self._clock(start),
                    end=self._clock(max(start, end)),
                    text=text,
                    words=words,
                    language=utterance.language or self._request.language,
                    checkpoint=utterance.checkpoint,
                    confidence=round(utterance.confidence, 4),
                    cause=cause,
                    voices=packed(self._speakers) if self._speakers else None,
                )
            )
            self._number += 1
        self._told, self._begin = None, None
        if then is None:
            then = self._next_utterance()
        self._utterance = then

    def _next_utterance(self) -> Utterance:
        given = self._route.languages[0] if len(self._route.languages) == 1 else None
        return Utterance(given, self._route.checkpoint)

    async def _tell_partial(self) -> None:
        utterance = self._utterance
        text, stable = utterance.text, utterance.stable
        if not text or self._told == (text, stable) or self._begin is None:
            return
        self._told = (text, stable)
        await self._send(
            Partial(
                utterance=self._number,
                start=self._clock(self._begin),
                end=self._clock(self._until),
                text=text,
                stable=stable,
                language=utterance.language or self._request.language,
                checkpoint=utterance.checkpoint,
            )
        )

    async def _words(self, utterance: Utterance, at: int) -> list[Word]:
        """The words of an utterance that ends at sample `at`."""
        words = [
            Word(
                word=word.text,
                start=self._clock(word.start * SAMPLE_RATE),
                end=self._clock(word.end * SAMPLE_RATE),
                probability=round(word.probability, 4),
            )
            for word in utterance.words
        ]
        if self._speakers is None:
            return words
        heard = self._speakers.utterance(at)
        spans = [(word.start, word.end) for word in utterance.words]
        labels = await asyncio.to_thread(self._speakers.assign, heard, spans)
        return [
            word.model_copy(update={"speaker": label.speaker, "speaker_confidence": round(label.confidence, 4)})
            for word, label in zip(words, labels, strict=True)
        ]

    def _clock(self, sample: float) -> float:
        return round(self._request.start_s + sample / SAMPLE_RATE, 3)
