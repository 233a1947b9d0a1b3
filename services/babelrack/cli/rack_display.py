"""How a rack gets on, for a person: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babelrack.local.state import RackRecord, ServiceRecord, StateFolder

SPEECH = Path("tests/fixtures/speech")
STYLES = {
    "healthy": "green",
    "degraded": "yellow",
    "starting": "cyan",
    "draining": "yellow",
    "unhealthy": "red",
    "waiting": "yellow",
    "failed": "bold red",
    "stopped": "dim",
    "not running": "red",
}


class RackDisplay:
    """Writes to stdout: what `up` says is its result."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._started = time.monotonic()
        self._live: Live | None = None
        self._seen: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, sentence: str) -> None:
        """Print one line."""
        self._console.print(Text(sentence))

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """While everything starts: a live table where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8, transient=True) as self._live:
            yield
        self._live = None

    def show(self, record: RackRecord) -> None:
        """Bring the display up to date."""
        if self._live:
            self._live.update(self._table(record))
            return
        for service in record.services:
            before = self._seen.get(service.name, "starting")
            self._seen[service.name] = service.condition
            if service.condition != before and service.condition in ("healthy", "failed"):
                ending = "is healthy" if service.condition == "healthy" else "keeps dying"
                self.say(f"{service.name} {ending} after {time.monotonic() - self._started:.1f} s")

    def summary(self, record: RackRecord, folder: StateFolder, timeout_seconds: float) -> None:
        """What is up, what isn't and why, and how to ask for a transcript."""
        self._console.print(self._table(record))
        for service in record.services:
            if service.condition == "healthy":
                continue
            waited = f"is not healthy after {min(timeout_seconds, time.monotonic() - self._started):.0f} s"
            ending = "keeps dying" if service.condition == "failed" else waited
            reason = f" ({service.reason})" if service.reason else ""
            self.say(f"{service.name} {ending}{reason}; its log is {folder.log_file(service.name)}")
            for line in service.last_lines:
                self.say(f"  {line}")
        if any(service.condition == "healthy" for service in record.services if service.pack):
            self.say(f"\nGateway: {record.gateway}")
            clip = next(iter(sorted(SPEECH.glob(f"{record.language}-*.flac"))), "speech.flac")
            self.say(
                f"  curl --header @{record.header_file} --header 'Content-Type: audio/flac' --data-binary @{clip} "
                f"'{record.gateway}/waves/v1/pulse/get_text?language={record.language}'"
            )

    def _table(self, record: RackRecord) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("service", "url", "state"):
            table.add_column(heading, no_wrap=True)
        for service in record.services:
            table.add_row(service.name, service.url, self._condition(service))
        return table

    def _condition(self, service: ServiceRecord) -> Spinner | Text:
        text = Text(service.condition, style=STYLES[service.condition])
        if service.restarts:
            text.append(f" ({service.restarts} restarts)", style="dim")
        return Spinner("dots", text) if service.condition == "starting" and self._live else text
