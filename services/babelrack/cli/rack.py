"""The rack that a command means: its state folder, its gateway, a key for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from babelrack.credentials import read_credential
from babelrack.local import RackError
from babelrack.local.state import RackRecord, StateFolder

__all__ = ["SITE", "STATE", "RackError", "SiteOption", "StateOption", "gateway_and_key", "running_rack"]

SITE = Path("inventories/local/site.yaml")
STATE = Path(".babelrack")
_GATEWAY = "http://127.0.0.1:8080"

SiteOption = Annotated[Path, typer.Option("--site", help="The site file.")]
StateOption = Annotated[Path, typer.Option("--state", help="Folder for logs, configurations, secrets and records.")]


def running_rack(state: Path) -> RackRecord | None:
    """The rack that `up` runs from this folder; None when it doesn't."""
    if not state.is_dir():
        return None
    record = StateFolder(state).read_record()
    return record if record and record.supervisor.alive() else None


def gateway_and_key(state: Path, gateway: str | None, key_file: Path | None) -> tuple[str, str | None]:
    """Where to send requests and with which key: as given, else those of the rack that runs here.

    Raises:
        RackError: when the URL is none.
        CredentialError: when the key file can't be read.
    """
    record = running_rack(state)
    if gateway is None:
        gateway = record.gateway if record else _GATEWAY
        key_file = key_file or (Path(record.key_file) if record else None)
    if not gateway.startswith(("http://", "https://")):
        raise RackError(f"--gateway {gateway}: write a URL such as {_GATEWAY}.")
    return gateway.rstrip("/"), read_credential("client_key", file=key_file)
