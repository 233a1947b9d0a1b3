"""The model server put together."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response, WebSocket

from babelrack import __version__
from babelrack.model_server import socket
from babelrack.pairing import ModelHealth  # noqa: TC001 - FastAPI reads the annotation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from babelrack.model_server.server import ModelServer


def create_app(server: ModelServer) -> FastAPI:
    """The ASGI application of `server`; loading begins with its lifespan."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await server.start()
        yield
        await server.stop()

    app = FastAPI(title="Babelrack model server", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health(response: Response) -> ModelHealth:
        answer = server.health()
        response.status_code = 200 if answer.status == "healthy" else 503
        return answer

    @app.websocket("/v1/transcribe")
    async def transcribe(websocket: WebSocket) -> None:
        await socket.transcribe(websocket, server)

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await socket.stream(websocket, server)

    return app
