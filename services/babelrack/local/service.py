"""One process of the rack: what runs, with what environment, and how to ask whether it is well."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from babelrack.local.probe import Probe


class Role(enum.StrEnum):
    """What a process is to the rack."""

    REDIS = "redis"
    LICENSE_PROXY = "license_proxy"
    MODEL_SERVER = "model_server"
    API_SERVER = "api_server"
    GATEWAY = "gateway"


STOP_ORDER = (Role.GATEWAY, Role.API_SERVER, Role.MODEL_SERVER, Role.LICENSE_PROXY, Role.REDIS)


@dataclass(frozen=True)
class Port:
    """A TCP port that a service will listen on."""

    host: str
    number: int


@dataclass(frozen=True)
class Service:
    """A process to be kept running.

    `stop` asks it to finish what it is doing, for at most `grace_seconds`; `orphaned` is what the kernel sends it
    when the supervisor dies without having stopped it.
    """

    name: str
    role: Role
    command: tuple[str, ...]
    environment: Mapping[str, str]
    probe: Probe
    ports: tuple[Port, ...]
    log: Path
    pack: str | None = None
    stop: signal.Signals = signal.SIGTERM
    orphaned: signal.Signals = signal.SIGKILL
    grace_seconds: float = 20.0
    url: str = field(default="")
