"""What every exchange gets, whatever its endpoint: an id, numbers, a log line, and an answer even when all fails."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response

from babelrack.api_server.errors import (
    ApiError,
    BadRequest,
    ClientGone,
    InternalFault,
    MethodNotAllowed,
    NotFound,
    openai_body,
    pulse_body,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from babelrack.api_server.drain import Drain
    from babelrack.api_server.metrics import Metrics

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_OPENAI_PATHS = ("/v1/audio/", "/v1/models")
_PROBES = frozenset({"/health", "/metrics", "/openapi.json"})
_CLIENT_GONE = 499
_UPGRADED = 101

log = structlog.get_logger(__name__)


def error_response(path: str, error: ApiError, request_id: str | None) -> Response:
    """`error` in the shape that clients of `path` know."""
    body = openai_body(error) if path.startswith(_OPENAI_PATHS) else pulse_body(error, request_id)
    return JSONResponse(body, error.status, error.headers)


def from_framework(request: Request, error: HTTPException) -> ApiError:
    """The framework's own 404s and 405s, as one of ours."""
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return NotFound(f"there is nothing at {where}; GET /openapi.json lists the paths.")
    if error.status_code == 405:
        return MethodNotAllowed(f"{where} does not exist; the path has other methods: see the Allow header.")
    return BadRequest(str(error.detail))


class Edge:
    """Pure ASGI, because it is on the path of every byte."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, drain: Drain, paths: Collection[str], sockets: Collection[str]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._drain = drain
        self._paths = frozenset(paths)
        self._sockets = frozenset(sockets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange; nothing is raised out of here but cancellation."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path in _PROBES:
            await self._exchange(scope, receive, send)
            return
        with self._drain.counted():
            await self._exchange(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = _CLIENT_GONE

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", _UPGRADED)
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if self._drain.draining:
                    headers["connection"] = "close"
            await send(message)

        try:
            if scope["type"] == "websocket" and scope["path"] not in self._sockets:
                missing = NotFound("there is no WebSocket at this path; docs/api.md lists those that there are.")
                await error_response(scope["path"], missing, request_id)(scope, receive, send_with_id)
            elif self._drain.draining and scope["path"] not in _PROBES:
                await error_response(scope["path"], self._drain.refusal(), request_id)(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except ClientGone:
            status = _CLIENT_GONE
        except Exception:
            log.exception("request failed", request_id=request_id, path=scope["path"])
            if status == _CLIENT_GONE:  # nothing was sent yet
                fault = InternalFault("the server failed; its operator finds the reason under this request's id.")
                await error_response(scope["path"], fault, request_id)(scope, receive, send_with_id)
        finally:
            self._tell(scope, status, time.perf_counter() - begun, request_id)

    def _tell(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        endpoint = self._endpoint(scope["path"])
        self._metrics.requests.labels(endpoint, status).inc()
        if scope["type"] == "http":  # a session lasts as long as its client likes
            self._metrics.latency.labels(endpoint).observe(seconds)
        if scope["path"] not in _PROBES:
            log.info("request", endpoint=endpoint, status=status, seconds=round(seconds, 4), request_id=request_id)

    def _endpoint(self, path: str) -> str:
        if path.startswith("/v1/models/"):
            return "/v1/models/{id}"
        if path.startswith("/waves/v1/jobs/"):
            return "/waves/v1/jobs/{id}"
        if path.startswith("/waves/v1/stt/live/"):
            return "/waves/v1/stt/live/{id}"
        return path if path in self._paths or path in self._sockets else "other"


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex
