"""The file of client keys: names, hashes and limits; re-read when it changes.

A key is 32 random bytes behind the prefix `brk_`. Its plain SHA-256 is kept: a slow, salted hash protects secrets that
people choose and others can guess, and nobody guesses 256 random bits, so it would only cost every request its time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from babelrack.credentials import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["LICENSE", "ClientKey", "KeyEntry", "KeyFile", "KeyFileError", "add_key", "read_keys", "revoke_key"]

LICENSE = "license"
LARGEST_FILE = 4 * 1024 * 1024
LONGEST_PRESENTED = 512
DEEPEST = 16

log = structlog.get_logger(__name__)


class KeyFileError(Exception):
    """The key file can't be used; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """Who asks, and what they may: None is no limit. An `operator` may watch the sessions of others."""

    name: str
    requests_per_minute: int | None = None
    concurrency: int | None = None
    operator: bool = False


class KeyEntry(BaseModel):
    """One key as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    operator: bool = False
    created: AwareDatetime
    revoked: AwareDatetime | None = None


class _KeyList(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[KeyEntry] = []

    @model_validator(mode="after")
    def _each_once(self) -> _KeyList:
        names: set[str] = set()
        digests: set[str] = set()
        for entry in self.keys:
            if entry.name == LICENSE:
                raise ValueError(f"the name {LICENSE!r} is the licence key's own; choose another")
            if entry.name in names:
                raise ValueError(f"the name {entry.name!r} is there twice")
            if entry.sha256 in digests:
                raise ValueError(f"the key of {entry.name!r} is there twice")
            names.add(entry.name)
            digests.add(entry.sha256)
        return self


_KEY_LIST = TypeAdapter(_KeyList)


class KeyFile:
    """Client keys as a server knows them.

    The file is looked at once a second at most and re-read when it changed. A broken one keeps the last good keys, and
    `fault` says what is wrong with it. Without a path only the licence key is known, as `license`, without limits.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        license_key_sha256: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fault: str | None = None
        self._path = path
        self._monotonic = monotonic
        self._licensed = [(bytes.fromhex(license_key_sha256), ClientKey(LICENSE))] if license_key_sha256 else []
        self._keys: list[tuple[bytes, ClientKey]] = []
        self._signature: tuple[int, ...] | None = None
        self._looked = monotonic()
        if path is not None:
            self._signature = _signature(path)
            self._keys = _usable(read_keys(path))

    def __len__(self) -> int:
        """How many client keys are in force, the licence key not counted."""
        return len(self._keys)

    def find(self, presented: str) -> ClientKey | None:
        """Return the key that `presented` is, or None. Takes the same time whichever key it is, or none."""
        self._look()
        if len(presented) > LONGEST_PRESENTED:
            return None
        digest = hashlib.sha256(presented.encode(errors="replace")).digest()
        found: ClientKey | None = None
        for known, key in self._licensed + self._keys:
            if hmac.compare_digest(digest, known):
                found = key
        return found

    def _look(self) -> None:
        now = self._monotonic()
        if self._path is None or now - self._looked < 1.0:
            return
        self._looked = now
        try:
            signature = _signature(self._path)
            if signature == self._signature:
                return
            keys = _usable(read_keys(self._path))
        except KeyFileError as error:
            if self.fault != str(error):
                log.error("key file is broken; the last good keys stay in force", reason=str(error))
            self.fault = str(error)
            return
        self._signature = signature
        self._keys = keys
        self.fault = None
        log.info("key file read", file=str(self._path), keys=len(keys))


def read_keys(path: Path) -> list[KeyEntry]:
    """Read a key file (YAML or JSON). Raises KeyFileError with one sentence."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be read: {error.strerror or error}") from None
    if len(content) > LARGEST_FILE:
        raise KeyFileError(f"the key file {path} is larger than 4 MiB")
    try:
        parsed = _parse(content)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where is not None else ""
        raise KeyFileError(f"the key file {path} is neither YAML nor JSON{line}") from None
    try:
        return _KEY_LIST.validate_python(parsed if parsed is not None else {}).keys
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise KeyFileError(f"the key file {path}: {where + ': ' if where else ''}{fault['msg']}") from None


def add_key(
    path: Path, name: str, *, requests_per_minute: int | None, concurrency: int | None, operator: bool = False
) -> str:
    """Add a key to the file, which is made when missing, and return the key, which is kept nowhere.

    Raises KeyFileError.
    """
    key = "brk_" + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "requests_per_minute": requests_per_minute,
        "concurrency": concurrency,
        "operator": operator,
        "created": datetime.now(UTC).replace(microsecond=0),
    }
    with _locked(path):
        entries = read_keys(path) if path.exists() else []
        if any(known.name == name for known in entries):
            raise KeyFileError(f"{path} has a key named {name!r} already; revoke it or choose another name")
        try:
            entries = _KeyList.model_validate({"keys": [*entries, entry]}).keys
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in fault["loc"][2:])
            raise KeyFileError(f"the key can't be added: {field + ': ' if field else ''}{fault['msg']}") from None
        _write(path, entries)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Mark a key as revoked; servers refuse it within a second or two. Raises KeyFileError."""
    with _locked(path):
        entries = read_keys(path)
        if name not in {entry.name for entry in entries}:
            raise KeyFileError(f"{path} has no key named {name!r}; `keys list` shows those it has")
        now = datetime.now(UTC).replace(microsecond=0)
        _write(
            path,
            [
                entry.model_copy(update={"revoked": now}) if entry.name == name and entry.revoked is None else entry
                for entry in entries
            ],
        )


def _usable(entries: list[KeyEntry]) -> list[tuple[bytes, ClientKey]]:
    return [
        (
            bytes.fromhex(entry.sha256),
            ClientKey(entry.name, entry.requests_per_minute, entry.concurrency, entry.operator),
        )
        for entry in entries
        if entry.revoked is None
    ]


def _signature(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be read: {error.strerror or error}") from None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _parse(content: bytes) -> Any:
    text = content.decode()
    if text.lstrip().startswith("{"):
        return json.loads(text)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    # Events come without recursion. Composing recurses, and in C, where a deep file ends the process, not the parse.
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
    return yaml.load(text, Loader=loader)  # noqa: S506 both are safe loaders


def _write(path: Path, entries: list[KeyEntry]) -> None:
    # The flag is written where it is set: a file for client keys alone stays as servers of before know it.
    content = {"keys": [_kept(entry) for entry in entries]}
    text = json.dumps(content, indent=2) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    try:
        # The server that reads the file may be another user's: an existing file's owner and mode stay.
        before = path.stat() if path.exists() else None
        write_private(path, text)
        if before is not None:
            path.chmod(before.st_mode & 0o640 | 0o600)
            if os.geteuid() == 0:
                os.chown(path, before.st_uid, before.st_gid)
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be written: {error.strerror or error}") from None


def _kept(entry: KeyEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude_none=True, exclude=None if entry.operator else {"operator"})


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock, so that two commands at once lose nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be locked: {error.strerror or error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
