"""Redis as a local rack runs it: counts that may be lost, in little memory, behind a password."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MEMORY = "64mb"
_CLIENTS = 1024


def redis_config(host: str, port: int, folder: Path, password_file: Path) -> str:
    """The content of redis.conf; nothing is kept on disk."""
    options = {
        "bind": host,
        "port": str(port),
        "dir": str(folder),
        "requirepass": password_file.read_text().strip(),
        "daemonize": "no",
        "save": "",
        "appendonly": "no",
        "databases": "1",
        "maxclients": str(_CLIENTS),
        "maxmemory": _MEMORY,
        "maxmemory-policy": "allkeys-lru",
    }
    return "".join(f"{name} {_quoted(value)}\n" for name, value in options.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
