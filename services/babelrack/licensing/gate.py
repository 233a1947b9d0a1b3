"""A server's own view of its licence: asked for in the background, remembered on disk, read without waiting.

`valid`     the proxy said yes, lately.
`degraded`  the proxy can't be reached (or has no seat for an instance that held one), and its last yes is younger than
            the grace, 24 hours unless set otherwise: requests go on.
`refused`   the proxy said no, or has been away for longer than the grace, or never said yes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import httpx
import structlog
from pydantic import BaseModel, ValidationError

from babelrack.credentials import write_private
from babelrack.licensing.messages import Release, ValidateRequest, Validation
from babelrack.licensing.post import post

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["DAY", "GateSettings", "LicenseGate", "LicenseState", "instance_id"]

LicenseState = Literal["valid", "degraded", "refused"]

DAY = 24 * 3600.0
LARGEST_CACHE = 64 * 1024
START_WAIT = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What a gate needs to know. Times are seconds.

    `state_folder` keeps the cached answer (`license-<role>.json`) and the instance's id across restarts; give every
    server instance its own.
    """

    proxy_url: str
    license_key: str | None
    deployment: str
    role: Literal["api", "model"]
    version: str
    state_folder: Path
    grace: float = DAY
    interval: float = 300.0
    first_retry: float = 1.0
    longest_retry: float = 30.0
    timeout: float = 5.0


class _Refusal(Exception):
    """The proxy said no."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Unreachable(Exception):
    """Nothing said yes or no."""


class LicenseGate:
    """The licence as a server sees it: `state`, `reason` and `allows` are plain reads, safe on the hot path."""

    def __init__(self, settings: GateSettings, *, wall: Callable[[], float] = time.time) -> None:
        self.state: LicenseState = "refused"
        self.reason: str | None = "the licence has not been validated yet"
        self.validation: Validation | None = None
        self._settings = settings
        self._clock = _Clock(wall)
        self._cache = _Cache(settings.state_folder / f"license-{settings.role}.json", settings)
        self._last_good: float | None = None
        self._instance = ""
        self._first_answer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None
        self._grace_timer: asyncio.TimerHandle | None = None

    def allows(self, language: str) -> bool:
        """Whether requests in `language` may be served now.

        An aggregator (`multi-…`) is allowed by itself: check the detected language as well.
        """
        if self.state == "refused" or self.validation is None:
            return False
        languages = self.validation.languages
        return languages is None or language in languages or language.startswith("multi-")

    async def start(self) -> None:
        """Load the cached answer and begin to validate; returns after the first answer, or after a second."""
        if self._settings.license_key is None:
            self._set("refused", "there is no licence key; set LICENSE_KEY_FILE or LICENSE_KEY")
            return
        if not self._settings.proxy_url:
            self._set("refused", "there is no licence proxy; set API_BASE_URL, such as http://shared-host:6699")
            return
        self._instance = await asyncio.to_thread(instance_id, self._settings.state_folder)
        remembered = await asyncio.to_thread(self._cache.load)
        if remembered is not None:
            self.validation = remembered.validation
            self._last_good = remembered.last_good
            self._clock.not_before(remembered.newest_seen)
            self._be_patient("the licence proxy has not answered yet")
        self._client = httpx.AsyncClient(
            base_url=self._settings.proxy_url,
            timeout=self._settings.timeout,
            headers={"Authorization": f"Bearer {self._settings.license_key}"},
            trust_env=False,
        )
        self._task = asyncio.create_task(self._keep_validating(), name="license-gate")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_answer.wait(), START_WAIT)

    async def stop(self) -> None:
        """Stop validating and give the seat back, if the proxy can be told within two seconds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        if self._client is not None:
            if self._settings.role == "api" and self.validation is not None:
                with contextlib.suppress(httpx.HTTPError, TimeoutError):
                    async with asyncio.timeout(2.0):
                        await post(self._client, "/v1/release", Release(instance=self._instance).model_dump_json())
            await self._client.aclose()
            self._client = None

    async def _keep_validating(self) -> None:
        retry = self._settings.first_retry
        while True:
            try:
                await self._validate()
            except Exception as error:  # a fault here must never end validation for good
                log.exception("licence validation failed")
                self._be_patient(f"licence validation failed: {type(error).__name__}")
            self._first_answer.set()
            if self.state == "valid":
                retry, wait = self._settings.first_retry, self._interval * random.uniform(0.9, 1.1)  # noqa: S311 jitter
            else:
                wait = retry * random.uniform(0.5, 1.0)  # noqa: S311 jitter
                retry = min(retry * 2, self._settings.longest_retry)
            await asyncio.sleep(wait)

    @property
    def _interval(self) -> float:
        """Seconds between two questions: while the proxy answers, no answer gets past its grace."""
        return min(self._settings.interval, max(self._settings.grace / 4, 1.0))

    async def _validate(self) -> None:
        try:
            validation = await self._ask()
        except _Refusal as refusal:
            if refusal.status == httpx.codes.CONFLICT and self.validation is not None:
                self._be_patient(str(refusal))
            else:
                # Before the state is told, so that who stops a refused gate finds no earlier answer at its next start.
                await asyncio.to_thread(self._cache.forget)
                self.validation = self._last_good = None
                self._set("refused", str(refusal))
                return
        except _Unreachable as unreachable:
            self._be_patient(str(unreachable))
        else:
            self.validation = validation
            self._last_good = self._clock.trust_wall()
            self._watch_grace()
            self._set("valid", None)
        await asyncio.to_thread(self._remember)

    async def _ask(self) -> Validation:
        if self._client is None:
            raise _Unreachable("the licence gate is stopped")
        question = ValidateRequest(
            instance=self._instance,
            deployment=self._settings.deployment,
            role=self._settings.role,
            version=self._settings.version,
        )
        proxy = self._settings.proxy_url
        try:
            async with asyncio.timeout(self._settings.timeout):
                status, body = await post(self._client, "/v1/validate", question.model_dump_json())
        except (TimeoutError, httpx.TimeoutException):
            raise _Unreachable(f"the licence proxy at {proxy} does not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _Unreachable(f"the licence proxy at {proxy} can't be reached: {_words(error)}") from None
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.PAYMENT_REQUIRED, httpx.codes.CONFLICT):
            raise _Refusal(status, _message(body) or f"the licence proxy refused with {status}")
        if status != httpx.codes.OK:
            raise _Unreachable(f"the licence proxy at {proxy} answered {status}: {_message(body) or 'no reason given'}")
        try:
            return Validation.model_validate_json(body)
        except ValidationError:
            raise _Unreachable(f"what answers at {proxy} is not a licence proxy; check API_BASE_URL") from None

    def _be_patient(self, why: str) -> None:
        """Be degraded while the last good answer counts, refused from then on."""
        left = self._grace_left()
        if left is None:
            self._set("refused", f"the licence was never validated here: {why}")
        elif left <= 0:
            self._refuse_late(why)
        else:
            self._set("degraded", why)
            self._watch_grace()

    def _grace_left(self) -> float | None:
        if self.validation is None or self._last_good is None:
            return None
        end = min(self._last_good + self._settings.grace, self.validation.expires_at.timestamp())
        return end - self._clock.now()

    def _watch_grace(self) -> None:
        """Refuse when the grace ends, also when a validation is just then waiting for its answer."""
        if self._grace_timer is not None:
            self._grace_timer.cancel()
        left = self._grace_left()
        if left is not None:
            # At most an hour ahead, because the wall clock and the loop's may drift apart (a host that was asleep).
            wait = min(max(left, 0.0) + 0.05, 3600.0)
            self._grace_timer = asyncio.get_running_loop().call_later(wait, self._check_grace)

    def _check_grace(self) -> None:
        left = self._grace_left()
        if left is not None and left <= 0:
            if self.state != "refused":
                self._refuse_late(self.reason or "the licence proxy is away")
        else:
            self._watch_grace()

    def _refuse_late(self, why: str) -> None:
        expiry = self.validation.expires_at if self.validation else None
        if expiry is not None and expiry.timestamp() <= self._clock.now():
            self._set("refused", f"the licence expired on {expiry:%Y-%m-%d %H:%M} UTC; ask for a renewal")
        else:
            self._set("refused", f"the last validation is past its grace: {why}")

    def _remember(self) -> None:
        if self.validation is not None and self._last_good is not None:
            self._cache.save(_Remembered(self.validation, self._last_good, self._clock.now()))

    def _set(self, state: LicenseState, reason: str | None) -> None:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        if changed:
            tell = log.info if state == "valid" else log.warning
            tell("licence state", state=state, reason=reason, deployment=self._settings.deployment)


class _Clock:
    """Wall-clock seconds that don't go back when somebody sets the clock back, within a run and across restarts."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._anchor = (wall(), time.monotonic())

    def now(self) -> float:
        self.not_before(self._wall())
        return self._anchor[0]

    def not_before(self, seen: float) -> None:
        newest, monotonic = self._anchor
        now = time.monotonic()
        self._anchor = (max(seen, newest + now - monotonic), now)

    def trust_wall(self) -> float:
        """Take the wall clock as it is, because the proxy has just vouched for the licence; return it."""
        self._anchor = (self._wall(), time.monotonic())
        return self._anchor[0]


@dataclass(frozen=True, slots=True)
class _Remembered:
    validation: Validation
    last_good: float
    newest_seen: float


class _CacheFile(BaseModel):
    validation: Validation
    last_good: float
    newest_seen: float
    deployment: str
    mac: str = ""


class _Cache:
    """The last good answer on disk, with a MAC under the licence key.

    The MAC binds it to the key and the deployment, and shows a torn or edited file; it is no secret from the key's
    owner.
    """

    def __init__(self, path: Path, settings: GateSettings) -> None:
        self._path = path
        self._deployment = settings.deployment
        self._key = hashlib.sha256(b"babelrack license cache\0" + (settings.license_key or "").encode()).digest()

    def load(self) -> _Remembered | None:
        try:
            cached = _CacheFile.model_validate_json(self._path.read_bytes()[:LARGEST_CACHE])
        except (OSError, ValidationError):
            return None
        if not hmac.compare_digest(self._mac(cached), cached.mac) or cached.deployment != self._deployment:
            log.warning("cached licence answer is of another key or deployment; ignored", file=str(self._path))
            return None
        return _Remembered(cached.validation, cached.last_good, cached.newest_seen)

    def save(self, remembered: _Remembered) -> None:
        cached = _CacheFile(
            validation=remembered.validation,
            last_good=remembered.last_good,
            newest_seen=remembered.newest_seen,
            deployment=self._deployment,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self._path, cached.model_copy(update={"mac": self._mac(cached)}).model_dump_json())
        except OSError as error:
            log.warning("licence answer can't be cached", file=str(self._path), error=error.strerror)

    def forget(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cached licence answer can't be removed", file=str(self._path), error=error.strerror)

    def _mac(self, cached: _CacheFile) -> str:
        content = json.dumps(cached.model_dump(mode="json", exclude={"mac"}), sort_keys=True)
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()


def instance_id(folder: Path) -> str:
    """Return the id of the server instance whose state lies in `folder`, making one at the first start.

    When the folder can't be written the id is new at every start: the last run's seat is then free after its lease.
    """
    path = folder / "instance"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            kept = path.read_text().strip()
            if kept:
                return str(uuid.UUID(kept))
        with contextlib.suppress(FileExistsError):
            write_private(path, str(uuid.uuid4()), replace=False)
        return str(uuid.UUID(path.read_text().strip()))
    except (OSError, ValueError) as error:
        log.warning("the instance's id can't be kept", file=str(path), error=str(error))
        return str(uuid.uuid4())


def _message(body: bytes) -> str | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    message = answer.get("message") if isinstance(answer, dict) else None
    return message[:500] if isinstance(message, str) else None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
