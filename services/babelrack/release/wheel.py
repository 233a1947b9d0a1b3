"""One wheel: what it is, what it requires, and which CUDA a torch is built for."""

from __future__ import annotations

import ast
import hashlib
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cached_property
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from babelrack.release.errors import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.tags import Tag
    from packaging.utils import NormalizedName
    from packaging.version import Version


@dataclass(frozen=True)
class Wheel:
    """A wheel file; `name` is normalised, `version` has its local label (2.13.0+cpu)."""

    path: Path
    name: NormalizedName
    version: Version
    tags: frozenset[Tag]

    @classmethod
    def at(cls, path: Path) -> Wheel:
        """The wheel of that file name; ReleaseError when it isn't one."""
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise ReleaseError(f"{path} is not named as a wheel is; remove it") from error
        return cls(path, name, version, tags)

    @property
    def pin(self) -> str:
        """`name==version`, as pip writes it."""
        return f"{self.name}=={self.version}"

    @cached_property
    def requires(self) -> tuple[Requirement, ...]:
        """What its metadata says that it requires, markers and extras included."""
        metadata = HeaderParser().parsestr(self._read(f"{self._stem}.dist-info/METADATA"))
        try:
            return tuple(Requirement(text) for text in metadata.get_all("Requires-Dist", []))
        except InvalidRequirement as error:
            raise ReleaseError(f"{self.path}: its metadata can't be read ({error}); download it again") from error

    @property
    def cuda(self) -> str | None:
        """Of a torch wheel: the CUDA that it is built for, such as "13.0"; None for a CPU build."""
        tree = ast.parse(self._read("torch/version.py"))
        for node in tree.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == "cuda" and isinstance(node.value, ast.Constant):
                return None if node.value.value is None else str(node.value.value)
        return None

    @property
    def _stem(self) -> str:
        return "-".join(self.path.name.split("-")[:2])

    def _read(self, member: str) -> str:
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
                if member not in names and member.endswith("/METADATA"):  # older wheels spell their own name otherwise
                    wanted = canonicalize_name(self.name)
                    member = next(
                        (n for n in names if n.endswith(".dist-info/METADATA") and _owner(n) == wanted), member
                    )
                return archive.read(member).decode()
        except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
            raise ReleaseError(f"{self.path} is damaged ({error}); remove it and build again") from error


def _owner(member: str) -> str:
    return canonicalize_name(member.split("/", maxsplit=1)[0].removesuffix(".dist-info").rsplit("-", 1)[0])


def digest(path: Path) -> str:
    """A file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
