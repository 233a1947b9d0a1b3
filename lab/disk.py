"""A host's small disk: a sparse file with a file system, for checkpoints and state, so that it can be filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lab.commands import Commands
    from lab.room import Room

FOLDERS = {"cache": "/var/cache/babelrack", "lib": "/var/lib/babelrack"}
"""Folders of the disk, and where the host has them."""
FILLER = ".full"
# fallocate takes what there is even where it fails for want of more; the crumbs are written.
FILL = """\
free() { stat -f -c %a "$1"; }
fallocate -l "$(($(stat -f -c '%a * %S' "$1")))" "$1/$2-0" 2>/dev/null
i=0
while [ "$(free "$1")" -gt 0 ] && [ "$i" -lt 20 ]; do
    i=$((i + 1))
    head -c 64M /dev/zero >"$1/$2-$i" 2>/dev/null
    sync -f "$1"
done
[ "$(free "$1")" -eq 0 ] || { echo "$(free "$1") blocks stay free on $1" >&2; exit 1; }
"""


class Disk:
    """The disk of one host, as a file and as a place where it is mounted within the room."""

    def __init__(self, commands: Commands, room: Room, folder: Path) -> None:
        self._commands = commands
        self._room = room
        self._file = folder / "disk.img"
        self.place = folder / "disk"

    @property
    def volumes(self) -> list[str]:
        """What podman mounts from it into the host."""
        return [f"{self.place / name}:{target}" for name, target in FOLDERS.items()]

    def make(self, size: str) -> None:
        """Make it and mount it; a journal would only cost, for the file system is never cut off half-written."""
        self.place.mkdir(parents=True, exist_ok=True)
        self._commands("truncate", "-s", size.upper(), self._file)
        self._commands("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", self._file)
        self._inside("mount", "-o", "loop,nosuid,nodev", self._file, self.place)
        self._inside("mkdir", "-p", *(self.place / name for name in FOLDERS))

    def fill(self) -> None:
        """Leave no byte free; raises `LabError` where some stay."""
        self._inside("sh", "-c", FILL, "sh", self.place, FILLER)

    def free(self) -> None:
        """Give back what `fill` took."""
        self._inside("sh", "-c", 'rm -f "$1/$2"*', "sh", self.place, FILLER)

    def remove(self) -> None:
        """Unmount it; its loop device goes with it."""
        self._inside("umount", self.place, check=False)

    def _inside(self, *words: str | Path, check: bool = True) -> None:
        self._commands(*self._room.enter, *words, check=check)
