"""Asking a process whether it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from pathlib import Path

# None when it is well, else a sentence that says what is wrong.
Probe = Callable[[], Awaitable[str | None]]

_TIMEOUT_SECONDS = 5.0
_PING = b"*1\r\n$4\r\nPING\r\n"


def http_probe(url: str, client: httpx.AsyncClient) -> Probe:
    """200 is well; any other answer gives its `reason`, when it has one."""

    async def probe() -> str | None:
        try:
            answer = await client.get(url, timeout=_TIMEOUT_SECONDS)
        except httpx.ConnectError:
            return "doesn't accept connections"
        except httpx.HTTPError as error:
            return f"doesn't answer ({type(error).__name__})"
        if answer.status_code == httpx.codes.OK:
            return None
        return reason_of(answer) or f"answers {answer.status_code}"

    return probe


def reason_of(answer: httpx.Response) -> str | None:
    """What a server says about its own health."""
    try:
        body = answer.json()
    except ValueError:
        return None
    reason = body.get("reason") or body.get("status") if isinstance(body, dict) else None
    return str(reason) if reason else None


def redis_probe(host: str, port: int, password_file: Path | None) -> Probe:
    """PING, over a connection of its own; without a password a Redis that asks for one is well."""

    def command() -> bytes:
        if password_file is None:
            return _PING
        password = password_file.read_text().strip().encode()
        return b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password), password) + _PING

    async def probe() -> str | None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(command())
                    answers = [await reader.readline() for _ in range(2 if password_file else 1)]
                finally:
                    writer.close()
        except ConnectionError:
            return "doesn't accept connections"
        except (OSError, TimeoutError) as error:
            return f"doesn't answer ({type(error).__name__})"
        if password_file is None and answers[0].startswith(b"-NOAUTH"):
            return None
        return None if answers[-1] == b"+PONG\r\n" else "refuses the password or the PING"

    return probe
