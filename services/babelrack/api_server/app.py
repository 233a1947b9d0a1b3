"""The API server put together."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from babelrack import __version__
from babelrack.api_server import openapi
from babelrack.api_server.admission import Admission
from babelrack.api_server.drain import Drain
from babelrack.api_server.edge import Edge, error_response, from_framework
from babelrack.api_server.errors import ApiError
from babelrack.api_server.health import OPTIONS as HEALTH_OPTIONS
from babelrack.api_server.health import Health, HealthEndpoint
from babelrack.api_server.jobs.board import Board
from babelrack.api_server.jobs.endpoint import Accepted, JobEndpoints, JobStatus
from babelrack.api_server.jobs.runner import Dialect, Runner
from babelrack.api_server.jobs.store import JobStore
from babelrack.api_server.jobs.webhook import Sender
from babelrack.api_server.listen import ListenAnswer, ListenEndpoint, listen_json
from babelrack.api_server.live.endpoint import PATHS, LiveEndpoint
from babelrack.api_server.live.relay import Relay
from babelrack.api_server.live.watch import WatchEndpoint
from babelrack.api_server.metrics import CONTENT_TYPE, Metrics
from babelrack.api_server.openai import (
    COMBINATIONS,
    EVENT_STREAM,
    MEDIA_TYPES,
    Model,
    ModelList,
    OpenAIEndpoints,
    Transcription,
    VerboseTranscription,
)
from babelrack.api_server.options import LISTEN, OPENAI, PULSE, PULSE_BODY, STT, TRANSLATIONS
from babelrack.api_server.outbound import Outbound
from babelrack.api_server.pair import Pair
from babelrack.api_server.pulse import PulseAnswer, PulseEndpoints, pulse_json
from babelrack.api_server.redis_client import redis_client
from babelrack.api_server.transcription import Transcriber
from babelrack.api_server.url_input import Fetcher
from babelrack.audio.decode import DecodeLimits, DecoderPool
from babelrack.keys import KeyFile, Limiter
from babelrack.licensing import GateSettings, LicenseGate, UsageJournal
from babelrack.pairing import ModelClient, ModelHealth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from babelrack.api_server.settings import Settings

_TRANSCRIBING = (400, 401, 408, 413, 415, 429, 503)
_ANSWERED = "A transcript, or that there will be one, when a webhook is named for it."
_PULSE_TRANSCRIBING = (400, 401, 408, 415, 429, 503)


@dataclass(frozen=True)
class Secrets:
    """What settings name but don't hold."""

    license_key: str | None = None
    redis_password: str | None = None
    webhook_secret: str | None = None


def create_app(settings: Settings, secrets: Secrets, drain: Drain | None = None) -> FastAPI:
    """The whole API server; nothing runs before its lifespan begins.

    Raises:
        KeyFileError, ValueError: when the key file or the Redis URL can't be used.
    """
    drain = drain or Drain(settings.drain_seconds)
    admission = Admission(settings.max_queue, settings.max_wait_seconds)
    metrics = Metrics(admission, settings.deployment_name)

    def resize(health: ModelHealth) -> None:
        admission.resize(sum(checkpoint.concurrency for checkpoint in health.checkpoints))

    client = ModelClient(settings.asr_base_url, settings.deployment_name)
    journal = UsageJournal(
        settings.state_dir / "usage.sqlite", proxy_url=settings.api_base_url, license_key=secrets.license_key
    )
    outbound = Outbound(settings.url_allowed_networks)
    transcriber = Transcriber(
        settings,
        pair=Pair(client, settings.deployment_name, settings.aggregator, resize),
        decoders=DecoderPool(DecodeLimits(max_seconds=settings.max_audio_seconds)),
        gate=_gate(settings, secrets),
        keys=_keys(settings, secrets),
        limiter=Limiter(
            settings.effective_redis_url or None, settings.deployment_name, password=secrets.redis_password
        ),
        journal=journal,
        admission=admission,
        fetcher=Fetcher(outbound, settings.body_seconds),
        metrics=metrics,
        drain=drain,
    )

    store = JobStore(settings.state_dir / "jobs", max_jobs=settings.max_jobs, max_bytes=settings.max_job_bytes)
    sender = Sender(outbound, secrets.webhook_secret)
    dialects = {"pulse": Dialect(PULSE, pulse_json), "listen": Dialect(LISTEN, listen_json)}
    redis = redis_client(
        settings.effective_redis_url or None, settings.deployment_name, password=secrets.redis_password
    )
    board = Board(redis, settings.deployment_name)
    runner = Runner(store, sender, board, transcriber, dialects, admission=admission, metrics=metrics, drain=drain)
    jobs = JobEndpoints(transcriber, store, sender, runner, board)
    metrics.watch_jobs(store.counts)

    relay = Relay(redis, settings.deployment_name)
    live = LiveEndpoint(
        transcriber, relay, admission=admission, metrics=metrics, drain=drain, secret=_numbering_secret(secrets)
    )
    metrics.watch_sessions(lambda: live.sessions)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as parts:
            if redis is not None:
                parts.push_async_callback(_let_go, redis)
            await parts.enter_async_context(aclosing(outbound))
            for part in (transcriber.running(), runner.running(), board.running(jobs.shown), relay.running()):
                await parts.enter_async_context(part)
            yield

    app = FastAPI(
        title=f"Babelrack, pack {settings.deployment_name}",
        summary="Speech to text.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    endpoints = OpenAIEndpoints(transcriber)
    _add_pulse(app, PulseEndpoints(transcriber, jobs))
    _add_listen(app, ListenEndpoint(transcriber, jobs))
    _add_jobs(app, jobs)
    _add_openai(app, endpoints)
    _add_live(app, live, WatchEndpoint(transcriber, relay, lambda: drain.draining))
    health = HealthEndpoint(transcriber, drain, journal, relay)
    metrics.watch(lambda: health.health(verbose=False), transcriber.pair, transcriber.gate)
    _add_probes(app, health, metrics)
    app.add_exception_handler(ApiError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_framework)
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(Edge, metrics=metrics, drain=drain, paths=paths, sockets=PATHS)

    def loaded() -> dict[str, list[str]]:
        pair = transcriber.pair
        languages = [*pair.languages, pair.aggregator] if pair.health is not None else []
        return {"languages": languages, "models": endpoints.models}

    openapi.serve(app, loaded, PATHS)
    return app


def _numbering_secret(secrets: Secrets) -> bytes:
    """What the pack's replicas have in common, and its Redis doesn't know."""
    known = secrets.license_key or secrets.redis_password or ""
    return hashlib.sha256(b"numbering of redacted entities:" + known.encode()).digest()


async def _let_go(redis: Redis) -> None:
    with suppress(RedisError, OSError):
        await redis.aclose()


def _gate(settings: Settings, secrets: Secrets) -> LicenseGate:
    return LicenseGate(
        GateSettings(
            proxy_url=settings.api_base_url,
            license_key=secrets.license_key,
            deployment=settings.deployment_name,
            role="api",
            version=__version__,
            state_folder=settings.state_dir,
            grace=settings.license_grace_seconds,
        )
    )


def _keys(settings: Settings, secrets: Secrets) -> KeyFile:
    license_key = secrets.license_key
    digest = hashlib.sha256(license_key.encode()).hexdigest() if license_key else None
    return KeyFile(settings.keys_file, license_key_sha256=digest)


def _add_pulse(app: FastAPI, pulse: PulseEndpoints) -> None:
    bodies = (openapi.raw_audio(), openapi.form("file", PULSE_BODY), openapi.url(PULSE_BODY))
    app.add_api_route(
        "/waves/v1/pulse/get_text",
        pulse.get_text,
        methods=["POST"],
        response_class=Response,
        responses={
            200: openapi.answer(PulseAnswer | Accepted, _ANSWERED),
            **openapi.pulse_errors(*_PULSE_TRANSCRIBING),
        },
        openapi_extra=openapi.operation("getText", openapi.query(PULSE), *bodies),
    )
    for path, name in (("/waves/v1/stt/", "sttWithSlash"), ("/waves/v1/stt", "stt")):
        app.add_api_route(
            path,
            pulse.stt,
            methods=["POST"],
            response_class=Response,
            responses={200: openapi.answer(PulseAnswer | Accepted, _ANSWERED), **openapi.pulse_errors(*_TRANSCRIBING)},
            openapi_extra=openapi.operation(name, openapi.query(STT), *bodies),
        )


def _add_listen(app: FastAPI, endpoint: ListenEndpoint) -> None:
    bodies = (openapi.raw_audio(), openapi.form("audio", LISTEN), openapi.url(LISTEN))
    app.add_api_route(
        "/v1/listen",
        endpoint.listen,
        methods=["POST"],
        response_class=Response,
        responses={200: openapi.answer(ListenAnswer | Accepted, _ANSWERED), **openapi.pulse_errors(*_TRANSCRIBING)},
        openapi_extra=openapi.operation("listen", openapi.query(LISTEN), *bodies),
    )


def _add_live(app: FastAPI, live: LiveEndpoint, watch: WatchEndpoint) -> None:
    for path in PATHS:
        app.router.routes.append(WebSocketRoute(path, live.serve))
    app.add_api_route(
        "/waves/v1/stt/live/{session_id}",
        watch.get,
        methods=["GET"],
        response_class=Response,
        responses={
            200: {
                "description": "The session's events.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **openapi.pulse_errors(401, 403, 404, 503),
        },
        openapi_extra=openapi.operation("watchSession", [openapi.in_path("session_id")]),
    )


def _add_jobs(app: FastAPI, jobs: JobEndpoints) -> None:
    app.add_api_route(
        "/waves/v1/jobs/{request_id}",
        jobs.get,
        methods=["GET"],
        response_class=Response,
        responses={200: {"model": JobStatus, "description": "How it is."}, **openapi.pulse_errors(401, 404)},
        openapi_extra=openapi.operation("getJob", [openapi.in_path("request_id")]),
    )


def _add_openai(app: FastAPI, endpoints: OpenAIEndpoints) -> None:
    success = openapi.answer(Transcription | VerboseTranscription, "A transcript, as response_format wants it.")
    success["content"] = {EVENT_STREAM: {"schema": openapi.EVENT}} | {
        media.partition(";")[0]: {"schema": {"type": "string"}}
        for media in MEDIA_TYPES.values()
        if not media.startswith("application/json")
    }
    for path, handler, name, table in (
        ("/v1/audio/transcriptions", endpoints.transcriptions, "createTranscription", OPENAI),
        ("/v1/audio/translations", endpoints.translations, "createTranslation", TRANSLATIONS),
    ):
        form = openapi.form("file", table)
        form["multipart/form-data"]["schema"] |= COMBINATIONS
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_class=Response,
            responses={200: success, **openapi.openai_errors(*_TRANSCRIBING)},
            openapi_extra=openapi.operation(name, [], form),
        )
    app.add_api_route(
        "/v1/models",
        endpoints.list_models,
        methods=["GET"],
        response_class=Response,
        responses={200: {"model": ModelList, "description": "The models."}, **openapi.openai_errors(401, 503)},
        openapi_extra=openapi.operation("listModels", []),
    )
    app.add_api_route(
        "/v1/models/{model}",
        endpoints.get_model,
        methods=["GET"],
        response_class=Response,
        responses={200: {"model": Model, "description": "The model."}, **openapi.openai_errors(401, 404, 503)},
        openapi_extra=openapi.operation("getModel", [openapi.in_path("model")]),
    )


def _add_probes(app: FastAPI, health: HealthEndpoint, metrics: Metrics) -> None:
    app.add_api_route(
        "/health",
        health.get,
        methods=["GET"],
        response_class=Response,
        responses={
            200: {"model": Health, "description": "Requests are served."},
            503: {"model": Health, "description": "Requests are not served."},
            **openapi.pulse_errors(400),
        },
        openapi_extra={"operationId": "health", "parameters": openapi.query(HEALTH_OPTIONS)},
    )

    async def exposition(_request: Request) -> Response:
        """Numbers for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    app.add_api_route(
        "/metrics",
        exposition,
        methods=["GET"],
        response_class=Response,
        responses={200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        openapi_extra={"operationId": "metrics"},
    )


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for it
    return error_response(request.scope["path"], error, request.scope["state"]["request_id"])


async def _answer_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    response = await _answer_error(request, from_framework(request, error))
    response.headers.update(error.headers or {})
    return response
