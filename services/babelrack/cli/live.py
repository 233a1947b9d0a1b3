"""Live transcription for `babelrack transcribe --live`: audio at the pace of speech, partials drawn in place."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rich.console import Console
from rich.live import Live
from rich.text import Text
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from babelrack.audio import SAMPLE_RATE
from babelrack.audio.decode import DecoderPool
from babelrack.client import TranscriptionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

PATH = "/waves/v1/stt/live"
STDIN = Path("-")
_PIECE_S = 0.1


class Encoding(enum.StrEnum):
    """Headerless audio that tells how long it lasts."""

    LINEAR16 = "linear16"
    LINEAR32 = "linear32"
    ALAW = "alaw"
    MULAW = "mulaw"


_BYTES_A_SAMPLE = {Encoding.LINEAR16: 2, Encoding.LINEAR32: 4, Encoding.ALAW: 1, Encoding.MULAW: 1}


@dataclass(frozen=True)
class Source:
    """What is said: an audio file of any kind, or headerless audio on stdin, `encoding` at `sample_rate` Hz."""

    file: Path
    encoding: Encoding = Encoding.LINEAR16
    sample_rate: int = SAMPLE_RATE

    @property
    def sent_as(self) -> tuple[Encoding, int]:
        """Encoding and rate on the wire: a file is decoded here, stdin is passed on as it is."""
        return (self.encoding, self.sample_rate) if self.file == STDIN else (Encoding.LINEAR16, SAMPLE_RATE)

    async def pieces(self) -> AsyncGenerator[tuple[bytes, float]]:
        """Yield the audio in pieces as they are sent, each with its length in seconds.

        Raises:
            AudioError, OSError: when there is none.
        """
        encoding, rate = self.sent_as
        frame = _BYTES_A_SAMPLE[encoding]
        size = int(_PIECE_S * rate) * frame
        held = b""
        blocks = _stdin(size) if self.file == STDIN else _decoded(self.file)
        async for block in blocks:
            held += block
            while len(held) >= size or (self.file == STDIN and len(held) >= frame):
                piece = held[: min(size, len(held) - len(held) % frame)]
                held = held[len(piece) :]
                yield piece, len(piece) / frame / rate
        if len(held) >= frame:
            yield held[: len(held) - len(held) % frame], len(held) / frame / rate


async def _decoded(file: Path) -> AsyncGenerator[bytes]:
    with file.open("rb") as opened:
        async with DecoderPool(parallel=1) as pool, pool.open(opened.fileno()) as decoding:
            async for pcm in decoding:
                yield pcm


async def _stdin(size: int) -> AsyncGenerator[bytes]:
    """Read what is there, as soon as it is there."""
    while block := await asyncio.to_thread(os.read, sys.stdin.fileno(), size):
        yield block


class Display:
    """Finals go to stdout, a line each; on a terminal the utterance that is spoken is drawn below them."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._drawn = self._console.is_terminal and not as_json

    def __enter__(self) -> Display:
        if self._drawn:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._live.stop()

    def show(self, message: str, event: dict[str, Any]) -> None:
        """Show one message of the server."""
        if self._as_json:
            self._line(message)
        elif event["type"] == "transcription":
            text = event["transcript"]
            if self._drawn:
                self._live.update(Text("" if event["is_final"] else text, style="dim"), refresh=True)
            if event["is_final"] and text:
                self._line(text)

    def _line(self, text: str) -> None:
        if self._drawn:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def transcribe(source: Source, gateway: str, key: str | None, language: str | None, *, as_json: bool) -> None:
    """Send `source` at the pace of speech and show what comes back; Ctrl-C ends it with the last transcript.

    Raises:
        TranscriptionError, AudioError, OSError: when it can't be said or isn't heard to its end.
    """
    with Display(as_json=as_json) as display:
        asyncio.run(_transcribe(source, gateway, key, language, display))


async def _transcribe(source: Source, gateway: str, key: str | None, language: str | None, display: Display) -> None:
    stop = asyncio.Event()
    async with await _connected(source, gateway, key, language) as socket:
        tasks = (asyncio.create_task(_send(socket, source, stop)), asyncio.create_task(_receive(socket, display)))
        try:
            with _interrupt(stop):
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _connected(source: Source, gateway: str, key: str | None, language: str | None) -> ClientConnection:
    encoding, rate = source.sent_as
    query = {"model": "pulse", "encoding": encoding, "sample_rate": str(rate)}
    query |= {"language": language} if language else {}
    url = f"ws{gateway.removeprefix('http')}{PATH}?{urlencode(query)}"
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return await connect(url, additional_headers=headers, compression=None)
    except InvalidStatus as refused:
        status = refused.response.status_code
        raise TranscriptionError(_sentence(refused.response.body, status), status=status) from None
    except (OSError, InvalidHandshake, TimeoutError) as error:
        raise TranscriptionError(f"The connection to {gateway} failed: {error}") from error


def _sentence(body: bytes | bytearray | None, status: int) -> str:
    """What the server says of a refusal."""
    try:
        said = json.loads(body or b"")
        return str(said["message"] if "message" in said else said["error"])
    except (ValueError, KeyError, TypeError):
        return f"The server refuses live streams with status {status}."


@contextlib.contextmanager
def _interrupt(stop: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C ends what is sent; the second ends the command."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _send(socket: ClientConnection, source: Source, stop: asyncio.Event) -> None:
    """Send each piece when it has been said, then ask for the last transcript."""
    begun, said = time.monotonic(), 0.0
    with contextlib.suppress(ConnectionClosed):  # whoever receives says why
        async with contextlib.aclosing(source.pieces()) as pieces:
            async for piece, seconds in pieces:
                said += seconds
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0.0, begun + said - time.monotonic()))
                if stop.is_set():
                    break
                await socket.send(piece)
        await socket.send(json.dumps({"type": "close_stream"}))


async def _receive(socket: ClientConnection, display: Display) -> None:
    try:
        async for message in socket:
            event = json.loads(message)
            if event["type"] == "error":
                raise TranscriptionError(event["message"])
            display.show(str(message), event)
            if event.get("is_last"):
                return
    except ConnectionClosed as closed:
        reason = closed.rcvd.reason if closed.rcvd else ""
        raise TranscriptionError(reason or "The connection was lost before the last transcript.") from None
    raise TranscriptionError("The server ended the session before its last transcript.")
