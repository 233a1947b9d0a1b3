"""Two packs as processes of this machine, five clips in five languages through nginx; then everything is down again.

    python -m demo.local

What `make demo` shows where lab hosts can't be made. Starts the packs `indic` and `future` of
inventories/local/site.yaml with `babelrack up`, as anybody would.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from babelrack.local.state import StateFolder
from demo.clips import PROJECT, clips, transcribe

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
        record = StateFolder(state).read_record()
        if record is None:
            raise typer.Exit(1)
        failed = transcribe(record.gateway, clips(), console, Path(record.key_file).read_text().strip())
        console.rule("babelrack status", align="left")
        subprocess.run([*BABELRACK, "status", *where], check=False)
    finally:
        # A second Ctrl-C must not keep the rest from being stopped.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.rule("babelrack down", align="left")
        subprocess.run([*BABELRACK, "down", *where], check=False)
    if failed:
        raise typer.Exit(1)


def _ended(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    typer.run(demo)
