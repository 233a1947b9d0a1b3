"""Faults that a host can be given from outside, and their undoing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.size import size
from lab.trouble import LabError

if TYPE_CHECKING:
    from lab.guest import Guest

FAULTS = {
    "kill": "the power is cut: nothing answers, and what was only in memory is lost",
    "pause": "everything stands still: connections are taken and nothing answers",
    "partition": "no packet comes or goes; the host itself runs on",
    "disk-full": "no byte is free where checkpoints and state live",
    "oom": "the biggest process is killed for memory, and there is too little for it to come back whole",
}
LEAST_MEMORY = 64 << 20


def check(how: str) -> str:
    """The name of a fault; raises `LabError` where there is none of that name."""
    if how not in FAULTS:
        raise LabError(f"there is no fault {how!r}; choose one of {', '.join(FAULTS)}")
    return how


def check_possible(how: str, guest: Guest) -> None:
    """Raises `LabError` where the host can't have this fault now."""
    check(how)
    for hindrance in ("kill", "pause") if how == "oom" else ("kill",) if how == "pause" else ():
        if hindrance in guest.state.broken:
            raise LabError(f"{guest.state.name} has {hindrance}; mend that before {how}")


def make(how: str, guest: Guest) -> None:
    """Give a host a fault that stands in its state already."""
    match how:
        case "kill":
            # First the cable: a host that loses its power says no goodbye to its connections.
            guest.plug()
            if guest.status == "paused":
                guest.podman("unpause", guest.state.container)
            guest.stop()
        case "pause":
            guest.podman("pause", guest.state.container)
        case "partition":
            guest.plug()
        case "disk-full":
            guest.disk.fill()
        case "oom":
            guest.memory.starve(guest.commands, guest.state.name)


def mend(how: str, guest: Guest) -> None:
    """Take a fault away, from the host and from its state."""
    broken = guest.state.broken
    match how:
        case "kill":
            # Power that comes back finds neither the pause nor the shortage of before.
            broken[:] = [fault for fault in broken if fault not in {"kill", "pause", "oom"}]
            guest.start()
            return
        case "pause" if guest.status == "paused":
            guest.podman("unpause", guest.state.container)
        case "disk-full":
            guest.disk.free()
        case "oom":
            limit = guest.state.memory
            guest.memory.relieve(None if limit is None else size(limit, least=LEAST_MEMORY, what="memory"))
    broken.remove(how)
    if how == "partition":
        guest.plug()
