"""`MODEL_URL`: one to three checkpoint URLs, each with what the pack file says of it in the fragment."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.manifest import Role, checked_languages, checked_name, checked_sha256

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 3
SCHEMES = ("file", "http", "https", "s3", "hf")

_FIELDS = ("name", "role", "languages", "sha256")
_HUB_REPOSITORY = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?"
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
# What a presigned URL renews at each signing: not part of what the URL points at.
_SIGNATURE_FIELD = re.compile(
    r"(x-amz-|x-goog-).*|signature|expires|awsaccesskeyid|googleaccessid|sig|se|st", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """One entry of `MODEL_URL`. `url` has no fragment and may carry secrets: show `redacted` instead."""

    url: str = field(repr=False)
    name: str | None = None
    role: Role | None = None
    languages: tuple[str, ...] | None = None
    sha256: str | None = None

    @property
    def scheme(self) -> str:
        """One of `SCHEMES`."""
        return self.url.partition(":")[0].lower()

    @property
    def redacted(self) -> str:
        """The URL without user, password and query, for messages and logs."""
        parts = urlsplit(self.url)
        host = f"…@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
        if self.scheme in {"http", "https", "s3"}:
            return f"{self.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")
        return self.url

    @property
    def label(self) -> str:
        """What to call the checkpoint while its manifest is still unread."""
        return self.name or self.redacted.removesuffix("?…").rstrip("/").rpartition("/")[2] or self.redacted

    @property
    def path(self) -> Path:
        """Where a `file:` reference points."""
        return Path(unquote(urlsplit(self.url).path))

    @property
    def is_directory(self) -> bool:
        """Whether the URL names a folder of files (`hf:`, or a path that ends in `/`) and not an archive."""
        return self.scheme == "hf" or urlsplit(self.url).path.endswith("/")

    @property
    def hub(self) -> tuple[str, str]:
        """Repository and revision of an `hf:` reference."""
        match = _HUB_REPOSITORY.fullmatch(_hub_location(self.url))
        if match is None:
            raise CheckpointError(f"{self.redacted}: not a hub reference")
        return match["repository"], match["revision"] or "main"

    @property
    def identity(self) -> str:
        """The same for two URLs that point at the same thing: 64 hexadecimal digits; no secret can be read from it."""
        parts = urlsplit(self.url)
        query = sorted(
            pair for pair in parts.query.split("&") if not _SIGNATURE_FIELD.fullmatch(pair.partition("=")[0])
        )
        if self.scheme == "hf":
            thing = "@".join(self.hub)
        else:
            thing = f"{parts.netloc.rpartition('@')[2].lower()}\n{parts.path}\n{'&'.join(query)}"
        return hashlib.sha256(f"{self.scheme}\n{thing}".encode()).hexdigest()

    def __str__(self) -> str:
        return self.redacted


def parse_model_url(value: str) -> tuple[CheckpointRef, ...]:
    """The one to three references in `value`, comma-separated; a comma inside a URL is `%2C`.

    Raises:
        CheckpointError: naming the entry by its place and what is wrong with it, never showing a secret of it.
    """
    if not value.strip():
        raise CheckpointError(
            "MODEL_URL names no checkpoint; give one to three URLs, such as file:///srv/whisper-base#name=…"
        )
    entries = [entry.strip() for entry in value.split(",")]
    if len(entries) > MOST:
        raise CheckpointError(
            f"MODEL_URL names {len(entries)} checkpoints and a model server holds at most {MOST}; "
            "move some to another pack (or write a comma inside a URL as %2C)"
        )
    references = tuple(
        parse_reference(entry, f"MODEL_URL entry {place}") for place, entry in enumerate(entries, start=1)
    )
    named = [reference.name for reference in references if reference.name]
    for name in named:
        if named.count(name) > 1:
            raise CheckpointError(f"MODEL_URL names two checkpoints {name!r}; give each its own name= in the fragment")
    return references


def parse_reference(entry: str, where: str) -> CheckpointRef:
    """The one reference that `entry` is; `where` is what a message calls it.

    Raises:
        CheckpointError: saying what is wrong with it, never showing a secret of it.
    """
    if not entry:
        raise CheckpointError(f"{where} is empty; remove the extra comma")
    if any(character <= " " or character == "\x7f" for character in entry):
        raise CheckpointError(f"{where} contains a space or a control character; write it percent-encoded")
    if entry.startswith("/"):
        raise CheckpointError(f"{where} is a bare path; write it as a URL: file://{entry.partition('#')[0]}")
    url, _, fragment = entry.partition("#")
    scheme = url.partition(":")[0].lower()
    if ":" not in url or scheme not in SCHEMES:
        raise CheckpointError(f"{where} has none of the schemes {', '.join(SCHEMES)}; check its spelling")
    try:
        _CHECKS[scheme](url)
        return CheckpointRef(url=url, **_parse_fragment(fragment))  # type: ignore[arg-type] # checked field by field
    except ValueError as error:
        raise CheckpointError(f"{where} ({scheme}): {error}") from None


def _parse_fragment(fragment: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    for pair in fragment.split("&") if fragment else []:
        key, equals, text = pair.partition("=")
        if key not in _FIELDS or not equals:
            raise ValueError(
                f"its fragment has something that is not one of {', '.join(f'{name}=' for name in _FIELDS)}"
            )
        if key in fields:
            raise ValueError(f"its fragment says {key} twice")
        fields[key] = _FIELD_CHECKS[key](text)
    return fields


def _checked_role(value: str) -> str:
    if value not in get_args(Role):
        raise ValueError("role is dedicated or multilingual")
    return value


_FIELD_CHECKS: dict[str, Callable[[str], object]] = {
    "name": lambda text: checked_name(unquote(text)),
    "role": lambda text: _checked_role(unquote(text)),
    # `+` separates, as in the pack's URL; `,` cannot appear, it separates checkpoints.
    "languages": lambda text: checked_languages(tuple(unquote(code) for code in text.split("+"))),
    "sha256": lambda text: checked_sha256(unquote(text)),
}


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "its host or port can't be read; percent-encode `@ : / ? #` inside a user or password"
        ) from None
    return parts


def _check_file(url: str) -> None:
    parts = _split(url)
    if parts.netloc not in {"", "localhost"}:
        raise ValueError("a file URL has three slashes and an absolute path: file:///srv/whisper-base")
    if parts.query:
        raise ValueError("write a `?` in a file name as %3F")
    path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path:
        raise ValueError("its path must be absolute: file:///srv/whisper-base")


def _check_http(url: str) -> None:
    parts = _split(url)
    if not parts.hostname or "//" not in url:
        raise ValueError("it has no host")
    try:
        httpx.URL(url)
        parts.hostname.encode("idna")  # as the resolver will
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("its host can't be one; check its spelling") from None
    if not parts.path.strip("/"):
        raise ValueError("it has no path; name the archive, or a folder with a `/` at its end")


def _check_s3(url: str) -> None:
    parts = _split(url)
    if "@" in parts.netloc or parts.query:
        raise ValueError("credentials come from the environment or the credentials file; write s3://bucket/key")
    if not _BUCKET.fullmatch(parts.netloc) or not parts.path.strip("/"):
        raise ValueError("write s3://bucket/key, the key of an archive or a prefix with a `/` at its end")


def _check_hub(url: str) -> None:
    location = _hub_location(url)
    if not _HUB_REPOSITORY.fullmatch(location) or ".." in location:
        raise ValueError("write hf:owner/repository@revision")


def _hub_location(url: str) -> str:
    return url.partition(":")[2].removeprefix("//")


_CHECKS: dict[str, Callable[[str], None]] = {
    "file": _check_file,
    "http": _check_http,
    "https": _check_http,
    "s3": _check_s3,
    "hf": _check_hub,
}
