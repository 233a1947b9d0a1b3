"""A model server whose words a test chooses: the real protocol on a real socket, and no model behind it.

What a client is told must not depend on what a model happens to hear, when it is about the telling.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING

from api_rig import AGGREGATOR, DEPLOYMENT, LANGUAGES
from license_rig import free_port
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response

from babelrack.pairing import (
    Accepted,
    CheckpointHealth,
    Final,
    ModelHealth,
    Partial,
    Refusal,
    SpeechEnded,
    SpeechStarted,
    StreamDone,
    StreamRequest,
    Voices,
    Word,
)
from babelrack.pairing.messages import EndOfAudio, Finalize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from websockets.asyncio.server import ServerConnection

CHECKPOINT = "indic-multi"
CONCURRENCY = 8


class Talk:
    """One stream, from the model server's side."""

    def __init__(self, connection: ServerConnection, request: StreamRequest) -> None:
        self.request = request
        self.audio = bytearray()
        self.finalizes = 0
        self.ended = False
        self.gone = False
        self.deaf = False  # reads nothing
        self._connection = connection
        self._news = asyncio.Event()
        self._utterance = 0

    @property
    def seconds(self) -> float:
        return len(self.audio) / 32_000

    async def listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                while self.deaf:
                    await asyncio.sleep(0.01)
                if isinstance(message, bytes):
                    self.audio += message
                elif '"finalize"' in message:
                    Finalize.model_validate_json(message)
                    self.finalizes += 1
                else:
                    EndOfAudio.model_validate_json(message)
                    self.ended = True
                self._news.set()
        self.gone = True
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until it holds; a stream whose client has gone holds nothing any more."""
        while not true():
            if self.gone:
                raise ConnectionError
            self._news.clear()
            await self._news.wait()

    async def heard(self, seconds: float) -> None:
        await self.until(lambda: self.seconds >= seconds - 1e-6)

    async def started(self, at: float) -> None:
        await self._say(SpeechStarted(at=at))

    async def stopped(self, at: float) -> None:
        await self._say(SpeechEnded(at=at))

    async def partial(self, text: str, *, language: str = "en") -> None:
        await self._say(
            Partial(
                utterance=self._utterance,
                start=self.request.start_s,
                end=self.request.start_s + self.seconds,
                text=text,
                stable=0,
                language=language,
                checkpoint=CHECKPOINT,
            )
        )

    async def final(
        self,
        text: str,
        cause: str = "endpoint",
        *,
        start: float = 0.0,
        end: float | None = None,
        language: str = "en",
        voices: Voices | None = None,
    ) -> None:
        start += self.request.start_s
        end = self.request.start_s + self.seconds if end is None else self.request.start_s + end
        words = []
        if self.request.words:
            parts = [f" {part}" for part in text.split()]
            step = (end - start) / max(1, len(parts))
            words = [
                Word(word=part, start=start + step * i, end=start + step * (i + 1), probability=0.9)
                for i, part in enumerate(parts)
            ]
        await self._say(
            Final(
                utterance=self._utterance,
                start=start,
                end=end,
                text=text,
                words=words,
                language=language,
                checkpoint=CHECKPOINT,
                confidence=0.9,
                cause=cause,
                voices=voices,
            )
        )
        self._utterance += 1

    async def _say(self, message) -> None:
        await self._connection.send(message.model_dump_json())


async def counting(talk: Talk) -> None:
    """A word each second as a partial, and a final of them for each finalize and the end."""
    said, finalized, partials = 0, 0, 0
    while True:
        await talk.until(
            lambda: talk.ended or talk.finalizes > finalized or int(talk.seconds) > max(said, partials)  # noqa: B023
        )
        count = int(talk.seconds)
        text = "".join(f" word{i + 1}" for i in range(said, count))
        if talk.ended or talk.finalizes > finalized:
            cause = "finalize" if talk.finalizes > finalized else "end"
            await talk.final(text, cause, start=said, end=count)
            said = count
            if cause == "end":
                return
            finalized += 1
        else:
            partials = count
            await talk.partial(text)


class ScriptedModel:
    """Listens while its context lasts; `script` is what each stream is told, `talks` are all that there were."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.script: Callable[[Talk], Awaitable[None]] = counting
        self.talks: list[Talk] = []
        self.refusal: Refusal | None = None
        self.status = "healthy"

    async def __aenter__(self) -> ScriptedModel:
        self._server = await serve(
            self._stream, "127.0.0.1", self.port, process_request=self._health, compression=None, ping_interval=None
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for talk in self.talks:
            talk.deaf = False
        self._server.close()
        await self._server.wait_closed()

    @property
    def open(self) -> int:
        return sum(not talk.gone for talk in self.talks)

    async def _health(self, _connection: ServerConnection, request) -> Response | None:
        if request.path != "/health":
            return None
        checkpoint = CheckpointHealth(
            name=CHECKPOINT,
            role="multilingual",
            languages=list(LANGUAGES),
            concurrency=CONCURRENCY,
            active=self.open,
            queued=0,
        )
        body = ModelHealth(
            status=self.status,
            deployment=DEPLOYMENT,
            aggregator=AGGREGATOR,
            engine="script",
            device="none",
            dtype="none",
            version="0",
            uptime_s=0,
            checkpoints=[checkpoint],
            features=["diarize"],
        )
        content = body.model_dump_json().encode()
        return Response(HTTPStatus.OK, "OK", Headers({"Content-Length": str(len(content))}), content)

    async def _stream(self, connection: ServerConnection) -> None:
        request = StreamRequest.model_validate_json(await connection.recv())
        if self.refusal is not None:
            await connection.send(self.refusal.model_dump_json())
            return
        talk = Talk(connection, request)
        self.talks.append(talk)
        await connection.send(Accepted(checkpoint=CHECKPOINT).model_dump_json())
        listening = asyncio.create_task(talk.listen())
        try:
            await self.script(talk)
            await connection.send(StreamDone(duration=talk.seconds).model_dump_json())
        except (ConnectionError, ConnectionClosed):
            pass
        finally:
            await connection.close()
            await listening
