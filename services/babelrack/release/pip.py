"""The two things that pip does for a release: download wheels for the hosts, build the project's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from babelrack.release.errors import ReleaseError
from babelrack.release.progress import Step, silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from babelrack.release.progress import Progress
    from babelrack.release.target import Target

# Runs on the hosts, straight from its wheel, so that they need neither ensurepip nor a pip of their own.
INSTALLER: Final = "pip==26.3"


@dataclass(frozen=True)
class Sources:
    """Where wheels come from: pip's own configuration, and for some what is said here."""

    torch_index: str | None = None
    find_links: tuple[str, ...] = ()

    def arguments(self, names: Iterable[str]) -> list[str]:
        """pip's options for downloading these."""
        index = ["--index-url", self.torch_index] if self.torch_index and "torch" in names else []
        return [*index, *(f"--find-links={place}" for place in self.find_links)]


def download(
    requirements: Sequence[str],
    into: Path,
    target: Target,
    options: Sequence[str],
    tell: Progress = silent,
) -> list[Path]:
    """Download exactly these, none of what they require; the wheels are then in `into`."""
    arguments = ["download", "--no-deps", "--dest", str(into), *target.pip_arguments, *options, *requirements]
    code, errors = _run(arguments, tell)
    if code:
        what = ", ".join(requirements)
        raise ReleaseError(
            f"pip can't download {what} for Python {target.python} on {target.platform}: {errors}; "
            "--find-links or, for torch, --torch-index says where else to look"
        )
    return sorted(into.glob("*.whl"))


def build(project: Path, into: Path) -> Path:
    """The project's own wheel: the same files give the same bytes."""
    # Without isolation: the build backend is in the lock, and an isolated build would fetch another.
    arguments = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(into), str(project)]
    code, errors = _run(arguments, silent)
    if code:
        raise ReleaseError(f"{project}: pip can't build the project's wheel: {errors}")
    return next(into.glob("*.whl"))


def _run(arguments: Sequence[str], tell: Progress) -> tuple[int, str]:
    """Exit code, and what pip says is wrong."""
    command = [sys.executable, "-m", "pip", "--no-input", "--no-color", "--disable-pip-version-check", *arguments]
    quiet = {"PIP_PROGRESS_BAR": "off", "PIP_ROOT_USER_ACTION": "ignore"}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said_on_stderr,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said_on_stderr,
            text=True,
            errors="replace",
            env={**os.environ, **quiet},
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                if line.startswith(("Collecting ", "Processing ")):
                    tell(Step("downloading", Path(line.split()[1]).name))
        except BaseException:
            process.terminate()
            raise
        code = process.wait()
        said_on_stderr.seek(0)
        lines = [line.strip() for line in said_on_stderr if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return code, " ".join((errors or lines[-1:] or [f"exit code {code}"])[-2:])
