"""The cache of fetched checkpoints: content-addressed, shared by processes, never half-written.

checkpoints/<address>/    ready to load; its name is the archive's SHA-256, or that of its files' digests
records/<identity>.json   which address a URL gave when it was fetched first
partial/<key>/            downloads that the next try resumes
staging/<key>.…/          being unpacked; swept when nobody holds the lock of its key
locks/<key>               held (flock) while a key is fetched: the kernel frees it when its holder dies
digests/                  see `DigestMemory`
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from babelrack.checkpoints.digests import DigestMemory, sync_folder, write_atomically
from babelrack.checkpoints.errors import CheckpointError, FetchStopped
from babelrack.checkpoints.manifest import checked_sha256

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

_POLL_SECONDS = 0.1
_PARTIAL_DAYS = 14
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


class DiskFull(CheckpointError):
    """There is no room for the checkpoint."""


class RecordedFile(BaseModel):
    """What a source said of one file, to ask it later whether the file is still the same."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    etag: str | None = None
    last_modified: str | None = None


class Record(BaseModel):
    """What a URL gave when it was fetched first: its content is held to that from then on."""

    model_config = ConfigDict(frozen=True)

    url: str
    address: Annotated[str, AfterValidator(checked_sha256)]
    sha256: str | None
    revision: str | None = None
    files: dict[str, RecordedFile]


class Cache:
    """The cache in the folder `root`, which is made when something is first written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digests = DigestMemory(root / "digests")

    def checkpoint(self, address: str) -> Path:
        """Where a checkpoint is, or will be."""
        return self.root / "checkpoints" / address

    def ready(self, address: str) -> Path | None:
        """The folder of a checkpoint that has landed."""
        path = self.checkpoint(address)
        return path if path.is_dir() else None

    def record(self, identity: str) -> Record | None:
        """What was recorded of a URL, if what it gave is still here."""
        try:
            record = Record.model_validate_json(self.record_path(identity).read_bytes())
        except (OSError, ValidationError):
            return None
        return record if self.ready(record.address) else None

    def record_path(self, identity: str) -> Path:
        """Where it is recorded what a URL gave."""
        return self.root / "records" / f"{identity}.json"

    def remember(self, identity: str, record: Record) -> None:
        """Record what a URL gave."""
        write_atomically(self.record_path(identity), record.model_dump_json(indent=2).encode())

    @contextmanager
    def lock(self, key: str, stop: threading.Event, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold `key` against every other thread and process; `waiting` is called once if somebody else has it."""
        with self.faults():
            descriptor = self._open_lock(key)
        try:
            told = False
            while not _try_lock(descriptor):
                if not told:
                    waiting()
                    told = True
                if stop.wait(_POLL_SECONDS):
                    raise FetchStopped("stopped while another process fetches the same checkpoint")
            yield
        finally:
            os.close(descriptor)

    def partial(self, key: str) -> Path:
        """The folder for a key's unfinished downloads, made with the first of them; hold the key's lock."""
        return self.root / "partial" / key

    def resume(self, key: str, revision: str | None) -> None:
        """Keep a key's unfinished downloads if they are of the same revision: files of two don't fit together."""
        marker = self.partial(key) / "revision"
        if revision is not None and not (marker.is_file() and marker.read_text() == revision):
            self.forget_partial(key)
            write_atomically(marker, revision.encode())

    def forget_partial(self, key: str) -> None:
        """Remove a key's unfinished downloads."""
        shutil.rmtree(self.partial(key), ignore_errors=True)

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """A new folder for a key, gone at the end unless it has landed; hold the key's lock."""
        path = self._made("staging", f"{key}.{secrets.token_hex(4)}")
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def land(self, staged: Path, address: str) -> Path:
        """Make the files in `staged` the checkpoint `address`, durably and at once.

        Who lands second, from another URL with the same content, gets what the first one landed.
        """
        for file in staged.iterdir():
            file.chmod(0o644)
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(staged)
        checkpoints, landed = self._made("checkpoints"), self.checkpoint(address)
        try:
            staged.rename(landed)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        sync_folder(checkpoints)
        return landed

    def require(self, needed: int, what: str) -> None:
        """Refuse to begin what can't end.

        Raises:
            DiskFull: when fewer than `needed` bytes are free.
        """
        free = shutil.disk_usage(self._made()).free
        if free < needed:
            raise DiskFull(self._full_sentence(what, needed, free))

    @contextmanager
    def faults(self, what: str = "a checkpoint", needed: Callable[[], int | None] = lambda: None) -> Iterator[None]:
        """Turn what the disk says into a sentence; `needed` is how many more bytes were wanted."""
        try:
            yield
        except OSError as error:
            if is_disk_full(error):
                free = shutil.disk_usage(self.root).free if self.root.exists() else 0
                raise DiskFull(self._full_sentence(what, needed(), free)) from error
            if error.errno in _NOT_WRITABLE:
                raise CheckpointError(
                    f"{error.filename or self.root}: {error.strerror}; "
                    "give the service the right to write there or set MODEL_CACHE_DIR to another folder"
                ) from error
            raise CheckpointError(
                f"{error.filename or self.root}: {error.strerror or error}; check the disk"
            ) from error

    def sweep(self) -> None:
        """Remove what a killed fetch left half-way: staging at once, downloads that nobody resumed in two weeks."""
        oldest = time.time() - _PARTIAL_DAYS * 86400
        with contextlib.suppress(OSError):
            for left in _entries(self.root / "staging"):
                self._remove_unless_locked(left, left.name.partition(".")[0])
            for left in _entries(self.root / "partial"):
                if max((path.stat().st_mtime for path in (left, *left.iterdir())), default=0.0) < oldest:
                    self._remove_unless_locked(left, left.name)

    def _remove_unless_locked(self, path: Path, key: str) -> None:
        descriptor = self._open_lock(key)
        try:
            if _try_lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)

    def _open_lock(self, key: str) -> int:
        return os.open(self._made("locks") / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _made(self, *parts: str) -> Path:
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _full_sentence(self, what: str, needed: int | None, free: int) -> str:
        wanted = f"{needed:,} more bytes" if needed is not None else "more space"
        return (
            f"{self.root}: no room for {what}: {wanted} needed, {free:,} free; "
            "free some or set MODEL_CACHE_DIR to another disk"
        )


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, the quota or the process's file size limit is at its end."""
    return error.errno in _FULL


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
