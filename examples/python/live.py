#!/usr/bin/env python3
"""Transcribe speech while it is spoken: a WAV file, or raw samples on standard input, at the pace of time.

    BABELRACK_KEY_FILE=key.txt python live.py --language en speech.wav
    arecord -q -f S16_LE -r 16000 -t raw | python live.py --language en -

What is final goes to standard output, a line an utterance; what may still change goes to standard error.
Ctrl-C ends the speech, and the last words still come; a second one ends the program.
Needs Python 3.11 and the package websockets.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

PATH = "/waves/v1/pulse/get_text"
RATES = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)
SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
BYTES_A_SAMPLE = 2
FRAME_SECONDS = 0.1
LAST_TRANSCRIPT_SECONDS = 30


class Trouble(Exception):
    """What went wrong, in a sentence."""


class Speech:
    """Mono 16-bit samples, from a WAV file or from standard input."""

    def __init__(self, source: str, rate: int) -> None:
        self.rate = rate
        self._over = False
        if source == "-":
            self._read = lambda samples: sys.stdin.buffer.read(samples * BYTES_A_SAMPLE)
            return
        try:
            file = wave.open(source, "rb")  # noqa: SIM115 - read until the program ends
        except (OSError, EOFError, wave.Error) as error:
            raise Trouble(f"{source} can't be read as a WAV file: {error}") from None
        self.rate = file.getframerate()
        if (file.getnchannels(), file.getsampwidth()) != (1, BYTES_A_SAMPLE) or self.rate not in RATES:
            raise Trouble(
                f"{source} has {file.getnchannels()} channels of {file.getsampwidth() * 8} bits at {self.rate} Hz; "
                f"make it mono, 16 bits, at one of {', '.join(map(str, RATES))} Hz."
            )
        self._read = file.readframes

    def end(self) -> None:
        """Take what was read so far for all of it."""
        self._over = True

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield a tenth of a second at a time, no faster than it is spoken."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not self._over and (frame := await asyncio.to_thread(self._read, round(self.rate * FRAME_SECONDS))):
            yield frame
            # A source that is late, such as a microphone, isn't caught up with by sending faster later.
            due = max(due + FRAME_SECONDS, clock() - FRAME_SECONDS)
            await asyncio.sleep(due - clock())


class Screen:
    """Finals on standard output; partials on standard error, in place where that is a terminal."""

    def __init__(self) -> None:
        self._in_place = sys.stderr.isatty()

    def partial(self, text: str) -> None:
        """Show an utterance that may still change: on a terminal its end, as far as that fits into a line."""
        if self._in_place:
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            print(f"\r\x1b[K{text[-width:]}", end="", file=sys.stderr, flush=True)
        elif text:
            print(text, file=sys.stderr, flush=True)

    def final(self, text: str) -> None:
        """Show what will not change any more."""
        if self._in_place:
            self.partial("")
        if text:
            print(text, flush=True)


def url(gateway: str, language: str, rate: int) -> str:
    """The session's URL at a gateway's address."""
    parts = urlsplit(gateway)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise Trouble(f"{gateway} is no gateway's address; write one like http://127.0.0.1:8080.")
    query = urlencode({"language": language, "encoding": "linear16", "sample_rate": rate})
    return urlunsplit((SCHEMES[parts.scheme], parts.netloc, parts.path.rstrip("/") + PATH, query, ""))


async def send(socket: ClientConnection, speech: Speech) -> None:
    """Send the whole speech, then ask for the last transcript."""
    async for frame in speech.frames():
        await socket.send(frame)
    await socket.send(json.dumps({"type": "close_stream"}))


async def receive(socket: ClientConnection, screen: Screen) -> None:
    """Show what arrives, until the last transcript."""
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "error":
            raise Trouble(message["message"])
        if message["type"] != "transcription":
            continue
        if message["is_final"]:
            screen.final(message["transcript"])
        else:
            screen.partial(message["transcript"])
        if message["is_last"]:
            return
    raise Trouble("the gateway ended the session before the last transcript.")


async def transcribe(gateway: str, key: str, language: str, speech: Speech) -> None:
    """Run one session from its handshake to its last transcript."""
    address = url(gateway, language, speech.rate)
    screen = Screen()
    try:
        async with connect(address, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
            receiving = asyncio.create_task(receive(socket, screen))
            sending = asyncio.create_task(send(socket, speech))
            try:
                # The session may end before the speech does.
                await asyncio.wait((receiving, sending), return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    await sending
                    await asyncio.wait_for(receiving, LAST_TRANSCRIPT_SECONDS)
                await receiving
            finally:
                sending.cancel()
                receiving.cancel()
    except InvalidStatus as refusal:
        raise Trouble(f"the gateway refuses: {said(refusal.response.body)}") from None
    except ConnectionClosed as end:
        reason = end.rcvd.reason if end.rcvd else ""
        raise Trouble(f"the session was ended: {reason or 'the connection is lost'}") from None
    except TimeoutError:
        raise Trouble("the gateway is silent.") from None
    except (OSError, WebSocketException) as error:
        raise Trouble(f"no session with {gateway}: {error}") from None


def said(body: bytes | None) -> str:
    """What a refusal says, in its JSON or as it is."""
    try:
        answer = json.loads(body or b"")
        return str(answer.get("message") or answer["error"])
    except (ValueError, AttributeError, KeyError):
        return (body or b"nothing").decode(errors="replace")


def read_key(file: Path | None) -> str:
    """Return the key; it is no argument, because everybody on a machine can read those."""
    if file is None:
        key = os.environ.get("BABELRACK_KEY", "")
    else:
        try:
            key = file.read_text()
        except OSError as error:
            raise Trouble(f"{file} can't be read: {error.strerror}.") from None
    if not key.strip():
        raise Trouble("there is no key; name its file with --key-file or BABELRACK_KEY_FILE, or set BABELRACK_KEY.")
    return key.strip()


def main() -> int:
    """Read the command line and transcribe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a WAV file (mono, 16 bits), or - for raw samples on standard input")
    parser.add_argument("--language", required=True, help="a code such as hi, or an aggregator such as multi-indic")
    parser.add_argument("--gateway", default="http://127.0.0.1:8080", help="default: %(default)s")
    parser.add_argument(
        "--sample-rate", type=int, choices=RATES, default=16_000, help="of raw samples; default: %(default)s"
    )
    parser.add_argument("--key-file", type=Path, default=os.environ.get("BABELRACK_KEY_FILE"), help="file with the key")
    asked = parser.parse_args()
    try:
        key = read_key(asked.key_file)
        speech = Speech(asked.source, asked.sample_rate)

        def interrupted(*_: object) -> None:
            speech.end()
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGINT, interrupted)
        asyncio.run(transcribe(asked.gateway, key, asked.language, speech))
    except Trouble as trouble:
        print(f"live.py: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
