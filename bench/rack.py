"""A whole rack for the benchmark: `babelrack up` on a site of its own, with ports and state of its own."""

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from babelrack.local.state import RackRecord, StateFolder
from bench.checkpoints import CACHE, ROOT
from bench.memory import with_children

STATE = CACHE / "rack"


class RackFailed(Exception):
    """`babelrack up` didn't come up; the message has its last words."""


class Rack:
    """Packs that run, to be used as a context manager.

    Attributes:
        gateway: URL of nginx.
        key: a client's key.
    """

    def __init__(self, site: str, threads: int) -> None:
        self._site = ROOT / "bench" / f"{site}.yaml"
        self._threads = threads

    def __enter__(self) -> "Rack":
        # A run that was killed may have left one.
        self._command("down")
        try:
            self._command("up", "--site", str(self._site), "--threads", str(self._threads), "--detach")
        except RackFailed:
            self._command("down")
            raise
        record = self._record()
        self.gateway = record.gateway
        self.key = Path(record.key_file).read_text().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._command("down")

    def processes(self, role: str | None = None) -> list[int]:
        """Return the ids of the rack's processes, those of one role (`model_server`, …) if it is given."""
        services = [service for service in self._record().services if role in (None, service.role) and service.process]
        return [each for service in services if service.process for each in with_children(service.process.pid)]

    def _record(self) -> RackRecord:
        record = StateFolder(STATE).read_record()
        if record is None:
            raise RackFailed(f"no rack runs from {STATE}")
        return record

    def _command(self, verb: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "babelrack.cli", verb, *arguments, "--state", str(STATE)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
            raise RackFailed(f"`babelrack {verb}` ended with {done.returncode}: {last[0]}; its logs are in {STATE}")
