"""How a playbook gets on: a live line a host on a terminal, a line a change elsewhere, and a table at last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from babelrack.fleet.playbook import RunResult, Step

_STYLES = {
    "started": "cyan",
    "ok": "green",
    "changed": "yellow",
    "skipped": "dim",
    "failed": "bold red",
    "unreachable": "bold red",
}


class RollDisplay:
    """Writes to stdout, by one host a line or one change a line."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()
        self._latest: dict[str, Step] = {}
        self._changed: dict[str, int] = {}
        self._play = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def step(self, step: Step) -> None:
        """One task has started or ended on one host."""
        self._latest[step.host] = step
        self._changed[step.host] = self._changed.get(step.host, 0) + (step.outcome == "changed")
        if step.outcome in ("failed", "unreachable") or (step.outcome == "changed" and self._live is None):
            self._line(step)
        elif self._live is None and step.play != self._play:
            self._console.print(Text(f"{self._elapsed()}  {step.play}", style="bold"))
        self._play = step.play
        if self._live:
            self._live.update(self._table())

    def summary(self, result: RunResult) -> None:
        """How the run ended: a table of the hosts, what failed, and where all of Ansible's output is."""
        if result.hosts:
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("host", no_wrap=True)
            for heading in ("ok", "changed", "failed", "seconds"):
                table.add_column(heading, justify="right", no_wrap=True)
            for host in result.hosts:
                failed = "unreachable" if host.unreachable else str(host.failed)
                style = "red" if not host.good else "yellow" if host.changed else "green"
                seconds = f"{host.seconds:.1f}"
                table.add_row(Text(host.host, style=style), str(host.ok), str(host.changed), failed, seconds)
            self._console.print(table)
        for host in result.hosts:
            for failure in host.failures:
                self._console.print(Text(f"{host.host}: {_task(failure)}: {failure.message or failure.outcome}"))
        if result.said and not result.good:
            self._console.print(Text(result.said))
        took = f"{time.monotonic() - self._began:.0f} s"
        if result.good:
            number = f"{result.changed} change{'s' if result.changed > 1 else ''}"
            changes = number if result.changed else "nothing to change"
            self._console.print(Text(f"Done in {took}: {changes}."))
        else:
            self._console.print(Text(f"Failed after {took}; all that Ansible said is in {result.log}"))

    def _line(self, step: Step) -> None:
        text = Text(f"{self._elapsed()}  {step.host}: {_task(step)}: ")
        text.append(step.outcome, style=_STYLES[step.outcome])
        if step.message:
            text.append(f": {step.message.splitlines()[0]}")
        self._console.print(text)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, title=Text(f"{self._elapsed()}  {self._play}", style="bold"))
        table.title_justify = "left"
        table.show_header = False
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for host, step in self._latest.items():
            changed = f"{self._changed[host]} changed" if self._changed[host] else ""
            table.add_row(host, Text(step.outcome, style=_STYLES[step.outcome]), _task(step), Text(changed, "dim"))
        return table

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s"


def _task(step: Step) -> str:
    # Ansible puts the role's name before a task of a role by itself.
    return step.task if not step.role or step.task.startswith(step.role) else f"{step.role} : {step.task}"
