"""What a process prints: kept in a file of bounded size, with the last lines at hand."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_BYTES = 5 << 20
_TAIL_BYTES = 16 << 10


class OutputLog:
    """A log file that becomes `NAME.1` when it is full, so that two files bound what one process can fill."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self._limit = limit_bytes
        self._tail = b""
        self._file = path.open("ab", buffering=0)

    def write(self, output: bytes) -> None:
        """Append; a full disk loses lines of a log and nothing else."""
        self._tail = (self._tail + output)[-_TAIL_BYTES:]
        with contextlib.suppress(OSError):
            if self._file.tell() + len(output) > self._limit:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
                full, self._file = self._file, self.path.open("ab", buffering=0)
                full.close()
            self._file.write(output)

    def mark(self) -> None:
        """A new process begins: `last_lines` tells its lines only."""
        self._tail = b""

    def last_lines(self, count: int) -> list[str]:
        """The last `count` lines that aren't empty, newest last."""
        lines = self._tail.decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()][-count:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
