"""From a client's frames to 16 kHz PCM: bare samples in this process, what has a format in a confined one."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from babelrack.audio.errors import AudioError
from babelrack.audio.ogg import OggOpus, is_contained
from babelrack.audio.samples import SampleStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from babelrack.audio.decode import DecoderPool, Decoding

    Sink = Callable[[bytes], Awaitable[None]]

# Half a second of the widest samples, so that a large frame holds nobody up.
_SLICE_BYTES = 96 * 1024
_SETTLE_SECONDS = 0.5
_QUIET_SECONDS = 0.05


class Hearing(Protocol):
    """Takes frames and hands PCM on, as fast as that is taken. Errors are `AudioError`s."""

    async def take(self, frame: bytes) -> None:
        """Hear the next bytes."""

    async def settle(self) -> None:
        """Wait until all that was taken is handed on, as far as its format lets it."""

    async def end(self) -> None:
        """Hand the rest on; nothing more comes."""


@asynccontextmanager
async def hearing(
    decoders: DecoderPool, encoding: str, sample_rate: int, seconds: float, sink: Sink
) -> AsyncIterator[Hearing]:
    """Hear audio in `encoding`, at most `seconds` of it, into `sink`; leaving ends all that it takes."""
    if encoding not in ("opus", "ogg_opus"):
        yield _Samples(SampleStream(encoding, sample_rate), sink)
        return
    contained = _Contained(sink) if encoding == "ogg_opus" else _Opus(sink)
    async with contained.running(decoders, encoding, seconds):
        yield contained


class _Samples:
    def __init__(self, stream: SampleStream, sink: Sink) -> None:
        self._stream = stream
        self._sink = sink

    async def take(self, frame: bytes) -> None:
        for start in range(0, len(frame), _SLICE_BYTES):
            await self._hand_on(self._stream.push(frame[start : start + _SLICE_BYTES]))

    async def settle(self) -> None:
        return

    async def end(self) -> None:
        await self._hand_on(self._stream.flush())

    async def _hand_on(self, pcm: bytes) -> None:
        if pcm:
            await self._sink(pcm)


class _Contained:
    """A decoder's child reads one pipe and writes another; both are bounded by the kernel."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._handed_on = self._loop.time()

    @asynccontextmanager
    async def running(self, decoders: DecoderPool, encoding: str, seconds: float) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            theirs, self._pipe = os.pipe()
            held.callback(self._close)
            os.set_blocking(self._pipe, False)
            try:
                decoding = await held.enter_async_context(decoders.open(theirs, encoding, live_seconds=seconds))
            finally:
                os.close(theirs)
            self._listening = asyncio.create_task(self._listen(decoding))
            try:
                yield
            finally:
                self._listening.cancel()
                await asyncio.gather(self._listening, return_exceptions=True)

    async def take(self, frame: bytes) -> None:
        view = memoryview(frame)
        while view:
            try:
                view = view[os.write(self._pipe, view) :]
            except BlockingIOError:
                await self._writable()
            except BrokenPipeError:
                await self._listening  # says why the decoder ended
                return

    async def settle(self) -> None:
        """A decoder that has read all and has handed on nothing for a moment has nothing left but half a packet."""
        waiting = array.array("i", [1])
        deadline = self._loop.time() + _SETTLE_SECONDS
        while self._loop.time() < deadline and not self._listening.done():
            fcntl.ioctl(self._pipe, termios.FIONREAD, waiting)
            if waiting[0] == 0 and self._loop.time() - self._handed_on >= _QUIET_SECONDS:
                return
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._close()
        try:
            await self._listening
        except AudioError as error:
            if error.code != "EMPTY":  # a client that has said nothing has done nothing wrong
                raise

    async def _listen(self, decoding: Decoding) -> None:
        async for pcm in decoding:
            await self._sink(pcm)
            self._handed_on = self._loop.time()

    async def _writable(self) -> None:
        """Wait for room in the pipe, or for the decoder's end."""
        ready = self._loop.create_future()
        self._loop.add_writer(self._pipe, _settle, ready)
        try:
            await asyncio.wait((ready, self._listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_writer(self._pipe)
            ready.cancel()
        if self._listening.done():
            await self._listening

    def _close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


class _Opus(_Contained):
    """A container if it begins as one; else each frame is a packet."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._begun = False
        self._ogg: OggOpus | None = None

    async def take(self, frame: bytes) -> None:
        if not frame:
            return
        if not self._begun:
            self._begun = True
            self._ogg = None if is_contained(frame) else OggOpus()
        await super().take(self._ogg.page(frame) if self._ogg else frame)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
