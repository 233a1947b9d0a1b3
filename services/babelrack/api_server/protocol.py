"""uvicorn's protocols with bounds on what they leave open: header bytes, header time, unread bodies, gone clients."""

from __future__ import annotations

import json
import logging
import select
import socket
from typing import TYPE_CHECKING, Any

import websockets.http11
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    import asyncio

    from websockets.http11 import Request

_HEADER_SECONDS = 15.0
_HEADER_BYTES = 64 * 1024
_MOST_HEADERS = 128
_TOO_LARGE = "the request's head is larger than 64 KiB or has more than 128 headers."
# An early answer (401, 413, 429) leaves a body unread. The client gets this long to notice the answer before the
# connection closes under it, because a close with unread bytes is a reset, which can overtake the answer.
_LINGER_SECONDS = 5.0
_LIVE_RECEIVE_BYTES = 64 * 1024
# The head was bounded before it came here, and keywords ride on its first line.
websockets.http11.MAX_LINE_LENGTH = _HEADER_BYTES


class HeadTooLarge(Exception):
    """More headers than any honest client sends."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection; a head must come whole within 15 seconds, 64 KiB and 128 headers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent has it
        """Give the first head its time."""
        super().connection_made(transport)
        self._arm(_HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound a head whose current line has no end yet: the parser would collect it without a word."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("head too large")

    def on_message_begin(self) -> None:
        """Give this head its time."""
        super().on_message_begin()
        self._arm(_HEADER_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the number of headers and their sum, also when all come at once."""
        super().on_header(name, value)
        if len(self.headers) > _MOST_HEADERS or len(name) + len(value) > _HEADER_BYTES:
            self._head_bytes = _HEADER_BYTES + 1
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        """The head is whole; the body has bounds of its own."""
        self._in_head, self._in_body = False, True
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes are another head."""
        self._in_head, self._in_body, self._head_bytes = True, False, 0
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Linger when the answer came before the end of the body."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._arm(_LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in JSON, as everything else."""
        too_large = self._in_head and self._head_bytes > _HEADER_BYTES
        status = 431 if too_large else 400
        sentence = _TOO_LARGE if too_large else "this is not an HTTP/1.1 request."
        content = json.dumps({"status": "error", "message": sentence, "errors": [sentence]}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
        self.transport.write(STATUS_LINE[status] + head + content)
        self.transport.close()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()


class QuietWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket; its log has neither queries nor what is said, and the application may ask whether its client is
    still there: `scope["extensions"]["babelrack.gone"]`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = self.conn.logger = logging.getLogger("uvicorn.websocket")

    def handle_connect(self, event: Request) -> None:
        """Begin a session, unless the handshake is refused."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions["babelrack.gone"] = self._is_gone
            # Audio that is sent faster than it is served waits in the kernels between, megabytes of it, a ping behind
            # it, and clients take a connection that answers none for 20 s for lost.
            if (connection := self.transport.get_extra_info("socket")) is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LIVE_RECEIVE_BYTES)

    def _is_gone(self) -> bool:
        """Whether the client has closed its end; while it is held back, nobody reads, and nothing else would tell.

        What a client that is held back has sent before it went keeps its end of the connection from being heard of. Its
        kernel answers a ping all the same: with a reset.
        """
        connection = self.transport.get_extra_info("socket")
        if self.disconnected or self.transport.is_closing() or connection is None:
            return True
        if self.read_paused and self.writable.is_set() and not self.close_sent:
            self.conn.send_ping(b"")
            self.transport.write(b"".join(self.conn.data_to_send()))
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))
