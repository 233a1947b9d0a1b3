"""`WS /v1/transcribe`: one socket a request, as docs/architecture.md has it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal, NoReturn

import structlog
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from babelrack.engine import EngineError
from babelrack.model_server.admission import Overloaded
from babelrack.model_server.routing import NotEnabled, Route
from babelrack.model_server.transcription import EngineFailed, Transcription
from babelrack.pairing import Accepted, Failed, Refusal, Request
from babelrack.pairing.messages import MAX_FRAME_BYTES, EndOfAudio, Heartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from babelrack.model_server.loading import Loaded
    from babelrack.model_server.server import ModelServer
    from babelrack.pairing.messages import Message

log = structlog.get_logger(__name__)

# 32 s of audio: a short clip is always wholly read, so that its client's going away is seen at once.
_FRAMES_AHEAD = 16
_REQUEST_SECONDS = 10
_HEARTBEAT_SECONDS = 1
_CLIENTS_FAULT = ("BAD_REQUEST", "LANGUAGE_NOT_ENABLED")
_RETRY_SECONDS = {"OVERLOADED": 2, "DRAINING": 2, "STARTING": 5, "UNHEALTHY": 10, "PAIRING": 10}


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
    """Serve one socket to its end."""
    await socket.accept()
    try:
        request = await _request(socket)
        loaded, route = _admissible(request, server)
        try:
            with server.admissions[route.checkpoint].place() as turn:
                await _send(socket, Accepted(checkpoint=route.checkpoint))
                await _serve(socket, server, loaded, request, route, turn)
        except Overloaded:
            raise _Refused("OVERLOADED", f"checkpoint {route.checkpoint} has all that it can take; try again") from None
    except _Refused as refused:
        await _last_word(socket, refused.refusal)
    except _Ended as ended:
        await _last_word(socket, ended.failed)
    except (WebSocketDisconnect, ConnectionError):
        log.debug("client gone")


async def _request(socket: WebSocket) -> Request:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            return Request.model_validate_json(await socket.receive_text())
    except (ValidationError, KeyError) as error:
        raise _Refused("BAD_REQUEST", "the first message must be a request, as JSON text") from error
    except TimeoutError:
        raise _Refused("BAD_REQUEST", f"no request came within {_REQUEST_SECONDS} s") from None


def _admissible(request: Request, server: ModelServer) -> tuple[Loaded, Route]:
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
    server: ModelServer,
    loaded: Loaded,
    request: Request,
    route: Route,
    turn: Callable[[], Awaitable[None]],
) -> None:
    """Transcribe what the socket sends; a client that goes away ends the work at once."""
    frames: asyncio.Queue[bytes | None] = asyncio.Queue(_FRAMES_AHEAD)

    async def send(message: Message) -> None:
        await _send(socket, message)

    async def work() -> None:
        await turn()
        transcription = Transcription(
            request, route, loaded.routing, loaded.engine, loaded.voice, send, loaded.diarizer
        )
        try:
            await transcription.run(_audio(frames))
        except (EngineFailed, EngineError) as error:
            raise _Ended("ENGINE", str(error)) from error

    working = asyncio.create_task(work())
    watching = [
        asyncio.create_task(_listen(socket, frames, server.settings.idle_seconds)),
        asyncio.create_task(_beat(socket)),
    ]
    try:
        done, _ = await asyncio.wait((working, *watching), return_when=asyncio.FIRST_COMPLETED)
        await (working if working in done else done.pop())
    finally:
        for task in (working, *watching):
            task.cancel()
        await asyncio.gather(working, *watching, return_exceptions=True)
    await socket.close()


async def _beat(socket: WebSocket) -> NoReturn:
    """Write now and then: a client that goes away while it is held back, with frames unread, is noticed only so."""
    while True:
        await asyncio.sleep(_HEARTBEAT_SECONDS)
        await _send(socket, Heartbeat())


async def _listen(socket: WebSocket, frames: asyncio.Queue[bytes | None], idle_seconds: float) -> None:
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
            EndOfAudio.model_validate_json(text or "")
        except ValidationError:
            raise _Ended("BAD_AUDIO", "a text frame that is not the end of the audio") from None
        ended = True
        await frames.put(None)


async def _audio(frames: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (pcm := await frames.get()) is not None:
        yield pcm


async def _send(socket: WebSocket, message: Message) -> None:
    await socket.send_text(message.model_dump_json())


async def _last_word(socket: WebSocket, message: Message) -> None:
    with contextlib.suppress(WebSocketDisconnect, ConnectionError, RuntimeError):
        await _send(socket, message)
        await socket.close()
