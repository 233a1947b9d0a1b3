"""A client that routes by language with the flat map, and nothing more.

```python
with Client("http://127.0.0.1:8080/routes.json", api_key=key) as client:
    print(client.transcribe("interview.flac", language="es").text)
```
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

import httpx

from babelrack.packs.faults import PackError
from babelrack.packs.routes import Routes

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator, Mapping
    from types import TracebackType

Audio: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO"
RouteSource: TypeAlias = "Routes | Mapping[str, Any] | str | os.PathLike[str]"
Option: TypeAlias = "str | int | float | bool | None"

_PATH: Final = "/waves/v1/pulse/get_text"
_BLOCK_BYTES: Final = 64 * 1024
_ROUTES_BYTES: Final = 1024 * 1024
_MESSAGE_CHARACTERS: Final = 500
_TIMEOUT: Final = httpx.Timeout(3600, connect=5)


class TranscriptionError(Exception):
    """Why there is no transcript.

    `status` is the HTTP status, or None when no server answered; `retry_after` is in seconds, None when the server
    names none; `body` is the JSON that came with the status, empty when there was none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message if status is None else f"{status}: {message}")
        self.message = message
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.body: Mapping[str, Any] = body or {}


@dataclass(frozen=True)
class Transcript:
    """What was said. `duration` is the audio's, in seconds; `raw` is the whole answer."""

    text: str
    language: str | None
    duration: float | None
    request_id: str | None
    checkpoint: str | None
    pack: str
    words: list[dict[str, Any]] = field(default_factory=list)
    utterances: list[dict[str, Any]] = field(default_factory=list)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_routes(source: RouteSource, *, verify: ssl.SSLContext | bool = True) -> Routes:
    """The routes from a map, a JSON file, or the URL of a gateway's `/routes.json`; raises `TranscriptionError`."""
    try:
        if isinstance(source, Routes):
            return source
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            return Routes.from_dict(_fetch_json(source, verify))
        if isinstance(source, (str, os.PathLike)):
            return Routes.from_dict(_read_json(Path(source)))
        return Routes.from_dict(dict(source))
    except PackError as error:
        where = f" of {source}" if isinstance(source, (str, os.PathLike)) else ""
        raise TranscriptionError(f"The routes{where} can't be used: {error}") from None


class Client:
    """Transcribes through the pack that serves a language; safe to share between threads.

    `routes` is what `babelrack routes --format json` prints (as a map, a file or the URL of `/routes.json`), or a plain
    map of language → base URL or list of them. Use it as a context manager, or call `close()`.
    """

    def __init__(
        self, routes: RouteSource, api_key: str | None = None, *, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._replicas = _Replicas(read_routes(routes, verify=verify))
        self._http = httpx.Client(headers=_headers(api_key), timeout=_TIMEOUT, verify=verify)

    @property
    def routes(self) -> Routes:
        """The flat map."""
        return self._replicas.routes

    def transcribe(self, audio: Audio, language: str | None = None, **options: Option) -> Transcript:
        """The transcript of a file (its path, its bytes, or the open file, from where it stands), streamed from it.

        `language` is a code or an aggregator. `options` are the API's query parameters. Raises `TranscriptionError`.
        """
        pack, urls = self._replicas.in_turn(language)
        parameters = _parameters(language, options)
        with _opened(audio) as file:
            start, length = _extent(file)
            refusal = ""
            for url in urls:
                try:
                    response = self._http.post(
                        url + _PATH, params=parameters, headers=length, content=_blocks(file, start)
                    )
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    refusal = f"{url} ({error})"
                except httpx.HTTPError as error:
                    raise _lost(url, error) from error
                else:
                    return _transcript(response, pack)
        raise TranscriptionError(f"No replica of the pack {pack} answers; the last was {refusal}.")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio; routes that come from a URL or a file are read when it is made, before the loop matters."""

    def __init__(
        self, routes: RouteSource, api_key: str | None = None, *, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._replicas = _Replicas(read_routes(routes, verify=verify))
        self._http = httpx.AsyncClient(headers=_headers(api_key), timeout=_TIMEOUT, verify=verify)

    @property
    def routes(self) -> Routes:
        """The flat map."""
        return self._replicas.routes

    async def transcribe(self, audio: Audio, language: str | None = None, **options: Option) -> Transcript:
        """As `Client.transcribe`; cancelling it cancels the request."""
        pack, urls = self._replicas.in_turn(language)
        parameters = _parameters(language, options)
        with await asyncio.to_thread(_opened, audio) as file:
            start, length = _extent(file)
            refusal = ""
            for url in urls:
                try:
                    response = await self._http.post(
                        url + _PATH, params=parameters, headers=length, content=_blocks_async(file, start)
                    )
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    refusal = f"{url} ({error})"
                except httpx.HTTPError as error:
                    raise _lost(url, error) from error
                else:
                    return _transcript(response, pack)
        raise TranscriptionError(f"No replica of the pack {pack} answers; the last was {refusal}.")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Replicas:
    """A pack's replicas, each call one further round."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self._turns = {pack: itertools.count() for pack in routes.packs}

    def in_turn(self, language: str | None) -> tuple[str, tuple[str, ...]]:
        try:
            pack = self.routes.pack(language)
        except PackError as error:
            raise TranscriptionError(str(error)) from None
        urls = self.routes.packs[pack]
        first = next(self._turns[pack]) % len(urls)
        return pack, urls[first:] + urls[:first]


def _fetch_json(url: str, verify: ssl.SSLContext | bool) -> Any:
    content = bytearray()
    try:
        with httpx.stream("GET", url, timeout=10, verify=verify) as response:
            for block in response.iter_bytes():
                content += block
                if len(content) > _ROUTES_BYTES:
                    raise TranscriptionError(f"The routes at {url} are larger than {_ROUTES_BYTES} bytes.")
    except httpx.HTTPError as error:
        raise TranscriptionError(f"The routes at {url} can't be fetched: {error}.") from error
    if response.status_code != httpx.codes.OK:
        raise TranscriptionError(f"The routes at {url} can't be fetched.", status=response.status_code)
    return _parse(bytes(content), url)


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_ROUTES_BYTES + 1)
    except OSError as error:
        raise TranscriptionError(f"The routes in {path} can't be read: {error.strerror}.") from error
    if len(content) > _ROUTES_BYTES:
        raise TranscriptionError(f"The routes in {path} are larger than {_ROUTES_BYTES} bytes.")
    return _parse(content, str(path))


def _parse(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise TranscriptionError(f"The routes of {where} are not JSON.") from None


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _parameters(language: str | None, options: Mapping[str, Option]) -> dict[str, str]:
    given = {"language": language, **options}
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in given.items()
        if value is not None
    }


def _opened(audio: Audio) -> contextlib.AbstractContextManager[BinaryIO]:
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return io.BytesIO(audio)
    if isinstance(audio, (str, os.PathLike)):
        return Path(audio).open("rb")
    return contextlib.nullcontext(audio)  # whoever opened it closes it


def _extent(file: BinaryIO) -> tuple[int | None, dict[str, str]]:
    """Where the file stands, and the headers that tell the length of its rest; neither for one that can't seek."""
    headers = {"Content-Type": "application/octet-stream"}
    if not file.seekable():
        return None, headers
    start = file.tell()
    length = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    return start, headers | {"Content-Length": str(max(length, 0))}


def _blocks(file: BinaryIO, start: int | None) -> Iterator[bytes]:
    if start is not None:
        file.seek(start)
    while block := file.read(_BLOCK_BYTES):
        yield block


async def _blocks_async(file: BinaryIO, start: int | None) -> AsyncIterator[bytes]:
    if start is not None:
        await asyncio.to_thread(file.seek, start)
    while block := await asyncio.to_thread(file.read, _BLOCK_BYTES):
        yield block


def _lost(url: str, error: httpx.HTTPError) -> TranscriptionError:
    reason = str(error) or type(error).__name__
    return TranscriptionError(f"The connection to {url} was lost before the answer: {reason}.")


def _transcript(response: httpx.Response, pack: str) -> Transcript:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    body = body if isinstance(body, dict) else {}
    request_id = body.get("request_id") or response.headers.get("x-request-id")
    if response.status_code != httpx.codes.OK or not isinstance(body.get("transcription"), str):
        raise TranscriptionError(
            _message(response, body),
            status=response.status_code,
            request_id=request_id,
            retry_after=_seconds(response.headers.get("retry-after")),
            body=body,
        )
    metadata = body.get("metadata") or {}
    return Transcript(
        text=body["transcription"],
        language=body.get("language"),
        duration=metadata.get("duration"),
        request_id=request_id,
        checkpoint=response.headers.get("x-checkpoint"),
        pack=pack,
        words=body.get("words") or [],
        utterances=body.get("utterances") or [],
        raw=body,
    )


def _message(response: httpx.Response, body: Mapping[str, Any]) -> str:
    for key in ("message", "error", "detail"):
        value = body.get(key)
        if isinstance(value, str) and value:
            return value[:_MESSAGE_CHARACTERS]
    if response.status_code == httpx.codes.OK:
        return f"{response.url.copy_with(query=None)} answered with something other than a transcript."
    return " ".join(response.text[:_MESSAGE_CHARACTERS].split()) or response.reason_phrase


def _seconds(header: str | None) -> float | None:
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
