"""The API server's end of the pairing."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast, get_args

import httpx
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from babelrack.pairing.messages import (
    Accepted,
    EndOfAudio,
    Finalize,
    Heartbeat,
    Message,
    ModelEvent,
    ModelHealth,
    Refusal,
    Request,
    StreamEvent,
    StreamRequest,
    server_message,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_CLOSE_SECONDS = 1.0
_SEND_BYTES = 64 * 1024
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024

Event = TypeVar("Event", ModelEvent, StreamEvent)


class ModelServerLost(Exception):
    """The model server can't be reached, went away, or said something that isn't of the protocol."""


class Refused(Exception):
    """The model server did not take the request; `status` is the HTTP status that says so."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.status = refusal.status
        self.code = refusal.code
        self.message = refusal.message
        self.languages = refusal.languages
        self.retry_after = refusal.retry_after


class _Session(Generic[Event]):
    """Audio goes in, events come out, both at the same time.

    Send and iterate from two tasks: `send` waits while the model server has enough, and events may come
    before all audio is sent. When `send` raises `ModelServerLost`, the iteration still yields what the server
    said before it closed.
    """

    _events: tuple[type[Message], ...]

    def __init__(self, connection: ClientConnection, accepted: Accepted) -> None:
        self._connection = connection
        self.accepted = accepted

    async def send(self, pcm: bytes) -> None:
        """Send at most 64 KiB of 16 kHz mono s16le PCM; waits when the model server has enough."""
        await self._send(pcm)

    async def end(self) -> None:
        """Say that all audio is sent."""
        await self._send(EndOfAudio(type="end").model_dump_json())

    async def _send(self, frame: bytes | str) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise ModelServerLost("the model server closed the connection while audio was being sent") from error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            message = server_message.validate_json(await self._connection.recv())
            while isinstance(message, Heartbeat):
                message = server_message.validate_json(await self._connection.recv())
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == 1000:
                raise StopAsyncIteration from None
            raise ModelServerLost("the model server went away before it had answered") from error
        except ValidationError as error:
            raise ModelServerLost("the model server sent a message that this version does not know") from error
        if not isinstance(message, self._events):
            raise ModelServerLost(f"the model server sent {message.type!r} in the middle of a request")
        return cast("Event", message)


class ModelSession(_Session[ModelEvent]):
    """One request at the model server."""

    _events = get_args(ModelEvent)


class StreamSession(_Session[StreamEvent]):
    """One live stream at the model server."""

    _events = get_args(StreamEvent)

    async def finalize(self) -> None:
        """Ask for what was sent so far to be final; one `Final` answers."""
        await self._send(Finalize().model_dump_json())


class ModelClient:
    """Talks to the paired model server at `base_url` (`http://127.0.0.1:2233`)."""

    def __init__(self, base_url: str, deployment: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.deployment = deployment
        self._http = httpx.AsyncClient(base_url=self.base_url, timeout=_CONNECT_SECONDS, trust_env=False)
        self._socket_url = "ws" + self.base_url.removeprefix("http")

    async def aclose(self) -> None:
        """Close the connections that health checks keep."""
        await self._http.aclose()

    async def health(self) -> ModelHealth:
        """The model server's health, whatever its status.

        Raises:
            ModelServerLost: when it can't be reached or doesn't answer as a model server.
        """
        try:
            response = await self._http.get("/health")
            return ModelHealth.model_validate_json(response.content)
        except httpx.HTTPError as error:
            raise ModelServerLost(f"the model server at {self.base_url} does not answer: {error}") from error
        except ValidationError as error:
            raise ModelServerLost(f"what answers at {self.base_url} is not a model server") from error

    @asynccontextmanager
    async def transcribe(self, request: Request) -> AsyncIterator[ModelSession]:
        """Open a session for one request; leaving the context cancels what is not finished.

        Raises:
            Refused: when the model server doesn't take the request.
            ModelServerLost: when it can't be reached.
        """
        async with self._open("/v1/transcribe") as connection:
            yield ModelSession(connection, await self._ask(connection, request))

    @asynccontextmanager
    async def stream(self, request: StreamRequest) -> AsyncIterator[StreamSession]:
        """Open a session for a live stream; leaving the context ends it.

        Raises:
            Refused: when the model server doesn't take the stream.
            ModelServerLost: when it can't be reached.
        """
        async with self._open("/v1/stream") as connection:
            yield StreamSession(connection, await self._ask(connection, request))

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[ClientConnection]:
        try:
            connection = await connect(
                self._socket_url + path,
                compression=None,
                max_size=_MAX_MESSAGE_BYTES,
                open_timeout=_CONNECT_SECONDS,
                close_timeout=_CLOSE_SECONDS,
                # Both ends are on one host, and a model server that has enough audio reads nothing, pings included.
                ping_interval=None,
                proxy=None,
                user_agent_header=None,
            )
        except (OSError, InvalidHandshake, TimeoutError, EOFError) as error:
            raise ModelServerLost(f"the model server at {self.base_url} does not answer") from error
        if (channel := connection.transport.get_extra_info("socket")) is not None:
            # The kernel would take minutes of audio, and who sends would think that it is heard.
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        try:
            yield connection
        finally:
            # The closing frame waits behind what was sent, and a model server that has enough doesn't read that.
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.close()
            except TimeoutError:
                connection.transport.abort()

    async def _ask(self, connection: ClientConnection, request: Request | StreamRequest) -> Accepted:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.send(request.model_dump_json())
                answer = server_message.validate_json(await connection.recv())
        except (ConnectionClosed, TimeoutError, ValidationError) as error:
            raise ModelServerLost("the model server did not answer the request") from error
        if isinstance(answer, Refusal):
            raise Refused(answer)
        if not isinstance(answer, Accepted):
            raise ModelServerLost(f"the model server opened with {answer.type!r}")
        return answer
