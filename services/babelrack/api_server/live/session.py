"""One live session: audio in, events out, both at the same time, to an end that its client is told the reason of."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from starlette.websockets import WebSocketDisconnect

from babelrack.api_server.errors import (
    ApiError,
    BadRequest,
    ClientGone,
    InternalFault,
    LanguageNotEnabled,
    Unavailable,
)
from babelrack.api_server.live.hearing import hearing
from babelrack.api_server.live.messages import SessionError, SpeechEvent, Transcription, control_of, event_json
from babelrack.audio.errors import AudioError, DecoderLost
from babelrack.pairing import Failed, Final, ModelServerLost, Partial, SpeechEnded, SpeechStarted, StreamDone
from babelrack.pairing.messages import MAX_FRAME_BYTES, SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.websockets import WebSocket

    from babelrack.api_server.drain import Drain
    from babelrack.api_server.live.hearing import Hearing
    from babelrack.api_server.live.messages import Event
    from babelrack.api_server.live.relay import Trace
    from babelrack.api_server.live.transcript import LiveTranscript
    from babelrack.api_server.transcription import Transcriber, Visit
    from babelrack.pairing import StreamSession

_BYTES_PER_SECOND = 2 * SAMPLE_RATE
_TICK_SECONDS = 0.5
# A client that doesn't read what it is sent for so long is gone, whatever its connection says.
_SEND_SECONDS = 30.0
# After a pause within a number nobody goes on with it any more.
_CARRIED_SECONDS = 2.0
# A text of an utterance that is never cut gets long, and writing it then is not for the event loop.
_LONG_TEXT = 2000

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Farewell:
    """How a session ends: the close code and its reason, and what goes before it.

    `last` when its client has closed it; `resumable` when it may go on at another replica.
    """

    code: int
    reason: str
    status: int = 200
    error: ApiError | None = None
    last: bool = False
    resumable: bool = False

    @classmethod
    def of(cls, error: ApiError) -> Farewell:
        """The end that an error is."""
        code, resumable = 1012, True
        if isinstance(error, LanguageNotEnabled) or error.status == 429 or error.code in ("OVERLOADED", "IDLE"):
            code, resumable = 1008, False
        elif isinstance(error, BadRequest):
            code, resumable = 1007, False
        elif isinstance(error, InternalFault):
            code = 1011
        return cls(code, error.message, error.status, error, resumable=resumable)


class Idle(BadRequest):
    """The client has sent nothing for too long."""

    code = "IDLE"


DRAINING = Farewell(1012, "this server is shutting down; connect again with session_id", 200, resumable=True)
_MODEL_DRAINING = Farewell(1012, "the model server is shutting down; connect again with session_id", resumable=True)
_CLOSED = Farewell(1000, "", last=True)


class Session:
    """A session over one connection; `run` it once."""

    def __init__(
        self,
        here: Transcriber,
        socket: WebSocket,
        visit: Visit,
        transcript: LiveTranscript,
        wanted: Mapping[str, Any],
        *,
        drain: Drain,
        is_gone: Callable[[], bool],
    ) -> None:
        self.count = 0  # events that were sent
        self.trace: Trace | None = None
        self.heard = 0.0  # seconds of audio, over all connections of the session
        self._here = here
        self._settings = here.settings
        self._socket = socket
        self._visit = visit
        self._transcript = transcript
        self._wanted = wanted
        self._drain = drain
        self._is_gone = is_gone
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._position = 0.0  # of the audio that was sent to the model server
        self._finalized: deque[float] = deque()
        self._last = False
        self._moved = self._loop.time()
        self._waits_since: float | None = None
        self._ending = False
        self._counted_at = self._loop.time()

    @property
    def state(self) -> dict[str, Any]:
        """What another replica needs to go on, as JSON has it."""
        return {"count": self.count, "heard": round(self.heard, 3), **self._transcript.state}

    def continue_with(self, full_transcript: str) -> None:
        """Go on after what was said over connections before."""
        self._transcript.go_on(full_transcript)

    async def run(self, stream: StreamSession, audio_from: float) -> Farewell:
        """Serve the client to the session's end; the stream begins at second `audio_from`.

        Raises:
            ApiError: what ends the session before its time.
            ClientGone: when the client went away.
        """
        self._position = audio_from
        try:
            async with hearing(
                self._here.decoders,
                self._wanted["encoding"],
                self._wanted["sample_rate"],
                self._settings.max_live_seconds + 60,
                lambda pcm: self._hand_on(stream, pcm),
            ) as ears:
                return await self._converse(stream, ears)
        except DecoderLost as error:
            log.error("decoder lost", reason=error.message, request_id=self._visit.request_id)
            raise Unavailable(error.message, code="DECODER") from error
        except AudioError as error:
            raise BadRequest(error.message, code=error.code) from error
        except ModelServerLost as lost:
            self._here.pair.doubt()
            log.warning("model server lost", reason=str(lost), request_id=self._visit.request_id)
            raise Unavailable(f"{lost}; connect again with session_id.", code="MODEL_SERVER") from lost
        except (WebSocketDisconnect, TimeoutError, ConnectionError) as error:
            raise ClientGone from error

    async def say(self, event: Event, text: str = "") -> None:
        """Send an event; `text` is what it adds to the full transcript."""
        async with self._sending:
            self.count += 1
            sent = event_json(event)
            if self.trace is not None:
                partial = isinstance(event, Transcription) and not event.is_final
                self.trace.note(self.count, sent, partial=partial, text=text)
            await self.send(sent)

    async def send(self, event: str) -> None:
        """Send what was an event already."""
        async with asyncio.timeout(_SEND_SECONDS):
            await self._socket.send_text(event)

    async def close(self, farewell: Farewell) -> None:
        """Say what is wrong, if anything is, and close; a client that is gone hears nothing of it."""
        with contextlib.suppress(WebSocketDisconnect, TimeoutError, ConnectionError, RuntimeError):
            if farewell.error is not None:
                error = farewell.error
                # No event: what was wrong with this connection is nothing that another one has missed.
                session_id = self._transcript.session_id
                told = SessionError(message=error.message, error_code=error.code, session_id=session_id)
                await self.send(event_json(told))
            await self._socket.close(farewell.code, _short(farewell.reason))

    async def _converse(self, stream: StreamSession, ears: Hearing) -> Farewell:
        speaking = asyncio.create_task(self._speak(stream))
        listening = asyncio.create_task(self._listen(stream, ears))
        ticking = asyncio.create_task(self._tick())
        draining = asyncio.create_task(self._drained())
        tasks: list[asyncio.Task[Any]] = [speaking, listening, ticking, draining]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if speaking in done:
                await speaking
                return _MODEL_DRAINING
            farewell = await next(task for task in (ticking, listening, draining) if task in done)
            assert isinstance(farewell, Farewell)  # noqa: S101 - ticking only ever raises
            for task in (listening, draining):
                task.cancel()
            await asyncio.gather(listening, draining, return_exceptions=True)
            self._last = farewell.last
            ending = asyncio.create_task(self._end(stream, ears))
            leaving = asyncio.create_task(self._until_gone())
            tasks += [ending, leaving]
            waited: set[asyncio.Task[Any]] = {speaking, ticking, ending, leaving}
            while not speaking.done():
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {speaking}:
                    await task
                waited -= done
            await speaking
            return farewell
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, stream: StreamSession, ears: Hearing) -> Farewell:
        """Hear the client until it, or its audio, has come to an end."""
        try:
            while True:
                message = await self._receive()
                if (frame := message.get("bytes")) is not None:
                    await ears.take(frame)
                    if self.heard >= self._settings.max_live_seconds:
                        hours = self._settings.max_live_seconds / 3600
                        error = BadRequest(f"a session has at most {hours:g} hours of audio; open another.")
                        error.code = "TOO_LONG"
                        return Farewell(1008, error.message, 200, error)
                    continue
                match control_of(message.get("text") or ""):
                    case "close_stream":
                        return _CLOSED
                    case "finalize":
                        await ears.settle()
                        self._finalized.append(self._position)
                        await stream.finalize()
        except TimeoutError:
            seconds = self._settings.live_idle_seconds
            error = Idle(f"nothing was sent for {seconds:g} seconds; send audio, silence too, or close_stream.")
            return Farewell(1008, error.message, 200, error)
        except ModelServerLost:
            # The stream's own end says more, and `_speak` hears it.
            await asyncio.sleep(self._settings.stall_seconds)
            raise

    async def _receive(self) -> dict[str, Any]:
        async with asyncio.timeout(self._settings.live_idle_seconds):
            message: dict[str, Any] = dict(await self._socket.receive())
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        return message

    async def _until_gone(self) -> None:
        while (await self._socket.receive())["type"] != "websocket.disconnect":
            pass
        raise ClientGone

    async def _end(self, stream: StreamSession, ears: Hearing) -> None:
        try:
            await ears.end()
            await stream.end()
        except ModelServerLost:
            return  # as above
        finally:
            self._ending = True
            self._moved = self._loop.time()

    async def _hand_on(self, stream: StreamSession, pcm: bytes) -> None:
        for start in range(0, len(pcm), MAX_FRAME_BYTES):
            piece = pcm[start : start + MAX_FRAME_BYTES]
            await stream.send(piece)
            self._position += len(piece) / _BYTES_PER_SECOND
        # What is sent again after a break was counted before it.
        self._visit.audio_seconds += max(0.0, self._position - self.heard)
        self.heard = max(self.heard, self._position)

    async def _speak(self, stream: StreamSession) -> None:
        """Say what the model server hears until it has heard all."""
        async for event in stream:
            self._moved = self._loop.time()
            match event:
                case SpeechStarted() | SpeechEnded():
                    await self._say_if(self._transcript.speech(event))
                case Partial():
                    self._serves(event)
                    self._waits_since = None
                    if len(event.text) > _LONG_TEXT:
                        shown = await asyncio.to_thread(self._transcript.partial, event)
                    else:
                        shown = self._transcript.partial(event)
                    await self._say_if(shown)
                case Final():
                    self._serves(event)
                    await self._say_final(event)
                case Failed():
                    log.error("model server failed", code=event.code, reason=event.message)
                    raise Unavailable(f"{event.message}; connect again with session_id.", code=event.code)
                case StreamDone():
                    await self._say_rest()
                    return
        raise ModelServerLost("the model server ended without a last word")

    def _serves(self, event: Partial | Final) -> None:
        if event.language:
            self._visit.language, self._visit.checkpoint = event.language, event.checkpoint
            self._here.require_licensed(event.language)

    async def _say_final(self, event: Final) -> None:
        last = self._last and event.cause == "end"
        if len(event.text) > _LONG_TEXT:
            final, text = await asyncio.to_thread(self._transcript.final, event, last=last)
        else:
            final, text = self._transcript.final(event, last=last)
        if event.cause == "finalize" and self._finalized:
            self._transcript.position = max(self._transcript.position, self._finalized.popleft())
        elif event.cause == "end":
            self._transcript.position = max(self._transcript.position, self._position)
        self._waits_since = self._loop.time() if self._transcript.carries else None
        await self._say_if(final, text)

    async def _say_rest(self) -> None:
        self._waits_since = None
        await self._say_if(*self._transcript.rest())

    async def _say_if(self, event: Transcription | SpeechEvent | None, text: str = "") -> None:
        if event is not None:
            await self.say(event, text)

    async def _drained(self) -> Farewell:
        await self._drain.begun()
        return DRAINING

    async def _tick(self) -> None:
        """See to what has its time: a client that is gone, a model server that is stuck, usage, signs of life."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._loop.time()
            if self._is_gone():
                raise ClientGone
            if self.trace is not None:
                if self.trace.taken:
                    raise BadRequest("the session goes on over another connection.", code="TAKEN")
                self.trace.live()
            if self._waits_since is not None and now - self._waits_since >= _CARRIED_SECONDS:
                await self._say_rest()
            if self._ending and now - self._moved >= self._settings.stall_seconds:
                raise ModelServerLost(f"the model server made no progress for {self._settings.stall_seconds:g} s")
            if now - self._counted_at >= self._settings.live_usage_seconds:
                self._counted_at = now
                await self._here.count_live(self._visit)


def _short(reason: str) -> str:
    """A close frame's reason has 123 bytes at most."""
    return reason.encode()[:120].decode(errors="ignore")
