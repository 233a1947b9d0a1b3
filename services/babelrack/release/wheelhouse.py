"""A release: a folder of wheels with checksums, that hosts without a network install from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from babelrack.release.closure import Pins, find_closure, find_wheel
from babelrack.release.errors import ReleaseError
from babelrack.release.lock import read_lock
from babelrack.release.pip import INSTALLER, Sources, build
from babelrack.release.progress import Step, silent
from babelrack.release.store import WheelStore
from babelrack.release.target import Target
from babelrack.release.wheel import Wheel, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from babelrack.release.progress import Progress

SUMS: Final = "SHA256SUMS"
RECORD: Final = "release.json"
REQUIREMENTS: Final = "requirements.txt"
LATEST: Final = "latest"
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+]*-[0-9a-f]{12}")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^/\s]+)")


class Release(BaseModel):
    """`release.json`. `version` is the package's, a dash, and the first 12 hex digits of the checksum of SHA256SUMS."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = Field(pattern=_VERSION.pattern)
    python: str
    platform: str
    torch: str
    cuda: str | None = None
    created: datetime
    commit: str | None = None
    installer: str
    wheels: int
    bytes: int
    unlocked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A release, its folder, and whether it was there already."""

    release: Release
    folder: Path
    reused: bool


def build_release(
    project: Path,
    out: Path,
    target: Target | None = None,
    *,
    sources: Sources | None = None,
    torch: str | None = None,
    store: Path | None = None,
    tell: Progress = silent,
) -> Built:
    """Build the release of what is in `project` into `out/<version>`, or find that it is there already.

    `torch` is one build of the locked torch, such as "2.13.0+cpu". Nothing half-done is ever seen under the release's
    name, and `out/latest` and `out/latest-py<python>` point to it in the end.
    """
    target, sources = target or Target(), sources or Sources()
    pins = Pins(read_lock(project / "requirements.lock"), torch)
    out.mkdir(parents=True, exist_ok=True)
    with _only_one(out, tell), _partial(out) as folder:
        kept = WheelStore((store or project / ".cache" / "release") / _source_name(sources))
        tell(Step("building", "babelrack"))
        own = Wheel.at(build(project, folder))
        closure = find_closure(own, pins, target, kept, sources, tell)
        installer = find_wheel(INSTALLER, target, kept, sources, tell)
        tell(Step("checking", "checksums", len(closure.wheels) + 1))
        sums = {own.path.name: digest(own.path)}
        for wheel in (*closure.wheels.values(), installer):
            _link(wheel.path, folder / wheel.path.name)
            sums[wheel.path.name] = kept.digest(wheel)
        installed = (own, *closure.wheels.values())
        (folder / REQUIREMENTS).write_text(_requirements(installed, sums), encoding="utf-8")
        sums[REQUIREMENTS] = digest(folder / REQUIREMENTS)
        listing = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
        (folder / SUMS).write_text(listing, encoding="utf-8")
        torch_wheel = next((wheel for wheel in installed if wheel.name == "torch"), None)
        if torch_wheel is None:
            raise ReleaseError(
                f"{project}: the package doesn't require torch; its pyproject.toml is not the one expected"
            )
        release = Release(
            version=f"{own.version}-{_fingerprint(listing)}",
            python=target.python,
            platform=target.platform,
            torch=str(torch_wheel.version),
            cuda=torch_wheel.cuda,
            created=datetime.now(UTC).replace(microsecond=0),
            commit=_commit(project),
            installer=installer.path.name,
            wheels=len(sums) - 1,
            bytes=sum((folder / name).stat().st_size for name in sums),
            unlocked=tuple(sorted(closure.wheels[name].pin for name in closure.unlocked)),
        )
        built = _publish(release, folder, out)
    tell(Step("ready", release.version, release.wheels))
    return built


def read_release(folder: Path) -> Release:
    """The release in a folder; ReleaseError when its release.json isn't there or can't be one."""
    file = folder / RECORD
    try:
        return Release.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ReleaseError(f"{file}: {error.strerror}; `babelrack release build` makes a release") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "its JSON"
        raise ReleaseError(f"{file}: {where} is wrong; remove {folder} and build the release again") from error


def find_release(out: Path, version: str = LATEST) -> Path:
    """The folder of a release, by its version or by `latest`; ReleaseError names what there is when it isn't."""
    folder = out / version
    if (folder / RECORD).is_file():
        return folder.resolve()
    there = ", ".join(release.version for release in list_releases(out)) or "none"
    raise ReleaseError(f"{out} has no release {version} (it has: {there}); `babelrack release build` makes one")


def list_releases(out: Path) -> list[Release]:
    """The releases in a folder, newest first."""
    if not out.is_dir():
        return []
    folders = [path for path in out.iterdir() if _VERSION.fullmatch(path.name) and (path / RECORD).is_file()]
    return sorted(map(read_release, folders), key=lambda release: (release.created, release.version), reverse=True)


def verify_release(folder: Path) -> list[str]:
    """What is wrong with a release, a sentence each; nothing when every file is what it was when it was built."""
    release = read_release(folder)
    try:
        listing = (folder / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return [f"{folder / SUMS} can't be read"]
    faults = []
    if release.version != folder.name:
        faults.append(f"{folder / RECORD} says that it is of {release.version}")
    if release.version.rpartition("-")[2] != _fingerprint(listing):
        faults.append(f"{folder / SUMS} is not the one that {release.version} was built with")
    sums = {found[2]: found[1] for found in map(_SUM_LINE.fullmatch, listing.splitlines()) if found}
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            faults.append(f"{file} is missing")
        elif digest(file) != expected:
            faults.append(f"{file} has changed: its checksum is not the one in {SUMS}")
    known = {*sums, SUMS, RECORD}
    faults += [f"{file} doesn't belong to the release" for file in sorted(folder.iterdir()) if file.name not in known]
    return faults


def _publish(release: Release, folder: Path, out: Path) -> Built:
    """Give a finished folder its name, unless the same release is there and whole."""
    final, reused = out / release.version, False
    if (final / RECORD).is_file() and not verify_release(final):
        release, reused = read_release(final), True
    else:
        (folder / RECORD).write_text(release.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if final.exists():
            final.rename(out / f".partial-{release.version}-damaged")
        folder.rename(final)
    for name in (LATEST, f"{LATEST}-py{release.python}"):
        _point(out / name, release.version)
    return Built(release, final, reused)


def _requirements(wheels: Iterable[Wheel], sums: Mapping[str, str]) -> str:
    """For `pip install --require-hashes`: nothing but these very files gets installed."""
    return "".join(
        f"{wheel.pin} --hash=sha256:{sums[wheel.path.name]}\n" for wheel in sorted(wheels, key=lambda wheel: wheel.name)
    )


def _fingerprint(listing: str) -> str:
    return hashlib.sha256(listing.encode()).hexdigest()[:12]


def _source_name(sources: Sources) -> str:
    """Wheels of other sources are kept apart: the same version of torch is another build there."""
    if sources == Sources():
        return "wheels"
    told = "\n".join([sources.torch_index or "", *sources.find_links])
    return f"wheels-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _commit(project: Path) -> str | None:
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _point(link: Path, to: str) -> None:
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(to)
    new.replace(link)


@contextmanager
def _only_one(out: Path, tell: Progress) -> Iterator[None]:
    """One build at a time in a folder; the next one waits, then finds everything done."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(Step("looking", "another build is running; waiting for it"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A folder that is gone afterwards unless it was renamed; so is what a killed build left."""
    for left in out.glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
    try:
        folder.chmod(0o777 & ~_umask())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
