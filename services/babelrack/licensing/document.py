"""The licence: a compact JWS (RFC 7515) signed with Ed25519 (RFC 8032), verified offline.

The algorithm is pinned to the fully specified `Ed25519` of RFC 9864, so that a token can't choose a weaker one.
A licence names no secret: it carries the SHA-256 of the LICENSE_KEY that goes with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import OKPKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "ALGORITHM",
    "LEEWAY",
    "License",
    "LicenseError",
    "SelfIssued",
    "generate_license_key",
    "generate_signing_key",
    "issue",
    "key_sha256",
    "load_public_key",
    "load_signing_key",
    "read",
    "self_issue",
    "unverified",
    "verify",
]

ALGORITHM: Final = "Ed25519"
TYPE: Final = "babelrack-license+jwt"
ISSUER: Final = "babelrack"
LEEWAY: Final = timedelta(seconds=60)
LONGEST_TOKEN: Final = 16 * 1024

_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

LanguageCode = Annotated[str, Field(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$", max_length=35)]


class LicenseError(Exception):
    """A licence or a key of its issuer can't be used; the message is one sentence, `kind` says which fault it is."""

    def __init__(
        self, kind: Literal["malformed", "signature", "not_yet_valid", "expired", "key", "unreadable"], message: str
    ) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class License:
    """What a verified licence says. `languages` is None when every language is licensed; times are UTC."""

    id: str
    customer: str
    languages: tuple[str, ...] | None
    not_before: datetime
    expires: datetime
    seats: int
    key_sha256: str

    def allows(self, language: str) -> bool:
        """Whether `language` (a code such as `hi`) is licensed."""
        return self.languages is None or language in self.languages


class _Claims(BaseModel):
    """The payload on the wire: registered claims of RFC 7519 under their names, the rest in words."""

    model_config = ConfigDict(strict=True, extra="ignore")

    iss: Literal["babelrack"]
    jti: Annotated[str, Field(min_length=1, max_length=64)]
    sub: Annotated[str, Field(min_length=1, max_length=200)]
    nbf: Annotated[int, Field(ge=0, lt=253402300800)]
    exp: Annotated[int, Field(ge=0, lt=253402300800)]
    iat: int
    seats: Annotated[int, Field(ge=1, le=1_000_000)]
    languages: Annotated[list[LanguageCode], Field(min_length=1, max_length=500)] | None
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def generate_signing_key() -> OKPKey:
    """Return a new Ed25519 pair."""
    return OKPKey.generate_key("Ed25519")


def generate_license_key() -> str:
    """Return a new LICENSE_KEY: `brl_` and 32 random bytes in base64url."""
    return "brl_" + secrets.token_urlsafe(32)


def key_sha256(license_key: str) -> str:
    """Return the SHA-256 of a LICENSE_KEY in hex: 256 random bits need no slow hash, nobody can guess them."""
    return hashlib.sha256(license_key.encode()).hexdigest()


def issue(
    *,
    customer: str,
    languages: Sequence[str] | None,
    seats: int,
    not_before: datetime,
    expires: datetime,
    license_key_sha256: str,
    signing_key: OKPKey,
    license_id: str | None = None,
) -> str:
    """Sign a licence and return it as a compact JWS.

    Raises LicenseError when a field is out of range or the key can't sign.
    """
    if expires <= not_before:
        raise LicenseError("malformed", "the licence would expire before it begins; give it at least one day")
    if signing_key.private_key is None or signing_key.curve_name != "Ed25519":
        raise LicenseError("key", "the signing key is not a private Ed25519 key; make one with `license keygen`")
    try:
        claims = _Claims(
            iss=ISSUER,
            jti=license_id or str(uuid.uuid4()),
            sub=customer,
            nbf=int(not_before.timestamp()),
            exp=int(expires.timestamp()),
            iat=int(datetime.now(UTC).timestamp()),
            seats=seats,
            languages=None if languages is None else list(dict.fromkeys(languages)),
            key_sha256=license_key_sha256,
        )
    except ValidationError as error:
        raise LicenseError("malformed", f"the licence can't be issued: {_first_fault(error)}") from None
    payload = json.dumps(claims.model_dump(), ensure_ascii=False, separators=(",", ":")).encode()
    token = jws.serialize_compact({"alg": ALGORITHM, "typ": TYPE}, payload, signing_key, algorithms=[ALGORITHM])
    read(token, OKPKey.import_key(signing_key.public_key))  # nothing goes out that would not be accepted
    return token


@dataclass(frozen=True)
class SelfIssued:
    """A licence for every language that nobody else signed, and the two keys that go with it."""

    token: str
    license_key: str
    public_key: str
    """PEM."""


def self_issue(customer: str, *, seats: int, days: float) -> SelfIssued:
    """A licence for a machine's own use, such as a demo's; its signing key is forgotten at once."""
    signing_key, license_key, now = generate_signing_key(), generate_license_key(), datetime.now(UTC)
    token = issue(
        customer=customer,
        languages=None,
        seats=seats,
        not_before=now - timedelta(minutes=5),
        expires=now + timedelta(days=days),
        license_key_sha256=key_sha256(license_key),
        signing_key=signing_key,
    )
    return SelfIssued(token, license_key, signing_key.as_pem(private=False).decode())


def verify(token: str, public_key: OKPKey, now: datetime) -> License:
    """Return what `token` says, or raise LicenseError with one sentence for its fault.

    Times are compared with a leeway of a minute for clocks that disagree.
    """
    license_ = read(token, public_key)
    if now + LEEWAY < license_.not_before:
        raise LicenseError(
            "not_yet_valid",
            f"the licence of {license_.customer} is not valid before {_date(license_.not_before)}; is the clock right?",
        )
    if now - LEEWAY >= license_.expires:
        raise LicenseError(
            "expired", f"the licence of {license_.customer} expired on {_date(license_.expires)}; ask for a renewal"
        )
    return license_


def read(token: str, public_key: OKPKey) -> License:
    """Return what `token` says once its signature is good, whatever the date is; raise LicenseError else."""
    compact = _compact(token)
    try:
        signed = jws.deserialize_compact(compact, public_key, algorithms=[ALGORITHM])
    except BadSignatureError:
        raise LicenseError(
            "signature", "the licence bears the signature of another issuer; use the public key that came with it"
        ) from None
    except UnsupportedAlgorithmError:
        raise LicenseError("malformed", f"the licence is malformed: it is not signed with {ALGORITHM}") from None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LicenseError("malformed", "the licence is malformed: its parts don't decode; copy it as issued") from None
    if signed.headers().get("typ") != TYPE:
        raise LicenseError("malformed", "the licence is malformed: it is a signed token, but not a licence")
    return _license(signed.payload or b"")


def unverified(token: str) -> License:
    """Return what `token` claims without a look at its signature: to show, never to go by. Raises LicenseError."""
    try:
        return _license(jws.extract_compact(_compact(token).encode()).payload)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LicenseError("malformed", "the licence is malformed: its parts don't decode; copy it as issued") from None


def _compact(token: str) -> str:
    token = token.strip()
    if len(token) > LONGEST_TOKEN or not _COMPACT_JWS.fullmatch(token):
        raise LicenseError("malformed", "the licence is malformed: it is not a compact JWS; copy the file as issued")
    return token


def _license(payload: bytes) -> License:
    try:
        claims = _Claims.model_validate_json(payload)
    except ValidationError as error:
        raise LicenseError("malformed", f"the licence is malformed: {_first_fault(error)}") from None
    return License(
        id=claims.jti,
        customer=claims.sub,
        languages=None if claims.languages is None else tuple(claims.languages),
        not_before=datetime.fromtimestamp(claims.nbf, UTC),
        expires=datetime.fromtimestamp(claims.exp, UTC),
        seats=claims.seats,
        key_sha256=claims.key_sha256,
    )


def load_signing_key(path: Path) -> OKPKey:
    """Read a private Ed25519 key (PEM, PKCS #8). Raises LicenseError."""
    key = _load_key(path)
    if key.private_key is None:
        raise LicenseError("key", f"{path} is a public key; signing needs the private one that `license keygen` made")
    return key


def load_public_key(path: Path) -> OKPKey:
    """Read the public half of an Ed25519 key (PEM; of a private key its public half is taken). Raises LicenseError."""
    return OKPKey.import_key(_load_key(path).public_key)


def _load_key(path: Path) -> OKPKey:
    try:
        content = path.read_bytes()[:LONGEST_TOKEN]
    except OSError as error:
        raise LicenseError("unreadable", f"the key file {path} can't be read: {error.strerror or error}") from None
    try:
        key = OKPKey.import_key(content)
        curve = key.curve_name
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise LicenseError("key", f"{path} is not an Ed25519 key in PEM; make one with `license keygen`") from None
    if curve != "Ed25519":
        raise LicenseError("key", f"{path} is a {curve} key, not Ed25519; make one with `license keygen`")
    return key


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "its payload"
    return f"{_WORDS.get(where.split('.')[0], where)}: {fault['msg']}"


_WORDS = {"sub": "customer", "jti": "id", "nbf": "not before", "exp": "expires"}


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
