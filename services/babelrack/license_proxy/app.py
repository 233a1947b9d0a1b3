"""The licence proxy's HTTP side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from babelrack import __version__
from babelrack.license_proxy.ledger import DIMENSIONS, Ledger, LedgerError
from babelrack.license_proxy.license_file import LicenseFile
from babelrack.license_proxy.metrics import Metrics
from babelrack.license_proxy.upstream import ForwardedUsage, Upstream
from babelrack.license_proxy.validation import Refused, Validator
from babelrack.licensing.delivery import Delivery
from babelrack.licensing.document import LicenseError
from babelrack.licensing.messages import (
    BATCH_RECORDS,
    Name,
    Receipt,
    Rejection,
    Release,
    UsageRecord,
    UsageSum,
    ValidateRequest,
    Validation,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from babelrack.license_proxy.settings import Settings

__all__ = ["create_app"]

LARGEST_BODY = 1024 * 1024
EXPIRES_SOON = timedelta(days=14)
PRUNE_EVERY = 3600.0

RESULTS = {401: "unknown_key", 402: "expired", 409: "no_seat", 503: "unavailable"}

log = structlog.get_logger(__name__)

Authorization = Annotated[str | None, Header(description="`Bearer` and the licence key.")]


class Failure(BaseModel):
    """What every refusal looks like."""

    status: Literal["error"] = "error"
    message: str


class Health(BaseModel):
    """How the proxy is. `reason` is null when it is healthy."""

    status: Literal["healthy", "degraded", "unhealthy"]
    reason: str | None
    version: str
    uptime_s: float


class UsageBatch(BaseModel):
    """Records are validated one by one, so that a bad one doesn't hold up the others."""

    batch_id: Name
    records: Annotated[list[dict[str, Any]], Field(max_length=BATCH_RECORDS)]


class Released(BaseModel):
    """Whether the instance had a seat."""

    released: bool


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        400: "The request is malformed.",
        401: "No licence key, or one that isn't known.",
        413: "The body is larger than 1 MiB.",
        503: "The licence can't be read and nobody else can tell.",
    }.items()
}
NO_LICENSE: dict[int | str, dict[str, Any]] = {
    402: {"model": Failure, "description": "The licence has expired or is not valid yet."},
    409: {"model": Failure, "description": "No seat is left."},
}


class _Proxy:
    """What the routes share."""

    def __init__(self, settings: Settings, license_key: str | None) -> None:
        self.started = time.monotonic()
        self.metrics = Metrics()
        self.license_file: LicenseFile | None = None
        if settings.license_file is not None and settings.license_public_key_file is not None:
            self.license_file = LicenseFile(settings.license_file, settings.license_public_key_file)
        self.upstream = Upstream(settings.upstream_url) if settings.upstream_url else None
        self.ledger = Ledger(
            settings.database,
            seat_seconds=settings.seat_seconds,
            id_days=settings.usage_id_days,
            forwards=self.upstream is not None,
        )
        self.validator = Validator(self.license_file, self.ledger, self.upstream, settings.upstream_grace_seconds)
        self.forward: Delivery | None = None
        if self.upstream is not None and license_key:
            self.forward = Delivery(ForwardedUsage(self.ledger), settings.upstream_url, license_key)

    def health(self) -> Health:
        """Unhealthy when nobody can be validated, degraded when that is near or something else is wrong."""
        status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
        reasons: list[str] = []
        if self.license_file is not None:
            try:
                left = self.license_file.license().expires - datetime.now(UTC)
            except LicenseError as error:
                # With an upstream that answers, the file is only the second opinion.
                relayed = self.upstream is not None and self.upstream.fault is None
                status = "degraded" if relayed else "unhealthy"
                reasons.append(str(error))
            else:
                if left < EXPIRES_SOON:
                    reasons.append(f"the licence expires in {_in_words(left)}; renew it")
            if self.license_file.fault is not None and self.license_file.fault not in reasons:
                reasons.append(f"{self.license_file.fault} (the last good one is in use)")
        if self.upstream is not None and self.upstream.fault is not None:
            reasons.append(self.upstream.fault)
        if self.forward is not None and self.forward.fault is not None:
            reasons.append(self.forward.fault)
        if reasons and status == "healthy":
            status = "degraded"
        uptime = round(time.monotonic() - self.started, 1)
        return Health(status=status, reason="; ".join(reasons) or None, version=__version__, uptime_s=uptime)

    async def keep_pruning(self) -> None:
        """Forget old ids now and every hour."""
        while True:
            try:
                pruned = await asyncio.to_thread(self.ledger.prune, time.time())
                if pruned:
                    log.info("old usage records forgotten, their sums stay", records=pruned)
            except Exception:  # tried again in an hour
                log.exception("pruning failed")
            await asyncio.sleep(PRUNE_EVERY)

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start and stop what runs in the background."""
        pruning = asyncio.create_task(self.keep_pruning(), name="prune")
        if self.forward is not None:
            self.forward.start()
        try:
            yield
        finally:
            pruning.cancel()
            await asyncio.gather(pruning, return_exceptions=True)
            if self.forward is not None:
                await self.forward.stop()
            if self.upstream is not None:
                await self.upstream.close()
            await asyncio.to_thread(self.ledger.close)


def create_app(settings: Settings, license_key: str | None = None) -> FastAPI:
    """Compose the licence proxy. `license_key` is needed to hand usage on to an upstream. Raises LedgerError."""
    proxy = _Proxy(settings, license_key)
    app = FastAPI(
        title="Babelrack licence proxy",
        version=__version__,
        lifespan=proxy.running,
        max_body_size=LARGEST_BODY,
        docs_url=None,
        redoc_url=None,
    )
    _answer_errors(app)

    @app.post("/v1/validate", responses=REFUSALS | NO_LICENSE)
    async def validate(question: ValidateRequest, authorization: Authorization = None) -> Validation:
        """Say whether a server is licensed, and keep an API server's seat."""
        try:
            answer = await proxy.validator.validate(question, _presented(authorization))
        except Refused as refused:
            proxy.metrics.validations.labels(RESULTS.get(refused.status, "unavailable")).inc()
            raise
        proxy.metrics.validations.labels("ok").inc()
        return answer

    @app.post("/v1/usage", responses=REFUSALS)
    async def count(batch: UsageBatch, authorization: Authorization = None) -> Receipt:
        """Add a batch of usage up, each record once however often it comes; answered after the commit."""
        proxy.validator.check_key(_presented(authorization))
        records = [_record(index, record) for index, record in enumerate(batch.records)]
        counted = await asyncio.to_thread(proxy.ledger.count, records, time.time())
        for result, amount in (
            ("accepted", counted.accepted),
            ("duplicate", counted.duplicates),
            ("rejected", len(counted.rejected)),
        ):
            proxy.metrics.usage_records.labels(result).inc(amount)
        if proxy.forward is not None and counted.accepted:
            proxy.forward.wake()
        return Receipt(
            batch_id=batch.batch_id,
            accepted=counted.accepted,
            duplicates=counted.duplicates,
            rejected=counted.rejected,
        )

    @app.get("/v1/usage", responses=REFUSALS)
    async def usage(
        by: Annotated[str, Query(description=f"Comma-separated: {', '.join(DIMENSIONS)}.", max_length=100)] = "pack",
        since: Annotated[date | None, Query(description="First day, UTC.")] = None,
        until: Annotated[date | None, Query(description="Last day, UTC.")] = None,
        authorization: Authorization = None,
    ) -> list[UsageSum]:
        """Usage summed up by the dimensions asked for."""
        proxy.validator.check_key(_presented(authorization))
        asked = list(dict.fromkeys(by.split(",")))
        dimensions = [dimension for dimension in DIMENSIONS if dimension in asked]
        if len(dimensions) != len(asked):
            raise HTTPException(400, f"`by` takes {', '.join(DIMENSIONS)}, separated by commas")
        dimensions.sort(key=asked.index)
        first, last = (day.isoformat() if day else None for day in (since, until))
        rows = await asyncio.to_thread(proxy.ledger.usage, dimensions, first, last)
        return [
            UsageSum(
                group=dict(zip(dimensions, row.group, strict=True)),
                requests=row.requests,
                audio_seconds=row.audio_seconds,
            )
            for row in rows
        ]

    @app.post("/v1/release", responses=REFUSALS)
    async def release(instance: Release, authorization: Authorization = None) -> Released:
        """Free the seat of a server that stops."""
        proxy.validator.check_key(_presented(authorization))
        return Released(released=await asyncio.to_thread(proxy.ledger.release_seat, instance.instance))

    @app.get("/health", responses={503: {"model": Health, "description": "Nobody can be validated."}})
    async def health(response: Response) -> Health:
        """How the proxy is."""
        now = proxy.health()
        response.status_code = 503 if now.status == "unhealthy" else 200
        return now

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format."""
        proxy.metrics.seats_used.set(await asyncio.to_thread(proxy.ledger.seats_used, time.time()))
        if proxy.license_file is not None:
            with contextlib.suppress(LicenseError):
                license_ = proxy.license_file.document()
                proxy.metrics.seats.set(license_.seats)
                proxy.metrics.expires_in.set((license_.expires - datetime.now(UTC)).total_seconds())
        return Response(generate_latest(proxy.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _answer_errors(app: FastAPI) -> None:
    """Turn every error into JSON with one sentence."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return _failure(error.status, str(error), headers)

    @app.exception_handler(LedgerError)
    async def ledger(_request: Request, error: LedgerError) -> JSONResponse:
        return _failure(503, str(error))

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return _failure(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][1:])
        return _failure(400, f"{where + ': ' if where else 'the body: '}{fault['msg']}")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", path=request.url.path, exc_info=error)
        return _failure(503, "the licence proxy has a fault of its own; its log says more")


def _failure(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse(Failure(message=message).model_dump(), status_code=status, headers=headers)


def _presented(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refused(401, "there is no licence key; send it as `Authorization: Bearer KEY`")
    return key.strip()


def _record(index: int, record: dict[str, Any]) -> UsageRecord | Rejection:
    try:
        return UsageRecord.model_validate_json(json.dumps(record))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        identity = record.get("id")
        return Rejection(
            index=index, id=identity[:64] if isinstance(identity, str) else None, reason=f"{where}: {fault['msg']}"
        )


def _in_words(left: timedelta) -> str:
    return f"{left.days} days" if left.days > 1 else f"{max(left.total_seconds(), 0) / 3600:.0f} hours"
