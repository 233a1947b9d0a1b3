"""The licence on disk, read again when it or its public key changes: a renewal needs no restart."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from babelrack.licensing.document import LONGEST_TOKEN, License, LicenseError, load_public_key, read, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["LicenseFile"]

log = structlog.get_logger(__name__)


class LicenseFile:
    """What the licence file says now. `fault` is the sentence about a broken file whose last good state is in use."""

    def __init__(
        self,
        path: Path,
        public_key_path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fault: str | None = None
        self._path = path
        self._public_key_path = public_key_path
        self._now = now
        self._monotonic = monotonic
        self._looked = -1e9
        self._signature: tuple[object, ...] = ()
        self._token = ""
        self._error: LicenseError | None = None

    def license(self) -> License:
        """Return the licence if it is good and its time is now; raise LicenseError else."""
        self._look()
        if self._error is not None:
            raise self._error
        return verify(self._token, self._public_key, self._now())

    def document(self) -> License:
        """Return what the licence says whether or not its time is now; raise LicenseError when it is unreadable."""
        self._look()
        if self._error is not None:
            raise self._error
        return read(self._token, self._public_key)

    def _look(self) -> None:
        now = self._monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        signature = (_signature(self._path), _signature(self._public_key_path))
        if signature == self._signature and self.fault is None:
            return
        self._signature = signature
        try:
            public_key = load_public_key(self._public_key_path)
            token = _content(self._path)
            license_ = read(token, public_key)
        except LicenseError as error:
            if self.fault != str(error):
                log.error("licence file is broken", file=str(self._path), reason=str(error))
            self.fault = str(error)
            if not self._token:
                self._error = error
            return
        self._token, self._public_key = token, public_key
        self.fault = self._error = None
        log.info("licence read", customer=license_.customer, seats=license_.seats, expires=str(license_.expires))


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_TOKEN + 1).decode("ascii")
    except OSError as error:
        raise LicenseError("unreadable", f"the licence {path} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise LicenseError("malformed", f"the licence {path} is malformed: it is not text") from None


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
