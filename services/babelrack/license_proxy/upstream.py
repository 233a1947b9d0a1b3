"""A licence proxy above this one: asked first, remembered for a day, and told the usage."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import httpx
from pydantic import ValidationError

from babelrack.licensing.messages import Rejection, ValidateRequest, Validation
from babelrack.licensing.post import post

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babelrack.license_proxy.ledger import Ledger
    from babelrack.licensing.delivery import Batch

__all__ = ["ForwardedUsage", "Upstream", "UpstreamAway", "UpstreamRefusal"]

TIMEOUT = 3.0
REFUSALS = (401, 402, 409)


class UpstreamAway(Exception):
    """The upstream gave no yes or no."""


class UpstreamRefusal(Exception):
    """The upstream said no, with `status` and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Upstream:
    """Validation by the proxy above. `fault` says why the last try failed, or is None."""

    def __init__(self, url: str) -> None:
        self.fault: str | None = None
        self._url = url
        self._client = httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def validate(self, question: ValidateRequest, license_key: str) -> Validation:
        """Ask. Raises UpstreamRefusal for a no and UpstreamAway when nothing definite came back."""
        try:
            async with asyncio.timeout(TIMEOUT):
                self._client.headers["Authorization"] = f"Bearer {license_key}"
                status, body = await post(self._client, "/v1/validate", question.model_dump_json())
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            raise self._away(str(error) or type(error).__name__) from None
        if status in REFUSALS:
            self.fault = None
            raise UpstreamRefusal(status, _message(body))
        if status != httpx.codes.OK:
            raise self._away(f"it answered {status}")
        try:
            answer = Validation.model_validate_json(body)
        except ValidationError:
            raise self._away("it doesn't answer like a licence proxy") from None
        self.fault = None
        return answer

    def _away(self, reason: str) -> UpstreamAway:
        self.fault = f"the upstream {self._url} is away: {reason}"
        return UpstreamAway(self.fault)


class ForwardedUsage:
    """The ledger's records on their way up: the outbox of a `Delivery`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def take(self) -> Batch:
        """Return the next records for the upstream."""
        return await asyncio.to_thread(self._ledger.take_forward, time.time())

    async def settle(self, batch: Batch, rejected: Sequence[Rejection]) -> None:
        """Mark what was acknowledged."""
        await asyncio.to_thread(self._ledger.settle_forward, batch, rejected, time.time())


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "the upstream refused"
