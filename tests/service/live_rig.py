"""Replicas of a pack for live sessions: real API servers, a real Redis, a model server that says what it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from api_rig import Server, api_server
from license_rig import PATIENCE, Issuer, Proxy
from redis_rig import PASSWORD, RedisServer
from scripted_model import ScriptedModel, counting
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from babelrack.credentials import write_private
from babelrack.keys.file import add_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

KEYS = {
    "key": {},
    "other": {},
    "one": {"concurrency": 1},
    "slow": {"requests_per_minute": 1},
    "operator": {"operator": True},
}
SECOND = bytes(32_000)


class ModelThread:
    """The scripted model server in a loop of its own, so that tests and servers may block."""

    def __init__(self) -> None:
        self.model = ScriptedModel()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._thread.start()
        assert self._up.wait(PATIENCE)

    async def _run(self) -> None:
        async with self.model:
            self._up.set()
            await self._over.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)


@dataclass
class LiveRig:
    """`replicas` of a pack; the first is there from the start, others are made with `replica()`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    replicas: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.folder)
        self.issuer.write(seats=100)
        self.proxy = Proxy(self.issuer, self.folder / "proxy").start()
        self.redis = RedisServer(self.folder)
        self.redis.start()
        self.thread = ModelThread()
        self.model = self.thread.model
        self.keys_file = self.folder / "keys.yaml"
        self.keys = {
            name: add_key(
                self.keys_file,
                name,
                **({"requests_per_minute": None, "concurrency": None, "operator": False} | limits),
            )
            for name, limits in KEYS.items()
        }
        write_private(self.folder / "redis.password", PASSWORD)
        self.api = self.replica()

    def replica(self, **environment: str) -> Server:
        server = api_server(
            self.folder / f"api-{len(self.replicas)}",
            self.model.url,
            self.proxy,
            KEYS_FILE=str(self.keys_file),
            REDIS_URL=self.redis.url,
            REDIS_PASSWORD_FILE=str(self.folder / "redis.password"),
            **(self.environment | environment),
        )
        self.replicas.append(server)
        return server.start()

    def stop(self) -> None:
        for server in self.replicas:
            if server.process is not None and server.process.poll() is None:
                server.kill()
        self.thread.stop()
        self.redis.kill()
        self.proxy.stop()

    def reset(self) -> None:
        self.model.script = counting
        self.model.refusal = None
        self.model.talks.clear()

    def url(self, path: str = "/waves/v1/pulse/get_text", *, at: Server | None = None, **options: Any) -> str:
        query = urlencode({"language": "en"} | options)
        return f"ws://127.0.0.1:{(at or self.api).port}{path}?{query}"

    @asynccontextmanager
    async def session(
        self, path: str = "/waves/v1/pulse/get_text", *, key: str = "key", at: Server | None = None, **options: Any
    ) -> AsyncIterator[Live]:
        url, headers = self.url(path, at=at, **options), {"Authorization": f"Bearer {self.keys[key]}"}
        async with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE) as connection:
            yield Live(connection)

    async def talk(self, number: int = -1):
        """The model server's side of a session."""
        await eventually(lambda: len(self.model.talks) > max(number, 0))
        return self.model.talks[number]


class Live:
    """A client of one session."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[dict] = []

    async def send(self, frame: bytes) -> None:
        await self.connection.send(frame)

    async def tell(self, kind: str) -> None:
        await self.connection.send(json.dumps({"type": kind}))

    async def hear(self) -> dict:
        async with asyncio.timeout(PATIENCE):
            event = json.loads(await self.connection.recv())
        self.events.append(event)
        return event

    async def until(self, true: Callable[[dict], bool]) -> dict:
        while not true(event := await self.hear()):
            pass
        return event

    async def rest(self) -> list[dict]:
        """What comes to the end, and then how it was closed, in `code` and `reason`."""
        heard: list[dict] = []
        try:
            while True:
                heard.append(await self.hear())
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else 1006
            self.reason = closed.rcvd.reason if closed.rcvd else ""
        return heard

    async def close(self) -> list[dict]:
        await self.tell("close_stream")
        return await self.rest()

    @property
    def finals(self) -> list[str]:
        return [event["transcript"] for event in self.events if event.get("is_final")]


async def eventually(true: Callable[[], Any]) -> None:
    """Wait until it holds; the patience is a safety net, not a promise."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.02)
