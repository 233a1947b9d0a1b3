"""Where a body waits until all of it is there: in memory when small, else in a file that has no name."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import IO, TYPE_CHECKING, Self

import structlog

from babelrack.api_server.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

IN_MEMORY_BYTES = 512 * 1024
_WRITE_BYTES = 1024 * 1024

log = structlog.get_logger(__name__)


class Spool:
    """Bytes on their way to the decoder, behind one file descriptor.

    Up to half a MiB lives in a memfd; what is larger goes to an unlinked file in `folder`, written by a thread a MiB
    at a time, so that a slow disk never holds up the event loop. Nothing is left behind, however the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._folder = folder
        self._pending = bytearray()
        self._file: IO[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pending = bytearray()
        if self._file is not None:
            self._file.close()

    async def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            Unavailable: when the disk is full or can't be written.
        """
        self.size += len(data)
        self._pending += data
        if len(self._pending) >= (_WRITE_BYTES if self._file is not None else IN_MEMORY_BYTES + 1):
            await asyncio.to_thread(self._flush_to_disk)

    async def finish(self) -> int:
        """The descriptor of the whole body, at its start; it stays this spool's own and closes with it."""
        if self._file is None:
            self._file = os.fdopen(os.memfd_create("audio", os.MFD_CLOEXEC), "wb", buffering=0)
            self._flush()
        elif self._pending:
            await asyncio.to_thread(self._flush_to_disk)
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        return self._file.fileno()

    def _flush_to_disk(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed with the spool
            self._flush()
        except OSError as error:
            log.error("spool failed", folder=str(self._folder), error=str(error))
            raise Unavailable(
                f"the server could not store the audio ({error.strerror}); its operator should look at STATE_DIR.",
                code="SPOOL",
                retry_after=30,
            ) from error

    def _flush(self) -> None:
        assert self._file is not None  # noqa: S101 - both callers have just made it
        with memoryview(self._pending) as pending:
            written = 0
            while written < len(pending):
                written += self._file.write(pending[written:])
        self._pending = bytearray()
