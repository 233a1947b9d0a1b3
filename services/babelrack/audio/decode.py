"""Uploads into PCM without trusting them: each decode runs in a confined process of its own.

    async with DecoderPool(DecodeLimits()) as pool:
        async with pool.open(file.fileno()) as decoding:
            async for pcm in decoding:
                ...

A crash, a hang or an explosion inside a codec ends that decode and nothing else, and the event loop only ever moves
at most 64 KiB from a pipe. libav is never loaded into this process.
"""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from babelrack.audio import PCM_CHUNK_BYTES
from babelrack.audio.containers import AudioInfo, Declared
from babelrack.audio.errors import CODES, AudioError, DecoderLost
from babelrack.audio.limits import DecodeLimits

__all__ = ["AudioError", "AudioInfo", "DecodeLimits", "DecoderLost", "DecoderPool", "Decoding", "decode_file"]

_STATUS_BYTES: Final = 65_536
_CRASHES: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS}
)
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")
"""Environment the zygote gets: what Python needs to start, and no secret that a broken codec could read."""


class Decoding:
    """One decode under way: iterate it for PCM. `info` says what the upload claims to be, from the first piece on."""

    def __init__(self, identity: int, pcm: int, status: int) -> None:
        self.info: AudioInfo | None = None
        self.identity = identity
        self._pcm = pcm
        self._status = status
        self._told = bytearray()
        self._odd = b""
        self._over = False
        self._reaped = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return 16 kHz mono s16le, at most 64 KiB; raise `AudioError` where the upload can't be decoded further."""
        while not self._over:
            try:
                data = os.read(self._pcm, PCM_CHUNK_BYTES - len(self._odd))
            except BlockingIOError:
                await _readable(self._pcm)
                continue
            if not data:
                self._over = True
                await self._conclude()
                break
            if self.info is None:
                self._listen()
            data = self._odd + data
            whole = len(data) & ~1
            self._odd = data[whole:]
            await asyncio.sleep(0)  # a decoder that is always ahead must not keep the loop from its other work
            if whole:
                return data[:whole]
        raise StopAsyncIteration

    def close(self) -> bool:
        """Stop listening; False where the child may still be there and has to be ended."""
        self._over = True
        os.close(self._pcm)
        os.close(self._status)
        return self._reaped

    def _listen(self) -> bool:
        """Take what the status pipe holds; False at its end."""
        try:
            while data := os.read(self._status, 4096):
                self._told += data
                if len(self._told) > _STATUS_BYTES:
                    return False
        except BlockingIOError:
            self.info = self.info or _info(_messages(self._told))
            return True
        return False

    async def _conclude(self) -> None:
        while self._listen():
            await _readable(self._status)
        told = _messages(self._told)
        self._reaped = "exit" in told
        self.info = self.info or _info(told)
        if isinstance(refusal := told.get("error"), dict) and refusal.get("code") in CODES:
            raise AudioError(refusal["code"], str(refusal.get("message")))
        ended = told.get("exit")
        if told.get("done") is True and ended == 0:
            return
        if ended == -signal.SIGXCPU:
            raise AudioError("TOO_LONG", "The upload takes more processor time to decode than is allowed: split it.")
        if isinstance(ended, int) and -ended in _CRASHES:
            raise AudioError("UNDECODABLE", "The upload made its decoder crash: convert it to wav, flac or mp3.")
        raise DecoderLost(f"The decoder was lost ({told.get('lost') or f'exit {ended}'}); try again.")


class DecoderPool:
    """Decodes in parallel, at most `parallel` at a time; the others wait for their turn.

    A decode holds its place until its PCM is taken, however slowly, and costs no processor time while it waits. So the
    bound is one of memory, and well above the number of cores, or a few long uploads would keep all short ones waiting.
    """

    def __init__(self, limits: DecodeLimits | None = None, parallel: int | None = None) -> None:
        self._limits = limits or DecodeLimits()
        self._slots = asyncio.Semaphore(parallel or max(32, 8 * (os.cpu_count() or 1)))
        self._sending = asyncio.Lock()
        self._identities = itertools.count(1)
        self._zygote: _Zygote | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the zygote now instead of at the first decode."""
        if self._zygote is None:
            self._zygote = _Zygote()

    async def close(self) -> None:
        """End the zygote and every decode under way."""
        self._closed = True
        if self._zygote is not None:
            zygote, self._zygote = self._zygote, None
            await zygote.end()

    @asynccontextmanager
    async def open(
        self,
        file_descriptor: int,
        encoding: str | None = None,
        sample_rate: int = 16_000,
        channels: int = 1,
        *,
        live_seconds: float | None = None,
    ) -> AsyncIterator[Decoding]:
        """Decode the file behind `file_descriptor`, from its beginning; it may be closed once this is entered.

        `encoding` None reads containers by their content; `sample_rate` (Hz) and `channels` count only for headerless
        encodings. With `live_seconds` the file is a pipe that is written as somebody speaks, for so long at most: it is
        decoded without waiting for more, and holds no place, because it lasts for as long as its caller wants.
        Leaving the block ends the decode. Raises `AudioError`, or its subclass `DecoderLost` where the fault is ours.
        """
        live = live_seconds is not None
        declared = Declared.checked(encoding, sample_rate, channels, live=live)
        limits = self._limits if live_seconds is None else replace(self._limits, max_seconds=live_seconds)
        async with nullcontext() if live else self._slots:
            decoding = await self._begin(file_descriptor, declared, limits)
            try:
                yield decoding
            finally:
                if not decoding.close() and self._zygote is not None:
                    self._zygote.kill(decoding.identity)

    async def _begin(self, file_descriptor: int, declared: Declared, limits: DecodeLimits) -> Decoding:
        identity = next(self._identities)
        request = {"decode": identity, "declared": asdict(declared), "limits": asdict(limits)}
        pipes = [*os.pipe(), *os.pipe()]
        pcm, pcm_end, status, status_end = pipes
        try:
            os.set_blocking(pcm, False)
            os.set_blocking(status, False)
            await self._send(json.dumps(request).encode(), [file_descriptor, pcm_end, status_end])
        except BaseException:
            for descriptor in (pcm, status):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (pcm_end, status_end):
                os.close(descriptor)
        return Decoding(identity, pcm, status)

    async def _send(self, message: bytes, descriptors: list[int]) -> None:
        async with self._sending:
            for _ in range(2):
                if self._closed:
                    raise DecoderLost("The decoder is shutting down; try again.")
                if self._zygote is None:
                    self._zygote = _Zygote()
                try:
                    return await self._zygote.send(message, descriptors)
                except (BrokenPipeError, ConnectionError):
                    zygote, self._zygote = self._zygote, None
                    await zygote.end()
        raise DecoderLost("The decoder does not start; see the server's log.")


class _Zygote:
    """The server's end of `babelrack.audio.zygote`."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "babelrack.audio.zygote"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            )

    async def send(self, message: bytes, descriptors: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._control, [message], descriptors)
            except BlockingIOError:
                await _writable(self._control.fileno())
            else:
                return

    def kill(self, identity: int) -> None:
        with suppress(OSError):  # a full socket or a dead zygote: the closed pipe ends the child at its next write
            self._control.send(json.dumps({"kill": identity}).encode())

    async def end(self) -> None:
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


def decode_file(path: str | Path, limits: DecodeLimits | None = None) -> NDArray[np.int16]:
    """Decode a trusted file in this process: 16 kHz mono int16, shape (samples,). For benchmarks, the CLI and tests."""
    from babelrack.audio.decoder import Decoder  # noqa: PLC0415 - a server that decodes uploads never loads libav

    with Path(path).open("rb") as file:
        pcm = b"".join(Decoder(file.fileno(), Declared(), limits or DecodeLimits()))
    return np.frombuffer(pcm, "<i2")


def _messages(told: bytes | bytearray) -> dict[str, Any]:
    """Merge the status pipe's whole lines; a child may have written anything, so only JSON objects count."""
    merged: dict[str, Any] = {}
    for line in bytes(told).split(b"\n")[:-1]:
        with suppress(ValueError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict):
                merged |= message
    return merged


def _info(told: dict[str, Any]) -> AudioInfo | None:
    try:
        claimed = told["info"]["claimed_seconds"]
        return AudioInfo(
            container=str(told["info"]["container"]),
            codec=str(told["info"]["codec"]),
            sample_rate=int(told["info"]["sample_rate"]),
            channels=int(told["info"]["channels"]),
            claimed_seconds=None if claimed is None else float(claimed),
        )
    except (KeyError, TypeError, ValueError):
        return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
