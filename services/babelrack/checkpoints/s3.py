"""Reading from S3 and what speaks like it: where an object is, and AWS Signature Version 4 for a GET.

Signing follows "Authenticating Requests: Using the Authorization Header" of the S3 API reference; only `host`, `range`
and `x-amz-*` are signed. A test holds it to the example that the reference gives.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from babelrack.checkpoints.reference import CheckpointRef
    from babelrack.checkpoints.settings import FetchSettings

_EMPTY = hashlib.sha256(b"").hexdigest()
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]*")
_UNRESERVED = "-_.~/"


def object_url(ref: CheckpointRef, settings: FetchSettings) -> str:
    """The http(s) URL of an `s3:` reference: path-style at a site's own endpoint, else the bucket's host at AWS."""
    parts = urlsplit(ref.url)
    bucket, key = parts.netloc, quote(unquote(parts.path.removeprefix("/")), safe=_UNRESERVED)
    if settings.s3_endpoint:
        return f"{settings.s3_endpoint.rstrip('/')}/{bucket}/{key}"
    host = f"s3.{settings.s3_region}.amazonaws.com"
    if _HOST_LABEL.fullmatch(bucket):
        return f"https://{bucket}.{host}/{key}"
    return f"https://{host}/{bucket}/{key}"  # a dot in the bucket's name would not match the host's certificate


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs GET requests with one access key."""

    access_key: str
    secret_key: str
    region: str
    session_token: str | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def sign(self, url: httpx.URL, headers: dict[str, str]) -> dict[str, str]:
        """The headers to add to a GET of `url`; a Range among `headers` is signed with it."""
        moment = self.now().strftime("%Y%m%dT%H%M%SZ")
        signed = {
            "host": url.netloc.decode(),
            "x-amz-content-sha256": _EMPTY,
            "x-amz-date": moment,
            **{name.lower(): value for name, value in headers.items() if name.lower() == "range"},
        }
        if self.session_token:
            signed["x-amz-security-token"] = self.session_token
        names = ";".join(sorted(signed))
        path, _, query = url.raw_path.decode().partition("?")
        canonical = "\n".join(
            ["GET", path, query, *(f"{name}:{signed[name]}" for name in sorted(signed)), "", names, _EMPTY]
        )
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = _hmac(key, part)
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope},SignedHeaders={names},"
            f"Signature={_hmac(key, to_sign).hex()}"
        )
        own = {name: value for name, value in signed.items() if name.startswith("x-amz-")}
        return own | {"Authorization": authorization}


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def signer(settings: FetchSettings) -> Signer | None:
    """A signer for the credentials that there are; None reads a public bucket."""
    if settings.s3_access_key is None or settings.s3_secret_key is None:
        return None
    token = settings.s3_session_token
    return Signer(
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        session_token=token.get_secret_value() if token else None,
    )
