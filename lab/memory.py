"""A host's memory, seen from outside: its limit, and a shortage of it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.trouble import LabError

if TYPE_CHECKING:
    from lab.commands import Commands

EATER = Path(__file__).with_name("eater.py")
STEP = 16 << 20
TRIES = 64
LEAST = 32 << 20


class Memory:
    """The memory control group of one host."""

    def __init__(self, group: Path, *, unified: bool) -> None:
        self._group = group
        self._limit = group / ("memory.max" if unified else "memory.limit_in_bytes")
        self._endless = "max" if unified else "-1"
        self._anonymous = "anon" if unified else "total_rss"

    def starve(self, commands: Commands, name: str) -> None:
        """Have the kernel kill the host's biggest process, and leave too little for it to come back whole.

        Raises `LabError` where the host runs nothing of some size: its init would be killed instead.
        """
        biggest = max(self._sizes(), default=0)
        if biggest < LEAST:
            raise LabError(f"{name} runs nothing big that could run out of memory; start something on it first")
        limit = self._lower(self._in_use() + STEP)
        nook = self._group / "lab-oom"
        nook.mkdir(exist_ok=True)
        try:
            commands(sys.executable, EATER, nook, str(limit), timeout=120)
        finally:
            with contextlib.suppress(OSError):
                nook.rmdir()
        self._lower(limit - biggest // 2)

    def relieve(self, limit: int | None) -> None:
        """Set the limit, in bytes, that the host was made with."""
        self._limit.write_text(self._endless if limit is None else str(limit))

    def _lower(self, wanted: int) -> int:
        """Set the limit, or the least above it that the kernel takes: what can't be reclaimed stays."""
        for _ in range(TRIES):
            try:
                self._limit.write_text(str(wanted))
            except OSError:
                wanted += STEP
            else:
                return wanted
        raise LabError(f"{self._limit} can't be lowered to {wanted} bytes")

    def _in_use(self) -> int:
        """Bytes that only a kill gives back."""
        for line in (self._group / "memory.stat").read_text().splitlines():
            key, value = line.split()
            if key == self._anonymous:
                return int(value)
        return 0

    def _sizes(self) -> list[int]:
        found = []
        for folder, _, _ in os.walk(self._group):
            with contextlib.suppress(OSError):
                found += [_resident(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()]
        return found


def _resident(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
