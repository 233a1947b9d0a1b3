"""`GET /waves/v1/stt/live/{session_id}`: a live session as it is sent to its client, for the pack's operator."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response, StreamingResponse

from babelrack.api_server.errors import BadRequest, Forbidden, NotFound, Unavailable
from babelrack.api_server.live.relay import RelayAway
from babelrack.api_server.options import RESUMED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from babelrack.api_server.live.relay import Relay
    from babelrack.api_server.transcription import Transcriber

_MOST_WATCHERS = 64
_ENDED = "event: end\ndata: {}\n\n"


class WatchEndpoint:
    """Any replica of the pack shows any session of it, by way of Redis."""

    def __init__(self, here: Transcriber, relay: Relay, draining: Callable[[], bool]) -> None:
        self._here = here
        self._relay = relay
        self._draining = draining
        self._watchers = 0

    async def get(self, request: Request) -> Response:
        """Server-sent events: the session's own messages, then `end`."""
        if not self._here.authenticate(request.headers).operator:
            raise Forbidden(
                "only an operator's key may watch sessions; `babelrack keys add NAME --operator` makes one."
            )
        if self._watchers >= _MOST_WATCHERS:
            raise Unavailable(f"{_MOST_WATCHERS} sessions are being watched here already.", retry_after=10)
        async with AsyncExitStack() as held:
            self._watchers += 1
            held.callback(self._leave)
            try:
                session_id = RESUMED["session_id"].parse(request.path_params["session_id"])
                events = await held.enter_async_context(self._relay.watching(session_id))
            except RelayAway:
                raise Unavailable(
                    "sessions can only be watched by way of Redis, and it is away.", code="NOT_WATCHABLE", retry_after=5
                ) from None
            except (KeyError, BadRequest):
                raise NotFound("no such session is live.", code="NO_SESSION") from None
            return _Watch(self._lines(events), held.pop_all())

    def _leave(self) -> None:
        self._watchers -= 1

    async def _lines(self, events: AsyncIterator[str | None]) -> AsyncIterator[str]:
        yield ": watching\n\n"
        try:
            async for event in events:
                if self._draining():
                    return
                yield f"data: {event}\n\n" if event is not None else ": live\n\n"
        except RelayAway:
            yield 'event: error\ndata: {"message": "Redis is away."}\n\n'
            return
        yield _ENDED


class _Watch(StreamingResponse):
    """Lets go of what it `held` when it is over, also when its client goes."""

    def __init__(self, lines: AsyncIterator[str], held: AsyncExitStack) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)
