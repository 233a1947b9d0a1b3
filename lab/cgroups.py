"""The control groups of a lab: where its processes are found, frozen, limited and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.trouble import LabError, LabUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILY = "babelrack-lab"
END_S = 20
TOP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hierarchies:
    """The control group hierarchies of this machine: one (version 2), or one for each set of controllers."""

    unified: bool
    mounts: dict[str, Path]
    """By controllers as the kernel names them (`memory`, `cpu,cpuacct`, `name=systemd`; `""` is version 2's)."""

    @property
    def finder(self) -> Path:
        """Where a lab's processes are kept together."""
        return self.mounts["" if self.unified else self._named("pids")]

    def of(self, controller: str) -> Path:
        """The hierarchy with a controller."""
        return self.mounts["" if self.unified else self._named(controller)]

    def _named(self, controller: str) -> str:
        for controllers in self.mounts:
            if controller in controllers.split(","):
                return controllers
        raise LabUnavailable(
            f"this machine's control groups have no {controller} controller mounted; mount it under /sys/fs/cgroup"
        )


def hierarchies() -> Hierarchies:
    """This machine's hierarchies; raises `LabUnavailable` where they are not mounted."""
    known = {line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()} - {""}
    mounted: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")
        place = Path(before.split(" ")[4])
        if kind == "cgroup2" and place == TOP:
            return Hierarchies(unified=True, mounts={"": place})
        if kind == "cgroup":
            for controllers in known:
                if set(controllers.split(",")) <= set(options.split(",")):
                    mounted.setdefault(controllers, place)
    if not mounted:
        raise LabUnavailable(f"no control groups are mounted on {TOP}; run: mount -t cgroup2 none {TOP}")
    return Hierarchies(unified=False, mounts=mounted)


class LabGroups:
    """Everything of one lab, in every hierarchy, under one name."""

    def __init__(self, found: Hierarchies, name: str) -> None:
        self.hierarchies = found
        self.path = f"/{FAMILY}/{name}"

    def __bool__(self) -> bool:
        return any(True for _ in self._tops())

    def make(self, group: str) -> Path:
        """Make a group for processes outside the hosts; gives the file that a process joins it by."""
        folder = self.hierarchies.finder / self.path[1:] / group
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabUnavailable(
                f"this machine lets us make no control group under {self.hierarchies.finder} ({error.strerror}); "
                "lab hosts need root with all privileges, in a container: --privileged"
            ) from error
        return folder / "cgroup.procs"

    def members(self, group: str) -> list[int]:
        """The processes of a group, by the ids they have here."""
        return _pids(self.hierarchies.finder / self.path[1:] / group)

    def host(self, controller: str, container: str) -> Path:
        """A host's group for one controller."""
        return self.hierarchies.of(controller) / self.path[1:] / f"libpod-{container}"

    def containers(self) -> list[str]:
        """The ids of the containers that run, or ran until they were killed."""
        found = {folder.name for top in self._tops() for folder in top.glob("libpod-*") if folder.is_dir()}
        return sorted(name.removeprefix("libpod-") for name in found if "conmon" not in name)

    def end(self) -> None:
        """Kill what is left of the lab, frozen or not, and remove its groups; raises `LabError` where that fails."""
        until = time.monotonic() + END_S
        while left := self._kill():
            if time.monotonic() > until:
                raise LabError(f"{len(left)} processes of the lab can't be killed: {sorted(left)[:10]}")
            time.sleep(0.02)
        while self._remove():
            if time.monotonic() > until:
                raise LabError(f"control groups of the lab can't be removed: {next(self._tops())}")
            time.sleep(0.02)

    def _tops(self) -> Iterator[Path]:
        for mount in dict.fromkeys(self.hierarchies.mounts.values()):
            top = mount / self.path[1:]
            if top.is_dir():
                yield top

    def _kill(self) -> set[int]:
        left: set[int] = set()
        for top in self._tops():
            for folder, _, files in os.walk(top):
                group = Path(folder)
                with contextlib.suppress(OSError):
                    if "freezer.state" in files:
                        (group / "freezer.state").write_text("THAWED")
                    elif "cgroup.freeze" in files:
                        (group / "cgroup.freeze").write_text("0")
                left.update(_pids(group))
        if 0 in left:
            raise LabError(
                f"processes of {self.path} run in another PID namespace; take that lab down where it was brought up"
            )
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def _remove(self) -> bool:
        for top in self._tops():
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            with contextlib.suppress(OSError):
                top.parent.rmdir()
        return bool(self)


def _pids(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []
