"""What a lab remembers of its hosts, on disk, so that any later command finds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class HostState:
    """One host, as it was made."""

    name: str
    index: int
    suite: str
    disk: str
    memory: str | None
    store: str
    """The image store that its root file system stands on."""
    container: str = ""
    """Its container's id; empty while it is being made."""
    key: str = ""
    """Its public SSH key."""
    broken: list[str] = field(default_factory=list)
    """The faults that it has, in the order in which they were made."""


class LabState:
    """The hosts of a lab, by name; every change is on disk at once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, HostState]:
        """The hosts, in order."""
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        return {entry["name"]: HostState(**entry) for entry in found["hosts"]}

    def write(self, hosts: dict[str, HostState]) -> None:
        """Replace the file."""
        new = self._file.with_name(self._file.name + ".new")
        new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ordered = sorted(hosts.values(), key=lambda host: host.index)
        new.write_text(json.dumps({"hosts": [asdict(host) for host in ordered]}, indent=1) + "\n")
        new.replace(self._file)
