"""How much a key may: requests a minute and requests at once, shared by a pack's replicas through Redis.

Rate: an exact sliding window, the times of the last N admitted requests; a request is admitted when the oldest of them
is a minute ago. Concurrency: a lease for each running request, which its server refreshes, so that the slots of a
killed server come back within `lease` seconds. Both run as one Lua script on Redis's own clock.

When Redis is away each replica counts alone. Only the requests that are waiting when Redis dies wait, for `deadline`
seconds at most; later ones don't ask it until a background probe has found it well.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from babelrack.keys.file import ClientKey

__all__ = ["LimitExceeded", "Limiter"]

MINUTE = 60.0
BUSY_RETRY = 1.0

# KEYS: times of admitted requests, running requests. ARGV: requests a minute, at once (0 is no limit), lease, its ms.
ADMIT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local rate, slots, ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
if slots > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= slots then return {'concurrency', 0} end
end
if rate > 0 then
  local newest = redis.call('LINDEX', KEYS[1], 0)
  if newest and tonumber(newest) > now then redis.call('DEL', KEYS[1]) end
  redis.call('LTRIM', KEYS[1], 0, rate - 1)
  local oldest = redis.call('LINDEX', KEYS[1], rate - 1)
  if oldest and now - oldest < 60000 then return {'rate', 60000 - (now - oldest)} end
  redis.call('LPUSH', KEYS[1], string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], 60000)
end
if slots > 0 then
  redis.call('ZADD', KEYS[2], now + ttl, ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ttl)
end
return {'admitted', 0}
"""

# KEYS: running requests. ARGV: ms, `XX` to extend only leases that are there or `CH` to put them back, leases.
REFRESH = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], ARGV[2], now + tonumber(ARGV[1]), ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class LimitExceeded(Exception):
    """A key asks for more than it may. `retry_after` is seconds."""

    def __init__(self, kind: Literal["rate", "concurrency"], retry_after: float, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


class _RedisAway(Exception):
    """Redis didn't answer in time, or with an error."""


class Limiter:
    """Admits requests of client keys. Without a URL it counts for this process alone, and that isn't `degraded`.

    `deadline`, `lease` and `probe` are seconds. The password is given apart, so that the URL can be logged.
    """

    def __init__(
        self,
        redis_url: str | None,
        deployment: str,
        *,
        password: str | None = None,
        deadline: float = 0.4,
        lease: float = 10.0,
        probe: float = 2.0,
    ) -> None:
        self.reason: str | None = None
        self._deployment = deployment
        self._deadline = deadline
        self._lease = lease
        self._probe = probe
        self._local = _Local()
        self._redis: Redis | None = None
        self._task: asyncio.Task[None] | None = None
        self._releases: set[asyncio.Task[None]] = set()
        if redis_url is None:
            return
        self._where = _without_secrets(redis_url)
        try:
            pool = BlockingConnectionPool.from_url(
                redis_url,
                **({"password": password} if password else {}),
                max_connections=32,
                timeout=deadline,
                socket_timeout=deadline,
                socket_connect_timeout=deadline,
                retry=Retry(NoBackoff(), 0),
                client_name=f"babelrack-{deployment}",
            )
        except ValueError as error:
            raise ValueError(f"REDIS_URL {self._where} can't be used: {error}") from None
        self._redis = Redis(connection_pool=pool)
        self._admit_script = self._redis.register_script(ADMIT)
        self._refresh_script = self._redis.register_script(REFRESH)

    @property
    def degraded(self) -> bool:
        """Whether Redis should be shared but is away; `reason` then says why."""
        return self.reason is not None

    async def start(self) -> None:
        """Find out whether Redis is there, and keep leases alive from now on; never fails because of Redis."""
        if self._redis is None or self._task is not None:
            return
        try:
            await self._ask(self._redis.ping())
        except _RedisAway as away:
            self._trip(away)
        self._task = asyncio.create_task(self._maintain(), name="limiter")

    async def stop(self) -> None:
        """Stop and close the connections. Leases of requests that still run end by themselves."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._releases, return_exceptions=True)
            self._task = None
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._redis.aclose()

    @contextlib.asynccontextmanager
    async def admit(self, key: ClientKey) -> AsyncIterator[None]:
        """Hold one of the key's slots for the time of a request.

        Raises LimitExceeded when the key has used up its minute or its slots; never fails because of Redis.
        """
        if key.requests_per_minute is None and key.concurrency is None:
            yield
            return
        if self._redis is not None and self._task is None:
            await self.start()
        lease = uuid.uuid4().hex
        try:
            if not await self._admit_shared(key, lease):
                self._local.check(key)
        except asyncio.CancelledError:
            self._give_back(key, lease)  # Redis may have admitted it already
            raise
        self._local.enter(key, lease)
        try:
            yield
        finally:
            self._local.leave(key, lease)
            release = self._give_back(key, lease)
            if release is not None:
                # Awaited, so that the client's next request finds the slot free; shielded, so that it is also freed
                # when the client has gone.
                await asyncio.shield(release)

    async def _admit_shared(self, key: ClientKey, lease: str) -> bool:
        """Ask Redis; False when it can't be asked."""
        if self._redis is None or self.degraded:
            return False
        try:
            verdict, wait = await self._ask(
                self._admit_script(
                    keys=[self._rate(key.name), self._running(key.name)],
                    args=[key.requests_per_minute or 0, key.concurrency or 0, lease, int(self._lease * 1000)],
                )
            )
        except _RedisAway as away:
            self._trip(away)
            return False
        if verdict == b"rate":
            raise _rate_exceeded(key, int(wait) / 1000)
        if verdict == b"concurrency":
            raise _concurrency_exceeded(key)
        return True

    def _give_back(self, key: ClientKey, lease: str) -> asyncio.Task[None] | None:
        if self._redis is None or key.concurrency is None or self.degraded:
            return None
        release = asyncio.create_task(self._release(key.name, [lease]))
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        return release

    async def _release(self, name: str, leases: list[str]) -> None:
        if self._redis is None:
            return
        try:
            await self._ask(self._redis.zrem(self._running(name), *leases))
        except _RedisAway as away:
            self._trip(away)

    async def _maintain(self) -> None:
        while True:
            try:
                if self.degraded:
                    await asyncio.sleep(self._probe)
                    await self._return_to_shared()
                else:
                    await asyncio.sleep(self._lease / 3)
                    await self._refresh("XX")
            except _RedisAway as away:
                self._trip(away)
            except Exception:  # a fault here must not end the probing for good
                log.exception("limiter maintenance failed")
                await asyncio.sleep(self._probe)

    async def _return_to_shared(self) -> None:
        if self._redis is None:
            return
        await self._ask(self._redis.ping())
        put_back = await self._refresh("CH")
        self.reason = None
        log.info("limits are shared again", redis=self._where, deployment=self._deployment)
        for name, leases in put_back.items():
            ended = [lease for lease in leases if lease not in self._local.running(name)]
            if ended:
                await self._release(name, ended)

    async def _refresh(self, condition: Literal["XX", "CH"]) -> dict[str, list[str]]:
        refreshed: dict[str, list[str]] = {}
        for name in self._local.names():
            leases = list(self._local.running(name))
            refreshed[name] = leases
            for start in range(0, len(leases), 1000):
                arguments = [int(self._lease * 1000), condition, *leases[start : start + 1000]]
                await self._ask(self._refresh_script(keys=[self._running(name)], args=arguments))
        return refreshed

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._deadline):
                return await answer
        except TimeoutError:
            raise _RedisAway(f"no answer within {self._deadline:g} s") from None
        except (RedisError, OSError) as error:
            raise _RedisAway(str(error) or type(error).__name__) from None

    def _trip(self, away: _RedisAway) -> None:
        if self.reason is None:
            log.warning("Redis is away; limits are counted locally", redis=self._where, reason=str(away))
        self.reason = f"Redis at {self._where} is away, limits are counted by each replica alone: {away}"

    def _rate(self, name: str) -> str:
        return f"babelrack:{{{self._deployment}}}:rate:{name}"

    def _running(self, name: str) -> str:
        return f"babelrack:{{{self._deployment}}}:running:{name}"


class _Local:
    """What this process itself has admitted: the count that holds while Redis is away."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._admitted: dict[str, deque[float]] = {}
        self._running: dict[str, set[str]] = {}

    def names(self) -> list[str]:
        return list(self._running)

    def running(self, name: str) -> set[str]:
        return self._running.get(name, set())

    def check(self, key: ClientKey) -> None:
        """Raise LimitExceeded when the key may not start another request now."""
        if key.concurrency is not None and len(self.running(key.name)) >= key.concurrency:
            raise _concurrency_exceeded(key)
        admitted = self._admitted.get(key.name)
        rate = key.requests_per_minute
        if rate is not None and admitted is not None and len(admitted) >= rate:
            wait = MINUTE - (self._monotonic() - admitted[-rate])
            if wait > 0:
                raise _rate_exceeded(key, wait)

    def enter(self, key: ClientKey, lease: str) -> None:
        if key.concurrency is not None:
            self._running.setdefault(key.name, set()).add(lease)
        if key.requests_per_minute is not None:
            admitted = self._admitted.get(key.name)
            if admitted is None or admitted.maxlen != key.requests_per_minute:
                admitted = self._admitted[key.name] = deque(admitted or (), maxlen=key.requests_per_minute)
            admitted.append(self._monotonic())

    def leave(self, key: ClientKey, lease: str) -> None:
        running = self._running.get(key.name)
        if running is not None:
            running.discard(lease)
            if not running:
                del self._running[key.name]


def _rate_exceeded(key: ClientKey, wait: float) -> LimitExceeded:
    message = f"the key {key.name!r} may make {key.requests_per_minute} requests a minute; wait and try again"
    return LimitExceeded("rate", max(wait, 0.001), message)


def _concurrency_exceeded(key: ClientKey) -> LimitExceeded:
    message = f"the key {key.name!r} may run {key.concurrency} requests at once; wait for one to end"
    return LimitExceeded("concurrency", BUSY_RETRY, message)


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
