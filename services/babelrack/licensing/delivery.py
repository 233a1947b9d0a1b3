"""Usage on its way to the licence proxy, at least once; the records' ids make it exactly once there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import httpx
import structlog
from pydantic import ValidationError

from babelrack.licensing.messages import Receipt, Rejection
from babelrack.licensing.post import post

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Batch", "Delivery", "Outbox"]

LINGER = 1.0
FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0
TIMEOUT = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records as they lie in an outbox: `bodies` are their JSON, `handles` how the outbox knows them."""

    handles: Sequence[int]
    bodies: Sequence[str]


class Outbox(Protocol):
    """Where undelivered records lie, oldest first."""

    async def take(self) -> Batch:
        """Return the next records, at most 500 and 512 KiB; they stay until they are settled."""

    async def settle(self, batch: Batch, rejected: Sequence[Rejection]) -> None:
        """Forget what was delivered; put what was rejected aside for a day."""


class Delivery:
    """Posts what an outbox holds to `<proxy_url>/v1/usage` until it is acknowledged.

    `fault` says why that fails now, or is None.
    """

    def __init__(self, outbox: Outbox, proxy_url: str, license_key: str, *, linger: float = LINGER) -> None:
        self.fault: str | None = None
        self._outbox = outbox
        self._proxy_url = proxy_url
        self._license_key = license_key
        self._linger = linger
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver, what an earlier run left first."""
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="usage-delivery")

    def wake(self) -> None:
        """Say that there is something new."""
        self._wake.set()

    async def stop(self, last_try: float = 3.0) -> None:
        """Stop; what is left is tried once more for at most `last_try` seconds, and stays in the outbox else."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if last_try > 0 and self.fault is None:
            with contextlib.suppress(TimeoutError, httpx.HTTPError, _NotTaken):
                async with asyncio.timeout(last_try), self._client() as client:
                    await self._drain(client)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._proxy_url,
            headers={"Authorization": f"Bearer {self._license_key}"},
            timeout=TIMEOUT,
            trust_env=False,
        )

    async def _run(self) -> None:
        retry = FIRST_RETRY
        async with self._client() as client:
            while True:
                await self._wake.wait()
                await asyncio.sleep(self._linger)  # so that records of one moment travel together
                self._wake.clear()
                try:
                    await self._drain(client)
                except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, _NotTaken) as error:
                    self._say(f"usage can't be delivered to {self._proxy_url}: {error or type(error).__name__}")
                except Exception as error:  # a fault here must never end delivery for good
                    log.exception("usage delivery failed")
                    self._say(f"usage can't be delivered: {type(error).__name__}")
                else:
                    self._say(None)
                    retry = FIRST_RETRY
                    continue
                self._wake.set()
                await asyncio.sleep(retry * random.uniform(0.5, 1.0))  # noqa: S311 jitter
                retry = min(retry * 2, LONGEST_RETRY)

    async def _drain(self, client: httpx.AsyncClient) -> None:
        while True:
            batch = await self._outbox.take()
            if not batch.handles:
                return
            rejected = await self._post(client, batch)
            for rejection in rejected[:10]:
                log.error("usage record was not counted", record=rejection.id, reason=rejection.reason)
            await self._outbox.settle(batch, rejected)

    async def _post(self, client: httpx.AsyncClient, batch: Batch) -> list[Rejection]:
        body = f'{{"batch_id":"{uuid.uuid4()}","records":[{",".join(batch.bodies)}]}}'
        status, answer = await post(client, "/v1/usage", body)
        if status != httpx.codes.OK:
            raise _NotTaken(f"it answered {status}")
        try:
            receipt = Receipt.model_validate_json(answer)
        except ValidationError:
            raise _NotTaken("it doesn't answer like a licence proxy") from None
        if receipt.accepted + receipt.duplicates + len(receipt.rejected) != len(batch.handles):
            raise _NotTaken("its receipt doesn't cover the batch")
        return receipt.rejected

    def _say(self, fault: str | None) -> None:
        if fault != self.fault:
            if fault is None:
                log.info("usage is delivered again")
            else:
                log.warning("usage stays in the journal", reason=fault)
        self.fault = fault


class _NotTaken(Exception):
    """The proxy answered, but didn't take the batch."""
