"""A model server with three checkpoints: how long until it is ready, and how much memory it then has."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import environments
from bench.checkpoints import CACHE, ROOT, WHISPER_BASE
from bench.memory import peak_resident, resident, with_children

CHECKPOINTS = {"first": "en+es", "second": "it+pt", "third": "id"}
READY_S = 300.0


class NotReady(Exception):
    """The model server didn't become ready; the message has its last words."""


@dataclass(frozen=True)
class Resources:
    """Seconds from the start of the process to the first healthy answer, and bytes resident then and at most."""

    checkpoints: int
    ready_s: float
    resident_bytes: int
    peak_bytes: int


def measure(threads: int, say: Callable[[str], None], *, quick: bool) -> Resources:
    """Start a model server with three checkpoints (one when `quick`), wait until it is healthy, and end it."""
    chosen = dict(list(CHECKPOINTS.items())[: 1 if quick else 3])
    say(f"model server: start with {len(chosen)} checkpoints")
    urls = [
        f"file://{WHISPER_BASE}#name={name}&role=multilingual&languages={languages}"
        for name, languages in chosen.items()
    ]
    port, metrics_port = _free_ports(2)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, (CACHE / "model-server.log").open("w") as log:
        settings = {
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "DEPLOYMENT_NAME": "bench",
            "AGGREGATOR": "multi-bench",
            "MODEL_URL": ",".join(urls),
            "MODEL_CACHE_DIR": f"{folder}/models",
            "STATE_DIR": f"{folder}/state",
            "THREADS": str(threads),
        }
        started = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "babelrack.model_server"],
            env=environments.variables(None, threads) | settings, stdout=log, stderr=log, cwd=ROOT,
        )  # fmt: skip
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", Path(log.name))
            ready_s = time.perf_counter() - started
            processes = with_children(server.pid)
            return Resources(len(chosen), ready_s, resident(processes), peak_resident(processes))
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, timeout=5) as http:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if http.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise NotReady(f"the model server was not healthy within {READY_S:g} s: {last[0]}; all it said is in {log}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
