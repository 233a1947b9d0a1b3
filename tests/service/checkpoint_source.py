"""A web server that behaves badly on command: for tests of downloads."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import ssl


@dataclass
class Resource:
    """What is served at a path, and how badly."""

    body: bytes
    etag: str | None = "auto"
    status: int = 200
    cuts: list[int] = field(default_factory=list)  # an answer each: the connection ends at this offset of the file
    statuses: list[int] = field(default_factory=list)  # an answer each, before it is served
    ranges: bool = True
    if_range: bool = True  # False: sends the rest whatever If-Range says, as careless servers do
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None  # a Content-Length that isn't the body's
    length: bool = True
    stall_at: int | None = None  # serves no more than this until `resume` is set
    pieces: int = 16 << 10
    pause: float = 0.0
    check: object = None  # (handler) -> status or None


@dataclass
class Asked:
    """A request as it came, and how many bytes of the file it was given."""

    path: str
    query: str
    headers: dict[str, str]
    sent: int = 0


class Source:
    """Serves `resources` on a port of 127.0.0.1, with TLS if given a context; `asked` is what came."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.resources: dict[str, Resource] = {}
        self.asked: list[Asked] = []
        self.resume = threading.Event()
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    source._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that hangs up is what many tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stop; what comes now is refused."""
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, path: str, body: bytes, **how: object) -> Resource:
        """Serve `body` at `path`."""
        self.resources[path] = Resource(body, **how)  # type: ignore[arg-type]
        return self.resources[path]

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(asked.path == path for asked in self.asked)

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        resource = self.resources.get(path)
        asked = Asked(path, parts.query, headers)
        self.asked.append(asked)
        if resource is None:
            self._short(handler, 404)
        elif refusal := resource.check(handler) if callable(resource.check) else None:
            self._short(handler, refusal)
        elif resource.statuses:
            self._short(handler, resource.statuses.pop(0))
        elif resource.status != 200:
            self._short(handler, resource.status, resource.headers)
        else:
            self._serve(handler, resource, asked)

    def _short(self, handler, status, headers=None):
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _serve(self, handler, resource: Resource, asked: Asked) -> None:
        body, headers = resource.body, asked.headers
        etag = f'"{hashlib.md5(body).hexdigest()}"' if resource.etag == "auto" else resource.etag
        if etag and headers.get("if-none-match") == etag:
            self._short(handler, 304)
            return
        begin, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        fresh = not resource.if_range or headers.get("if-range", etag) == etag
        if wanted and resource.ranges and fresh:
            begin, status = int(wanted[1]), 206
            if begin >= len(body):
                self._short(handler, 416)
                return
        handler.send_response(status)
        if etag:
            handler.send_header("ETag", etag)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if resource.length:
            handler.send_header("Content-Length", str(resource.claimed or len(body) - begin))
        else:
            handler.send_header("Connection", "close")
        for name, value in resource.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        self._send(handler, resource, asked, begin)

    def _send(self, handler, resource: Resource, asked: Asked, begin: int) -> None:
        body = resource.body
        end = resource.cuts.pop(0) if resource.cuts else len(body)
        place = begin
        while place < end:
            if resource.stall_at is not None and place >= resource.stall_at:
                self.resume.wait(60)
            stop = min(end, place + resource.pieces)
            if resource.stall_at is not None and place < resource.stall_at:
                stop = min(stop, resource.stall_at)
            asked.sent += stop - place  # before it is on its way, so that who has it finds it counted
            handler.wfile.write(body[place:stop])
            handler.wfile.flush()
            place = stop
            if resource.pause:
                time.sleep(resource.pause)
        if end < len(body) or resource.claimed or not resource.length:
            handler.close_connection = True
