"""A whole pack for the tests in this folder: real servers, the real checkpoint, a real licence proxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from license_rig import PATIENCE, Issuer, Proxy, free_port

from babelrack.keys.file import add_key

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SPEECH = ROOT / "tests" / "fixtures" / "speech"
CHECKPOINT = Path(os.environ.get("BABELRACK_TEST_CHECKPOINT", ROOT / ".cache" / "checkpoints" / "whisper-base"))
SPEAKER_MODEL = ROOT / ".cache" / "speakers" / "ge2e-lstm"
LANGUAGES = ("hi", "en", "bn", "ta", "te")
DEPLOYMENT = "indic"
AGGREGATOR = "multi-indic"
START_PATIENCE = 180.0


def speech(name: str) -> bytes:
    """The FLAC of that name."""
    return (SPEECH / f"{name}.flac").read_bytes()


def said(name: str) -> str:
    """What is said in it."""
    entries = json.loads((SPEECH / "manifest.json").read_text())
    return next(entry["text"] for entry in entries if entry["file"] == f"{name}.flac")


def words(text: str) -> list[str]:
    """Words without case and punctuation, as they are scored."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


@dataclass
class Server:
    """A server process with a port that stays across its deaths."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True, parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def spawn(self) -> Server:
        environment = {
            "PATH": os.environ["PATH"],
            "OMP_WAIT_POLICY": "PASSIVE",
            **self.environment,
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def health(self) -> tuple[int, dict]:
        answer = httpx.get(f"{self.url}/health", params={"verbose": "true"}, trust_env=False, timeout=PATIENCE)
        return answer.status_code, answer.json()

    def wait(self, *statuses: str) -> Server:
        wanted = statuses or ("healthy",)
        deadline = time.monotonic() + START_PATIENCE
        said: object = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            try:
                said = self.health()[1]
                if said["status"] in wanted:
                    return self
            except httpx.HTTPError as error:
                said = error
            time.sleep(0.1)
        raise AssertionError(f"{self.command} is not {wanted} but {said}: {self.log}")

    def start(self) -> Server:
        return self.spawn().wait()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)


def model_server(folder: Path, *, deployment: str = DEPLOYMENT, **environment: str) -> Server:
    """`python -m babelrack.model_server` with the base checkpoint under the pack's name."""
    server = Server(folder, command=("-m", "babelrack.model_server"))
    fragment = f"name=indic-multi&role=multilingual&languages={'+'.join(LANGUAGES)}"
    server.environment = {
        "PORT": str(server.port),
        "METRICS_PORT": str(free_port()),
        "MODEL_URL": f"file:{CHECKPOINT}#{fragment}",
        "SPEAKER_MODEL_URL": f"file:{SPEAKER_MODEL}",
        "MODEL_CACHE_DIR": str(folder / "cache"),
        "STATE_DIR": str(folder / "state"),
        "DEPLOYMENT_NAME": deployment,
        "AGGREGATOR": AGGREGATOR,
        "THREADS": "1",
        **environment,
    }
    return server


def api_server(folder: Path, model_url: str, proxy: Proxy, **environment: str) -> Server:
    """`python -m babelrack.api_server`, paired with the model server at `model_url`."""
    server = Server(folder, command=("-m", "babelrack.api_server"))
    server.environment = {
        "API_SERVER_PORT": str(server.port),
        "ASR_BASE_URL": model_url,
        "API_BASE_URL": proxy.url,
        "LICENSE_KEY": proxy.issuer.license_key,
        "DEPLOYMENT_NAME": DEPLOYMENT,
        "STATE_DIR": str(folder / "state"),
        "KEYS_FILE": str(folder / "keys.yaml"),
        **environment,
    }
    return server


@dataclass
class Rig:
    """A whole pack on this machine: `key` has no limits, `limited` may run one request at a time."""

    folder: Path
    proxy: Proxy
    model: Server
    api: Server
    key: str
    limited: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def client(self, **options) -> httpx.Client:
        options.setdefault("headers", self.headers)
        return httpx.Client(base_url=self.api.url, trust_env=False, timeout=PATIENCE, **options)

    def stop(self) -> None:
        for server in (self.api, self.model):
            if server.process is not None and server.process.poll() is None:
                server.kill()
        self.proxy.stop()


def start_rig(folder: Path, *, model: Server | None = None, **environment: str) -> Rig:
    """Start licence proxy, model server and API server; the environment is the API server's."""
    issuer = Issuer(folder)
    issuer.write(seats=100)  # a killed API server keeps its seat for a while
    proxy = Proxy(issuer, folder / "proxy").spawn()
    model = (model or model_server(folder / "model")).spawn()
    api_folder = folder / "api"
    api_folder.mkdir()
    key = add_key(api_folder / "keys.yaml", "tests", requests_per_minute=None, concurrency=None)
    limited = add_key(api_folder / "keys.yaml", "one-at-a-time", requests_per_minute=None, concurrency=1)
    api = api_server(api_folder, model.url, proxy, **environment)
    rig = Rig(folder, proxy, model, api, key, limited)
    try:
        proxy.wait()
        api.spawn()
        model.wait()
        api.wait()
    except BaseException:
        rig.stop()
        raise
    return rig


def eventually(what: Callable[[], bool], describe: Callable[[], object] = lambda: "") -> None:
    """Wait until `what` holds; the patience is a safety net, not a promise."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)
