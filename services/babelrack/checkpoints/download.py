"""Downloads that survive cut connections: each try continues where the last one ended, if the file is the same."""

from __future__ import annotations

import json
import logging
import random
import re
import ssl
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import httpx
import structlog

from babelrack import __version__
from babelrack.checkpoints.digests import sha256_file, write_atomically
from babelrack.checkpoints.errors import CheckpointError, FetchStopped, SourceUnavailable

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from babelrack.checkpoints.settings import FetchSettings

_PROGRESS_BYTES = 1 << 20
_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_LATER = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_SECONDS = 30.0
_LARGEST_ANSWER = 16 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_S3_CODE = re.compile(rb"<Code>(\w{1,60})</Code>")

T = TypeVar("T")
Authorize: TypeAlias = "Callable[[httpx.URL, dict[str, str]], dict[str, str]]"

log = structlog.get_logger(__name__)


class NotFound(SourceUnavailable):
    """The source answers 404 or 410."""


class Refused(SourceUnavailable):
    """The source answers 401 or 403."""


class WrongChecksum(CheckpointError):
    """What the source serves is not what was asked for."""


class _TryAgain(Exception):
    """This try failed, the next may not."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def _nothing_to_add(_url: httpx.URL, _headers: dict[str, str]) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch. `url` has no user or password; `authorize` gives headers for it and for its host only.

    `shown` names it in messages; `hint` is what an operator should look at when the source says 401 or 403.
    """

    name: str
    url: str
    shown: str
    sha256: str | None = None
    authorize: Authorize = _nothing_to_add
    hint: str = "check the URL's user and password, or sign the URL again"


@dataclass(frozen=True, slots=True)
class Received:
    """A complete file: its SHA-256 and what the source said that tells it from another version."""

    sha256: str
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of an unfinished download, kept beside it."""

    etag: str | None
    last_modified: str | None
    total: int | None
    boot: str

    @property
    def validator(self) -> str | None:
        """What If-Range may carry: a strong ETag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


@dataclass(frozen=True, slots=True)
class Telling:
    """Who wants to know: each is called with (bytes done, bytes in all or None). `room` may raise to refuse a size."""

    downloaded: Callable[[int, int | None], None]
    verified: Callable[[int, int | None], None]
    room: Callable[[int, int], None]


class Downloader:
    """Fetches files over http(s), at most `settings.largest_download` bytes each, until `stop` is set."""

    def __init__(self, settings: FetchSettings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        logging.getLogger("httpx").addFilter(_without_query)
        self._client = httpx.Client(
            timeout=httpx.Timeout(settings.read_seconds, connect=settings.connect_seconds),
            headers={"User-Agent": f"babelrack/{__version__}", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(self, file: RemoteFile, path: Path, telling: Telling) -> Received:
        """Bring `file` to `path`, continuing what is there, and verify it.

        Raises:
            SourceUnavailable: when the source can't be reached, refuses, or gives up too often.
            WrongChecksum: when it is complete and not what `file.sha256` says; nothing is kept.
            FetchStopped: when `stop` was set; what has arrived is kept.
            OSError: when the disk refuses.
        """
        resumed = self._transfer(file, path, telling)
        digest = self._digest(path, telling)
        if file.sha256 and digest != file.sha256 and resumed:
            log.warning("resumed download doesn't match its checksum; starting over", file=file.shown)
            _discard(path)
            self._transfer(file, path, telling)
            digest = self._digest(path, telling)
        if file.sha256 and digest != file.sha256:
            size = path.stat().st_size
            _discard(path)
            raise WrongChecksum(
                f"{file.shown}: sha256 is {digest} ({size:,} bytes) and {file.sha256} was asked for; "
                "correct the sha256 if the source is right, else tell whoever keeps the source"
            )
        state = _read_state(path)
        return Received(digest, state.etag if state else None, state.last_modified if state else None)

    def get_json(self, file: RemoteFile) -> object:
        """A JSON answer of at most 16 MiB."""

        def attempt() -> object:
            with self._response(file, {}) as response:
                self._check_status(file, response, {200})
                body = b""
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > _LARGEST_ANSWER:
                        raise SourceUnavailable(
                            f"{file.shown}: answers with more than 16 MiB of JSON; check the endpoint"
                        )
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                raise SourceUnavailable(f"{file.shown}: doesn't answer with JSON; check the endpoint") from None

        return self._tries(file, attempt, lambda: 0)

    def unchanged(self, file: RemoteFile, etag: str | None, last_modified: str | None) -> bool:
        """Whether the source still has the version that it called `etag` or `last_modified`, as far as it says."""
        conditions = {"If-None-Match": etag} if etag else {"If-Modified-Since": last_modified} if last_modified else {}
        if not conditions:
            return False

        def attempt() -> bool:
            with self._response(file, conditions) as response:
                self._check_status(file, response, {200, 304})
                same_tag = etag is not None and response.headers.get("ETag") == etag
                return response.status_code == httpx.codes.NOT_MODIFIED or same_tag

        return self._tries(file, attempt, lambda: 0)

    def _transfer(self, file: RemoteFile, path: Path, telling: Telling) -> bool:
        """Complete the file at `path`; whether any of it had arrived before the last request."""
        return self._tries(file, lambda: self._attempt(file, path, telling), lambda: _size(path))

    def _tries(self, file: RemoteFile, attempt: Callable[[], T], arrived: Callable[[], int]) -> T:
        failures = 0
        while True:
            if self._stop.is_set():
                raise FetchStopped(
                    f"{file.shown}: stopped; what has arrived is kept, and the next start continues there"
                )
            before = arrived()
            try:
                return attempt()
            except (httpx.TransportError, UnicodeError) as error:  # the resolver raises UnicodeError for `a..b`
                certificate = _certificate_fault(error)
                if certificate:
                    raise SourceUnavailable(
                        f"{file.shown}: its certificate is not trusted ({certificate}); "
                        "set SSL_CERT_FILE to your authority's certificates"
                    ) from error
                reason, wait_seconds = _reason(error), None
            except _TryAgain as error:
                reason, wait_seconds = str(error), error.wait_seconds
            # A line that drops every few megabytes still gets there: only tries that bring nothing count.
            failures = 1 if arrived() - before >= _PROGRESS_BYTES else failures + 1
            if failures >= self._settings.tries:
                kept = f"; {arrived():,} bytes are kept and the next try continues there" if arrived() else ""
                raise SourceUnavailable(
                    f"{file.shown}: {reason}, {failures} times in a row{kept}; check the way from this host to it"
                )
            self._pause(failures, wait_seconds)

    def _pause(self, failures: int, wait_seconds: float | None) -> None:
        backoff = self._settings.backoff_seconds * 2 ** min(failures - 1, 10)
        wait = backoff * random.uniform(0.5, 1.0) if wait_seconds is None else wait_seconds  # noqa: S311 - jitter
        self._stop.wait(min(wait, _LONGEST_WAIT_SECONDS))

    def _attempt(self, file: RemoteFile, path: Path, telling: Telling) -> bool:
        offset, headers = _resumption(file, path)
        with self._response(file, headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and headers:
                _discard(path)
                raise _TryAgain("it no longer has the rest of the file")
            self._check_status(file, response, {200, 206} if headers else {200})
            offset, total = _extent(file, response, path, offset)
            if max(total or 0, offset) > self._settings.largest_download:
                raise CheckpointError(
                    f"{file.shown}: is {total or offset:,} bytes, more than {self._settings.largest_download:,}; "
                    "raise CHECKPOINT_LARGEST_DOWNLOAD if it is right"
                )
            if total is not None:
                telling.room(total - offset, total)
            if not offset:
                _discard(path)  # first, or a kill here would leave another version's bytes under this one's name
            _write_state(path, response, total)
            self._receive(file, response, path, offset, total, telling)
        if total is not None and _size(path) != total:
            raise _TryAgain(f"the connection ended after {_size(path):,} of {total:,} bytes")
        return offset > 0

    def _receive(
        self, file: RemoteFile, response: httpx.Response, path: Path, offset: int, total: int | None, telling: Telling
    ) -> None:
        with path.open("r+b" if offset else "wb", buffering=0) as out:
            out.truncate(offset)
            out.seek(offset)
            done = offset
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > self._settings.largest_download or (total is not None and done > total):
                    raise CheckpointError(
                        f"{file.shown}: sends more than it announced or than is allowed; check the source"
                    )
                out.write(chunk)
                telling.downloaded(done, total)
                if self._stop.is_set():
                    raise FetchStopped(
                        f"{file.shown}: stopped; {done:,} bytes are kept, and the next start continues there"
                    )

    def _digest(self, path: Path, telling: Telling) -> str:
        total = _size(path)

        def advance(done: int) -> None:
            telling.verified(done, total)
            if self._stop.is_set():
                raise FetchStopped(
                    f"{path.name}: stopped; what has arrived is kept, and the next start continues there"
                )

        return sha256_file(path, advance)

    @contextmanager
    def _response(self, file: RemoteFile, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """The answer at the end of the redirects; credentials go to the first host only, and never down to http."""
        first = url = httpx.URL(file.url)
        for _ in range(_MOST_REDIRECTS + 1):
            same = (url.scheme, url.host, url.port) == (first.scheme, first.host, first.port)
            own = file.authorize(url, headers) if same else {}
            request = self._client.build_request("GET", url, headers={**headers, **own})
            response = self._client.send(request, stream=True)
            try:
                location = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or not location:
                    yield response
                    return
            finally:
                response.close()
            url = _redirected(file, url, location)
        raise SourceUnavailable(f"{file.shown}: redirects more than {_MOST_REDIRECTS} times; give the URL it ends at")

    def _check_status(self, file: RemoteFile, response: httpx.Response, expected: set[int]) -> None:
        status = response.status_code
        if status in expected:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise SourceUnavailable(f"{file.shown}: is compressed on the way; switch that off for this file")
            return
        code = _S3_CODE.search(next(response.iter_raw(4096), b""))
        said = f"{status} {code[1].decode()}" if code else str(status)
        if status in _LATER:
            raise _TryAgain(f"the source answers {said}", _retry_after(response))
        if status in {404, 410}:
            raise NotFound(f"{file.shown}: not there ({said}); check the URL")
        if status in {401, 403}:
            raise Refused(f"{file.shown}: access refused ({said}); {file.hint}")
        if region := response.headers.get("x-amz-bucket-region"):
            raise SourceUnavailable(f"{file.shown}: the bucket is in region {region[:30]}; set AWS_REGION")
        raise SourceUnavailable(f"{file.shown}: the source answers {said}; check the URL")


def _resumption(file: RemoteFile, path: Path) -> tuple[int, dict[str, str]]:
    """Where to continue and what to ask for.

    Continuing is safe when the source can tell whether the file is the same, or when a checksum tells afterwards. After
    a power cut the file's end may be zeros that were never sent, and then only a checksum will do.
    """
    have, state = _size(path), _read_state(path)
    if not have or state is None:
        return 0, {}
    if file.sha256 is None and (state.validator is None or state.boot != _boot()):
        return 0, {}
    if state.total is not None and have > state.total:
        return 0, {}
    # A complete file is asked for its last byte again: an empty range is answered in as many ways as there are servers.
    offset = have - 1 if have == state.total else have
    headers = {"Range": f"bytes={offset}-"}
    return offset, headers | ({"If-Range": state.validator} if state.validator else {})


def _extent(file: RemoteFile, response: httpx.Response, path: Path, offset: int) -> tuple[int, int | None]:
    """Where the answer's bytes belong, and how many the whole file has."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    state = _read_state(path)
    same = state is None or state.etag is None or response.headers.get("ETag", state.etag) == state.etag
    if match is None or int(match[1]) != offset or not same:
        _discard(path)
        raise _TryAgain("it sends another part or another version than was asked for")
    total = int(match[3]) if match[3] != "*" else None
    if state is not None and state.total not in {None, total}:
        _discard(path)
        raise _TryAgain("the file has changed at the source")
    return offset, total


def _redirected(file: RemoteFile, url: httpx.URL, location: str) -> httpx.URL:
    try:
        target = url.join(location).copy_with(username="", password="", fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise SourceUnavailable(
            f"{file.shown}: redirects to something that is no URL; give the URL it ends at"
        ) from None
    if target.scheme not in {"http", "https"} or (url.scheme == "https" and target.scheme == "http"):
        raise SourceUnavailable(f"{file.shown}: redirects from {url.scheme} to {target.scheme[:10]}, which is refused")
    return target


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError | UnicodeError):
        return f"can't be reached ({error})" if str(error) else "can't be reached"
    if isinstance(error, httpx.TimeoutException):
        return "sent nothing for too long"
    return "the connection broke"


def _certificate_fault(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() and len(text) < 6 else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")


def _read_state(path: Path) -> _State | None:
    try:
        return _State(**json.loads(_state_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(path: Path, response: httpx.Response, total: int | None) -> None:
    state = _State(response.headers.get("ETag"), response.headers.get("Last-Modified"), total, _boot())
    write_atomically(_state_path(path), json.dumps(asdict(state)).encode())


def _discard(path: Path) -> None:
    _state_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _without_query(record: logging.LogRecord) -> bool:
    """httpx logs each URL whole, and a presigned URL's query is a key."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            arg.copy_with(query=None, username="", password="") if isinstance(arg, httpx.URL) else arg
            for arg in record.args
        )
    return True
