"""Takes jobs further: each queued one is transcribed, each answer delivered, as often as it takes, for a day."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sqlite3
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import structlog

from babelrack.api_server.body import Body
from babelrack.api_server.errors import ApiError, InternalFault, pulse_body
from babelrack.api_server.jobs.retry import pause
from babelrack.api_server.jobs.webhook import NotDelivered
from babelrack.api_server.options import parse_options
from babelrack.api_server.spool import Spool
from babelrack.api_server.transcription import Source, Visit
from babelrack.keys import ClientKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from babelrack.api_server.admission import Admission
    from babelrack.api_server.drain import Drain
    from babelrack.api_server.jobs.board import Board
    from babelrack.api_server.jobs.store import Job, JobStore, Task
    from babelrack.api_server.jobs.webhook import Sender
    from babelrack.api_server.metrics import Metrics
    from babelrack.api_server.options import Option
    from babelrack.api_server.transcription import Transcriber

_LOOK_SECONDS = 1.0
_FORGET_SECONDS = 60.0
_TROUBLE_SECONDS = 10.0
_LAST_SECONDS = 3.0
# One in so many of the slots at the model server. What a live request meets there it waits for, because the engine
# doesn't know one from the other; and a long recording keeps many windows busy by itself.
_SHARE = 32
_MOST_DELIVERIES = 32
_MOST_TO_ONE_RECEIVER = 4
_FIRST_DELIVERY_RETRY, _LONGEST_DELIVERY_RETRY = 2.0, 3600.0
_FIRST_TRANSCRIPTION_RETRY, _LONGEST_TRANSCRIPTION_RETRY = 1.0, 300.0
# What fails so often while the pack is well fails because of its audio, and each try may cost the others something.
_MOST_TRANSCRIPTIONS = 10
# Refusals that say something of the moment and nothing of the job.
_OF_THE_MOMENT = frozenset({"OVERLOADED", "DRAINING", "STARTING", "PAIRING", "LICENSE", "SPOOL"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Dialect:
    """How a path reads its options, and how it answers as JSON."""

    table: Mapping[str, Option]
    answer: Callable[[Transcriber, Visit, Source, Mapping[str, Any]], Awaitable[str]]


class _Stage:
    """The jobs of one state that are under way, at most `bound` of one lane: of a key, or to a receiver."""

    def __init__(
        self,
        state: Literal["queued", "delivering"],
        work: Callable[[Job], Coroutine[Any, Any, None]],
        lane: Callable[[Job], str],
        bound: Callable[[Job], float],
    ) -> None:
        self.state = state
        self.work = work
        self.running: dict[asyncio.Task[None], Job] = {}
        self._lane = lane
        self._bound = bound

    @property
    def jobs(self) -> list[Job]:
        """Those that run."""
        return list(self.running.values())

    @property
    def full(self) -> set[str]:
        """The lanes that can have no more."""
        return {self._lane(job) for job in self.jobs if not self.fits(job)}

    def fits(self, job: Job) -> bool:
        """Whether another one of its lane can run."""
        return sum(self._lane(job) == self._lane(other) for other in self.jobs) < self._bound(job)


class Runner:
    """The jobs of one API server, a bounded number of them at once."""

    def __init__(
        self,
        store: JobStore,
        sender: Sender,
        board: Board,
        transcriber: Transcriber,
        dialects: Mapping[str, Dialect],
        *,
        admission: Admission,
        metrics: Metrics,
        drain: Drain,
    ) -> None:
        self._store = store
        self._sender = sender
        self._board = board
        self._transcriber = transcriber
        self._dialects = dialects
        self._admission = admission
        self._metrics = metrics
        self._drain = drain
        self._transcribing = _Stage("queued", self._transcribe, lambda job: job.key, _key_bound)
        self._delivering = _Stage(
            "delivering", self._deliver, lambda job: job.receiver, lambda _: _MOST_TO_ONE_RECEIVER
        )
        self._woken = asyncio.Event()
        self._forgotten_at = 0.0
        self._rests_until = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Go on with what an earlier run left; on leaving, what is being transcribed is queued again."""
        await self._store.start()
        looking = asyncio.create_task(self._look(), name="jobs")
        try:
            yield
        finally:
            await _end(looking, *self._transcribing.running)
            if self._delivering.running:
                await asyncio.wait(self._delivering.running, timeout=_LAST_SECONDS)
            await _end(*self._delivering.running)
            await self._store.stop()

    def wake(self) -> None:
        """Say that there is something to do."""
        self._woken.set()

    def is_transcribing(self, job: Job) -> bool:
        """Whether the job is at the model server, or on its way there."""
        return any(job.id == other.id for other in self._transcribing.jobs)

    async def _look(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._begin_what_is_due()
            except Exception as error:  # whatever it is, jobs go on when it is over
                self._rest(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._woken.wait()

    def _rest(self, error: Exception) -> None:
        log.error("jobs wait", error=str(error), exc_info=not isinstance(error, sqlite3.Error | OSError))
        self._rests_until = time.monotonic() + _TROUBLE_SECONDS

    async def _begin_what_is_due(self) -> None:
        now = time.monotonic()
        if self._drain.draining or now < self._rests_until:
            return
        if now - self._forgotten_at >= _FORGET_SECONDS:
            self._forgotten_at = now
            await self._store.forget()
        if self._transcriber.ready:
            await self._begin(self._transcribing, max(1, self._admission.slots // _SHARE))
        await self._begin(self._delivering, _MOST_DELIVERIES)

    async def _begin(self, stage: _Stage, most: int) -> None:
        free = most - len(stage.running)
        if free <= 0:
            return
        due = await self._store.due(stage.state, free, running=stage.jobs, full=stage.full)
        for job in due:
            if stage.fits(job):
                task = asyncio.create_task(stage.work(job), name=f"job {job.request_id}")
                stage.running[task] = job
                self._board.tell(job.key, job.request_id)
                task.add_done_callback(partial(self._ended, stage))

    def _ended(self, stage: _Stage, task: asyncio.Task[None]) -> None:
        job = stage.running.pop(task)
        self._board.tell(job.key, job.request_id)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._rest(error)  # not even its failure could be written down
        self.wake()

    async def _transcribe(self, job: Job) -> None:
        task = _task(job)
        # Not admitted by the key's limiter: a job in the background must not be why its key's live request gets a 429.
        visit = Visit(job.request_id, ClientKey(job.key), list(task.features), patient=True)
        await self._store.count_try(job)
        try:
            answer, status = json.loads(await self._answer(visit, task)), 200
        except asyncio.CancelledError:
            await self._store.postpone(job, 0, None, counted=False)
            raise
        except Exception as failure:
            error = _told(failure, job)
            if await self._try_again(job, error):
                return
            answer, status = pulse_body(error, job.request_id), error.status
        # Counted before it is written down that it was: after a kill in between it is counted again, under the same id.
        await self._transcriber.count(visit, status, task.usage_id)
        await self._store.answered(job, task.webhook.body(answer))
        log.info("job transcribed", request_id=job.request_id, status=status)

    async def _answer(self, visit: Visit, task: Task) -> str:
        here, dialect = self._transcriber, self._dialects[task.dialect]
        wanted = parse_options(dialect.table, task.options)
        here.language(visit, wanted["language"])
        encoding, sample_rate = wanted["encoding"], wanted["sample_rate"]
        async with AsyncExitStack() as opened:
            if task.url is not None:
                spool = await opened.enter_async_context(Spool(here.settings.state_dir / "spool"))
                source = await here.source(Body(url=task.url), spool, encoding=encoding, sample_rate=sample_rate)
            else:
                descriptor = os.open(self._store.audio(task), os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                source = Source(descriptor, task.audio_bytes, None, encoding, sample_rate)
            return await dialect.answer(here, visit, source, wanted)

    async def _try_again(self, job: Job, error: ApiError) -> bool:
        """Whether the transcription is put off to a later time."""
        if error.status < 500 or time.time() >= job.until:
            return False
        counted = error.code not in _OF_THE_MOMENT
        if counted and job.tries + 1 >= _MOST_TRANSCRIPTIONS:
            return False
        seconds = pause(job.tries + 1, first=_FIRST_TRANSCRIPTION_RETRY, longest=_LONGEST_TRANSCRIPTION_RETRY)
        await self._store.postpone(job, seconds, error.message, counted=counted)
        log.warning("job is transcribed later", request_id=job.request_id, reason=error.message, seconds=round(seconds))
        return True

    async def _deliver(self, job: Job) -> None:
        await self._store.count_try(job)
        failure = await self._send(job)
        if failure is None:
            outcome = "delivered"
            await self._store.finish(job, "delivered")
        elif failure.final or time.time() >= job.until:
            outcome = "failed"
            await self._store.finish(job, "failed", str(failure))
        else:
            outcome = "retried"
            seconds = pause(job.tries + 1, first=_FIRST_DELIVERY_RETRY, longest=_LONGEST_DELIVERY_RETRY)
            await self._store.postpone(job, seconds, str(failure))
        log.info(
            "job delivery",
            request_id=job.request_id,
            receiver=job.receiver,
            tries=job.tries + 1,
            outcome=outcome,
            reason=failure and str(failure),
        )
        self._metrics.deliveries.labels(outcome).inc()

    async def _send(self, job: Job) -> NotDelivered | None:
        try:
            await self._sender.send(_task(job).webhook, job.request_id, job.answer or "")
        except NotDelivered as failure:
            return failure
        except Exception:  # one job's trouble must not hold up the others
            log.exception("job delivery failed", request_id=job.request_id)
            return NotDelivered("the server failed; its operator finds the reason under this request's id.")
        return None


def _key_bound(job: Job) -> float:
    """As many jobs of a key at once as it may have requests; beside them, not instead of them."""
    concurrency = _task(job).concurrency
    return math.inf if concurrency is None else concurrency


def _task(job: Job) -> Task:
    assert job.task is not None  # noqa: S101 - it is there until the job is over
    return job.task


def _told(failure: Exception, job: Job) -> ApiError:
    if isinstance(failure, ApiError):
        return failure
    log.error("job failed", request_id=job.request_id, exc_info=failure)
    return InternalFault("the server failed; its operator finds the reason under this request's id.")


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
