"""podman, with storage and state of the lab's own, so that the machine's other containers are never touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.trouble import LabUnavailable

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    from lab.commands import Commands
    from lab.room import Room

# Locks are files and events are nobody's: nothing of a lab lies where another podman looks.
CONFIGURATION = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "crun"

[network]
network_backend = "netavark"
"""


class Podman:
    """Runs podman inside a lab's room."""

    def __init__(self, commands: Commands, room: Room, storage: Path, run: Path, images: Sequence[Path] = ()) -> None:
        self._commands = commands
        self._room = room
        self._storage = storage
        self._run = run
        self._images = images

    def __call__(
        self, *arguments: str | Path, stdin: str | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run one podman command; raises `LabError`."""
        return self._commands(
            *self._room.enter, *self.words, *arguments,
            stdin=stdin, check=check, timeout=timeout, variables={"CONTAINERS_CONF": str(self._configuration())},
        )  # fmt: skip

    @property
    def words(self) -> list[str]:
        """The beginning of every podman command: whose storage it works on."""
        self._storage.mkdir(parents=True, exist_ok=True)
        return [
            "podman", "--root", str(self._storage), "--runroot", str(self._run / "run"),
            "--tmpdir", str(self._run / "tmp"), "--storage-driver", self.driver, "--log-level", "error",
            *(word for image in self._images for word in ("--storage-opt", f"{self.driver}.imagestore={image}")),
        ]  # fmt: skip

    @property
    def driver(self) -> str:
        """`overlay`, or `vfs` (slow, and each host a full copy) where the project lies on an overlay itself."""
        found = self._run / "driver"
        if not found.exists():
            found.parent.mkdir(parents=True, exist_ok=True)
            works = overlay_works(self._commands, self._room, self._storage.parent)
            found.write_text("overlay" if works else "vfs")
        return found.read_text()

    def _configuration(self) -> Path:
        file = self._run / "containers.conf"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(CONFIGURATION)
        return file


def overlay_works(commands: Commands, room: Room, folder: Path) -> bool:
    """Whether an overlay can be mounted with its upper folder in `folder`."""
    if room.keeper is None:
        raise LabUnavailable("the lab has no room to mount in; bring it up first")
    script = (
        'set -e; mkdir -p "$1"/lower "$1"/upper "$1"/work "$1"/merged; '
        "trap 'rm -rf \"$1\"' EXIT; "
        'mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged"; '
        'umount "$1/merged"'
    )
    return not commands(*room.enter, "sh", "-c", script, "sh", folder / ".overlay-trial", check=False).returncode
