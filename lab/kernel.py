"""Settings of this machine's kernel that hosts need: raised while there are labs, put back after the last."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc/sys")
LEAST = {
    "net/ipv4/ip_forward": 1,
    # All hosts' roots are one user to the kernel; a host takes about eight, and the default of 128 is soon gone.
    "fs/inotify/max_user_instances": 2048,
}


def read() -> dict[str, int]:
    """What they are."""
    return {name: int((PROC / name).read_text()) for name in LEAST}


def suffice() -> None:
    """Raise what is too low; where that isn't allowed a few hosts work all the same."""
    for name, least in LEAST.items():
        if int((PROC / name).read_text()) < least:
            with contextlib.suppress(OSError):
                (PROC / name).write_text(str(least))


def restore(former: dict[str, int]) -> None:
    """Put back what `read` gave."""
    for name, value in former.items():
        with contextlib.suppress(OSError):
            (PROC / name).write_text(str(value))
