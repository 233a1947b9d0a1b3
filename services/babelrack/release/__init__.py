"""Releases: what hosts install without a network, built once on the control machine."""

from babelrack.release.errors import ReleaseError
from babelrack.release.pip import Sources
from babelrack.release.progress import Progress, Step
from babelrack.release.target import DEFAULT_PLATFORM, Target
from babelrack.release.wheelhouse import (
    Built,
    Release,
    build_release,
    find_release,
    list_releases,
    read_release,
    verify_release,
)

__all__ = [
    "DEFAULT_PLATFORM",
    "Built",
    "Progress",
    "Release",
    "ReleaseError",
    "Sources",
    "Step",
    "Target",
    "build_release",
    "find_release",
    "list_releases",
    "read_release",
    "verify_release",
]
