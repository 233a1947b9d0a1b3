"""A request's body, read from the ASGI stream into a spool and bounded in bytes, time and parts.

The limit counts what arrives, so a `Content-Length` that lies changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from babelrack.api_server.errors import BadRequest, BodyStalled, BodyTooLarge, ClientGone, UnsupportedBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.datastructures import Headers
    from starlette.requests import Request

    from babelrack.api_server.spool import Spool

# Room for the most keywords that a request may have, and a long prompt.
_JSON_BYTES = 320 * 1024
_FORM_OVERHEAD_BYTES = 1024 * 1024
_MOST_PARTS = 64
_MOST_FIELD_BYTES = 320 * 1024
_AUDIO_PARTS = frozenset({"file", "audio"})


@dataclass(frozen=True)
class BodyLimits:
    """`audio_bytes` of audio, at most `seconds` in all and `idle_seconds` between two chunks."""

    audio_bytes: int
    idle_seconds: float
    seconds: float

    def check_size(self, size: int) -> None:
        """Raise BodyTooLarge when `size` bytes of audio are too many."""
        if size > self.audio_bytes:
            raise self.too_large()

    def too_large(self) -> BodyTooLarge:
        """The error of an audio that is over the limit."""
        return BodyTooLarge(f"the audio is larger than {self.audio_bytes // 1_000_000} MB; split it or compress it.")


@dataclass
class Body:
    """What a body held: audio in the spool, or a URL to fetch it from, and the fields beside it."""

    audio: bool = False
    url: str | None = None
    fields: list[tuple[str, str]] = field(default_factory=list)
    audio_part: str | None = None


async def read_body(request: Request, spool: Spool, limits: BodyLimits, *, only_form: bool = False) -> Body:
    """Read the whole body: raw audio, a form with one audio part, or JSON with a `url`; with `only_form` a form.

    Raises:
        BadRequest, BodyTooLarge, BodyStalled, UnsupportedBody: each with a sentence for the client.
        ClientGone: when the client closed the connection.
    """
    content_type, parameters = _content_type(request.headers)
    _check_codings(request.headers)
    form = content_type == "multipart/form-data"
    _check_declared(request.headers, limits, form=form)
    chunks = _chunks(request, limits)
    if form:
        return await _read_form(chunks, parameters.get(b"boundary", b""), spool, limits)
    if only_form:
        raise UnsupportedBody(f"this path takes multipart/form-data, not {content_type or 'a body without a type'}.")
    if content_type == "application/json":
        return await _read_json(chunks)
    if content_type in ("", "application/octet-stream") or content_type.startswith(("audio/", "video/")):
        async for chunk in chunks:
            limits.check_size(spool.size + len(chunk))
            await spool.write(chunk)
        return Body(audio=True)
    raise UnsupportedBody(
        f"{content_type} is not a body that this path reads; send audio as application/octet-stream or audio/*, "
        'multipart/form-data with one audio part, or application/json with {"url": "https://…"}.'
    )


def _content_type(headers: Headers) -> tuple[str, dict[bytes, bytes]]:
    value, parameters = parse_options_header(headers.get("content-type", ""))
    return value.decode("latin-1").strip().lower(), parameters


def _check_codings(headers: Headers) -> None:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedBody(f"a body with Content-Encoding {coding[:40]} is not read; send it without.")


def _check_declared(headers: Headers, limits: BodyLimits, *, form: bool) -> None:
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit():
        size = int(declared) if len(declared) < 20 else limits.audio_bytes + _FORM_OVERHEAD_BYTES + 1
        limits.check_size(size - _FORM_OVERHEAD_BYTES if form else size)


async def _chunks(request: Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    receive = request.receive
    end = asyncio.get_running_loop().time() + limits.seconds
    while True:
        try:
            async with asyncio.timeout(limits.idle_seconds) as idle:
                if (deadline := idle.when()) is not None and deadline > end:
                    idle.reschedule(end)
                message = await receive()
        except TimeoutError:
            raise BodyStalled("the body stopped arriving; send it again without pauses.") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        if chunk := message.get("body", b""):
            yield chunk
        if not message.get("more_body", False):
            return


async def _read_json(chunks: AsyncIterator[bytes]) -> Body:
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > _JSON_BYTES:
            raise BadRequest("a JSON body takes a url, and is at most 320 KiB.")
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise BadRequest('the body is not JSON; send {"url": "https://…"}.') from None
    if not isinstance(document, dict) or not isinstance(document.get("url"), str):
        raise BadRequest('the JSON body has no url; send {"url": "https://…"}.', param="url")
    fields = [(name, _as_text(value)) for name, value in document.items() if name != "url" and value is not None]
    return Body(url=document["url"], fields=fields)


def _as_text(value: object) -> str:
    """A JSON value as it would stand in a query string."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


class _Form:
    """The callbacks of the multipart parser: audio becomes `pieces` to spool, anything else fields."""

    def __init__(self) -> None:
        self.body = Body()
        self.pieces: list[memoryview] = []
        self.complete = False
        self._parts = 0
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value: bytearray | None = None
        self._field_bytes = 0

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise BadRequest(f"the form has more than {_MOST_PARTS} parts.")
        self._headers = {}

    def on_header_begin(self) -> None:
        self._header_name = self._header_value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value

    def on_headers_finished(self) -> None:
        disposition, parameters = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in parameters:
            raise BadRequest("a part of the form has no name; each needs Content-Disposition: form-data; name=….")
        self._name = parameters[b"name"].decode("utf-8", "replace")
        content_type = self._headers.get(b"content-type", b"").strip().lower()
        audio = (
            b"filename" in parameters
            or self._name in _AUDIO_PARTS
            or content_type.startswith((b"audio/", b"video/", b"application/octet-stream"))
        )
        if audio and self.body.audio:
            raise BadRequest("the form has two audio parts; send one a request.", param=self._name[:40])
        self.body.audio |= audio
        self.body.audio_part = self._name if audio else self.body.audio_part
        self._value = None if audio else bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self.pieces.append(memoryview(data)[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > _MOST_FIELD_BYTES:
            raise BadRequest("the form's fields are larger than 320 KiB together.", param=self._name[:40])
        self._value += data[start:end]

    def on_part_end(self) -> None:
        if self._value is None:
            return
        try:
            self.body.fields.append((self._name, self._value.decode()))
        except UnicodeDecodeError:
            raise BadRequest(f"the form's field {self._name[:40]!r} is not UTF-8.", param=self._name[:40]) from None

    def on_end(self) -> None:
        self.complete = True


async def _read_form(chunks: AsyncIterator[bytes], boundary: bytes, spool: Spool, limits: BodyLimits) -> Body:
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary; let your HTTP library write the Content-Type.")
    form = _Form()
    callbacks = {name: getattr(form, name) for name in dir(form) if name.startswith("on_")}
    total = 0
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a TypedDict, spelled by name
        async for chunk in chunks:
            total += len(chunk)
            if total > limits.audio_bytes + _FORM_OVERHEAD_BYTES:
                raise limits.too_large()
            parser.write(chunk)
            for piece in form.pieces:
                limits.check_size(spool.size + len(piece))
                await spool.write(piece)
            form.pieces.clear()
    except FormParserError as error:
        raise BadRequest(f"the body is not multipart/form-data as its boundary promises: {error}.") from None
    if not form.complete:
        raise BadRequest("the form is cut off before its last boundary; send all of it.")
    return form.body
