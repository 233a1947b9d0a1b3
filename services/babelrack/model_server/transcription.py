"""One request: audio is cut into windows, the windows are decoded side by side, the answers go out in order."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from babelrack.audio.voice_activity import SpeechProbability, VoiceActivity
from babelrack.audio.windows import Window as Cut
from babelrack.audio.windows import WindowCutter
from babelrack.engine import Spoken, Window
from babelrack.model_server.decoding import EngineFailed, Found, decode, separator
from babelrack.model_server.keywords import KeywordTrees
from babelrack.pairing import SAMPLE_RATE, Delta, Done, LanguageDetected, Segment, Turn, Word
from babelrack.speakers import Diarization

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from babelrack.engine import Admitted, Engine, SpokenWord, Transcribed
    from babelrack.model_server.routing import Route, Routing
    from babelrack.pairing import ModelEvent, Request
    from babelrack.speakers import Diarizer

# Enough to fill a batch alone, few enough that a long file neither crowds out others nor holds much memory.
_WINDOWS_IN_FLIGHT = 16
_LEAST_REST_SECONDS = 1.0


@dataclass(slots=True)
class _Part:
    """What is known of one window, until its turn to be sent has come."""

    start_s: float
    said: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class _Heard:
    """The speech probabilities that windows are cut by, which the diarization hears as well."""

    def __init__(self, source: SpeechProbability, diarization: Diarization) -> None:
        self._source = source
        self._diarization = diarization

    def feed(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """As `SpeechProbability` has it."""
        speech = self._source.feed(samples)
        self._diarization.feed(samples, speech)
        return speech

    def flush(self) -> NDArray[np.float32]:
        """As `SpeechProbability` has it."""
        speech = self._source.flush()
        self._diarization.feed(np.zeros(0, np.int16), speech)
        return speech


class Transcription:
    """Runs one request on the engine; `send` puts its events on the wire, in the order of time."""

    def __init__(
        self,
        request: Request,
        route: Route,
        routing: Routing,
        engine: Engine,
        voice: VoiceActivity,
        send: Callable[[ModelEvent], Awaitable[None]],
        diarizer: Diarizer | None = None,
    ) -> None:
        self._request = request
        self._routing = routing
        self._engine = engine
        self._send = send
        self._diarization = Diarization(diarizer) if request.diarize and diarizer else None
        speech = SpeechProbability(voice)
        self._cutter = WindowCutter(_Heard(speech, self._diarization) if self._diarization else speech)
        self._checkpoint = route.checkpoint
        self._candidates = route.languages
        self._language = route.languages[0] if len(route.languages) == 1 else None
        self._probability = 1.0
        self._keywords = KeywordTrees(engine, request.keywords)
        self._room = asyncio.Semaphore(_WINDOWS_IN_FLIGHT)
        self._parts: asyncio.Queue[_Part | None] = asyncio.Queue()
        self._windows = 0
        self._embedding: list[Future[Any]] = []

    async def run(self, audio: AsyncIterator[bytes]) -> None:
        """Transcribe `audio` (s16le PCM in pieces) to its end; cancelling it takes its windows out of the batch.

        Raises:
            EngineFailed: when a window is lost.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(audio, tasks))
                tasks.create_task(self._tell())
        except* EngineFailed as lost:
            raise EngineFailed(str(lost.exceptions[0])) from None

    async def _feed(self, audio: AsyncIterator[bytes], tasks: asyncio.TaskGroup) -> None:
        async for pcm in audio:
            for cut in await asyncio.to_thread(self._cutter.push, pcm):
                await self._begin(cut, tasks)
            if self._diarization is not None and (late := self._diarization.behind) is not None:
                await asyncio.wrap_future(late)
        for cut in await asyncio.to_thread(self._cutter.flush):
            await self._begin(cut, tasks)
        if self._diarization is not None:
            self._embedding = self._diarization.end()
        self._parts.put_nowait(None)

    async def _begin(self, cut: Cut, tasks: asyncio.TaskGroup) -> None:
        await self._room.acquire()
        part = _Part(cut.start_s)
        self._parts.put_nowait(part)
        self._windows += 1
        decode = tasks.create_task(self._decode(cut, part))
        if self._language is None:
            await decode  # the windows after it wait to know the language

    async def _decode(self, cut: Cut, part: _Part) -> None:
        """Decode one window; what the decoder had no room for is decoded again from where it stopped."""
        samples, offset = cut.samples, cut.start_s
        timestamps = self._request.timestamps
        while True:
            answer = await self._transcribe(
                Window(
                    samples=samples,
                    languages=(self._language,) if self._language else self._candidates,
                    task=self._request.task,
                    prompt=self._request.prompt,
                    temperature=self._request.temperature,
                    timestamps=timestamps,
                    stream=self._request.stream,
                    words=self._request.words and self._request.task == "transcribe",
                ),
                part,
            )
            rest = answer.truncated_at
            if rest is None or self._request.stream:
                self._keep(part, answer, offset, math.inf)
                break
            if not timestamps:
                timestamps = True  # without them nobody knows where it stopped
                continue
            skipped = int(rest * SAMPLE_RATE)
            if rest < _LEAST_REST_SECONDS or len(samples) - skipped < _LEAST_REST_SECONDS * SAMPLE_RATE:
                self._keep(part, answer, offset, math.inf)
                break
            self._keep(part, answer, offset, rest)
            samples, offset = samples[skipped:], offset + rest
        part.whole.set()
        part.news.set()
        self._room.release()

    async def _transcribe(self, window: Window, part: _Part) -> Transcribed:
        def hear(event: Admitted | Found | Spoken) -> None:
            if isinstance(event, Found):
                self._language, self._probability = event.language, event.probability
                self._checkpoint = event.checkpoint
            elif isinstance(event, Spoken):
                part.said.append(event.text)
                part.news.set()

        return (await decode(self._engine, self._routing, self._checkpoint, window, hear, self._keywords)).answer

    def _keep(self, part: _Part, answer: Transcribed, offset: float, until: float) -> None:
        kept = [segment for segment in answer.segments if segment.end <= until]
        part.segments += [
            Segment(
                id=0,
                start=round(offset + segment.start, 3),
                end=round(offset + segment.end, 3),
                text=segment.text.strip(),
                tokens=segment.tokens,
                avg_logprob=answer.avg_logprob,
                no_speech_prob=answer.no_speech_prob,
                compression_ratio=answer.compression_ratio,
                temperature=answer.temperature,
                words=self._words(segment.words, offset, until),
            )
            for segment in kept
        ]
        part.logprobs += answer.logprobs[: sum(len(segment.tokens) for segment in kept)]

    def _words(self, words: list[SpokenWord], offset: float, until: float) -> list[Word]:
        """The words of a segment, by the file's clock; none lasts past `until` seconds of its window."""
        return [
            Word(
                word=word.text if index else self._separator + word.text.lstrip(),
                start=round(offset + min(word.start, until), 3),
                end=round(offset + min(word.end, until), 3),
                probability=round(word.probability, 4),
            )
            for index, word in enumerate(words)
        ]

    async def _tell(self) -> None:
        """Send what is known, window by window."""
        text, said, logprobs, segments = "", "", list[float](), 0
        told_language = False
        while (part := await self._parts.get()) is not None:
            first = True
            while True:
                await part.news.wait()
                part.news.clear()
                if not told_language and self._language is not None:
                    await self._send_language()
                    told_language = True
                while part.said:
                    spoken = part.said.pop(0)
                    if first:
                        spoken = self._joined(said, spoken.lstrip())
                    first = first and not spoken
                    said += spoken
                    if spoken:
                        await self._send(Delta(text=spoken))
                if part.whole.is_set():
                    break
            for segment in part.segments:
                await self._send(segment.model_copy(update={"id": segments}))
                segments += 1
                text += self._joined(text, segment.text)
            logprobs += part.logprobs
        if not told_language and self._language is not None:
            await self._send_language()
        if self._diarization is not None:
            await self._tell_turns(self._diarization)
        await self._send(
            Done(
                language=self._language or self._request.language,
                checkpoint=self._checkpoint,
                text=said if self._request.stream else text,
                duration=round(self._cutter.duration_s, 3),
                windows=self._windows,
                confidence=round(math.exp(sum(logprobs) / len(logprobs)), 4) if logprobs else 0.0,
            )
        )

    async def _tell_turns(self, diarization: Diarization) -> None:
        for future in self._embedding:
            await asyncio.wrap_future(future)
        for turn in await asyncio.to_thread(diarization.turns):
            await self._send(
                Turn(start=turn.start, end=turn.end, speaker=turn.speaker, confidence=round(turn.confidence, 4))
            )

    async def _send_language(self) -> None:
        assert self._language is not None  # noqa: S101
        await self._send(
            LanguageDetected(language=self._language, checkpoint=self._checkpoint, probability=self._probability)
        )

    def _joined(self, before: str, text: str) -> str:
        return (self._separator if before and text else "") + text

    @property
    def _separator(self) -> str:
        """What stands between the texts of two segments."""
        return separator(self._language)
