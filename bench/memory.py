"""Resident memory of processes, from /proc."""

from collections.abc import Iterable
from pathlib import Path


def resident(processes: Iterable[int]) -> int:
    """Return the resident memory of processes together, in bytes."""
    return sum(_status(process, "VmRSS") for process in processes)


def peak_resident(processes: Iterable[int]) -> int:
    """Return the sum of the most that each of the processes ever had resident, in bytes."""
    return sum(_status(process, "VmHWM") for process in processes)


def with_children(process: int) -> list[int]:
    """Return a process and those that it started, and so on."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _status(process: int, field: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
