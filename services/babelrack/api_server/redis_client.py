"""The pack's Redis, as all that isn't a limit uses it: whatever is in it may be lost, and nobody waits for it long."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

DEADLINE_SECONDS = 0.4


def redis_client(url: str | None, deployment: str, *, password: str | None = None) -> Redis | None:
    """A client of the Redis at `url`, which connects when it is first used; None without a URL.

    Raises:
        ValueError: when the URL can't be used.
    """
    if url is None:
        return None
    return Redis.from_url(
        url,
        password=password,
        socket_timeout=DEADLINE_SECONDS,
        socket_connect_timeout=DEADLINE_SECONDS,
        retry=Retry(NoBackoff(), 0),
        client_name=f"babelrack-{deployment}",
    )
