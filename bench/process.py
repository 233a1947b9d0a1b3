"""A system in a process of its own, seen from outside."""

import contextlib
import json
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import Any

from bench import environments
from bench.checkpoints import CACHE, ROOT
from bench.systems import SYSTEMS

END_S = 180


class SystemFailed(Exception):
    """A system's process ended before it answered; the message has its last words."""


class Process:
    """A loaded system, to be used as a context manager: it is gone, memory and all, when that ends."""

    def __init__(self, name: str, threads: int, say: Callable[[str], None]) -> None:
        self.name = name
        self.title = SYSTEMS[name].title
        self.versions: dict[str, str] = {}
        self._threads = threads
        self._say = say
        self._log = CACHE / f"{name}.log"

    def __enter__(self) -> "Process":
        environment = SYSTEMS[self.name].environment
        CACHE.mkdir(parents=True, exist_ok=True)
        python = environments.python(environment, self._say)
        self._say(f"{self.title}: loading")
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                [python, "-m", "bench.worker", self.name, str(self._threads)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                env=environments.variables(environment, self._threads),
            )  # fmt: skip
        try:
            self.versions = self._answer()["versions"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, experiment: str, **arguments: Any) -> Any:
        """Have `inside` of an experiment run in the system's process, and return what it returns."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"experiment": experiment, "arguments": arguments}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._end()
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise SystemFailed(
                f"{self.title} ended with {self._child.returncode}: {last[0]}; all it said is in {self._log}"
            )
        return json.loads(line)

    def _end(self) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
