"""The usage journal of one server instance: SQLite, written by one thread, delivered in the background.

Every record is committed before `record` returns, and records that wait together share one commit. A commit is in the
kernel's hands, so it outlives kill -9 of any process; it is on the disk a second later, so a power cut can cost the
last second's records, but never damages the journal. To wait for the disk each time would cost every request that
comes alone some milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from babelrack.licensing.delivery import LINGER, Batch, Delivery
from babelrack.licensing.messages import BATCH_RECORDS, Rejection, UsageRecord
from babelrack.sqlite_file import open_or_begin_anew

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["JournalError", "UsageJournal"]

GIB = 1024**3
BATCH_BYTES = 512 * 1024
PAGE = 4096
DAY = 24 * 3600
# Kept in memory while the disk is full or the journal at its bound; what comes after that is lost, and counted.
MOST_UNWRITTEN = 10_000
SYNC_EVERY = 1.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    not_before REAL NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE INDEX IF NOT EXISTS records_aside ON records (seq) WHERE reason IS NOT NULL;
"""
COUNT_ASIDE = "SELECT count(*) FROM records WHERE reason IS NOT NULL"

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class JournalError(Exception):
    """The journal can't be opened; the message names the file and the fix."""


@dataclass(frozen=True, slots=True)
class _Write:
    row: tuple[str, str]
    loop: asyncio.AbstractEventLoop
    written: asyncio.Future[bool]


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


class UsageJournal:
    """Counts requests durably and hands them to the licence proxy.

    One journal belongs to one server instance: it is locked while open. Without `proxy_url` and `license_key` it only
    collects. It never refuses a request: when it is full (`max_bytes`) or the disk is, it says so in `fault` and in the
    log, keeps 10,000 records in memory and counts what it then loses in `lost`.
    """

    def __init__(
        self,
        path: Path,
        *,
        proxy_url: str | None = None,
        license_key: str | None = None,
        max_bytes: int = GIB,
        linger: float = LINGER,
    ) -> None:
        self.lost = 0
        self.pending = 0
        self._path = path
        self._max_bytes = max_bytes
        self._write_fault: str | None = None
        self._aside = 0
        self._queue: queue.SimpleQueue[_Write | _Job | None] = queue.SimpleQueue()
        self._unwritten: list[tuple[str, str]] = []
        self._unsynced = False
        self._synced_at = 0.0
        self._thread: threading.Thread | None = None
        self._delivery: Delivery | None = None
        if proxy_url and license_key:
            self._delivery = Delivery(self, proxy_url, license_key, linger=linger)

    @property
    def fault(self) -> str | None:
        """What is wrong with counting or delivering usage now, or None."""
        if self._write_fault is not None:
            return self._write_fault
        if self._delivery is not None and self._delivery.fault is not None:
            return self._delivery.fault
        if self._aside:
            return f"{self._aside} usage records in {self._path} are refused by the licence proxy; see the log"
        return None

    async def start(self) -> None:
        """Open the journal and begin to deliver what an earlier run left. Raises JournalError."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=self._write_all, args=(asyncio.get_running_loop(), opened), name="usage-journal", daemon=True
        )
        self._thread.start()
        await opened
        if self._delivery is not None:
            self._delivery.start()

    async def record(self, record: UsageRecord) -> bool:
        """Write `record`; it is durable when this returns True. Never raises for a full or failing disk."""
        if self._thread is None:
            raise JournalError(f"the usage journal {self._path} is not open")
        loop = asyncio.get_running_loop()
        written: asyncio.Future[bool] = loop.create_future()
        self._queue.put(_Write((str(record.id), record.model_dump_json()), loop, written))
        # Shielded: a client that goes away cancels its request, not the count of it.
        durable = await asyncio.shield(written)
        if self._delivery is not None:
            self._delivery.wake()
        return durable

    async def stop(self) -> None:
        """Write what waits, try a last delivery for three seconds, close and unlock."""
        if self._thread is None:
            return
        if self._delivery is not None:
            await self._delivery.stop()
        thread, self._thread = self._thread, None
        self._queue.put(None)
        await asyncio.to_thread(thread.join)

    async def take(self) -> Batch:
        """Return the next records to deliver (the delivery's side)."""
        return await self._do(_take)

    async def settle(self, batch: Batch, rejected: Sequence[Rejection]) -> None:
        """Delete what was acknowledged and put the rejected aside for a day (the delivery's side)."""
        await self._do(lambda database: self._settle(database, batch, rejected))

    async def _do(self, run: Callable[[sqlite3.Connection], Result]) -> Result:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._queue.put(_Job(run, loop, done))
        return await done

    # Below: the writer's thread.

    def _write_all(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None]) -> None:
        try:
            database = self._open()
        except JournalError as error:
            _tell(loop, opened, error=error)
            return
        _tell(loop, opened, None)
        with contextlib.closing(database):
            # SQLite keeps this file, and rewrites it in place, for as long as the connection is open.
            wal = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                while self._work(database):
                    self._sync(wal)
            finally:
                os.close(wal)

    def _work(self, database: sqlite3.Connection) -> bool:
        """Take what waits, at least one item, and do it: all records in one commit, then the jobs."""
        try:
            first = self._queue.get(timeout=SYNC_EVERY if self._unwritten or self._unsynced else None)
        except queue.Empty:
            if self._unwritten:
                self._commit(database, [])
            return True
        items = [first]
        while len(items) < 1000 and items[-1] is not None:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        writes = [item for item in items if isinstance(item, _Write)]
        if writes or self._unwritten:
            durable = self._commit(database, [write.row for write in writes])
            for write in writes:
                _tell(write.loop, write.written, durable)
        for item in items:
            if isinstance(item, _Job):
                try:
                    result = item.run(database)
                except Exception as error:  # belongs to the one who waits for it
                    _tell(item.loop, item.done, error=error)
                else:
                    _tell(item.loop, item.done, result)
        return items[-1] is not None

    def _sync(self, wal: int) -> None:
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_EVERY:
            with contextlib.suppress(OSError):  # a disk that fails shows at the next commit
                os.fsync(wal)
            self._unsynced = False
            self._synced_at = time.monotonic()

    def _commit(self, database: sqlite3.Connection, rows: list[tuple[str, str]]) -> bool:
        rows = self._unwritten + rows
        try:
            with _transaction(database):
                inserted = database.executemany("INSERT OR IGNORE INTO records (id, body) VALUES (?, ?)", rows).rowcount
        except Exception as error:  # whatever it is, requests go on and the thread stays
            self.lost += max(0, len(rows) - MOST_UNWRITTEN)
            self._unwritten = rows[:MOST_UNWRITTEN]
            if self._write_fault is None:
                log.error("usage journal fails", file=str(self._path), reason=str(error))
            self._write_fault = (
                f"usage can't be written to {self._path}: {error}; free disk space or let the licence proxy catch up"
            )
            return False
        self._unwritten = []
        self._unsynced = True
        self.pending += inserted
        if self._write_fault is not None:
            log.info("usage journal works again", file=str(self._path), lost=self.lost)
            self._write_fault = None
        return True

    def _settle(self, database: sqlite3.Connection, batch: Batch, rejected: Sequence[Rejection]) -> None:
        aside = {
            batch.handles[rejection.index]: rejection.reason
            for rejection in rejected
            if 0 <= rejection.index < len(batch.handles)
        }
        with _transaction(database):
            database.executemany(
                "UPDATE records SET not_before = ?, reason = ? WHERE seq = ?",
                [(time.time() + DAY, reason, seq) for seq, reason in aside.items()],
            )
            deleted = database.executemany(
                "DELETE FROM records WHERE seq = ?", [(seq,) for seq in batch.handles if seq not in aside]
            ).rowcount
        self.pending -= max(deleted, 0)
        self._aside = database.execute(COUNT_ASIDE).fetchone()[0]

    def _open(self) -> sqlite3.Connection:
        try:
            return open_or_begin_anew(self._path, self._connect, self._tell_damaged)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError(
                    f"the usage journal {self._path} is in use by another process; every API server needs its own"
                ) from None
            raise JournalError(f"the usage journal {self._path} can't be opened: {error}") from None
        except OSError as error:
            raise JournalError(f"the usage journal {self._path} can't be opened: {error.strerror or error}") from None

    def _tell_damaged(self, aside: Path) -> None:
        log.error("usage journal is damaged; a new one is begun", file=str(self._path), kept_as=str(aside))

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=2.0, check_same_thread=False)
        try:
            # SQLite's own lock, held until the connection closes, is the journal's: it isn't inherited by a fork.
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute(f"PRAGMA page_size={PAGE}")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(f"PRAGMA journal_size_limit={64 * 1024 * 1024}")
            database.execute(f"PRAGMA max_page_count={max(self._max_bytes // PAGE, 16)}")
            database.executescript(SCHEMA)
            self.pending = database.execute("SELECT count(*) FROM records").fetchone()[0]
            self._aside = database.execute(COUNT_ASIDE).fetchone()[0]
        except BaseException:
            database.close()
            raise
        return database


def _take(database: sqlite3.Connection) -> Batch:
    handles: list[int] = []
    bodies: list[str] = []
    size = 0
    for seq, body in database.execute(
        "SELECT seq, body FROM records WHERE not_before <= ? ORDER BY seq LIMIT ?", (time.time(), BATCH_RECORDS)
    ):
        size += len(body.encode())
        if handles and size > BATCH_BYTES:
            break
        handles.append(seq)
        bodies.append(body)
    return Batch(handles, bodies)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Any:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any = None, *, error: Exception | None = None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)
