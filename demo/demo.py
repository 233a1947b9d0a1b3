"""Two packs, five clips in five languages through nginx, a table; then everything is down again.

    make demo

Starts the packs `indic` and `future` of inventories/local/site.yaml with `babelrack up`, as anybody would.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from babelrack.client import Client, TranscriptionError, read_routes
from babelrack.local.state import StateFolder

PROJECT = Path(__file__).resolve().parents[1]
SPEECH = PROJECT / "tests/fixtures/speech"
PACKS = ("indic", "future")
# For a machine many times slower than this takes; nothing waits longer than it must.
UP_SECONDS = 600
BABELRACK = (sys.executable, "-m", "babelrack.cli")

console = Console(highlight=False)


def demo(
    site: Annotated[Path, typer.Option(help="The site file.")] = PROJECT / "inventories/local/site.yaml",
    state: Annotated[Path, typer.Option(help="Folder for what the rack writes.")] = PROJECT / ".babelrack/demo",
) -> None:
    """Show two packs at work."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    where = ["--state", str(state)]
    failed = 0
    try:
        console.rule(f"babelrack up {' '.join(PACKS)}", align="left")
        up = [*BABELRACK, "up", "--detach", "--site", str(site), *where, "--timeout", str(UP_SECONDS), *PACKS]
        if subprocess.run(up, check=False).returncode:
            raise typer.Exit(1)
        console.rule("five clips in five languages, through nginx", align="left")
        failed = _transcribe(StateFolder(state))
        console.rule("babelrack status", align="left")
        subprocess.run([*BABELRACK, "status", *where], check=False)
    finally:
        # A second Ctrl-C must not keep the rest from being stopped.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.rule("babelrack down", align="left")
        subprocess.run([*BABELRACK, "down", *where], check=False)
    if failed:
        raise typer.Exit(1)


def _transcribe(folder: StateFolder) -> int:
    """Transcribe the demo's clips and show them; how many failed."""
    record = folder.read_record()
    if record is None:
        raise typer.Exit(1)
    routes = read_routes(f"{record.gateway}/routes.json")
    through_nginx = replace(routes, packs=dict.fromkeys(routes.packs, (record.gateway,)))
    clips = [clip for clip in json.loads((SPEECH / "manifest.json").read_text()) if clip.get("demo")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("language", "pack", "checkpoint", "text"):
        table.add_column(heading)
    table.add_column("audio s", justify="right")
    table.add_column("took s", justify="right")
    failed = 0
    with Client(through_nginx, api_key=Path(record.key_file).read_text().strip()) as client:
        for clip in clips:
            started = time.monotonic()
            try:
                transcript = client.transcribe(SPEECH / clip["file"], language=clip["language"])
            except TranscriptionError as error:
                failed += 1
                table.add_row(clip["language"], routes.pack(clip["language"]), "", Text(str(error), style="red"))
                continue
            took = time.monotonic() - started
            table.add_row(
                clip["language"], transcript.pack, transcript.checkpoint, Text(transcript.text),
                f"{clip['seconds']:.1f}", f"{took:.2f}",
            )  # fmt: skip
    console.print(table)
    return failed


def _ended(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    typer.run(demo)
