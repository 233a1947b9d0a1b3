"""OpenAI's audio paths: `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from babelrack import pairing
from babelrack.api_server import options, subtitles
from babelrack.api_server.errors import ApiError, BadRequest, ClientGone, NotFound, openai_body
from babelrack.packs.languages import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from babelrack.api_server.transcription import Transcriber, Transcript

Task = Literal["transcribe", "translate"]

_ALIASES = ("whisper-1", "pulse")
_TIMED = frozenset({"verbose_json", "srt", "vtt"})
_FRAMES_A_SECOND = 100
_UNREAD_SECONDS = 60.0
_STREAMED = ("json", "text")
COMBINATIONS = {
    "anyOf": [
        {
            "required": ["response_format"],
            "properties": {"response_format": {"enum": sorted(_TIMED)}, "stream": {"enum": ["false"]}},
        },
        {
            "properties": {
                "response_format": {"enum": list(_STREAMED)},
                **{name: {"items": {"enum": ["segment"]}} for name in options.GRANULARITIES},
            }
        },
    ]
}
"""Which options go together, for the OpenAPI document."""
EVENT_STREAM = "text/event-stream"
MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


class Usage(BaseModel):
    """Seconds of audio."""

    type: Literal["duration"]
    seconds: float


class Transcription(BaseModel):
    """`response_format=json`."""

    model_config = ConfigDict(extra="forbid")

    text: str
    usage: Usage


class VerboseSegment(BaseModel):
    """A segment with its times in seconds and what the decoder thought of it."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseWord(BaseModel):
    """A word with its times in seconds."""

    word: str
    start: float
    end: float


class VerboseTranscription(BaseModel):
    """`response_format=verbose_json`; `language` is the language's English name in lower case.

    `words` and `segments` are there as `timestamp_granularities[]` asks, segments also where it asks nothing.
    """

    model_config = ConfigDict(extra="forbid")

    task: Task
    language: str
    duration: float
    text: str
    words: list[VerboseWord] | None = None
    segments: list[VerboseSegment] | None = None
    usage: Usage


class Model(BaseModel):
    """A name that `model` may have."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them but the aliases."""

    object: Literal["list"]
    data: list[Model]


class OpenAIEndpoints:
    """A form with the audio in `file`; every option is a field of it."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._created = int(time.time())

    @property
    def models(self) -> list[str]:
        """The names that `model` may have."""
        names = [*self._transcriber.pair.checkpoints, self._transcriber.settings.deployment_name, *_ALIASES]
        return list(dict.fromkeys(names))

    async def transcriptions(self, request: Request) -> Response:
        """Transcribe audio."""
        return await self._answer(request, "transcribe")

    async def translations(self, request: Request) -> Response:
        """Translate speech into English text."""
        return await self._answer(request, "translate")

    async def list_models(self, request: Request) -> Response:
        """The checkpoints that are loaded, and the pack as a whole."""
        self._transcriber.authenticate(request.headers)
        models = ModelList(object="list", data=[self._model(name) for name in self.models if name not in _ALIASES])
        return Response(models.model_dump_json(), media_type="application/json")

    async def get_model(self, request: Request) -> Response:
        """One of them, or an alias."""
        self._transcriber.authenticate(request.headers)
        name = request.path_params["model"]
        if name not in self.models:
            raise NotFound(
                f"there is no model {options.shown(name)}; there is {options.one_of(self.models)}.",
                code="model_not_found",
                param="model",
            )
        return Response(self._model(name).model_dump_json(), media_type="application/json")

    def _model(self, name: str) -> Model:
        return Model(id=name, object="model", created=self._created, owned_by="babelrack")

    async def _answer(self, request: Request, task: Task) -> Response:
        here = self._transcriber
        async with AsyncExitStack() as held:
            visit = await held.enter_async_context(here.visit(request, *(["translate"] if task == "translate" else [])))
            await held.enter_async_context(here.admitted(visit))
            body, spool = await held.enter_async_context(here.received(request, only_form=True))
            table = options.OPENAI if task == "transcribe" else options.TRANSLATIONS
            wanted = options.parse_options(table, body.fields)
            visit.features += options.features(table, wanted)
            granularities = {each for name in options.GRANULARITIES for each in wanted[name]}
            if "word" in granularities:
                visit.features.append("word_timestamps")
            self._check(wanted, body.audio_part)
            if "word" in granularities and wanted["response_format"] not in _TIMED:
                raise BadRequest(
                    "timestamp_granularities word needs the response_format verbose_json, srt or vtt, "
                    f"not {options.shown(wanted['response_format'])}.",
                    param=options.GRANULARITIES[0],
                )
            question = pairing.Request(
                request_id=visit.request_id,
                deployment=here.settings.deployment_name,
                language=here.language(visit, wanted["language"]),
                task=task,
                prompt=wanted["prompt"] or None,
                temperature=wanted["temperature"],
                timestamps=wanted["response_format"] in _TIMED,
                stream=wanted["stream"],
                words="word" in granularities,
            )
            source = await here.source(body, spool, encoding=None, sample_rate=16_000)
            if wanted["stream"]:
                events = await held.enter_async_context(here.events(visit, question, source))
                # What goes wrong before the first event still gets its own status.
                first = await anext(events)
                return EventStream(held.pop_all(), first, events, visit.checkpoint)
            transcript = await here.transcribe(visit, question, source)
        return Response(
            _content(transcript, wanted["response_format"], task, granularities),
            media_type=MEDIA_TYPES[wanted["response_format"]],
            headers={"x-checkpoint": transcript.done.checkpoint},
        )

    def _check(self, wanted: Mapping[str, Any], audio_part: str | None) -> None:
        if wanted["model"] not in self.models:
            raise BadRequest(
                f"model takes {options.one_of(self.models)}, not {options.shown(wanted['model'])}.",
                param="model",
                code="model_not_found",
            )
        if audio_part not in (None, "file"):
            raise BadRequest(f"the audio is in the form's {audio_part[:40]!r}; this path reads 'file'.", param="file")
        if wanted["stream"] and wanted["response_format"] not in _STREAMED:
            raise BadRequest("stream is for the response_format json or text.", param="stream")


def _content(transcript: Transcript, response_format: str, task: Task, granularities: set[str]) -> str:
    done = transcript.done
    usage = Usage(type="duration", seconds=round(done.duration, 3))
    cues: Sequence[subtitles.Timed] = transcript.segments
    if "word" in granularities:
        cues = [subtitles.Cue(word.start, word.end, word.word) for word in transcript.words]
    match response_format:
        case "text":
            return done.text.strip() + "\n"
        case "srt":
            return subtitles.srt(cues)
        case "vtt":
            return subtitles.vtt(cues)
        case "verbose_json":
            spoken = "en" if task == "translate" else done.language
            answer = VerboseTranscription(
                task=task,
                language=LANGUAGES.get(spoken, spoken).lower(),
                duration=round(done.duration, 3),
                text=done.text.strip(),
                usage=usage,
            )
            if "word" in granularities:
                answer.words = [
                    VerboseWord(word=word.word.strip(), start=word.start, end=word.end) for word in transcript.words
                ]
            if granularities != {"word"}:
                answer.segments = [_segment(segment) for segment in transcript.segments]
            return answer.model_dump_json(exclude_none=True)
    return Transcription(text=done.text.strip(), usage=usage).model_dump_json()


def _segment(segment: pairing.Segment) -> VerboseSegment:
    return VerboseSegment(
        id=segment.id,
        seek=round(segment.start * _FRAMES_A_SECOND),
        start=round(segment.start, 3),
        end=round(segment.end, 3),
        text=segment.text,
        tokens=segment.tokens,
        temperature=segment.temperature,
        avg_logprob=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_prob=segment.no_speech_prob,
    )


class EventStream(Response):
    """Server-sent events: `transcript.text.delta` as text comes, `transcript.text.done` at the end."""

    media_type = EVENT_STREAM

    def __init__(
        self,
        held: AsyncExitStack,
        first: pairing.ModelEvent,
        events: AsyncIterator[pairing.ModelEvent],
        checkpoint: str,
    ) -> None:
        super().__init__(headers={"x-checkpoint": checkpoint, "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._held = held
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; what goes wrong now can only be said as one of them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        last: dict[str, Any] | None = None
        try:
            async with self._held:
                last = _event(self._first)
                if not isinstance(self._first, pairing.Done):
                    last = await self._pass_on(send)
        except ApiError as error:
            last = openai_body(error)
        await send({"type": "http.response.body", "body": _frame(last), "more_body": False})

    async def _pass_on(self, send: Send) -> dict[str, Any] | None:
        if event := _event(self._first):
            await _deliver(send, event)
        async for said in self._events:
            event = _event(said)
            if isinstance(said, pairing.Done):
                return event
            if event is not None:
                await _deliver(send, event)
        return None


def _event(said: pairing.ModelEvent) -> dict[str, Any] | None:
    match said:
        case pairing.Delta():
            return {"type": "transcript.text.delta", "delta": said.text}
        case pairing.Done():
            return {"type": "transcript.text.done", "text": said.text}
    return None


async def _deliver(send: Send, event: dict[str, Any]) -> None:
    """Send an event to a client that may have stopped reading, which would hold its slot for ever."""
    try:
        async with asyncio.timeout(_UNREAD_SECONDS):
            await send({"type": "http.response.body", "body": _frame(event), "more_body": True})
    except TimeoutError:
        raise ClientGone from None


def _frame(event: dict[str, Any] | None) -> bytes:
    return b"" if event is None else b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
