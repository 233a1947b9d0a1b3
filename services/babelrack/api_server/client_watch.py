"""Ends a request's work when its client goes away, or when the server can't wait for it any longer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from babelrack.api_server.errors import ApiError, ClientGone

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.types import Receive


class ClientWatch:
    """A context whose work is cancelled by `interrupt` and, from `listen` on, when the client disconnects.

    On leaving it raises the error that `interrupt` was given, or ClientGone. A plain POST handler would otherwise run
    to its end for nobody.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._work: asyncio.Task[object] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._verdict: ApiError | ClientGone | None = None

    async def __aenter__(self) -> Self:
        self._work = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.cancel()
        work, self._work = self._work, None
        if self._verdict is None or work is None:
            return
        # Counted against the cancellation of `interrupt`, so that one from outside still gets through.
        if work.uncancel() == 0 and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise self._verdict from None

    def listen(self) -> None:
        """Watch for the client's end; only once the request's body is read, which comes by the same way."""
        self._listener = asyncio.create_task(self._listen())

    def interrupt(self, verdict: ApiError | ClientGone) -> None:
        """End the work with `verdict`; the first one counts."""
        if self._work is not None and self._verdict is None:
            self._verdict = verdict
            self._work.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.interrupt(ClientGone())
