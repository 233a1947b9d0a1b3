"""Live sessions in the pack's Redis: their events for those who watch, and what lets another replica go on with them.

All of it may be lost. A session only ever notes what it has sent; one task tells Redis, never waits for it longer than
`DEADLINE_SECONDS`, and gives up what it couldn't tell. When Redis is back, each session is told of as a whole.

What is kept of a session, all gone 30 s after its last sign of life: its key's name, its options, the last 256 events
that aren't partials, the last partial, its full transcript when it was asked for, digests of redacted entities,
its speakers' voices as numbers that no sound can be made of, when it tells speakers, and where it was. The text is as
it was sent: redacted, where the session redacts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import deque
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from babelrack.api_server.redis_client import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from redis.asyncio import Redis

KEPT_SECONDS = 30
KEPT_EVENTS = 256
_TEXT_BYTES = 1024 * 1024
_WAITING_EVENTS = 512
_SIGN_OF_LIFE_SECONDS = 5.0
_PROBE_SECONDS = 2.0

# KEYS: owner, fixed, now, events, text, channel. ARGV: owner, ms to live, fixed or nothing, now, events and bytes of
# text that are there, text, events to keep, number of events to add, these, then what is published.
STORE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 'taken' end
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3])
  redis.call('DEL', KEYS[4], KEYS[5])
elseif not owner or redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[5])
    or redis.call('STRLEN', KEYS[5]) ~= tonumber(ARGV[6]) or not redis.call('GET', KEYS[2]) then
  return 'gap'
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[3], ARGV[4])
if ARGV[7] ~= '' then redis.call('APPEND', KEYS[5], ARGV[7]) end
local last = 9 + tonumber(ARGV[9])
for i = 10, last do redis.call('RPUSH', KEYS[4], ARGV[i]) end
redis.call('LTRIM', KEYS[4], -tonumber(ARGV[8]), -1)
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
for i = last + 1, #ARGV do redis.call('PUBLISH', KEYS[6], ARGV[i]) end
return 'stored'
"""

# KEYS: the same. ARGV: the new owner, ms to live, what `fixed` must begin with.
TAKE = """
local fixed = redis.call('GET', KEYS[2])
local now = redis.call('GET', KEYS[3])
if not fixed or not now or string.sub(fixed, 1, #ARGV[3]) ~= ARGV[3] then return false end
redis.call('SET', KEYS[1], ARGV[1])
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return {fixed, now, redis.call('LRANGE', KEYS[4], 0, -1), redis.call('GET', KEYS[5]) or ''}
"""

# KEYS: the same. ARGV: owner.
FORGET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return redis.call('PUBLISH', KEYS[6], '')
"""

log = structlog.get_logger(__name__)


class RelayAway(Exception):
    """Redis is away, or there is none."""


@dataclass(frozen=True)
class Kept:
    """A session as it was found: what it was opened with, where it was, its numbered events, and its full text."""

    owner: str
    fixed: dict[str, Any]
    now: dict[str, Any]
    events: list[tuple[int, str]]
    text: str


class Trace:
    """What is told of one session. `now` has its state when it is told; `taken` says that another replica has it."""

    def __init__(
        self, relay: Relay, session_id: str, key: str, fixed: dict[str, Any], now: Callable[[], dict[str, Any]]
    ) -> None:
        self.session_id = session_id
        self.taken = False
        self._relay = relay
        self._owner = uuid.uuid4().hex
        self._fixed = f"{key}\n{json.dumps(fixed)}"
        self._now = now
        self._events: deque[str] = deque(maxlen=KEPT_EVENTS)
        self._partial: str | None = None
        self._text: list[str] = []
        self._text_bytes = 0
        self._stored = (0, 0)  # events and bytes of text that Redis has
        self._added: list[str] = []
        self._said: list[str] = []
        self._published: deque[str] = deque(maxlen=_WAITING_EVENTS)
        self._whole = True
        self._told_at = 0.0

    def go_on(self, kept: Kept, events: Sequence[tuple[int, str]]) -> None:
        """Begin with what was `kept`, whose events now have these numbers."""
        self._owner = kept.owner
        self._events.extend(f"{number} {event}" for number, event in events)
        self._say(kept.text)

    def note(self, number: int, event: str, *, partial: bool, text: str = "") -> None:
        """The event of that number was sent; `text` goes onto the full transcript."""
        self._published.append(event)
        if partial:
            self._partial = f"{number} {event}"
        else:
            self._partial = None
            self._events.append(f"{number} {event}")
            self._added.append(f"{number} {event}")
            if len(self._added) > KEPT_EVENTS:
                self._whole = True
        self._say(text)
        self._relay.tell(self)

    def live(self) -> None:
        """The session lives, though nothing may have been said."""
        if time.monotonic() - self._told_at >= _SIGN_OF_LIFE_SECONDS:
            self._relay.tell(self)

    def end(self, *, forget: bool) -> None:
        """Nothing more will be noted; with `forget`, nobody can go on with it."""
        self._relay.drop(self, forget=forget)

    def told_all_again(self) -> None:
        """Redis may have lost anything: the next time, everything is told."""
        self._whole = True
        self._published.clear()

    def _say(self, text: str) -> None:
        if not text:
            return
        self._text.append(text)
        self._said.append(text)
        self._text_bytes += len(text.encode())

    @property
    def too_long(self) -> bool:
        """Whether the full transcript is longer than may be kept."""
        return self._text_bytes > _TEXT_BYTES

    def published(self) -> list[str]:
        """The events that nobody was told of yet."""
        events = list(self._published)
        self._published.clear()
        return events

    def arguments(self, published: Sequence[str]) -> list[str | int]:
        """What `STORE` takes, and note it as told."""
        whole, self._whole = self._whole, False
        added, said = (list(self._events), self._text) if whole else (self._added, self._said)
        events, size = (0, 0) if whole else self._stored
        text = "".join(said)
        now = json.dumps({**self._now(), "partial": self._partial})
        arguments: list[str | int] = [
            self._owner,
            KEPT_SECONDS * 1000,
            self._fixed if whole else "",
            now,
            events,
            size,
            text,
        ]
        self._stored = (min(KEPT_EVENTS, events + len(added)), size + len(text.encode()))
        self._added, self._said = [], []
        self._told_at = time.monotonic()
        return [*arguments, KEPT_EVENTS, len(added), *added, *published]

    @property
    def owner(self) -> str:
        """Who holds the session: this connection of its client."""
        return self._owner


class Relay:
    """Tells the pack's Redis of the live sessions of this replica. `reason` says why that is off, when it is."""

    def __init__(self, redis: Redis | None, deployment: str) -> None:
        self.reason: str | None = None
        self._redis = redis
        self._deployment = deployment
        self._news: dict[Trace, None] = {}
        self._open: set[Trace] = set()
        self._ended: deque[tuple[list[str], str]] = deque(maxlen=4096)
        self._told = asyncio.Event()
        if redis is not None:
            self._store = redis.register_script(STORE)
            self._take = redis.register_script(TAKE)
            self._forget = redis.register_script(FORGET)

    @property
    def shared(self) -> bool:
        """Whether there is a Redis to tell."""
        return self._redis is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell what is new in the background."""
        if self._redis is None:
            yield
            return
        task = asyncio.create_task(self._keep_telling(), name="live-relay")
        try:
            yield
        finally:
            # The last words of sessions that a drain has ended are what another replica goes on from.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._tell_all()

    def trace(self, session_id: str, key: str, fixed: dict[str, Any], now: Callable[[], dict[str, Any]]) -> Trace:
        """Begin to tell of a session of that key."""
        trace = Trace(self, session_id, key, fixed, now)
        self._open.add(trace)
        return trace

    def tell(self, trace: Trace) -> None:
        """The session has news; a session whose transcript is too long to be kept has none."""
        if self._redis is not None and self.reason is None and not trace.taken and not trace.too_long:
            self._news[trace] = None
            self._told.set()

    def drop(self, trace: Trace, *, forget: bool) -> None:
        """Tell no more of the session once its news are told; with `forget`, Redis forgets it, too."""
        self._open.discard(trace)
        if self._redis is None or self.reason is not None or trace.taken:
            self._news.pop(trace, None)
        elif forget:
            self._ended.append((self._keys(trace.session_id), trace.owner))
            self._told.set()

    async def take(self, session_id: str, key: str) -> Kept | None:
        """Take a session over for a client with that key; None when there is none.

        Raises:
            RelayAway: when Redis can't be asked.
        """
        if self._redis is None:
            raise RelayAway
        owner = uuid.uuid4().hex
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                found = await self._take(keys=self._keys(session_id), args=[owner, KEPT_SECONDS * 1000, f"{key}\n"])
        except (RedisError, OSError, TimeoutError) as error:
            self._trip(error)
            raise RelayAway from None
        if not found:
            return None
        fixed, now, events, text = found
        now = json.loads(now)
        numbered = [_numbered(event.decode()) for event in events]
        if partial := now.pop("partial"):
            numbered.append(_numbered(partial))
        return Kept(owner, json.loads(fixed.partition(b"\n")[2]), now, numbered, text.decode())

    @asynccontextmanager
    async def watching(self, session_id: str) -> AsyncIterator[AsyncIterator[str | None]]:
        """The events of a live session as they are sent; None every few seconds without any. Ends with the session.

        Raises:
            RelayAway: when Redis can't be asked.
            KeyError: when no such session is live.
        """
        if self._redis is None:
            raise RelayAway
        async with self._redis.pubsub() as subscription:
            try:
                async with asyncio.timeout(2 * DEADLINE_SECONDS):
                    await subscription.subscribe(self._keys(session_id)[-1])
                    await subscription.get_message(timeout=DEADLINE_SECONDS)  # that it is subscribed
                    live = await self._redis.get(self._keys(session_id)[0])
            except (RedisError, OSError, TimeoutError) as error:
                self._trip(error)
                raise RelayAway from None
            if live is None:
                raise KeyError(session_id)
            async with aclosing(self._heard(self._redis, subscription, session_id)) as events:
                yield events

    async def _heard(self, redis: Redis, subscription: Any, session_id: str) -> AsyncGenerator[str | None, None]:
        try:
            while True:
                message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_SIGN_OF_LIFE_SECONDS)
                if message is not None and not message["data"]:
                    return
                if message is not None:
                    yield message["data"].decode()
                elif await redis.get(self._keys(session_id)[0]) is None:
                    return
                else:
                    yield None
        except (RedisError, OSError, TimeoutError) as error:
            self._trip(error)
            raise RelayAway from None

    async def _keep_telling(self) -> None:
        while True:
            try:
                await self._wait_for_news()
                await self._tell_all()
            except (RedisError, OSError, TimeoutError) as error:
                self._trip(error)
            except Exception:  # one session's trouble must not end the telling of the others
                log.exception("live sessions can't be told of")
                await asyncio.sleep(_PROBE_SECONDS)

    async def _wait_for_news(self) -> None:
        assert self._redis is not None  # noqa: S101 - only then the task runs
        if self.reason is not None:
            await self._come_back()
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._told.wait()
        except TimeoutError:
            await self._asked(self._redis.ping())
        self._told.clear()

    async def _tell_all(self) -> None:
        while self._news:
            trace = next(iter(self._news))
            del self._news[trace]
            await self._tell_one(trace)
        while self._ended and self._redis is not None:
            keys, owner = self._ended[0]
            await self._asked(self._forget(keys=keys, args=[owner]))
            self._ended.popleft()

    async def _tell_one(self, trace: Trace) -> None:
        keys, published = self._keys(trace.session_id), trace.published()
        verdict = await self._asked(self._store(keys=keys, args=trace.arguments(published)))
        if verdict == b"gap":
            trace.told_all_again()
            verdict = await self._asked(self._store(keys=keys, args=trace.arguments(published)))
        trace.taken = verdict == b"taken"

    async def _asked(self, answer: Any) -> Any:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await answer

    async def _come_back(self) -> None:
        assert self._redis is not None  # noqa: S101 - only then the task runs
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                await self._asked(self._redis.ping())
            except (RedisError, OSError, TimeoutError):
                continue
            self.reason = None
            log.info("live sessions can be watched and resumed again", deployment=self._deployment)
            for trace in self._open:
                self.tell(trace)
            return

    def _trip(self, error: Exception) -> None:
        why = str(error) or f"no answer within {DEADLINE_SECONDS:g} s"
        if self.reason is None:
            log.warning("Redis is away; live sessions can't be watched or resumed", reason=why)
        self.reason = f"Redis is away, live sessions can't be watched, nor go on at another replica: {why}"
        self._news.clear()
        self._ended.clear()
        for trace in self._open:
            trace.told_all_again()

    def _keys(self, session_id: str) -> list[str]:
        base = f"babelrack:{{{self._deployment}}}:live:{session_id}"
        return [f"{base}:{part}" for part in ("owner", "fixed", "now", "events", "text")] + [base]


def _numbered(kept: str) -> tuple[int, str]:
    number, _, event = kept.partition(" ")
    return int(number), event
