"""One run of an Ansible playbook: where it is, step by step, and how it ended on each host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ansible_runner.interface import init_runner

from babelrack.fleet import FleetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

KEPT_RUNS: Final = 20
_STOP_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.3
_LONGEST_MESSAGE: Final = 2000
_LAST_LINES: Final = 12

Outcome = Literal["started", "ok", "changed", "skipped", "failed", "unreachable"]
_OUTCOMES: Final[Mapping[str, Outcome]] = {
    "runner_on_start": "started",
    "runner_on_ok": "ok",
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
}


@dataclass(frozen=True)
class Step:
    """One task on one host, as it starts and as it ends; `message` says why it failed."""

    host: str
    play: str
    role: str
    task: str
    outcome: Outcome
    message: str = ""


@dataclass
class HostResult:
    """How a run ended on one host: numbers of tasks, seconds that they took, and what failed for good."""

    host: str
    ok: int = 0
    changed: int = 0
    failed: int = 0
    unreachable: bool = False
    seconds: float = 0.0
    failures: list[Step] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every task succeeded, was skipped or was rescued."""
        return not self.failed and not self.unreachable


@dataclass(frozen=True)
class RunResult:
    """How a run ended; `said` is Ansible's last words when it reached no host at all."""

    code: int
    interrupted: bool
    hosts: tuple[HostResult, ...]
    log: Path
    said: str = ""

    @property
    def good(self) -> bool:
        """Whether the run ended well everywhere."""
        return self.code == 0 and not self.interrupted

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return sum(host.changed for host in self.hosts)


@dataclass(frozen=True)
class Playbook:
    """A playbook of `<project>/ansible`, for the hosts of one inventory that `limit` leaves."""

    project: Path
    name: str
    inventory: Path
    limit: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    """Extra variables. They show in the process list: never a secret."""

    def check(self) -> None:
        """See that everything is there which the run needs on this machine.

        Raises:
            FleetError: naming what isn't.
        """
        for file in (self.project / "ansible" / self.name, self.inventory):
            if not file.is_file():
                raise FleetError(f"{file} is missing; it comes with the project.")
        if shutil.which("ansible-playbook", path=_program_path()) is None:
            raise FleetError("ansible-playbook is not installed; run `make setup`.")

    def run(self, title: str, state: Path, on_step: Callable[[Step], None]) -> RunResult:
        """Run it and return how it ended; Ctrl-C stops it after the tasks that run now, a second one at once.

        What Ansible prints is kept in `state`, of the last 20 runs, readable by its owner only; `title` is in the
        name of its folder.

        Raises:
            FleetError: when something of it isn't there.
        """
        self.check()
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        ident = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{title}"
        record = _Record(on_step)
        # A file that others may read would show what modules returned, facts of hosts and more.
        mask = os.umask(0o077)
        try:
            with _Interrupt(record) as interrupt:
                runner = self._runner(ident, state, record, interrupt)
                runner.run()
        finally:
            os.umask(mask)
            # Events of tasks that were under way when the run was stopped; all others are taken away as they are read.
            shutil.rmtree(state / "artifacts" / ident / "job_events", ignore_errors=True)
        log = state / "artifacts" / ident / "stdout"
        code = runner.rc if runner.rc is not None else 1
        return RunResult(code, interrupt.asked, record.results(), log, "" if record.reached else _last_lines(log))

    def _runner(self, ident: str, state: Path, record: _Record, interrupt: _Interrupt) -> Any:
        return init_runner(
            private_data_dir=str(state),
            project_dir=str(self.project / "ansible"),
            playbook=self.name,
            inventory=str(self.inventory.absolute()),
            limit=":".join(self.limit) or None,
            extravars=dict(self.variables),
            ident=ident,
            rotate_artifacts=KEPT_RUNS,
            quiet=True,
            # These would be written to files and used again by the next run, whatever that one asks for.
            suppress_env_files=True,
            fact_cache_type="",
            settings={"pexpect_timeout": _LOOK_SECONDS},
            envvars={
                "ANSIBLE_CONFIG": str(self.project / "ansible" / "ansible.cfg"),
                "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner switches it off where nobody says so
                "ANSIBLE_NOCOLOR": "1",
                "PATH": _program_path(),
            },
            event_handler=record.take,
            status_handler=_forget_environment,
            cancel_callback=interrupt.give_up,
        )


class _Record:
    """What the events say; kept here instead of in a file each."""

    def __init__(self, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step
        self._hosts: dict[str, HostResult] = {}
        self.reached = False
        self.pid: int | None = None

    def take(self, event: dict[str, Any]) -> bool:
        """Digest one event of ansible-runner's; False: it writes no file of it."""
        self.pid = event.get("pid", self.pid)
        data = event.get("event_data") or {}
        if event["event"] == "playbook_on_stats":
            self._count(data)
        elif event["event"] in _OUTCOMES:
            self._step(_OUTCOMES[event["event"]], data)
        return False

    def results(self) -> tuple[HostResult, ...]:
        """Every host that was tried, in the order in which they came."""
        return tuple(self._hosts.values())

    def _step(self, outcome: Outcome, data: Mapping[str, Any]) -> None:
        result = data.get("res") or {}
        if outcome == "ok" and result.get("changed"):
            outcome = "changed"
        message = ""
        if outcome in ("failed", "unreachable"):
            if data.get("ignore_errors"):
                outcome = "ok"
            else:
                message = _message(result)
        step = Step(
            host=str(data.get("host", "")),
            play=str(data.get("play", "")),
            role=str(data.get("role") or ""),
            task=str(data.get("task", "")),
            outcome=outcome,
            message=message,
        )
        self.reached = True
        host = self._hosts.setdefault(step.host, HostResult(step.host))
        host.seconds += float(data.get("duration") or 0)
        if outcome in ("failed", "unreachable"):
            host.failures.append(step)
        self._on_step(step)

    def _count(self, stats: Mapping[str, Any]) -> None:
        for name in stats.get("processed") or {}:
            host = self._hosts.setdefault(name, HostResult(name))
            host.ok = int(stats["ok"].get(name, 0))
            host.changed = int(stats["changed"].get(name, 0))
            host.failed = int(stats["failures"].get(name, 0))
            host.unreachable = name in stats["dark"]
            if host.good:  # what failed was rescued
                host.failures.clear()


class _Interrupt:
    """While it is entered, SIGINT and SIGTERM ask Ansible to stop instead of ending this process."""

    def __init__(self, record: _Record) -> None:
        self._record = record
        self._times = 0
        self._told: float | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._times > 0

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: object) -> None:
        self._times += 1

    def give_up(self) -> bool:
        """Called several times a second: pass the wish on; True when Ansible must be killed."""
        if not self._times:
            return False
        if self._told is None and self._record.pid is not None:
            self._told = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._record.pid, signal.SIGINT)
        late = self._told is not None and time.monotonic() - self._told > _STOP_SECONDS
        return late or self._times > 1 or self._record.pid is None


def _forget_environment(status: Mapping[str, Any], runner_config: Any) -> None:
    # ansible-runner writes the whole environment, whatever secrets it has, into a file of each run.
    if status["status"] == "running":
        Path(runner_config.artifact_dir, "command").unlink(missing_ok=True)


def _program_path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _message(result: Mapping[str, Any]) -> str:
    parts = [str(result.get("msg") or "")]
    # A command that fails says why on stderr; its `msg` is only that it did.
    parts += [str(result.get("stderr") or result.get("module_stderr") or "")] if "rc" in result else []
    parts += [str(item.get("msg", "")) for item in result.get("results") or () if _is_failed(item)]
    text = "\n".join(part.strip() for part in parts if part.strip())
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _is_failed(item: object) -> bool:
    return isinstance(item, dict) and bool(item.get("failed"))


def _last_lines(log: Path) -> str:
    try:
        lines: Iterator[str] = (line.rstrip() for line in log.read_text(errors="replace").splitlines())
    except OSError:
        return ""
    return "\n".join([line for line in lines if line][-_LAST_LINES:])
