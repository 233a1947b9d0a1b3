"""Seats and usage in SQLite.

A usage record's id and its share in the daily sums are written in one transaction, so that a batch that comes twice,
whoever was killed in between, counts once. Ids are kept for a number of days; a record older than that can't be told
from a second copy and is rejected by name, never counted on a guess.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, Literal

from babelrack.licensing.delivery import Batch
from babelrack.licensing.messages import BATCH_RECORDS, Rejection, UsageRecord, Validation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["DIMENSIONS", "Counted", "Dimension", "Ledger", "LedgerError", "UsageRow", "read_usage"]

Dimension = Literal["pack", "checkpoint", "language", "key", "day", "status", "feature"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("pack", "checkpoint", "language", "key", "day", "status", "feature")

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    body TEXT NOT NULL,
    forward REAL
);
CREATE INDEX IF NOT EXISTS records_at ON records (at);
CREATE INDEX IF NOT EXISTS records_forward ON records (seq) WHERE forward IS NOT NULL;
CREATE TABLE IF NOT EXISTS daily (
    day TEXT NOT NULL, pack TEXT NOT NULL, checkpoint TEXT NOT NULL, language TEXT NOT NULL, key TEXT NOT NULL,
    status INTEGER NOT NULL, requests INTEGER NOT NULL, audio_ms INTEGER NOT NULL,
    PRIMARY KEY (day, pack, checkpoint, language, key, status)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS daily_features (
    day TEXT NOT NULL, pack TEXT NOT NULL, checkpoint TEXT NOT NULL, language TEXT NOT NULL, key TEXT NOT NULL,
    status INTEGER NOT NULL, feature TEXT NOT NULL, requests INTEGER NOT NULL, audio_ms INTEGER NOT NULL,
    PRIMARY KEY (day, pack, checkpoint, language, key, status, feature)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seats (
    instance TEXT PRIMARY KEY, deployment TEXT NOT NULL, seen REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS upstream_answers (
    instance TEXT NOT NULL, role TEXT NOT NULL, key_sha256 TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (instance, role, key_sha256)
) WITHOUT ROWID;
"""

ADD_DAILY = """
INSERT INTO daily VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, audio_ms = audio_ms + excluded.audio_ms
"""
ADD_FEATURE = """
INSERT INTO daily_features VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, audio_ms = audio_ms + excluded.audio_ms
"""


class LedgerError(Exception):
    """The database can't be used; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a batch."""

    accepted: int
    duplicates: int
    rejected: list[Rejection]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage summed over everything but `group`, whose values stand in the order that was asked for."""

    group: tuple[str, ...]
    requests: int
    audio_seconds: float


class Ledger:
    """The proxy's database. Calls block for a transaction, fsync included: run them in a thread; any will do."""

    def __init__(self, path: Path, *, seat_seconds: float = 600, id_days: float = 30, forwards: bool = False) -> None:
        self._path = path
        self._seat_seconds = seat_seconds
        self._id_seconds = id_days * 86400
        self._forwards = forwards
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(SCHEMA)
        except OSError as error:
            raise LedgerError(f"the database {path} can't be opened: {error.strerror or error}") from None
        except sqlite3.Error as error:
            raise LedgerError(f"the database {path} can't be opened: {error}; restore it or move it away") from None

    def close(self) -> None:
        """Close the database; what is committed stays."""
        with self._lock:
            self._database.close()

    def count(self, records: Sequence[UsageRecord | Rejection], now: float) -> Counted:
        """Add records up, each id once, and return after the commit. Rejections among them are passed through."""
        accepted = duplicates = 0
        rejected: list[Rejection] = []
        with self._transaction() as database:
            for index, record in enumerate(records):
                if isinstance(record, Rejection):
                    rejected.append(record)
                elif record.at.timestamp() < now - self._id_seconds:
                    days = f"{self._id_seconds / 86400:g}"
                    reason = f"it is older than {days} days, so it can't be told from a copy (USAGE_ID_DAYS)"
                    rejected.append(Rejection(index=index, id=str(record.id), reason=reason))
                elif self._add(database, record):
                    accepted += 1
                else:
                    duplicates += 1
        return Counted(accepted, duplicates, rejected)

    def _add(self, database: sqlite3.Connection, record: UsageRecord) -> bool:
        known = database.execute(
            "INSERT OR IGNORE INTO records (id, at, body, forward) VALUES (?, ?, ?, ?)",
            (str(record.id), record.at.timestamp(), record.model_dump_json(), 0 if self._forwards else None),
        )
        if known.rowcount == 0:
            return False
        group = (
            record.at.astimezone(UTC).date().isoformat(),
            record.deployment,
            record.checkpoint,
            record.language,
            record.key,
            record.status,
        )
        amount = (record.requests, round(record.audio_seconds * 1000))
        database.execute(ADD_DAILY, (*group, *amount))
        database.executemany(ADD_FEATURE, [(*group, feature, *amount) for feature in dict.fromkeys(record.features)])
        return True

    def prune(self, now: float) -> int:
        """Forget the ids of records that would be rejected anyway, a day's margin kept; return how many."""
        with self._transaction() as database:
            return database.execute(
                "DELETE FROM records WHERE at < ? AND forward IS NULL", (now - self._id_seconds - 86400,)
            ).rowcount

    def take_seat(self, instance: str, deployment: str, seats: int | None, now: float) -> int | None:
        """Give `instance` a seat, or prolong the one it has; return how many are taken, or None when none is left.

        `seats` of None takes one whatever is left, for an upstream that counts them itself.
        """
        with self._transaction() as database:
            self._free_seats(database, now)
            holds = database.execute("SELECT 1 FROM seats WHERE instance = ?", (instance,)).fetchone() is not None
            used = _one(database, "SELECT count(*) FROM seats")
            if not holds and seats is not None and used >= seats:
                return None
            database.execute("INSERT OR REPLACE INTO seats VALUES (?, ?, ?)", (instance, deployment, now))
            return used if holds else used + 1

    def release_seat(self, instance: str) -> bool:
        """Free the seat of `instance`; return whether it had one."""
        with self._transaction() as database:
            return database.execute("DELETE FROM seats WHERE instance = ?", (instance,)).rowcount > 0

    def seats_used(self, now: float) -> int:
        """How many seats are taken."""
        with self._transaction() as database:
            self._free_seats(database, now)
            return _one(database, "SELECT count(*) FROM seats")

    def _free_seats(self, database: sqlite3.Connection, now: float) -> None:
        # Also those seen in the future: the clock was set back, and they would stay for as long.
        database.execute(
            "DELETE FROM seats WHERE seen < ? OR seen > ?", (now - self._seat_seconds, now + self._seat_seconds)
        )

    def remember_answer(self, instance: str, role: str, key_sha256: str, answer: Validation, now: float) -> None:
        """Keep the upstream's good answer; drop those that nobody asked for again in a month."""
        with self._transaction() as database:
            database.execute("DELETE FROM upstream_answers WHERE at < ?", (now - 30 * 86400,))
            database.execute(
                "INSERT OR REPLACE INTO upstream_answers VALUES (?, ?, ?, ?, ?)",
                (instance, role, key_sha256, now, answer.model_dump_json()),
            )

    def forget_answer(self, instance: str, role: str, key_sha256: str) -> None:
        """Drop what the upstream said before it said no."""
        with self._transaction() as database:
            database.execute(
                "DELETE FROM upstream_answers WHERE instance = ? AND role = ? AND key_sha256 = ?",
                (instance, role, key_sha256),
            )

    def vouched_for(self) -> set[str]:
        """Hashes of the licence keys that the upstream has said yes to in the last month."""
        with self._transaction() as database:
            return {row[0] for row in database.execute("SELECT DISTINCT key_sha256 FROM upstream_answers")}

    def remembered_answer(
        self, instance: str, role: str, key_sha256: str, grace: float, now: float
    ) -> Validation | None:
        """Return the upstream's last good answer if it is younger than `grace` seconds."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT body FROM upstream_answers WHERE instance = ? AND role = ? AND key_sha256 = ? "
                "AND at BETWEEN ? AND ?",
                (instance, role, key_sha256, now - grace, now + 300),
            ).fetchone()
        answer = Validation.model_validate_json(row[0]) if row else None
        return answer if answer is not None and answer.expires_at.timestamp() > now else None

    def take_forward(self, now: float) -> Batch:
        """Return the next records for the upstream."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT seq, body FROM records WHERE forward IS NOT NULL AND forward <= ? ORDER BY seq LIMIT ?",
                (now, BATCH_RECORDS // 2),
            ).fetchall()
        return Batch([seq for seq, _ in rows], [body for _, body in rows])

    def settle_forward(self, batch: Batch, rejected: Sequence[Rejection], now: float) -> None:
        """Mark what the upstream acknowledged; try what it rejected again in a day."""
        aside = {batch.handles[one.index] for one in rejected if 0 <= one.index < len(batch.handles)}
        with self._transaction() as database:
            database.executemany(
                "UPDATE records SET forward = ? WHERE seq = ?",
                [(now + 86400 if seq in aside else None, seq) for seq in batch.handles],
            )

    def usage(self, by: Sequence[Dimension], since: str | None = None, until: str | None = None) -> list[UsageRow]:
        """Sum usage up, grouped by dimensions, from the day `since` to the day `until` (ISO dates, UTC, inclusive)."""
        if not by or any(dimension not in DIMENSIONS for dimension in by):
            raise LedgerError(f"usage is grouped by {', '.join(DIMENSIONS)}")
        with self._lock:
            return _usage(self._database, by, since, until)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise


def read_usage(
    path: Path, by: Sequence[Dimension], since: str | None = None, until: str | None = None
) -> list[UsageRow]:
    """Like `Ledger.usage`, from a database that a proxy may be using; nothing is written. Raises LedgerError."""
    if not path.is_file():
        raise LedgerError(f"there is no usage database at {path}; give the proxy's DATABASE")
    try:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=10.0)) as database:
            return _usage(database, by, since, until)
    except sqlite3.Error as error:
        raise LedgerError(f"the usage database {path} can't be read: {error}") from None


def _usage(
    database: sqlite3.Connection, by: Sequence[Dimension], since: str | None, until: str | None
) -> list[UsageRow]:
    table = "daily_features" if "feature" in by else "daily"
    columns = ", ".join(by)
    rows = database.execute(
        f"SELECT {columns}, sum(requests), sum(audio_ms) FROM {table} WHERE day BETWEEN ? AND ? "  # noqa: S608 known words
        f"GROUP BY {columns} ORDER BY {columns}",
        (since or "0000-01-01", until or "9999-12-31"),
    )
    return [UsageRow(tuple(str(value) for value in row[:-2]), row[-2], row[-1] / 1000) for row in rows]


def _one(database: sqlite3.Connection, query: str) -> int:
    value: Any = database.execute(query).fetchone()[0]
    return int(value)
