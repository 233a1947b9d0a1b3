"""Live transcription for `babelrack transcribe --live`: audio at the pace of speech, partials drawn in place.

A session whose replica stops or is lost goes on at another one, which hears again what isn't final yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
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
# What can be sent again: the utterance, and what was said while there was no connection.
_KEPT_S = 120
# The server keeps a session so long after its last sign of life.
_BREAK_S = 30.0
_AGAIN_S = 1.0
# Close codes; 1006 is a connection that was cut.
_GOES_ON = (1006, 1012)
_COMES_BACK = (None, 502, 503, 504)


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
    def frame(self) -> int:
        """Bytes of one sample on the wire."""
        return _BYTES_A_SAMPLE[self.sent_as[0]]

    @property
    def sent_as(self) -> tuple[Encoding, int]:
        """Encoding and rate on the wire: a file is decoded here, stdin is passed on as it is."""
        return (self.encoding, self.sample_rate) if self.file == STDIN else (Encoding.LINEAR16, SAMPLE_RATE)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the audio in pieces as they are sent, whole samples each.

        Raises:
            AudioError, OSError: when there is none.
        """
        frame = self.frame
        size = int(_PIECE_S * self.sent_as[1]) * frame
        held = b""
        blocks = _stdin(size) if self.file == STDIN else _decoded(self.file)
        async for block in blocks:
            held += block
            while len(held) >= size or (self.file == STDIN and len(held) >= frame):
                piece = held[: min(size, len(held) - len(held) % frame)]
                held = held[len(piece) :]
                yield piece
        if len(held) >= frame:
            yield held[: len(held) - len(held) % frame]


async def _decoded(file: Path) -> AsyncGenerator[bytes]:
    with file.open("rb") as opened:
        async with DecoderPool(parallel=1) as pool, pool.open(opened.fileno()) as decoding:
            async for pcm in decoding:
                yield pcm


async def _stdin(size: int) -> AsyncGenerator[bytes]:
    """Read what is there, as soon as it is there; whoever waits for more holds up nobody's end."""
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[bytes | OSError] = asyncio.Queue(1)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is over
            block: bytes | OSError = b"begin"
            while isinstance(block, bytes) and block:
                try:
                    block = os.read(sys.stdin.fileno(), size)
                except OSError as error:
                    block = error
                asyncio.run_coroutine_threadsafe(blocks.put(block), loop).result()

    threading.Thread(target=read, daemon=True, name="stdin").start()
    while block := await blocks.get():
        if isinstance(block, OSError):
            raise block
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

    def note(self, sentence: str) -> None:
        """Tell what is no part of the transcript, on stderr."""
        if self._drawn:
            self._live.update(Text(sentence, style="yellow"), refresh=True)
        else:
            sys.stderr.write(f"babelrack: {sentence}\n")

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
        asyncio.run(_transcribe(source, _Session(gateway, key, language, source.sent_as), display))


async def _transcribe(source: Source, session: _Session, display: Display) -> None:
    tape, stop = _Tape(source), asyncio.Event()
    socket = await session.open()
    tasks = [asyncio.create_task(tape.record(stop)), asyncio.create_task(_to_the_end(session, socket, tape, display))]
    with _interrupt(stop):
        await _all(tasks)


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all of them, or for the first that fails, which ends the others."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Tape:
    """What was said lately; it can be played from any of its samples on, again and again. Positions are in samples."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frame = source.frame
        self.rate = source.sent_as[1]
        self._pieces: deque[bytes] = deque()
        self.begin = self._said = self._played = 0
        self._over = False
        self._changed = asyncio.Condition()

    async def record(self, stop: asyncio.Event) -> None:
        """Take each piece when it has been said, but no more than can be played later.

        Raises:
            AudioError, OSError: when there is none.
        """
        begun = time.monotonic()
        try:
            async with contextlib.aclosing(self._source.pieces()) as pieces:
                async for piece in pieces:
                    due = begun + (self._said + len(piece) / self._frame) / self.rate
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))
                    if stop.is_set():
                        return
                    await self._add(piece)
        finally:
            async with self._changed:
                self._over = True
                self._changed.notify_all()

    async def _add(self, piece: bytes) -> None:
        most = _KEPT_S * self.rate
        async with self._changed:
            await self._changed.wait_for(lambda: self._said - self._played < most // 2)
            self._pieces.append(piece)
            self._said += len(piece) // self._frame
            while self._said - self.begin > most:
                self.begin += len(self._pieces.popleft()) // self._frame
            self._changed.notify_all()

    async def play(self, start: int) -> AsyncGenerator[bytes]:
        """Yield everything from sample `start` on, to the end of what is still being said."""
        self._played = max(start, self.begin)
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._over or self._said > self._played)
                if self._said <= self._played:
                    return
                piece = self._after(self._played)
                self._played += len(piece) // self._frame
                self._changed.notify_all()
            yield piece

    def _after(self, position: int) -> bytes:
        begin = self._said
        for piece in reversed(self._pieces):
            begin -= len(piece) // self._frame
            if begin <= position:
                return piece[(position - begin) * self._frame :]
        raise AssertionError("what is played is kept")


class _BreakError(Exception):
    """The connection is lost, but not the session."""


@dataclass
class _Session:
    """A session at the server, over as many connections as it takes."""

    gateway: str
    key: str | None
    language: str | None
    sent_as: tuple[Encoding, int]
    name: str = field(default="", init=False)
    lost_at: float | None = field(default=None, init=False)  # since when nothing was heard
    received: int = field(default=0, init=False)  # events, as the server counts them

    async def open(self, **going_on: str) -> ClientConnection:
        """Connect, for a new session or, with the options for it, for one that goes on.

        Raises:
            TranscriptionError: when the server refuses it, or isn't there.
        """
        encoding, rate = self.sent_as
        query = {"model": "pulse", "encoding": encoding.value, "sample_rate": str(rate), **going_on}
        query |= {"language": self.language} if self.language else {}
        url = f"ws{self.gateway.removeprefix('http')}{PATH}?{urlencode(query)}"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            socket = await connect(url, additional_headers=headers, compression=None)
        except InvalidStatus as refused:
            status = refused.response.status_code
            raise TranscriptionError(_sentence(refused.response.body, status), status=status) from None
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise TranscriptionError(f"The connection to {self.gateway} failed: {error}") from error
        self.name = socket.response.headers.get("X-Session-Id", "") if socket.response else ""
        return socket

    async def go_on(self, tape: _Tape) -> tuple[ClientConnection, int]:
        """Connect again, for as long as the server keeps the session; the second is what to play from.

        Raises:
            TranscriptionError: when it doesn't go on.
        """
        reason = "no replica takes it"
        self.lost_at = self.lost_at or time.monotonic()
        while time.monotonic() < self.lost_at + _BREAK_S:
            await asyncio.sleep(_AGAIN_S)
            try:
                return await self._go_on(tape)
            except (TranscriptionError, ConnectionClosed) as error:
                reason = str(error)
                if isinstance(error, TranscriptionError) and error.status not in _COMES_BACK:
                    break
        raise TranscriptionError(f"The connection was lost, and the session didn't go on: {reason}")

    async def _go_on(self, tape: _Tape) -> tuple[ClientConnection, int]:
        if not self.received and not tape.begin:
            return await self.open(), 0  # nothing was heard of it yet: a new one is as good
        kept = f"{tape.begin / tape.rate:.3f}"
        socket = await self.open(session_id=self.name, received=str(self.received), audio_from=kept)
        resumed = json.loads(await socket.recv())
        if resumed["type"] != "session_resumed":
            await socket.close()
            raise TranscriptionError(resumed.get("message", "The server doesn't say where it goes on."))
        self.received = resumed["received"]
        return socket, round(resumed["audio_from"] * tape.rate)


async def _to_the_end(session: _Session, socket: ClientConnection, tape: _Tape, display: Display) -> None:
    """Send what is said and show what is heard, over as many connections as it takes."""
    start = 0
    while True:
        try:
            async with socket:
                sending = asyncio.create_task(_send(socket, tape, start))
                await _all([sending, asyncio.create_task(_receive(session, socket, display))])
        except _BreakError as error:
            if session.lost_at is None:
                display.note(str(error))
            socket, start = await session.go_on(tape)
        else:
            return


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


async def _send(socket: ClientConnection, tape: _Tape, start: int) -> None:
    """Send what is said from sample `start` on, then ask for the last transcript."""
    with contextlib.suppress(ConnectionClosed):  # whoever receives says why
        async with contextlib.aclosing(tape.play(start)) as pieces:
            async for piece in pieces:
                await socket.send(piece)
        await socket.send(json.dumps({"type": "close_stream"}))


async def _receive(session: _Session, socket: ClientConnection, display: Display) -> None:
    wrong = ""
    try:
        async for message in socket:
            event = json.loads(message)
            if event["type"] == "error":
                wrong = event["message"]
                continue
            session.received += 1
            session.lost_at = None
            display.show(str(message), event)
            if event.get("is_last"):
                return
    except ConnectionClosed:
        pass
    code = socket.close_code or 1006
    if code in _GOES_ON and session.name:
        raise _BreakError("The connection was lost; the session goes on over another.")
    raise TranscriptionError(wrong or socket.close_reason or "The server ended the session before its last transcript.")
