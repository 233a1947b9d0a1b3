"""The state folder of a rack: its lock, its record of what runs, its logs and secrets."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

from babelrack.credentials import write_private
from babelrack.local import RackError
from babelrack.local.identity import ProcessIdentity
from babelrack.local.service import Role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK_POLL_SECONDS = 0.1

Condition = Literal["starting", "healthy", "unhealthy", "waiting", "failed", "stopped"]


@dataclass
class ServiceRecord:
    """What is known about one service.

    `starting` has not been well yet, `unhealthy` was and isn't now, `waiting` died and will be started again, `failed`
    keeps dying.
    """

    name: str
    role: Role
    pack: str | None
    url: str
    condition: Condition = "starting"
    reason: str | None = None
    process: ProcessIdentity | None = None
    restarts: int = 0
    last_lines: list[str] = field(default_factory=list)


@dataclass
class RackRecord:
    """What one `babelrack up` runs: written by its supervisor at every change, read by everybody else.

    `key_file` has a client's key, `header_file` the same as a header line; `language` is one that is served.
    """

    supervisor: ProcessIdentity
    site: str
    gateway: str
    key_file: str
    header_file: str
    language: str
    services: list[ServiceRecord] = field(default_factory=list)
    stopping: bool = False

    @property
    def healthy(self) -> bool:
        """Whether every service is well."""
        return all(service.condition == "healthy" for service in self.services)

    @property
    def settled(self) -> bool:
        """Whether waiting longer is of no use: everything is well, or keeps dying, or is paired with what does."""
        lost = {service.pack for service in self.services if service.condition == "failed" and service.pack}
        return all(service.condition in ("healthy", "failed") or service.pack in lost for service in self.services)

    def leaders(self) -> list[ProcessIdentity]:
        """The processes of the services, last known."""
        return [service.process for service in self.services if service.process]


class StateFolder:
    """A rack's folder; everything in it is readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def record_file(self) -> Path:
        """Where the record is."""
        return self.path / "rack.json"

    def folder(self, name: str) -> Path:
        """A folder inside, made when it isn't there.

        Raises:
            RackError: when it can't be made.
        """
        path = self.path / name
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RackError(
                f"The state folder {path} can't be made: {error.strerror}; name another with --state."
            ) from error
        return path

    def log_file(self, service: str) -> Path:
        """The log of a service."""
        return self.folder("logs") / f"{service}.log"

    @contextlib.contextmanager
    def locked(self, *, supervising: bool = True, wait_seconds: float = 0) -> Iterator[None]:
        """Be the only one who starts or ends processes of this folder; a supervisor leaves its name for `down`.

        Raises:
            RackError: when another one is, still after the wait.
        """
        deadline = time.monotonic() + wait_seconds
        with self._lock_file.open("a+") as lock:
            while not _try_lock(lock):
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_POLL_SECONDS)
                    continue
                holder = self.holder()
                raise RackError(
                    f"A rack runs from {self.path} already (pid {holder.pid if holder else 'unknown'}); "
                    f"stop it with `babelrack down --state {self.path}`, or name another folder with --state."
                )
            me = ProcessIdentity.of(os.getpid()) if supervising else None
            lock.truncate(0)
            lock.write(json.dumps(me.as_record()) if me else "")
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)

    def holder(self) -> ProcessIdentity | None:
        """The supervisor that holds, or held, the lock; known before it has written a record."""
        try:
            return ProcessIdentity.from_record(json.loads(self._lock_file.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def _lock_file(self) -> Path:
        return self.folder(".") / "lock"

    def write_record(self, record: RackRecord) -> None:
        """Replace the record, atomically."""
        write_private(self.record_file, json.dumps(asdict(record), indent=1))

    def read_record(self) -> RackRecord | None:
        """The record of the rack that ran last; None when none ever did.

        Raises:
            RackError: when the file isn't one of ours.
        """
        try:
            content = json.loads(self.record_file.read_text())
            services = [ServiceRecord(**{**entry, **_service_fields(entry)}) for entry in content.pop("services")]
            supervisor = ProcessIdentity.from_record(content.pop("supervisor"))
            return RackRecord(supervisor=supervisor, services=services, **content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RackError(f"{self.record_file} is no record of a rack ({error}); remove it.") from error

    def forget_record(self) -> None:
        """Nothing runs from here any more."""
        self.record_file.unlink(missing_ok=True)


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _service_fields(entry: dict[str, Any]) -> dict[str, Any]:
    process = entry["process"]
    return {"role": Role(entry["role"]), "process": ProcessIdentity.from_record(process) if process else None}
