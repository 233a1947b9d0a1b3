"""`GET /health`: whether requests are served, and what is wrong when not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from babelrack import __version__
from babelrack.api_server.options import flag, parse_options, query_pairs
from babelrack.pairing import ModelHealth  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from babelrack.api_server.drain import Drain
    from babelrack.api_server.live.relay import Relay
    from babelrack.api_server.transcription import Transcriber
    from babelrack.licensing import UsageJournal

OPTIONS = {"verbose": flag("verbose", "`true` adds the parts' own state.", default=False)}


class Health(BaseModel):
    """`reason` says why when not healthy; `degraded` still serves every request."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["healthy", "degraded", "unhealthy"]
    reason: str | None = None
    deployment: str | None = None
    version: str | None = None
    uptime_s: float | None = None
    license: str | None = None
    redis: Literal["shared", "local", "away"] | None = None
    usage: str | None = None
    in_flight: int | None = None
    model_server: ModelHealth | None = None


class HealthEndpoint:
    """Says what the parts say."""

    def __init__(self, transcriber: Transcriber, drain: Drain, journal: UsageJournal, relay: Relay) -> None:
        self._transcriber = transcriber
        self._drain = drain
        self._journal = journal
        self._relay = relay
        self._started = time.monotonic()

    async def get(self, request: Request) -> Response:
        """200 while requests are served, 503 while they are not."""
        options = parse_options(OPTIONS, query_pairs(request.scope["query_string"]))
        health = self.health(verbose=options["verbose"])
        status = 503 if health.status == "unhealthy" else 200
        return Response(health.model_dump_json(exclude_none=True), status, media_type="application/json")

    def health(self, *, verbose: bool) -> Health:
        """The state now."""
        parts = self._transcriber
        trouble = self._trouble()
        if trouble is not None:
            health = Health(status="unhealthy", reason=trouble)
        elif worry := "; ".join(filter(None, self._worries())):
            health = Health(status="degraded", reason=worry)
        else:
            health = Health(status="healthy")
        if verbose:
            shared = bool(parts.settings.effective_redis_url)
            health.deployment = parts.settings.deployment_name
            health.version = __version__
            health.uptime_s = round(time.monotonic() - self._started, 1)
            health.license = parts.gate.state
            health.redis = (
                "local" if not shared else "away" if parts.limiter.degraded or self._relay.reason else "shared"
            )
            health.usage = self._journal.fault or "good"
            health.in_flight = self._drain.requests
            health.model_server = parts.pair.health
        return health

    def _trouble(self) -> str | None:
        if self._drain.draining:
            return "this server is shutting down"
        if self._transcriber.pair.fault is not None:
            return self._transcriber.pair.fault
        if self._transcriber.gate.state == "refused":
            return f"the licence is refused: {self._transcriber.gate.reason}"
        return None

    def _worries(self) -> list[str | None]:
        parts = self._transcriber
        return [
            f"the licence could not be renewed: {parts.gate.reason}" if parts.gate.state == "degraded" else None,
            parts.limiter.reason,
            self._relay.reason,
            parts.keys.fault,
            self._journal.fault,
        ]
