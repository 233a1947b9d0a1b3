"""An SQLite file that a service keeps for itself, and goes on without when it is damaged."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def open_or_begin_anew(
    path: Path, connect: Callable[[], sqlite3.Connection], on_damaged: Callable[[Path], None]
) -> sqlite3.Connection:
    """What `connect` makes of the file at `path`, which is made, for its owner only, when it isn't there.

    A file that is no database any more is put aside, where `on_damaged` is told, and a new one is begun: what comes
    from now on matters more than stopping for the damaged rest.

    Raises:
        sqlite3.OperationalError, OSError: when it can't be opened, or is another process's.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    try:
        return connect()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
        path.rename(aside)
    on_damaged(aside)
    path.touch(mode=0o600)
    return connect()
