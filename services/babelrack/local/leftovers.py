"""What a supervisor that died without a word may have left running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from babelrack.local.identity import end_sessions

if TYPE_CHECKING:
    from babelrack.local.state import StateFolder

_GRACE_SECONDS = 10


def end_leftovers(folder: StateFolder) -> int:
    """End what the last record says was running, and forget it; how many processes there were.

    Only who holds the folder's lock may do this, or it would end what another supervisor keeps running.
    """
    record = folder.read_record()
    found = end_sessions(record.leaders(), _GRACE_SECONDS) if record else 0
    folder.forget_record()
    return found
