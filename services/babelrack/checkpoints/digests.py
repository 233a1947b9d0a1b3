"""SHA-256 of large files, remembered while the file stays what it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CHUNK = 1 << 20
# A file changed this recently could change again without a visible change of its times (git's "racy" files).
_SETTLED_SECONDS = 2.0


def sha256_file(path: Path, advance: Callable[[int], None] = lambda _done: None) -> str:
    """The file's SHA-256 in hexadecimal; `advance` is told the bytes read so far, and may raise to stop."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            advance(done)
    return digest.hexdigest()


class DigestMemory:
    """Digests by device, inode, size and both times, so that a restart doesn't read gigabytes to learn what it knew.

    The change time moves with every write, truncation and replacement, and no user program can set it back.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def digest(self, path: Path, advance: Callable[[int], None] = lambda _done: None) -> str:
        """The file's SHA-256, from memory if nothing about the file has changed."""
        before = path.stat()
        known = self._folder / _key(before)
        with contextlib.suppress(OSError):
            if len(text := known.read_text()) == hashlib.sha256().digest_size * 2:
                return text
        digest = sha256_file(path, advance)
        after = path.stat()
        if _key(before) == _key(after) and time.time() - after.st_ctime > _SETTLED_SECONDS:
            with contextlib.suppress(OSError):  # a cache that can't be written costs time only
                write_atomically(known, digest.encode())
        return digest


def _key(status: os.stat_result) -> str:
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return "-".join(f"{fact:x}" for fact in facts)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that a reader, or the next start after a power cut, sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
