"""Jobs as clients see them: accepted at once, and their state."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from babelrack.api_server.errors import NotFound
from babelrack.api_server.jobs.store import Job, Task
from babelrack.api_server.jobs.webhook import Method, Webhook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babelrack.api_server.body import Body
    from babelrack.api_server.jobs.board import Board
    from babelrack.api_server.jobs.runner import Runner
    from babelrack.api_server.jobs.store import JobStore
    from babelrack.api_server.jobs.webhook import Sender
    from babelrack.api_server.options import Option
    from babelrack.api_server.spool import Spool
    from babelrack.api_server.transcription import Transcriber, Visit

# Kept as the job's own, not among its options.
_WEBHOOK_OPTIONS = ("webhook_", "callback_")

log = structlog.get_logger(__name__)


class Accepted(BaseModel):
    """The job is on disk; its answer will be delivered."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["processing"]
    request_id: str


class JobStatus(BaseModel):
    """`attempts` counts deliveries; `next_try_at` is there while a retry waits, `message` says what went wrong."""

    model_config = ConfigDict(extra="forbid")

    request_id: str
    state: Literal["queued", "transcribing", "delivering", "delivered", "failed"]
    created_at: datetime
    attempts: int
    next_try_at: datetime | None = None
    message: str | None = None


class JobEndpoints:
    """What the transcribing paths do with a request that names a webhook, and `GET /waves/v1/jobs/{request_id}`."""

    def __init__(self, transcriber: Transcriber, store: JobStore, sender: Sender, runner: Runner, board: Board) -> None:
        self._transcriber = transcriber
        self._store = store
        self._sender = sender
        self._runner = runner
        self._board = board

    async def check(self, url: str, option: str, *, method: Method = "POST", extra: str | None = None) -> Webhook:
        """The webhook at `url`, which the request's `option` says; `extra` is JSON text.

        Raises:
            BadRequest: when nothing may be delivered there.
            Unavailable: when there is no room for another job.
        """
        self._store.require_room()
        webhook = Webhook(url=url, method=method, extra=extra)
        await self._sender.check(webhook, option)
        return webhook

    async def accept(
        self,
        visit: Visit,
        webhook: Webhook,
        body: Body,
        spool: Spool,
        *,
        dialect: str,
        table: Mapping[str, Option],
        asked: list[tuple[str, str]],
        wanted: Mapping[str, Any],
    ) -> Response:
        """Keep the request as a job, and say so.

        Raises:
            BadRequest: when there is no audio, or the key has a job of this request id.
            Unavailable: when there is no room, on the disk or for another job.
        """
        here = self._transcriber
        descriptor = None
        if body.url is None:
            source = await here.source(body, spool, encoding=wanted["encoding"], sample_rate=wanted["sample_rate"])
            descriptor = source.descriptor
        else:
            await here.check_url(body.url)
        task = Task(
            dialect=dialect,
            options=[(name, value) for name, value in asked if name in table and not name.startswith(_WEBHOOK_OPTIONS)],
            features=visit.features,
            concurrency=visit.key.concurrency,
            url=body.url,
            audio_bytes=spool.size,
            webhook=webhook,
        )
        adding = asyncio.create_task(self._store.add(visit.request_id, visit.key.name, task, descriptor))
        try:
            await asyncio.shield(adding)
        finally:
            await asyncio.wait([adding])  # the audio must stay open until it is copied, whoever has gone
            visit.deferred = adding.exception() is None
        log.info("job accepted", request_id=visit.request_id, bytes=task.audio_bytes)
        self._board.tell(visit.key.name, visit.request_id)
        self._runner.wake()
        accepted = Accepted(status="processing", request_id=visit.request_id)
        return Response(accepted.model_dump_json(), media_type="application/json")

    async def get(self, request: Request, request_id: str) -> Response:
        """How a job is; only the key that made it may know."""
        key = self._transcriber.authenticate(request.headers)
        shown = await self.shown(key.name, request_id) or await self._board.find(key.name, request_id)
        if shown is None:
            raise NotFound(
                f"there is no job {request_id[:128]!r} of this key; a job is forgotten a day after it is over.",
                code="NO_JOB",
            )
        return Response(shown, media_type="application/json")

    async def shown(self, key: str, request_id: str) -> str | None:
        """How the key's job is, a JobStatus as JSON; None when this server has none of that request id."""
        job = await self._store.find(key, request_id)
        return None if job is None else self._status(job).model_dump_json(exclude_none=True)

    def _status(self, job: Job) -> JobStatus:
        transcribing = job.state == "queued" and self._runner.is_transcribing(job)
        waits = job.reason is not None and job.state in ("queued", "delivering") and not transcribing
        return JobStatus(
            request_id=job.request_id,
            state="transcribing" if transcribing else job.state,
            created_at=_moment(job.created),
            attempts=0 if job.state == "queued" else job.tries,
            next_try_at=_moment(job.next_try) if waits else None,
            message=job.reason,
        )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
