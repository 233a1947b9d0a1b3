"""Wheels that were downloaded before, kept with their checksums so that a rebuild downloads nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from babelrack.release.errors import ReleaseError
from babelrack.release.wheel import Wheel, digest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from packaging.requirements import Requirement
    from packaging.utils import NormalizedName

    from babelrack.release.target import Target


class WheelStore:
    """A folder of wheels; a wheel counts only while it has the checksum that it came with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sums_file = folder / "sums.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._sums: dict[str, str] = self._read()
        self._verified: set[str] = set()

    def find(self, name: NormalizedName, requirement: Requirement, target: Target) -> Wheel | None:
        """The newest kept wheel that meets the requirement and that the target's hosts can install."""
        ranks = {tag: rank for rank, tag in enumerate(target.tags)}
        fitting: list[tuple[Wheel, int]] = []
        for file in self._sums:
            wheel = Wheel.at(self.folder / file)
            tag_ranks = [ranks[tag] for tag in wheel.tags if tag in ranks]
            if wheel.name == name and tag_ranks and requirement.specifier.contains(wheel.version):
                fitting.append((wheel, min(tag_ranks)))
        for wheel, _ in sorted(fitting, key=lambda found: (found[0].version, -found[1]), reverse=True):
            if self._is_whole(wheel.path):
                return wheel
        return None

    def add(self, wheels: Iterable[Path]) -> list[Wheel]:
        """Take these files over, from a folder on the same file system."""
        taken = []
        for path in wheels:
            wheel = Wheel.at(path)
            self._sums[path.name] = digest(path)
            self._verified.add(path.name)
            taken.append(Wheel(path.replace(self.folder / path.name), wheel.name, wheel.version, wheel.tags))
        self._write()
        return taken

    def digest(self, wheel: Wheel) -> str:
        """The checksum of a wheel that `find` or `add` gave."""
        return self._sums[wheel.path.name]

    def _is_whole(self, path: Path) -> bool:
        if path.name in self._verified:
            return True
        if path.is_file() and digest(path) == self._sums[path.name]:
            self._verified.add(path.name)
            return True
        # Its hard links in releases are as damaged; the wheel itself comes anew.
        path.unlink(missing_ok=True)
        del self._sums[path.name]
        self._write()
        return False

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._sums_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise ReleaseError(f"{self._sums_file} can't be read ({error}); remove {self.folder}") from error

    def _write(self) -> None:
        new = self._sums_file.with_suffix(".new")
        new.write_text(json.dumps(self._sums, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        new.replace(self._sums_file)
