"""Jobs on disk: SQLite for what is known of them, and a file for the audio of each.

A change is on the disk when its method returns: the client that was told `processing` has thrown its audio away. That
a job is being transcribed is not written down, so one that is cut off by a kill is simply still queued.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import structlog
from pydantic import BaseModel, Field

from babelrack.api_server.errors import BadRequest, Unavailable
from babelrack.api_server.jobs.webhook import Webhook  # noqa: TC001 - pydantic reads the annotation
from babelrack.sqlite_file import open_or_begin_anew

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

State = Literal["queued", "delivering", "delivered", "failed"]

DAY = 24 * 3600.0
_FULL_RETRY_SECONDS = 60
_COPY_BYTES = 4 * 1024 * 1024

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL,
    key TEXT NOT NULL,
    receiver TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    until REAL NOT NULL,     -- when the state ends by itself: given up, or forgotten
    next_try REAL NOT NULL,
    tries INTEGER NOT NULL,  -- in this state
    size INTEGER NOT NULL,   -- bytes of what it keeps: its audio, then its answer
    task TEXT,               -- gone when it is over, as is the answer
    answer TEXT,
    reason TEXT,
    UNIQUE (key, request_id)
);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (state, next_try);
"""
# Who shall not hold up the others: a key that may run no more of its jobs, a receiver that has enough at once.
_LANE = {"queued": "key", "delivering": "receiver"}

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class JobStoreError(Exception):
    """The store can't be opened; the message names the file and the fix."""


class Task(BaseModel):
    """What a job is to do, as it is kept; `options` are names and values as the client wrote them."""

    usage_id: uuid.UUID = Field(default_factory=uuid.uuid4)
    dialect: str
    options: list[tuple[str, str]]
    features: list[str]
    concurrency: int | None
    url: str | None = None  # of the audio; None when it is kept here
    audio_bytes: int = 0
    webhook: Webhook


@dataclass(frozen=True)
class Job:
    """A row of the store; moments are seconds since 1970. `task` and `answer` are gone when it is over."""

    id: int
    request_id: str
    key: str
    receiver: str
    state: State
    created: float
    until: float
    next_try: float
    tries: int
    size: int
    task: Task | None
    answer: str | None
    reason: str | None


_COLUMNS = tuple(field.name for field in fields(Job))


@dataclass(frozen=True)
class _Held:
    jobs: dict[str, int]
    bytes: int


class JobStore:
    """The jobs of one API server, in `folder`; at most `max_jobs` and `max_bytes` that aren't over.

    A job has a day in each state: to be transcribed, to be delivered, and to be seen after it is over.
    """

    def __init__(self, folder: Path, *, max_jobs: int, max_bytes: int, wall: Callable[[], float] = time.time) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(get_args(State), 0))
        self.bytes = 0
        self._folder = folder
        self._path = folder / "jobs.sqlite"
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._wall = wall
        self._coming = Counter[str]()
        self._unclean = True
        self._database: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")

    async def start(self) -> None:
        """Open it, as an earlier run left it. Raises JobStoreError."""
        self._set(await self._do(self._open))

    async def stop(self) -> None:
        """Close it, when all that was asked of it is done."""
        await self._do(self._close)
        self._thread.shutdown()

    def require_room(self, size: int = 0) -> None:
        """Raise Unavailable when another job, with `size` bytes of audio, is too much."""
        waiting = self.counts["queued"] + self.counts["delivering"] + self._coming["jobs"]
        if waiting >= self._max_jobs:
            raise _full(f"this server already has {waiting} jobs, which is all that it takes")
        if self.bytes + self._coming["bytes"] + size > self._max_bytes:
            raise _full(f"the jobs of this server already hold {self.bytes // 1_000_000} MB")

    def audio(self, task: Task) -> Path:
        """Where the audio of a job is kept."""
        return self._folder / "audio" / task.usage_id.hex

    async def add(self, request_id: str, key: str, task: Task, descriptor: int | None) -> None:
        """Keep a job, and the audio behind `descriptor`, which is read from its start.

        Raises:
            Unavailable: when the store or the disk is full.
            BadRequest: when the key has a job of that request id already.
        """
        with self._expected(task.audio_bytes):
            try:
                if descriptor is not None:
                    await asyncio.to_thread(_copy, descriptor, self.audio(task))
                await self._do(lambda database: self._insert(database, request_id, key, task))
                self.counts["queued"] += 1
                self.bytes += task.audio_bytes
            except Exception as error:
                self.audio(task).unlink(missing_ok=True)
                if isinstance(error, sqlite3.IntegrityError):
                    raise BadRequest(
                        f"there is a job of the request id {request_id!r} already; send another X-Request-Id, "
                        f"or see how that one is at /waves/v1/jobs/{request_id}.",
                        code="JOB_EXISTS",
                    ) from None
                if isinstance(error, OSError | sqlite3.Error):
                    log.error("job could not be kept", folder=str(self._folder), error=str(error))
                    raise Unavailable(
                        f"the server could not store the job ({error}); its operator should look at STATE_DIR.",
                        code="SPOOL",
                        retry_after=30,
                    ) from error
                raise

    async def find(self, key: str, request_id: str) -> Job | None:
        """The key's job of that request id."""
        found = await self._select("WHERE key = ? AND request_id = ?", (key, request_id))
        return found[0] if found else None

    async def due(
        self, state: State, most: int, *, running: Collection[Job] = (), full: Collection[str] = ()
    ) -> list[Job]:
        """Up to `most` jobs whose turn it is, in order; none that is `running`, or whose key or receiver is `full`."""
        ids = [job.id for job in running]
        where = (
            f"WHERE state = ? AND next_try <= ? AND id NOT IN ({_marks(ids)}) "
            f"AND {_LANE[state]} NOT IN ({_marks(full)}) ORDER BY next_try, id LIMIT ?"
        )
        return await self._select(where, (state, self._wall(), *ids, *full, most))

    async def count_try(self, job: Job) -> None:
        """Count a try before it is made, so that one that ends the process is counted too."""
        await self._change(job, "tries = tries + 1")

    async def postpone(self, job: Job, seconds: float, reason: str | None, *, counted: bool = True) -> None:
        """Try again in so many seconds; without `counted` a try is given back that was not the job's fault."""
        change = "next_try = ?, reason = ?" if counted else "next_try = ?, reason = ?, tries = max(tries - 1, 0)"
        await self._change(job, change, self._wall() + seconds, reason)

    async def answered(self, job: Job, answer: str) -> None:
        """The answer is there: it is to be delivered, and the audio is no longer kept."""
        now, size = self._wall(), len(answer.encode())
        await self._change(
            job,
            "next_try = ?, until = ?, tries = 0, size = ?, answer = ?, reason = NULL",
            *(now, now + DAY, size, answer),
            state="delivering",
            size=size,
        )

    async def finish(self, job: Job, state: Literal["delivered", "failed"], reason: str | None = None) -> None:
        """It is over: only that it was is kept, for a day."""
        change = "until = ?, size = 0, task = NULL, answer = NULL, reason = ?"
        await self._change(job, change, self._wall() + DAY, reason, state=state, size=0)

    async def forget(self) -> None:
        """Delete jobs that were over a day ago, or of which there are too many, and what their answers left on disk."""
        if (held := await self._do(self._forget)) is not None:
            self._set(held)

    async def _change(
        self, job: Job, change: str, *values: object, state: State | None = None, size: int | None = None
    ) -> None:
        def run(database: sqlite3.Connection) -> None:
            database.execute(
                f"UPDATE jobs SET {change}, state = ? WHERE id = ?",  # noqa: S608 - only texts of this module
                (*values, state or job.state, job.id),
            )
            if job.state == "queued" and state is not None and job.task is not None:
                self.audio(job.task).unlink(missing_ok=True)
            self._unclean |= size is not None

        await self._do(run)
        if state is not None:
            self.counts[job.state] -= 1
            self.counts[state] += 1
        if size is not None:
            self.bytes += size - job.size

    async def _select(self, where: str, values: tuple[object, ...]) -> list[Job]:
        def run(database: sqlite3.Connection) -> list[Job]:
            rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs {where}", values)  # noqa: S608
            return [_job(row) for row in rows]

        return await self._do(run)

    def _set(self, held: _Held) -> None:
        for state in get_args(State):
            self.counts[state] = held.jobs.get(state, 0)
        self.bytes = held.bytes

    @contextlib.contextmanager
    def _expected(self, size: int) -> Iterator[None]:
        self.require_room(size)
        self._coming.update(jobs=1, bytes=size)
        try:
            yield
        finally:
            self._coming.update(jobs=-1, bytes=-size)

    async def _do(self, run: Callable[[sqlite3.Connection], Result]) -> Result:
        def on_thread() -> Result:
            if self._database is None:
                self._database = self._connect_or_begin_anew()
            return run(self._database)

        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)

    # Below: the store's thread.

    def _open(self, database: sqlite3.Connection) -> _Held:
        rows = database.execute("SELECT task FROM jobs WHERE state = 'queued'")
        kept = {Task.model_validate_json(row[0]).usage_id.hex for row in rows}
        for file in (self._folder / "audio").iterdir():
            if file.name not in kept:  # of a request that was cut off before it was answered, or of a job that moved on
                file.unlink()
        return _held(database)

    def _close(self, database: sqlite3.Connection) -> None:
        database.close()
        self._database = None

    def _insert(self, database: sqlite3.Connection, request_id: str, key: str, task: Task) -> None:
        now = self._wall()
        database.execute(
            "INSERT INTO jobs (request_id, key, receiver, state, created, until, next_try, tries, size, task) "
            "VALUES (?, ?, ?, 'queued', ?, ?, ?, 0, ?, ?)",
            (request_id, key, task.webhook.receiver, now, now + DAY, now, task.audio_bytes, task.model_dump_json()),
        )

    def _forget(self, database: sqlite3.Connection) -> _Held | None:
        over = "state IN ('delivered', 'failed')"
        deleted = database.execute(f"DELETE FROM jobs WHERE {over} AND until <= ?", (self._wall(),)).rowcount  # noqa: S608
        deleted += database.execute(
            f"DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE {over} ORDER BY until DESC LIMIT -1 OFFSET ?)",  # noqa: S608
            (self._max_jobs,),
        ).rowcount
        if self._unclean:
            # secure_delete has overwritten answers in the database; this does so in its log.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._unclean = False
        return _held(database) if deleted else None

    def _connect_or_begin_anew(self) -> sqlite3.Connection:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / "audio").mkdir(mode=0o700, exist_ok=True)
            return open_or_begin_anew(self._path, self._connect, self._tell_damaged)
        except sqlite3.OperationalError as error:
            fix = "; every API server needs a STATE_DIR of its own" if "locked" in str(error) else ""
            raise JobStoreError(f"the jobs in {self._path} can't be opened: {error}{fix}") from None
        except OSError as error:
            raise JobStoreError(f"the jobs in {self._path} can't be opened: {error.strerror or error}") from None

    def _tell_damaged(self, aside: Path) -> None:
        log.error("the jobs are damaged; new ones are taken", file=str(self._path), kept_as=str(aside))

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=2.0)
        try:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA secure_delete=ON")
            database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
        return database


def _held(database: sqlite3.Connection) -> _Held:
    jobs = dict(database.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    return _Held(jobs, database.execute("SELECT coalesce(sum(size), 0) FROM jobs").fetchone()[0])


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(_COLUMNS, row, strict=True))
    if values["task"] is not None:
        values["task"] = Task.model_validate_json(values["task"])
    return Job(**values)


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _full(what: str) -> Unavailable:
    return Unavailable(f"{what}; send the request again later.", code="JOBS_FULL", retry_after=_FULL_RETRY_SECONDS)


def _copy(descriptor: int, file: Path) -> None:
    """Copy all that is behind `descriptor`, from its start, into a new `file`, onto the disk."""
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while sent := os.sendfile(target, descriptor, offset, _COPY_BYTES):
            offset += sent
        os.fsync(target)
    finally:
        os.close(target)
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the name, too
    finally:
        os.close(folder)
