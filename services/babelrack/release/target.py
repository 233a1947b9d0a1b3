"""What the hosts are that a release is for: their Python, their C library, their processor."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from packaging.markers import default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags

from babelrack.release.errors import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packaging.requirements import Requirement

# glibc 2.35 is Ubuntu 22.04's, the oldest of the supported hosts' (Debian 12: 2.36, Ubuntu 24.04: 2.39,
# Debian 13: 2.41).
DEFAULT_PLATFORM: Final = "manylinux_2_35_x86_64"
_PLATFORM = re.compile(r"manylinux_2_(\d+)_(x86_64|aarch64)")
_OLD_NAMES: Final[Mapping[int, str]] = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST_GLIBC: Final[Mapping[str, int]] = {"x86_64": 5, "aarch64": 17}
OLDEST_PYTHON: Final = (3, 11)


@dataclass(frozen=True)
class Target:
    """`python` is major.minor, such as "3.11"; `platform` is the newest manylinux tag that the hosts can run."""

    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    platform: str = DEFAULT_PLATFORM

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.\d{1,2}", self.python) or self.python_version < OLDEST_PYTHON:
            raise ReleaseError(f"Python {self.python} can't be a release's; write 3.11 or a newer one, such as 3.13")
        if not _PLATFORM.fullmatch(self.platform):
            raise ReleaseError(
                f"platform {self.platform} is not one; write manylinux_2_<glibc's minor>_<x86_64 or aarch64>, "
                f"such as {DEFAULT_PLATFORM}"
            )

    @property
    def python_version(self) -> tuple[int, int]:
        """(major, minor)."""
        major, minor = self.python.split(".")
        return int(major), int(minor)

    @property
    def machine(self) -> str:
        """The processor: x86_64 or aarch64."""
        return self.platform.split("_", 3)[3]

    @property
    def platforms(self) -> tuple[str, ...]:
        """Every platform tag that the hosts can run, best first."""
        return tuple(self._platforms())

    def _platforms(self) -> Iterator[str]:
        glibc = int(self.platform.split("_")[2])
        for minor in range(glibc, _OLDEST_GLIBC[self.machine] - 1, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
            if minor in _OLD_NAMES:
                yield f"{_OLD_NAMES[minor]}_{self.machine}"
        yield f"linux_{self.machine}"

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        """Every wheel tag that the hosts can install, best first."""
        interpreter = f"cp{self.python.replace('.', '')}"
        return (
            *cpython_tags(self.python_version, abis=[interpreter], platforms=self.platforms),
            *compatible_tags(self.python_version, interpreter, self.platforms),
        )

    @property
    def pip_arguments(self) -> list[str]:
        """What makes `pip download` choose for these hosts, whatever this machine is."""
        chosen = [f"--platform={platform}" for platform in self.platforms]
        return ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}", *chosen]

    def needs(self, requirement: Requirement, extras: frozenset[str] = frozenset()) -> bool:
        """Whether a host may need what a wheel requires, with these extras of that wheel asked for.

        A host's patch release isn't known here (Debian 12 has 3.11.2, where redis needs async-timeout, and 3.11.3 has
        it built in), so a marker counts when it holds for the first or for the last patch release of this Python.
        """
        marker = requirement.marker
        return marker is None or any(
            marker.evaluate({**environment, "extra": extra})
            for environment in self._environments
            for extra in (extras or {""})
        )

    @cached_property
    def _environments(self) -> tuple[dict[str, str], ...]:
        here = {name: str(value) for name, value in default_environment().items()}
        there = {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_version": self.python,
            "sys_platform": "linux",
        }
        patches = (f"{self.python}.0", f"{self.python}.99")
        return tuple({**here, **there, "python_full_version": full, "implementation_version": full} for full in patches)
