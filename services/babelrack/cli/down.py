"""`babelrack down`: what `up` started, and whatever it left behind, is ended."""

from __future__ import annotations

import signal
import time

import typer

from babelrack.cli.rack import STATE, StateOption
from babelrack.local.identity import end_sessions
from babelrack.local.leftovers import end_leftovers
from babelrack.local.state import StateFolder

_STOP_SECONDS = 120
_LOOK_SECONDS = 0.1


def down(state: StateOption = STATE) -> None:
    """Stop what `up` started: nginx first, then the servers once they have finished what they are doing.

    Nothing running is no error.
    """
    folder = StateFolder(state)
    if not folder.path.is_dir():
        typer.echo("Nothing is running.")
        return
    record, supervisor = folder.read_record(), folder.holder()
    stopping = supervisor is not None and supervisor.alive()
    if supervisor and stopping:
        supervisor.signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while supervisor.alive() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        supervisor.signal(signal.SIGKILL)
    with folder.locked(supervising=False, wait_seconds=_STOP_SECONDS):
        # What ran when the stop began must be gone now, whoever ends it.
        found = end_sessions(record.leaders(), grace_seconds=5) if record else 0
        found += end_leftovers(folder)
    if stopping:
        typer.echo("Everything is stopped.")
        return
    typer.echo(f"Ended {found} processes that were left behind." if found else "Nothing is running.")
