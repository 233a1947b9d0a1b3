"""From a request to its transcript: who asks, may they, is there room, decode, transcribe, count."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import structlog

from babelrack.api_server.body import Body, BodyLimits, read_body
from babelrack.api_server.client_watch import ClientWatch
from babelrack.api_server.errors import (
    ApiError,
    BadKey,
    BadRequest,
    ClientGone,
    LanguageNotEnabled,
    NoKey,
    OverLimit,
    Unavailable,
)
from babelrack.api_server.speakers import attributed
from babelrack.api_server.spool import Spool
from babelrack.audio.errors import AudioError, DecoderLost
from babelrack.keys import LimitExceeded
from babelrack.licensing import UsageRecord
from babelrack.pairing import (
    Done,
    Failed,
    LanguageDetected,
    ModelEvent,
    ModelServerLost,
    ModelSession,
    Refused,
    Request,
    Segment,
    Turn,
    Word,
)
from babelrack.pairing.messages import MAX_FRAME_BYTES, Keywords

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.datastructures import Headers
    from starlette.requests import HTTPConnection
    from starlette.requests import Request as HttpRequest

    from babelrack.api_server.admission import Admission
    from babelrack.api_server.drain import Drain
    from babelrack.api_server.metrics import Metrics
    from babelrack.api_server.pair import Pair
    from babelrack.api_server.settings import Settings
    from babelrack.api_server.url_input import Fetcher
    from babelrack.audio.decode import DecoderPool, Decoding
    from babelrack.keys import ClientKey, KeyFile, Limiter
    from babelrack.licensing import LicenseGate, UsageJournal

_EVENTS_AHEAD = 64
CLIENT_GONE = 499
_UNCOUNTED_FAULT = 500

log = structlog.get_logger(__name__)


@dataclass
class Visit:
    """One authenticated request, and what is counted of it in the end; `deferred` when that is its job's to do.

    Nobody waits for the answer to a `patient` one, so it lets the others go first.
    """

    request_id: str
    key: ClientKey
    features: list[str]
    patient: bool = False
    deferred: bool = False
    language: str = ""
    checkpoint: str = ""
    audio_seconds: float = 0.0
    external_session_id: str = ""
    requests: int = 1


@dataclass(frozen=True)
class Source:
    """The audio of a request: a descriptor at its start, and what is said of headerless audio."""

    descriptor: int
    size: int
    filename: str | None = None
    encoding: str | None = None
    sample_rate: int = 16_000


@dataclass
class Transcript:
    """A whole answer of the model server."""

    done: Done
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] | None = None  # None where nobody asked who speaks
    seconds: float = 0.0  # from the audio being there to the answer

    @property
    def words(self) -> list[Word]:
        """The words of all segments, where they were asked for, with their speakers where those were too."""
        words = [word for segment in self.segments for word in segment.words]
        return words if self.turns is None else attributed(words, self.turns)

    @property
    def rtfx(self) -> float:
        """Seconds of audio a second."""
        return round(self.done.duration / max(self.seconds, 1e-3), 2)


class Transcriber:
    """What the endpoints share; each brings its own shape of options and answers."""

    def __init__(
        self,
        settings: Settings,
        *,
        pair: Pair,
        decoders: DecoderPool,
        gate: LicenseGate,
        keys: KeyFile,
        limiter: Limiter,
        journal: UsageJournal,
        admission: Admission,
        fetcher: Fetcher,
        metrics: Metrics,
        drain: Drain,
    ) -> None:
        self.settings = settings
        self.pair = pair
        self.gate = gate
        self.limiter = limiter
        self.keys = keys
        self.decoders = decoders
        self._journal = journal
        self._admission = admission
        self._fetcher = fetcher
        self._metrics = metrics
        self._drain = drain
        self._limits = BodyLimits(settings.max_body_bytes, settings.body_idle_seconds, settings.body_seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start what runs in the background, and stop it again in reverse."""
        async with AsyncExitStack() as parts:
            parts.push_async_callback(self.pair.client.aclose)
            await self._journal.start()
            parts.push_async_callback(self._journal.stop)
            for part in (self.gate, self.limiter, self.pair):
                await part.start()
                parts.push_async_callback(part.stop)
            await parts.enter_async_context(self.decoders)
            yield

    @property
    def ready(self) -> bool:
        """Whether a transcription can succeed now: the licence and the model server are good."""
        return self.pair.fault is None and self.gate.state != "refused"

    def authenticate(self, headers: Headers) -> ClientKey:
        """The client key of `Authorization: Bearer KEY` or `Token KEY`. Raises NoKey or BadKey.

        A browser can't set that header on a WebSocket: it sends the same two words as subprotocols.
        """
        authorization = headers.get("authorization", "")
        if not authorization and (scheme := subprotocol_of(headers)):
            authorization = f"{scheme} {headers['sec-websocket-protocol'].partition(',')[2].strip()}"
        scheme, _, presented = authorization.strip().partition(" ")
        if not scheme:
            raise NoKey
        key = self.keys.find(presented.strip()) if scheme.lower() in ("bearer", "token") else None
        if key is None:
            raise BadKey
        return key

    @asynccontextmanager
    async def visit(self, request: HTTPConnection, *features: str) -> AsyncIterator[Visit]:
        """Let a request in: its key, the licence and the model server are good. However it ends, it is counted."""
        visit = Visit(request.scope["state"]["request_id"], self.authenticate(request.headers), list(features))
        status = _UNCOUNTED_FAULT
        try:
            self._require_license()
            self.pair.require()
            yield visit
            status = 200
        except ApiError as error:
            status = error.status
            raise
        except ClientGone:
            status = CLIENT_GONE
            raise
        except asyncio.CancelledError:
            status = 503  # only the end of the server cancels from outside
            raise
        finally:
            if not visit.deferred:
                await self.count(visit, status)

    def language(self, visit: Visit, wanted: str | None) -> str:
        """The language or aggregator to ask for. Raises LanguageNotEnabled for the model server or the licence."""
        language = self.pair.language(wanted)
        self.require_licensed(language)
        visit.language = language
        return language

    @asynccontextmanager
    async def admitted(self, visit: Visit) -> AsyncIterator[None]:
        """Hold a place, and one of the key's. Raises Unavailable or OverLimit at once."""
        async with AsyncExitStack() as held:
            held.enter_context(self._admission.place())
            try:
                await held.enter_async_context(self.limiter.admit(visit.key))
            except LimitExceeded as error:
                self._metrics.rate_limited.labels(error.kind).inc()
                raise OverLimit(f"{error}.", retry_after=error.retry_after) from None
            yield

    @asynccontextmanager
    async def received(self, request: HttpRequest, *, only_form: bool = False) -> AsyncIterator[tuple[Body, Spool]]:
        """Read the body; within the context the client is watched, and its going away ends the work."""
        async with Spool(self.settings.state_dir / "spool") as spool, ClientWatch(request.receive) as watch:
            with self._drain.watching(watch):
                body = await read_body(request, spool, self._limits, only_form=only_form)
                watch.listen()
                yield body, spool

    async def source(self, body: Body, spool: Spool, *, encoding: str | None, sample_rate: int) -> Source:
        """The audio that `body` brought or points to.

        Raises:
            BadRequest: when there is none, or its URL is bad.
            BodyTooLarge: when what is behind the URL is too large.
        """
        filename = None
        if body.url is not None:
            filename = await self._fetcher.fetch(body.url, self._limits.check_size, spool.write)
        elif not body.audio:
            raise BadRequest("the form has no audio part; send the audio as a file.", code="EMPTY", param="file")
        if spool.size == 0:
            raise BadRequest("the audio is empty; send a recording.", code="EMPTY")
        self._metrics.body_bytes.inc(spool.size)
        return Source(await spool.finish(), spool.size, filename, encoding, sample_rate)

    async def check_url(self, url: str) -> None:
        """Raise BadRequest when no audio may be fetched from `url`."""
        await self._fetcher.check(url)

    def check_speakers(self, *, diarize: bool) -> None:
        """Raise BadRequest when speakers are asked for and the model server can't tell them."""
        if diarize and not self.pair.has("diarize"):
            raise BadRequest(
                "diarize needs a speaker model, and this deployment has none; its operator names one in speaker_model "
                "of the site file (SPEAKER_MODEL_URL of the model server).",
                code="NOT_CONFIGURED",
                param="diarize",
            )

    async def transcript(
        self, visit: Visit, source: Source, *, words: bool, diarize: bool = False, keywords: Keywords = ()
    ) -> Transcript:
        """The whole transcript of `source` in the visit's language; segments have no times, words have when asked.

        Without words there is nothing to tell the speakers of.
        """
        request = Request(
            request_id=visit.request_id,
            deployment=self.settings.deployment_name,
            language=visit.language,
            timestamps=False,
            words=words,
            diarize=words and diarize,
            keywords=keywords,
        )
        return await self.transcribe(visit, request, source)

    async def transcribe(self, visit: Visit, request: Request, source: Source) -> Transcript:
        """The whole transcript of `source`."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        segments: list[Segment] = []
        turns: list[Turn] | None = [] if request.diarize else None
        async with self.events(visit, request, source) as events:
            async for event in events:
                if isinstance(event, Segment):
                    segments.append(event)
                elif isinstance(event, Turn) and turns is not None:
                    turns.append(event)
                elif isinstance(event, Done):
                    return Transcript(event, segments, turns, loop.time() - begun)
        raise Unavailable("the model server ended without an answer; send the request again.", retry_after=2)

    @asynccontextmanager
    async def events(self, visit: Visit, request: Request, source: Source) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """What the model server says about `source`, as it says it; the last is Done. Leaving cancels the rest.

        Raises:
            BadRequest, LanguageNotEnabled: when the audio or the language can't be served.
            Unavailable: when the model server, the decoder or the licence can't now.
        """
        try:
            async with self._admission.slot(patient=visit.patient), AsyncExitStack() as decoder:
                decoding = await decoder.enter_async_context(
                    self.decoders.open(source.descriptor, source.encoding, source.sample_rate)
                )
                # What is no audio is found out before the model server hears of it.
                first = await anext(decoding, b"")
                if not first:
                    raise BadRequest("the audio holds no sound, not even silence; send a recording.", code="EMPTY")
                async with self.pair.client.transcribe(request) as session:
                    visit.checkpoint = session.accepted.checkpoint
                    exchange = _Exchange(session, self.settings.stall_seconds)
                    async with exchange.under_way(first, decoding, decoder):
                        yield self._checked(visit, exchange)
        except DecoderLost as error:
            log.error("decoder lost", reason=error.message, request_id=visit.request_id)
            raise Unavailable(error.message, code="DECODER", retry_after=2) from error
        except AudioError as error:
            raise BadRequest(error.message, code=error.code) from error
        except Refused as refused:
            raise from_refusal(refused, request.language) from refused
        except ModelServerLost as lost:
            self.pair.doubt()
            log.warning("model server lost", reason=str(lost), request_id=visit.request_id)
            raise Unavailable(f"{lost}; send the request again.", code="MODEL_SERVER", retry_after=2) from lost

    async def _checked(self, visit: Visit, exchange: _Exchange) -> AsyncIterator[ModelEvent]:
        async for event in exchange:
            match event:
                case LanguageDetected():
                    visit.language, visit.checkpoint = event.language, event.checkpoint
                    self.require_licensed(event.language)
                case Failed(code="BAD_AUDIO"):
                    raise BadRequest(event.message, code=event.code)
                case Failed():
                    log.error("model server failed", code=event.code, reason=event.message, request_id=visit.request_id)
                    raise Unavailable(event.message, code=event.code, retry_after=2)
                case Done():
                    visit.language, visit.checkpoint = event.language, event.checkpoint
                    visit.audio_seconds = event.duration
                    self._metrics.audio_seconds.labels(event.checkpoint, event.language).inc(event.duration)
            yield event
            if isinstance(event, Done):
                return

    def _require_license(self) -> None:
        if self.gate.state == "refused":
            raise Unavailable(f"the licence is refused: {self.gate.reason}.", code="LICENSE", retry_after=60)

    def require_licensed(self, language: str) -> None:
        """Raise LanguageNotEnabled when the licence doesn't cover `language`, Unavailable when it is refused."""
        if not self.gate.allows(language):
            self._require_license()
            licensed = [code for code in self.pair.languages if self.gate.allows(code)]
            raise LanguageNotEnabled(
                f"the licence does not cover the language {language!r}, only {', '.join(licensed) or 'none'}.",
                language,
                licensed,
            )

    async def count(self, visit: Visit, status: int, record_id: uuid.UUID | None = None) -> None:
        """Count the visit for usage. What is counted again under the same id is counted once."""
        await self._journal.record(
            UsageRecord(
                id=record_id or uuid.uuid4(),
                deployment=self.settings.deployment_name,
                checkpoint=visit.checkpoint,
                language=visit.language,
                key=visit.key.name,
                audio_seconds=visit.audio_seconds,
                requests=visit.requests,
                features=visit.features,
                status=status,
                external_session_id=visit.external_session_id,
            )
        )

    async def count_live(self, visit: Visit, status: int = 200) -> None:
        """Count what a live visit has used since it was last counted; all of its counts are one request together."""
        if status == 200 and not visit.audio_seconds and not visit.requests:
            return
        if visit.audio_seconds:
            self._metrics.audio_seconds.labels(visit.checkpoint, visit.language).inc(visit.audio_seconds)
        used = replace(visit)
        visit.audio_seconds, visit.requests = 0.0, 0
        await self.count(used, status)


class _Exchange:
    """Audio into a session and events out of it, at the same time; iterate it for the events."""

    def __init__(self, session: ModelSession, stall_seconds: float) -> None:
        self._session = session
        self._stall = stall_seconds
        self._said: asyncio.Queue[ModelEvent | Exception] = asyncio.Queue(_EVENTS_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()

    @asynccontextmanager
    async def under_way(self, first: bytes, decoding: Decoding, decoder: AsyncExitStack) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._feed(first, decoding, decoder)),
            asyncio.create_task(self._listen()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelEvent:
        while True:
            try:
                async with asyncio.timeout_at(self._moved + self._stall):
                    said = await self._said.get()
                break
            except TimeoutError:
                if self._loop.time() >= self._moved + self._stall:
                    raise ModelServerLost(f"the model server made no progress for {self._stall:g} seconds") from None
        if isinstance(said, Exception):
            raise said
        return said

    async def _feed(self, first: bytes, decoding: Decoding, decoder: AsyncExitStack) -> None:
        try:
            frame = bytearray(first)
            async for pcm in decoding:
                # The decoder's pieces are as small as its codec's frames, and a frame costs both ends the same
                # however full it is.
                if len(frame) + len(pcm) > MAX_FRAME_BYTES:
                    await self._send(frame)
                frame += pcm
            await decoder.aclose()  # its place is for others while this audio is transcribed
            await self._send(frame)
            await self._session.end()
        except ModelServerLost:
            pass  # the session's own end says more, and _listen hears it
        except Exception as error:
            await self._said.put(error)

    async def _send(self, frame: bytearray) -> None:
        self._moved = self._loop.time()
        await self._session.send(bytes(frame))
        frame.clear()

    async def _listen(self) -> None:
        try:
            async for event in self._session:
                self._moved = self._loop.time()
                await self._said.put(event)
            await self._said.put(ModelServerLost("the model server ended without an answer"))
        except Exception as error:
            await self._said.put(error)


def subprotocol_of(headers: Headers) -> str | None:
    """`token` or `bearer`, where a WebSocket offers that word and a key as its subprotocols."""
    scheme = headers.get("sec-websocket-protocol", "").partition(",")[0].strip()
    return scheme if scheme.lower() in ("token", "bearer") else None


def from_refusal(refused: Refused, language: str) -> ApiError:
    """What a client is told when the model server didn't take its request."""
    if refused.status == 400 and refused.code == "LANGUAGE_NOT_ENABLED":
        return LanguageNotEnabled(refused.message, language, list(refused.languages))
    if refused.status == 400:
        return BadRequest(refused.message, code=refused.code)
    return Unavailable(refused.message, code=refused.code, retry_after=refused.retry_after or 2)
