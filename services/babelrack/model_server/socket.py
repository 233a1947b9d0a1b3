"""`WS /v1/transcribe` and `WS /v1/stream`: one socket a request, as docs/architecture.md has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import structlog
from pydantic import Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from babelrack.engine import EngineError
from babelrack.model_server.admission import Overloaded
from babelrack.model_server.decoding import EngineFailed
from babelrack.model_server.routing import NotEnabled, Route
from babelrack.model_server.stream import Stream
from babelrack.model_server.transcription import Transcription
from babelrack.pairing import Accepted, Failed, Finalize, Refusal, Request, StreamRequest
from babelrack.pairing.messages import MAX_FRAME_BYTES, EndOfAudio, Heartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from babelrack.model_server.loading import Loaded
    from babelrack.model_server.server import ModelServer
    from babelrack.pairing.messages import Message

log = structlog.get_logger(__name__)

# 32 s of audio: a short clip is always wholly read, so that its client's going away is seen at once.
_FRAMES_AHEAD = 16
_REQUEST_SECONDS = 10
_HEARTBEAT_SECONDS = 1
_CLIENTS_FAULT = ("BAD_REQUEST", "LANGUAGE_NOT_ENABLED")
# A place may become free at once; one who speaks can't wait for longer.
_PLACE_SECONDS = 2
_RETRY_SECONDS = {"OVERLOADED": 2, "DRAINING": 2, "STARTING": 5, "UNHEALTHY": 10, "PAIRING": 10}


_Frame = bytes | Finalize
_Send = Callable[["Message"], Awaitable[None]]
_COMMAND: TypeAdapter[EndOfAudio | Finalize] = TypeAdapter(
    Annotated[EndOfAudio | Finalize, Field(discriminator="type")]
)
_Asked = TypeVar("_Asked", Request, StreamRequest)


class _Refused(Exception):
    """The request isn't taken."""

    def __init__(self, code: str, message: str, *, languages: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.refusal = Refusal.model_validate(
            {
                "status": 400 if code in _CLIENTS_FAULT else 503,
                "code": code,
                "message": message,
                "languages": list(languages),
                "retry_after": _RETRY_SECONDS.get(code),
            }
        )


class _Ended(Exception):
    """The request ends without an answer."""

    def __init__(self, code: Literal["ENGINE", "IDLE", "BAD_AUDIO"], message: str) -> None:
        super().__init__(message)
        self.failed = Failed(code=code, message=message)


async def transcribe(socket: WebSocket, server: ModelServer) -> None:
    """Serve one socket of a file to its end."""
    async with _answering(socket):
        request = await _request(socket, Request)
        loaded, route = _admissible(request, server)
        with _place(server, route, live=False) as turn:
            await _send(socket, Accepted(checkpoint=route.checkpoint))

            async def work(frames: AsyncIterator[_Frame], send: _Send) -> None:
                await turn()
                audio = (frame async for frame in frames if isinstance(frame, bytes))
                transcription = Transcription(
                    request, route, loaded.routing, loaded.engine, loaded.voice, send, loaded.diarizer
                )
                await transcription.run(audio)

            await _serve(socket, work, idle_seconds=server.settings.idle_seconds)


async def stream(socket: WebSocket, server: ModelServer) -> None:
    """Serve one socket of a live stream to its end; when the server drains, this is the end of its audio."""
    async with _answering(socket):
        request = await _request(socket, StreamRequest)
        loaded, route = _admissible(request, server)
        with _place(server, route, live=True) as turn:
            try:
                async with asyncio.timeout(_PLACE_SECONDS):
                    await turn()
            except TimeoutError:
                raise _overloaded(route) from None
            await _send(socket, Accepted(checkpoint=route.checkpoint))

            async def work(frames: AsyncIterator[_Frame], send: _Send) -> None:
                stream = Stream(request, route, loaded, send)
                await stream.run(frames)

            idle = server.settings.stream_idle_seconds
            await _serve(socket, work, idle_seconds=idle, finalizes=True, over=server.drains)


@asynccontextmanager
async def _answering(socket: WebSocket) -> AsyncIterator[None]:
    """Accept the socket, and say in a last word why it isn't served to its end."""
    await socket.accept()
    try:
        yield
    except _Refused as refused:
        await _last_word(socket, refused.refusal)
    except _Ended as ended:
        await _last_word(socket, ended.failed)
    except (WebSocketDisconnect, ConnectionError):
        log.debug("client gone")


@contextmanager
def _place(server: ModelServer, route: Route, *, live: bool) -> Iterator[Callable[[], Awaitable[None]]]:
    try:
        with server.admissions[route.checkpoint].place(live=live) as turn:
            yield turn
    except Overloaded:
        raise _overloaded(route) from None


def _overloaded(route: Route) -> _Refused:
    return _Refused("OVERLOADED", f"checkpoint {route.checkpoint} has all that it can take; try again")


async def _request(socket: WebSocket, kind: type[_Asked]) -> _Asked:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            return kind.model_validate_json(await socket.receive_text())
    except (ValidationError, KeyError) as error:
        raise _Refused("BAD_REQUEST", "the first message must be a request, as JSON text") from error
    except TimeoutError:
        raise _Refused("BAD_REQUEST", f"no request came within {_REQUEST_SECONDS} s") from None


def _admissible(request: Request | StreamRequest, server: ModelServer) -> tuple[Loaded, Route]:
    deployment = server.settings.deployment_name
    if request.deployment != deployment:
        raise _Refused(
            "PAIRING",
            f"this model server is of deployment {deployment!r}, and the request comes from {request.deployment!r}; "
            "point the API server's ASR_BASE_URL at the model server of its own deployment",
        )
    status, reason = server.status
    if status != "healthy" or server.loaded is None:
        raise _Refused(status.upper(), reason or "the model server is not ready")
    if request.diarize and server.loaded.diarizer is None:
        raise _Refused("BAD_REQUEST", "this model server has no speaker model; set its SPEAKER_MODEL_URL")
    try:
        return server.loaded, server.loaded.routing.route(request.language)
    except NotEnabled as error:
        raise _Refused("LANGUAGE_NOT_ENABLED", str(error), languages=server.loaded.routing.languages) from None


async def _serve(
    socket: WebSocket,
    work: Callable[[AsyncIterator[_Frame], _Send], Awaitable[None]],
    *,
    idle_seconds: float,
    finalizes: bool = False,
    over: asyncio.Event | None = None,
) -> None:
    """Do the work that the socket's frames are for; a client that goes away ends it at once.

    `over` ends the audio before the client does.
    """
    frames: asyncio.Queue[_Frame | None] = asyncio.Queue(_FRAMES_AHEAD)

    async def send(message: Message) -> None:
        await _send(socket, message)

    async def do() -> None:
        try:
            await work(_audio(frames), send)
        except (EngineFailed, EngineError) as error:
            raise _Ended("ENGINE", str(error)) from error

    async def end() -> None:
        if over is not None:
            await over.wait()
            await frames.put(None)

    working, ending = asyncio.create_task(do()), asyncio.create_task(end())
    watching = [
        asyncio.create_task(_listen(socket, frames, idle_seconds, finalizes=finalizes)),
        asyncio.create_task(_beat(socket)),
    ]
    try:
        done, _ = await asyncio.wait((working, *watching), return_when=asyncio.FIRST_COMPLETED)
        await (working if working in done else done.pop())
    finally:
        for task in (working, ending, *watching):
            task.cancel()
        await asyncio.gather(working, ending, *watching, return_exceptions=True)
    await socket.close()


async def _beat(socket: WebSocket) -> NoReturn:
    """Write now and then: a client that goes away while it is held back, with frames unread, is noticed only so."""
    while True:
        await asyncio.sleep(_HEARTBEAT_SECONDS)
        await _send(socket, Heartbeat())


async def _listen(
    socket: WebSocket, frames: asyncio.Queue[_Frame | None], idle_seconds: float, *, finalizes: bool
) -> None:
    """Put audio into `frames` and None at its end, then wait for the client to go."""
    ended = False
    while True:
        try:
            async with asyncio.timeout(None if ended else idle_seconds):
                message = await socket.receive()
        except TimeoutError:
            raise _Ended("IDLE", f"the client sent nothing for {idle_seconds:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        pcm, text = message.get("bytes"), message.get("text")
        if ended:
            raise _Ended("BAD_AUDIO", "something came after the end of the audio")
        if pcm is not None:
            if len(pcm) > MAX_FRAME_BYTES:
                raise _Ended("BAD_AUDIO", f"a frame of {len(pcm)} bytes is larger than {MAX_FRAME_BYTES}")
            await frames.put(pcm)
            continue
        try:
            command = _COMMAND.validate_json(text or "")
        except ValidationError:
            raise _Ended("BAD_AUDIO", "a text frame that is not the end of the audio") from None
        if isinstance(command, Finalize) and not finalizes:
            raise _Ended("BAD_AUDIO", "only a live stream can be finalized before its end")
        ended = isinstance(command, EndOfAudio)
        await frames.put(None if isinstance(command, EndOfAudio) else command)


async def _audio(frames: asyncio.Queue[_Frame | None]) -> AsyncIterator[_Frame]:
    while (frame := await frames.get()) is not None:
        yield frame


async def _send(socket: WebSocket, message: Message) -> None:
    await socket.send_text(message.model_dump_json())


async def _last_word(socket: WebSocket, message: Message) -> None:
    with contextlib.suppress(WebSocketDisconnect, ConnectionError, RuntimeError):
        await _send(socket, message)
        await socket.close()
