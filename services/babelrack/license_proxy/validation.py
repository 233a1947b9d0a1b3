"""Yes or no to a server that asks whether it is licensed."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import TYPE_CHECKING

from babelrack.license_proxy.upstream import UpstreamAway, UpstreamRefusal
from babelrack.licensing.document import LicenseError, key_sha256
from babelrack.licensing.messages import ValidateRequest, Validation

if TYPE_CHECKING:
    from babelrack.license_proxy.ledger import Ledger
    from babelrack.license_proxy.license_file import LicenseFile
    from babelrack.license_proxy.upstream import Upstream

__all__ = ["Refused", "Validator"]

UNKNOWN_KEY = 401


class Refused(Exception):
    """The answer is no: 401 unknown key, 402 expired, 409 no seat left, 503 nobody can tell."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Validator:
    """Asks the upstream if there is one, remembers its yes, and goes by the licence file else."""

    def __init__(
        self, license_file: LicenseFile | None, ledger: Ledger, upstream: Upstream | None, upstream_grace: float
    ) -> None:
        self._license_file = license_file
        self._ledger = ledger
        self._upstream = upstream
        self._upstream_grace = upstream_grace
        self._vouched_for = ledger.vouched_for() if upstream is not None else set()

    def check_key(self, presented: str) -> None:
        """Raise Refused unless `presented` is a known licence key; one whose licence has expired is still known."""
        known = set(self._vouched_for)
        fault: LicenseError | None = None
        if self._license_file is not None:
            try:
                known.add(self._license_file.document().key_sha256)
            except LicenseError as error:
                fault = error
        digest = key_sha256(presented)
        if any(hmac.compare_digest(digest, one) for one in known):
            return
        if fault is not None:
            raise Refused(503, str(fault))
        if not known:
            raise Refused(503, "the upstream has not validated any server yet, and there is no LICENSE_FILE to go by")
        raise Refused(401, "this licence key is not known here; use the one that came with the licence")

    async def validate(self, question: ValidateRequest, presented: str) -> Validation:
        """Return the good answer or raise Refused."""
        if self._upstream is not None:
            answer = await self._ask_upstream(self._upstream, question, presented)
            if answer is not None:
                return answer
        self.check_key(presented)
        return await self._offline(question)

    async def _ask_upstream(self, upstream: Upstream, question: ValidateRequest, presented: str) -> Validation | None:
        """Return the upstream's answer, or its last good one, or None when it is away and said nothing lately."""
        digest = key_sha256(presented)
        asker = (question.instance, question.role, digest)
        try:
            answer = await upstream.validate(question, presented)
        except UpstreamRefusal as refusal:
            if refusal.status == UNKNOWN_KEY:
                self._vouched_for.discard(digest)
            await asyncio.to_thread(self._ledger.forget_answer, *asker)
            raise Refused(refusal.status, str(refusal)) from None
        except UpstreamAway:
            return await asyncio.to_thread(self._ledger.remembered_answer, *asker, self._upstream_grace, time.time())
        self._vouched_for.add(digest)
        await asyncio.to_thread(self._ledger.remember_answer, *asker, answer, time.time())
        if question.role == "api":
            await asyncio.to_thread(self._ledger.take_seat, question.instance, question.deployment, None, time.time())
        return answer

    async def _offline(self, question: ValidateRequest) -> Validation:
        if self._license_file is None:
            raise Refused(503, "the upstream is away, and there is no LICENSE_FILE to go by")
        try:
            license_ = self._license_file.license()
        except LicenseError as error:
            raise Refused(402 if error.kind in ("expired", "not_yet_valid") else 503, str(error)) from None
        now = time.time()
        if question.role == "api":
            used = await asyncio.to_thread(
                self._ledger.take_seat, question.instance, question.deployment, license_.seats, now
            )
        else:
            used = await asyncio.to_thread(self._ledger.seats_used, now)
        if used is None:
            raise Refused(
                409,
                f"all {license_.seats} seats of the licence are taken; stop an API server, wait ten minutes for one "
                "that died, or ask for more seats",
            )
        return Validation(
            customer=license_.customer,
            languages=None if license_.languages is None else list(license_.languages),
            expires_at=license_.expires,
            seats=license_.seats,
            seats_used=used,
        )
