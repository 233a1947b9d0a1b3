"""One host of a lab, as tests and people use it."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.commands import environment, shown
from lab.trouble import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.laboratory import Lab


@dataclass(frozen=True)
class LabHost:
    """A host that is reached over SSH."""

    lab: Lab
    name: str
    address: str
    suite: str
    ssh_port: int = 22

    @property
    def ssh(self) -> list[str]:
        """The beginning of an ssh command to it."""
        return ["ssh", "-F", str(self.lab.keys.config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", self.name]

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = False,
        stdin: str | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it as root, over SSH; a string is for its shell, a list is taken word by word.

        Raises `LabError` when it takes `timeout` seconds, or, with `check`, when it fails.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        try:
            done = subprocess.run(
                [*self.ssh, "--", line], input=stdin or "", capture_output=True, text=True, check=False,
                timeout=timeout, env=environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: {shown(line.split())} was not done after {timeout:.0f} s") from error
        if check and done.returncode:
            words = (done.stderr or done.stdout).strip()
            raise LabError(f"{self.name}: {shown(line.split())} failed ({done.returncode}): {words}")
        return done

    def break_(self, how: str) -> None:
        """Give it a fault; see `lab.faults`."""
        self.lab.break_(self.name, how)

    def mend(self, how: str | None = None) -> None:
        """Take a fault away, or all of them."""
        self.lab.mend(self.name, how)

    def cgroup(self, controller: str = "pids") -> Path:
        """Its control group for a controller, as the machine sees it."""
        return self.lab.cgroup(self.name, controller)
