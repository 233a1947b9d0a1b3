"""A headless Chromium whose microphone plays a file, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
PATIENCE_S = 120.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # which wants more than root in a container has; nothing but this project's page is loaded
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream",
)


class Page:
    """A page of the browser. `faults` is what its console complains of, `received` the text that its WebSockets got."""

    def __init__(self, socket: ClientConnection) -> None:
        self.faults: list[str] = []
        self.received: list[str] = []
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def open(self, url: str) -> None:
        """Load a page, and wait until its scripts have run."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._answers[number]
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """What an expression, or the promise that it gives, comes to; as if a person had caused it."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, (expression, answer)
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.evaluate(condition):
                await asyncio.sleep(0.05)

    async def screenshot(self, path: Path) -> None:
        """Keep what is seen as a PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def close(self) -> None:
        """Stop listening."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]].set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.faults.append(json.dumps(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.faults.append(told["entry"]["text"])
        elif event == "Network.webSocketFrameReceived":
            self.received.append(told["response"]["payloadData"])


@asynccontextmanager
async def browser_page(folder: Path, *, microphone: Path, allowed: bool = True) -> AsyncIterator[Page]:
    """A page of a browser of its own, with its profile in `folder`.

    The microphone is a WAV file that is played once, or, if it isn't `allowed`, none that the page gets.
    """
    answer = "--use-fake-ui-for-media-stream" + ("" if allowed else "=deny")
    command = [
        CHROMIUM,
        *FLAGS,
        answer,
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        f"--user-data-dir={folder}",
        "about:blank",
    ]
    with (folder.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        async with connect(await _devtools(process, folder), max_size=None, proxy=None) as socket:
            page = Page(socket)
            try:
                yield page
            finally:
                await page.close()
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Its helpers don't always notice that it has gone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _devtools(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Where the first page's protocol is spoken."""
    async with asyncio.timeout(PATIENCE_S):
        while not (folder / "DevToolsActivePort").exists():
            assert process.poll() is None, (folder.parent / "chromium.log").read_text()
            await asyncio.sleep(0.05)
        port, path = (folder / "DevToolsActivePort").read_text().split()
        async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as browser:
            await browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(await browser.recv())["result"]["targetInfos"]
    target = next(target["targetId"] for target in targets if target["type"] == "page")
    return f"ws://127.0.0.1:{port}/devtools/page/{target}"
