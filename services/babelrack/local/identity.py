"""Which process a recorded pid meant: a pid is reused, a pid with its start time and boot is not."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROC = Path("/proc")
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, for good: its pid, its start in clock ticks since boot, and the boot's id."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has `pid` now; None when there is none, or only its unreaped remains."""
        stat = _stat(pid)
        return cls(pid, stat.started, boot_id()) if stat and stat.state not in "ZX" else None

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ProcessIdentity:
        """What `as_record` wrote.

        Raises:
            KeyError, TypeError, ValueError: when the record is none.
        """
        return cls(int(record["pid"]), int(record["started"]), str(record["boot"]))

    def as_record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal to this very process; nothing happens when it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def session(self) -> list[ProcessIdentity]:
        """This process and what it started, while it led a session of its own: also those who outlived it.

        The number of a session stays taken for as long as it has a member, so only a session that began after this
        one had died out whole can carry the same number; and then its leader is another process than this.
        """
        if self.boot != boot_id():
            return []
        members = []
        for pid in _pids():
            stat = _stat(pid)
            if stat and stat.session == self.pid and stat.started >= self.started and stat.state not in "ZX":
                members.append(ProcessIdentity(pid, stat.started, self.boot))
        leader = ProcessIdentity.of(self.pid)
        return members if leader in (None, self) else []


def end_sessions(leaders: Iterable[ProcessIdentity], grace_seconds: float) -> int:
    """Ask what is left of these sessions to end, and kill what hasn't after the grace; how many there were."""
    leaders = list(leaders)
    remaining = [member for leader in leaders for member in leader.session()]
    found = len(remaining)
    for member in remaining:
        member.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while remaining and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        remaining = [member for leader in leaders for member in leader.session()]
    # A process may fork while it is being killed, so look again until nobody is left.
    for _ in range(100):
        if not remaining:
            break
        for member in remaining:
            member.signal(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        remaining = [member for leader in leaders for member in leader.session()]
    return found


def port_holder(port: int) -> str | None:
    """Who listens on a TCP port of this machine, as `name (pid N)`; None when that can't be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in _pids() if inodes else ():
        # Other users' processes don't show their files; one that ends meanwhile has none.
        with contextlib.suppress(OSError):
            if any(str(file.readlink()) in inodes for file in (_PROC / str(pid) / "fd").iterdir()):
                return f"{(_PROC / str(pid) / 'comm').read_text().strip()} (pid {pid})"
    return None


@cache
def boot_id() -> str:
    """This boot of this machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class _Stat:
    state: str
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command, in parentheses, may hold spaces and parentheses of its own; see proc(5) for the fields after it.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[3]), int(fields[19]))


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
