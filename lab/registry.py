"""Which labs this machine has: names, bridges and control groups are the machine's, whichever checkout made them."""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lab import kernel
from lab.trouble import LabClash, LabError, LabUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RUN = Path("/run/babelrack-lab")
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?")


@dataclass(frozen=True)
class Record:
    """One lab of this machine."""

    name: str
    folder: str
    """Its folder, in the checkout that made it."""
    subnet: str
    kernel: dict[str, int]
    """What `kernel.read` gave before the first of the labs that are there."""

    @property
    def orphan(self) -> bool:
        """Whether its checkout is gone, so that nobody is left to take it down."""
        return not Path(self.folder).parents[2].is_dir()


def check_name(name: str) -> str:
    """The name of a lab; raises `LabError` where it can't be one."""
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} can't name a lab; take at most 24 of a-z, 0-9, - and _, with neither at the ends")
    return name


def records() -> dict[str, Record]:
    """The labs of this machine, by name."""
    found = {}
    for file in sorted(RUN.glob("*.json")):
        try:
            record = Record(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        found[record.name] = record
    return found


def enter(name: str, folder: Path, subnets: Iterable[str]) -> None:
    """Put a lab on the list, with the first of `subnets` that no other has; one that is on it stays as it is.

    Raises `LabClash` where a lab of another checkout has its name, or others have all of the subnets.
    """
    with _locked(RUN / ".lock"):
        there = records()
        if record := there.get(name):
            if record.folder != str(folder):
                raise LabClash(
                    f"a lab named {name} is up for {Path(record.folder).parents[2]}; take it down there, "
                    "or choose another name"
                )
            return
        taken = {record.subnet for record in there.values()}
        subnet = next((subnet for subnet in subnets if subnet not in taken), None)
        if subnet is None:
            raise LabClash(f"lab {name} has no addresses left; take other labs down, see: python -m lab list")
        former = next((record.kernel for record in there.values()), None) or kernel.read()
        _write(Record(name, str(folder), subnet, former))


def leave(name: str) -> None:
    """Take a lab off the list, while it is held; the last one leaves the machine's kernel as it was found."""
    with _locked(RUN / ".lock"):
        there = records()
        record = there.pop(name, None)
        if record is not None and not there:
            kernel.restore(record.kernel)
        for file in (f"{name}.json", f"{name}.lock"):
            (RUN / file).unlink(missing_ok=True)


@contextmanager
def holding(name: str, waiting: Callable[[], None]) -> Iterator[None]:
    """One program at a time works on a lab; `waiting` is called when another one does."""
    with _locked(RUN / f"{name}.lock", waiting):
        yield


@contextmanager
def _locked(file: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    while True:
        with _opened(file) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _same(file, lock.fileno()):  # else the lab went down meanwhile, and its lock with it
                yield
                return


def _opened(file: Path) -> TextIO:
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return file.open("w")
    except OSError as error:
        raise LabUnavailable(f"{file} can't be written ({error.strerror}); run this as root") from error


def _same(file: Path, descriptor: int) -> bool:
    try:
        return file.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _write(record: Record) -> None:
    new = RUN / f".{record.name}.new"
    new.write_text(json.dumps(asdict(record), indent=1) + "\n")
    new.replace(RUN / f"{record.name}.json")
