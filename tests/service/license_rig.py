"""A licence, and a real licence proxy as a process of its own that can be killed and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx

from babelrack.licensing.document import generate_license_key, generate_signing_key, issue, key_sha256

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Issuer:
    """Signs licences into a folder, as `babelrack license` would."""

    folder: Path
    license_key: str = field(default_factory=generate_license_key)

    def __post_init__(self) -> None:
        self.signing_key = generate_signing_key()
        (self.folder / "issuer.pub").write_bytes(self.signing_key.as_pem(private=False))
        self.write()

    @property
    def license_file(self) -> Path:
        return self.folder / "license.jws"

    @property
    def public_key_file(self) -> Path:
        return self.folder / "issuer.pub"

    def token(self, *, languages=None, seats=2, begins=timedelta(days=-1), ends=timedelta(days=300), license_key=None):
        now = datetime.now(UTC)
        return issue(
            customer="Test & Söhne",
            languages=languages,
            seats=seats,
            not_before=now + begins,
            expires=now + ends,
            license_key_sha256=key_sha256(license_key or self.license_key),
            signing_key=self.signing_key,
        )

    def write(self, **claims) -> None:
        temporary = self.folder / "license.new"
        temporary.write_text(self.token(**claims) + "\n")
        temporary.rename(self.license_file)


@dataclass
class Proxy:
    """`python -m babelrack.license_proxy`, on a port and a database that stay across its deaths."""

    issuer: Issuer | None
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = self.folder / "usage.sqlite3"

    def spawn(self) -> Proxy:
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "DATABASE": str(self.database),
            **self.environment,
        }
        if self.issuer is not None:
            environment["LICENSE_FILE"] = str(self.issuer.license_file)
            environment["LICENSE_PUBLIC_KEY_FILE"] = str(self.issuer.public_key_file)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "babelrack.license_proxy"], env=environment, stderr=log, stdout=log
            )
        return self

    def wait(self) -> Proxy:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                httpx.get(f"{self.url}/health", trust_env=False, timeout=5)
            except httpx.HTTPError:
                time.sleep(0.05)
            else:
                return self
        raise AssertionError("the licence proxy doesn't answer: " + (self.folder / "log").read_text())

    def start(self) -> Proxy:
        return self.spawn().wait()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def client(self, license_key: str | None = None) -> httpx.Client:
        key = license_key if license_key is not None else self.issuer.license_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=PATIENCE)

    def health(self) -> tuple[int, dict]:
        answer = httpx.get(f"{self.url}/health", trust_env=False, timeout=PATIENCE)
        return answer.status_code, answer.json()


def question(instance="api-1", role="api", deployment="indic", version="0") -> dict:
    return {"instance": instance, "deployment": deployment, "role": role, "version": version}
