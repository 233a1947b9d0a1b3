"""requirements.lock: the exact version of everything that the project was tested with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from babelrack.release.errors import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.utils import NormalizedName

Lock = dict["NormalizedName", "Version"]


def read_lock(path: Path) -> Lock:
    """Name → version; ReleaseError for a line that isn't `name==version`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; run this in the project's folder, or `make lock`") from error
    lock: Lock = {}
    for number, line in enumerate(lines, 1):
        # A marker says which Python needs it; what a release needs, its own closure finds.
        text = line.partition("#")[0].partition(";")[0].strip()
        if not text:
            continue
        name, _, version = text.partition("==")
        try:
            lock[canonicalize_name(name, validate=True)] = Version(version)
        except (InvalidName, InvalidVersion) as error:
            raise ReleaseError(f"{path}:{number}: {text!r} is not name==version; run `make lock`") from error
    return lock
