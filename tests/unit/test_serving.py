"""What systemd hears of a server."""

import asyncio
import os
import socket

import pytest
import uvicorn

from babelrack.serving import DrainingServer, ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """A notification socket as systemd makes them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = str(tmp_path / "notify") if request.param == "path" else f"@babelrack-test-{os.getpid()}"
        listening.bind(name.replace("@", "\0", 1))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield listening


def heard(manager):
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


async def _app(scope, receive, send):
    assert scope["type"] == "lifespan"
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def test_a_server_says_when_it_is_ready_that_it_is_alive_and_when_it_stops(manager):
    state = {"ready": False, "alive": True, "drained": False}
    server = DrainingServer(
        uvicorn.Config(_app, port=0, log_config=None),
        drain=lambda: state.update(draining=True),
        drained=lambda: state["drained"],
        ready=lambda: state["ready"],
        alive=lambda: state["alive"],
    )
    serving = asyncio.create_task(server.serve())

    async def until(message):
        async with asyncio.timeout(10):
            while message not in (messages := heard(manager)):
                assert message == "READY=1" or "READY=1" not in messages
                await asyncio.sleep(0.02)

    await until("EXTEND_TIMEOUT_USEC=60000000")
    state["ready"] = True
    await until("READY=1")
    await until("WATCHDOG=1")
    state["alive"] = False
    await asyncio.sleep(0.2)
    heard(manager)
    await asyncio.sleep(0.5)
    assert heard(manager) == [], "a server that is stuck lets the watchdog bite"
    server.handle_exit(15, None)
    assert heard(manager) == ["STOPPING=1"]
    state["drained"] = True
    await serving


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_PID", "1")
    service = ServiceManager()
    service.tick(ready=True, alive=True)
    service.tick(ready=True, alive=True)
    assert heard(manager) == ["READY=1"]


def test_without_systemd_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ServiceManager().tick(ready=True, alive=True)
