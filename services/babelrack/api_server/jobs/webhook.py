"""Answers on their way to a client's webhook: the body, its signature, one delivery."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from pydantic import BaseModel

from babelrack.api_server.errors import ApiError, BadRequest
from babelrack.api_server.outbound import parse_url

if TYPE_CHECKING:
    from babelrack.api_server.outbound import Outbound

Method = Literal["POST", "PUT", "PATCH"]

METHODS: tuple[Method, ...] = get_args(Method)
_SECONDS = 30.0
_GONE = 410


class Webhook(BaseModel):
    """Where an answer goes: `extra` is JSON text, delivered as the answer's `webhook_extra`."""

    url: str
    method: Method = "POST"
    extra: str | None = None

    @property
    def receiver(self) -> str:
        """Its host and port; what of the URL may be logged."""
        target = parse_url(self.url)
        return f"{target.host}:{target.port}"

    def body(self, answer: dict[str, Any]) -> str:
        """The JSON that is delivered."""
        whole = answer if self.extra is None else {**answer, "webhook_extra": json.loads(self.extra)}
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def extra_json(given: str) -> str:
    """`webhook_extra` as JSON text: an object or a list as what it is, anything else as a string."""
    try:
        value = json.loads(given, parse_constant=_refuse)  # NaN and Infinity are Python's, not JSON's
        if isinstance(value, dict | list):
            text = json.dumps(value, ensure_ascii=False)
            text.encode()  # half a surrogate pair is no text that could be sent
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps(given, ensure_ascii=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def signature(secret: str, body: bytes, at: int) -> str:
    """The value of `X-Babelrack-Signature`: HMAC-SHA256 (RFC 2104) over `at`, a full stop, and the body."""
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class NotDelivered(Exception):
    """A delivery that failed, with a sentence; `final` when no other try is to be made."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class Sender:
    """Delivers with this deployment's secret; without one, webhooks are refused."""

    def __init__(self, outbound: Outbound, secret: str | None) -> None:
        self._outbound = outbound
        self._secret = secret

    async def check(self, webhook: Webhook, option: str) -> None:
        """Raise BadRequest, naming `option`, when nothing may be delivered to `webhook`."""
        if self._secret is None:
            raise BadRequest(
                f"{option} needs a secret to sign deliveries with, and this server has none; "
                "its operator sets WEBHOOK_SECRET_FILE.",
                code="WEBHOOK",
                param=option,
            )
        try:
            await self._outbound.check(webhook.url)
        except BadRequest as error:
            raise BadRequest(f"{option}: {error.message}", code="WEBHOOK", param=option) from None

    async def send(self, webhook: Webhook, request_id: str, body: str) -> None:
        """Deliver once; a 2xx is success, whatever else comes with it.

        A redirect is not followed: a request with a body is not to be sent on to somebody else.

        Raises:
            NotDelivered: when it was not taken.
        """
        if self._secret is None:
            raise NotDelivered("this server has no secret to sign with; its operator sets WEBHOOK_SECRET_FILE.")
        content, now = body.encode(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": request_id,
            "X-Babelrack-Signature": signature(self._secret, content, now),
        }
        try:
            async with (
                asyncio.timeout(_SECONDS),
                self._outbound.exchange(webhook.method, parse_url(webhook.url), headers, content) as response,
            ):
                status = response.status  # all that counts; the rest is not read
        except TimeoutError:
            raise NotDelivered(f"the receiver did not answer within {_SECONDS:g} seconds.") from None
        except ApiError as error:
            raise NotDelivered(error.message) from None
        if status == _GONE:
            raise NotDelivered("the receiver answered 410: it is gone, and wants no further try.", final=True)
        if 300 <= status < 400:
            raise NotDelivered(f"the receiver answered {status}, and redirects are not followed.")
        if not 200 <= status < 300:
            raise NotDelivered(f"the receiver answered {status}.")
