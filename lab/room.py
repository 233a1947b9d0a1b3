"""The mount namespace that a lab lives in."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from lab.commands import environment
from lab.trouble import LabUnavailable

if TYPE_CHECKING:
    from lab.cgroups import LabGroups
    from lab.commands import Commands

SCRIPT = Path(__file__).with_name("room.sh")


class Room:
    """A private mount namespace, kept by a process that does nothing else.

    What is mounted in it (hosts' disks, root file systems, network namespaces) is not seen outside and is gone once
    the lab's processes are.
    """

    def __init__(self, groups: LabGroups) -> None:
        self._groups = groups

    @property
    def keeper(self) -> int | None:
        """The id of the process that keeps it, if there is one."""
        return next(iter(self._groups.members("keeper")), None)

    def open(self, commands: Commands) -> None:
        """Make it, unless it is there; raises `LabUnavailable` where this machine doesn't allow that."""
        if self.keeper is not None:
            return
        found = self._groups.hierarchies
        kept = commands.__class__(self._groups.make("keeper"))
        words = ["unshare", "--mount", "--propagation", "private", "sh", str(SCRIPT)]
        # By way of a shell that leaves at once: the keeper is nobody's child, and nobody's zombie later.
        with subprocess.Popen(
            ["sh", "-c", '"$@" &', "sh", *words, *([] if found.unified else found.mounts)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
            start_new_session=True, preexec_fn=kept.join,  # noqa: PLW1509 - see Commands
            env=environment(),
        ) as process:  # fmt: skip
            stdout, stderr = cast("tuple[IO[str], IO[str]]", (process.stdout, process.stderr))
            if stdout.readline().strip() != "ready":
                last = stderr.read().strip().splitlines()
                raise LabUnavailable(
                    f"this machine doesn't let us mount ({last[-1] if last else 'unshare failed'}); "
                    "lab hosts need root with CAP_SYS_ADMIN, in a container: --privileged"
                )

    @property
    def enter(self) -> tuple[str, ...]:
        """The beginning of a command that is to run in it; paths after it must be absolute."""
        return ("nsenter", f"--mount=/proc/{self.keeper}/ns/mnt", "--wdns=/")
