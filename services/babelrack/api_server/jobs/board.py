"""The states of jobs as all replicas of a pack see them, through Redis: a client's question may reach another replica.

Only states, and only as they were last heard: jobs themselves never are in Redis. While it is away, a replica knows
its own jobs and no others, and what changed meanwhile is told when it is back.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from babelrack.api_server.redis_client import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    Show = Callable[[str, str], Awaitable[str | None]]

_AWAY_SECONDS = 2.0
# A job is told of again at each try, so only what is over, or whose replica is gone, is forgotten by this.
_KEPT_SECONDS = 24 * 3600

log = structlog.get_logger(__name__)


class Board:
    """Tells the other replicas of `deployment`; without a Redis there are none."""

    def __init__(self, redis: Redis | None, deployment: str) -> None:
        self._deployment = deployment
        self._news: dict[tuple[str, str], None] = {}
        self._told = asyncio.Event()
        self._redis = redis

    @asynccontextmanager
    async def running(self, show: Show) -> AsyncIterator[None]:
        """Tell what is new in the background; `show` has the state of a key's job as JSON."""
        if self._redis is None:
            yield
            return
        task = asyncio.create_task(self._tell_all(self._redis, show), name="job-board")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def tell(self, key: str, request_id: str) -> None:
        """The key's job of that request id has changed."""
        if self._redis is not None:
            self._news[key, request_id] = None
            self._told.set()

    async def find(self, key: str, request_id: str) -> str | None:
        """What another replica said of the key's job; None when nothing is known."""
        if self._redis is None:
            return None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                found = await self._redis.get(self._name(key, request_id))
        except (RedisError, OSError, TimeoutError):
            return None
        return found.decode() if isinstance(found, bytes) else None

    async def _tell_all(self, redis: Redis, show: Show) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            while self._news:
                news = next(iter(self._news))
                del self._news[news]
                try:
                    state = await show(*news)
                    if state is not None:
                        async with asyncio.timeout(DEADLINE_SECONDS):
                            await redis.set(self._name(*news), state, ex=_KEPT_SECONDS)
                except (RedisError, OSError, TimeoutError):
                    self._news[news] = None
                    await asyncio.sleep(_AWAY_SECONDS)
                except Exception:  # one job's trouble must not end the telling of the others
                    log.exception("job's state can't be shown", request_id=news[1])

    def _name(self, key: str, request_id: str) -> str:
        return f"babelrack:{{{self._deployment}}}:job:{key}:{request_id}"
