"""Every wheel that a host needs, found by reading what each wheel itself requires."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from babelrack.release.errors import ReleaseError
from babelrack.release.pip import download
from babelrack.release.progress import Step, silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from packaging.utils import NormalizedName

    from babelrack.release.lock import Lock
    from babelrack.release.pip import Sources
    from babelrack.release.progress import Progress
    from babelrack.release.store import WheelStore
    from babelrack.release.target import Target
    from babelrack.release.wheel import Wheel

# What a wheel may ask for and nothing here imports. silero-vad's model runs on onnxruntime; torchaudio would bring
# another torch than the locked one.
LEFT_OUT: Final = frozenset({canonicalize_name("torchaudio"), canonicalize_name("torchcodec")})


@dataclass
class Closure:
    """What was found: wheels by name, and those whose version requirements.lock doesn't say."""

    wheels: dict[NormalizedName, Wheel] = field(default_factory=dict)
    unlocked: set[NormalizedName] = field(default_factory=set)


@dataclass(frozen=True)
class Pins:
    """Which version of each package: the lock's, and for torch perhaps one build of it, such as 2.13.0+cpu."""

    lock: Lock
    torch: str | None = None

    def __post_init__(self) -> None:
        locked = self.lock.get(canonicalize_name("torch"))
        if self.torch is not None and locked is not None and Version(self.torch).public != locked.public:
            wanted = locked.public
            raise ReleaseError(
                f"torch {self.torch} is not the locked {wanted}; name a build of it, such as {wanted}+cpu"
            )

    def exact(self, name: NormalizedName) -> SpecifierSet | None:
        """The one version that this package may have; None when the lock doesn't say."""
        if name == "torch" and self.torch is not None:
            return SpecifierSet(f"==={self.torch}")  # "==2.13.0" would take 2.13.0+cpu, too
        return SpecifierSet(f"=={self.lock[name]}") if name in self.lock else None


def find_closure(
    root: Wheel,
    pins: Pins,
    target: Target,
    store: WheelStore,
    sources: Sources,
    tell: Progress = silent,
) -> Closure:
    """Everything that `root` needs at run time, from the store or downloaded into it.

    Level by level, so that pip is started some five times and not once a wheel. The versions are the lock's; what it
    doesn't have (torch's own dependencies, which differ from build to build) is the version that this Python here has
    installed, else one kept in the store, else the newest.
    """
    found = Closure()
    asked: set[tuple[str, frozenset[str]]] = set()
    level = _Level.of(root, frozenset(), target)
    while level:
        _fetch(level, pins, target, store, sources, found, tell)
        following: list[_Level] = []
        for requirement, by in level.wanted:
            name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
            wheel = found.wheels[name]
            if not requirement.specifier.contains(wheel.version, prereleases=True):
                raise ReleaseError(
                    f"{by} requires {requirement.name}{requirement.specifier}, and {wheel.version} is pinned; "
                    "bring requirements.lock up to date (`make lock`)"
                )
            if (name, extras) not in asked:
                asked.add((name, extras))
                following.append(_Level.of(wheel, extras, target))
        level = _Level.joined(following)
    return found


@dataclass(frozen=True)
class _Level:
    """Requirements of the same distance from the root, each with the wheel that requires it."""

    wanted: tuple[tuple[Requirement, str], ...]

    def __bool__(self) -> bool:
        return bool(self.wanted)

    @classmethod
    def of(cls, wheel: Wheel, extras: frozenset[str], target: Target) -> _Level:
        return cls(
            tuple(
                (requirement, wheel.pin)
                for requirement in wheel.requires
                if target.needs(requirement, extras) and canonicalize_name(requirement.name) not in LEFT_OUT
            )
        )

    @classmethod
    def joined(cls, levels: Iterable[_Level]) -> _Level:
        return cls(tuple(wanted for level in levels for wanted in level.wanted))


def _fetch(
    level: _Level,
    pins: Pins,
    target: Target,
    store: WheelStore,
    sources: Sources,
    found: Closure,
    tell: Progress,
) -> None:
    """Put a wheel for every name of the level into `found`."""
    missing: dict[NormalizedName, Requirement] = {}
    for requirement, _ in level.wanted:
        name = canonicalize_name(requirement.name)
        if name in found.wheels or name in missing:
            continue
        wanted = _pinned(name, requirement, pins, target, found)
        tell(Step("looking", name, len(found.wheels)))
        wheel = store.find(name, wanted, target)
        if wheel is None:
            missing[name] = wanted
        else:
            found.wheels[name] = wheel
    # torch may come from an index of its own; nothing else may.
    alone = {name for name in missing if name == "torch" and sources.torch_index}
    for batch in (alone, missing.keys() - alone):
        if batch:
            wanted_of = {name: missing[name] for name in sorted(batch)}
            _download(wanted_of, target, store, sources, found, tell)


def _pinned(name: NormalizedName, requirement: Requirement, pins: Pins, target: Target, found: Closure) -> Requirement:
    exact = pins.exact(name)
    if exact is None:
        found.unlocked.add(name)
        exact = requirement.specifier & SpecifierSet(_installed(name, requirement, target))
    return Requirement(f"{name}{exact}")


def _installed(name: NormalizedName, requirement: Requirement, target: Target) -> str:
    if target.python_version != sys.version_info[:2]:
        return ""
    try:
        here = Version(version(name))
    except PackageNotFoundError:
        return ""
    return f"=={here.public}" if requirement.specifier.contains(here) else ""


def _download(
    batch: Mapping[NormalizedName, Requirement],
    target: Target,
    store: WheelStore,
    sources: Sources,
    found: Closure,
    tell: Progress,
) -> None:
    folder = Path(tempfile.mkdtemp(prefix=".download-", dir=store.folder))
    try:
        counted: Progress = lambda step: tell(Step(step.phase, step.subject, len(found.wheels)))  # noqa: E731
        files = download([str(wanted) for wanted in batch.values()], folder, target, sources.arguments(batch), counted)
        wheels = {wheel.name: wheel for wheel in store.add(files)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found.wheels.update({name: wheels[name] for name in batch})


def find_wheel(requirement: str, target: Target, store: WheelStore, sources: Sources, tell: Progress = silent) -> Wheel:
    """One wheel alone, from the store or downloaded into it."""
    wanted, found = Requirement(requirement), Closure()
    name = canonicalize_name(wanted.name)
    kept = store.find(name, wanted, target)
    if kept is not None:
        return kept
    _download({name: wanted}, target, store, sources, found, tell)
    return found.wheels[name]
