"""Programs that a lab runs, each findable: it belongs to the lab's control group from its first instruction on."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from lab.trouble import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"])


class Commands:
    """Runs programs as members of a control group.

    A program outlives a lab command that is killed. Its place in the group is how `down` finds it then; between its
    birth and its joining it holds the lab's lock, which it has from its parent and loses when it becomes the program.
    """

    def __init__(self, procs: Path) -> None:
        self._procs = procs

    def __call__(
        self,
        *argv: str | Path,
        stdin: str | None = None,
        variables: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; raises `LabError` with its last words when it fails or takes `timeout` seconds."""
        words = [str(word) for word in argv]
        try:
            done = subprocess.run(
                words, input=stdin or "", capture_output=True, text=True, check=False, timeout=timeout,
                preexec_fn=self.join, env=environment(variables),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise LabError(f"{words[0]} is not installed; run: make setup") from error
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{shown(words)} was not done after {timeout:.0f} s") from error
        if check and done.returncode:
            raise LabError(f"{shown(words)} failed ({done.returncode}): {last_words(done.stderr or done.stdout)}")
        return done

    @property
    def join(self) -> Callable[[], None]:
        """What a new process calls before it becomes its program."""
        path = os.fspath(self._procs)

        # Python's warning about threads doesn't concern it: three system calls, and no lock that another could hold.
        def enter() -> None:
            group = os.open(path, os.O_WRONLY)
            os.write(group, b"0")
            os.close(group)

        return enter


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with the folders of the programs for root on PATH."""
    return {**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8", **(variables or {})}


def shown(words: Sequence[str]) -> str:
    """A command for a message: its program and what it was to do."""
    return " ".join(words if len(words) <= 6 else [*words[:5], "…"])


def last_words(text: str) -> str:
    """The end of a program's output, as one line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-600:] or "it said nothing"
