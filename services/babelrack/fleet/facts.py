"""What is known about a live site, as plain data: gathered by one module, judged by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from babelrack.fleet.replicas import Replica
    from babelrack.packs.site import Site

Environment = Mapping[str, str]
"""Settings of a server by their names, without secrets."""


@dataclass(frozen=True)
class Answer:
    """What a server's `/health` said: a status and its JSON, or why there is none."""

    url: str
    status: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def health(self) -> str:
        """`healthy`, `degraded`, `unhealthy` and so on; `unreachable` without an answer."""
        return "unreachable" if self.status is None else str(self.body.get("status", "unhealthy"))

    @property
    def reason(self) -> str:
        """Why it isn't healthy; empty when it didn't say."""
        return self.error or str(self.body.get("reason") or "")


@dataclass(frozen=True)
class PairFacts:
    """One pack's two servers on one host. Their configurations are None where they can't be seen."""

    pack: str
    api: Answer | None = None
    model: Answer | None = None
    api_environment: Environment | None = None
    model_environment: Environment | None = None
    release: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    """systemd's word for each of its units: active, failed, inactive, …"""

    @property
    def running(self) -> bool:
        """Whether any of its servers runs, or is meant to."""
        answers = any(answer and answer.status is not None for answer in (self.api, self.model))
        return answers or any(state in ("active", "activating", "reloading") for state in self.units.values())


@dataclass(frozen=True)
class FileSystem:
    """One file system of a host, by a folder in it; sizes in bytes, `free` for unprivileged services."""

    path: str
    size: int
    free: int


@dataclass(frozen=True)
class ClaimFacts:
    """A claimed place on a host; every name is None when nobody can tell who claimed it."""

    place: int
    pack: str | None = None
    site: str | None = None
    replica: int | None = None
    claimed_by: str | None = None


@dataclass(frozen=True)
class HostFacts:
    """One host of the pool, or this machine; `fault` says why nothing else is known of it."""

    name: str
    address: str
    fault: str = ""
    clock_ahead_s: float = 0.0
    """By how many seconds its clock is certainly ahead of the control machine's; negative: behind."""
    file_systems: tuple[FileSystem, ...] = ()
    claims: tuple[ClaimFacts, ...] = ()
    pairs: Mapping[str, PairFacts] = field(default_factory=dict)
    license_proxy: Answer | None = None
    """None where no licence proxy runs."""
    drained: tuple[str, ...] = ()
    """The replicas, as address:port, that the gateway on this host sends nothing to."""


@dataclass(frozen=True)
class Expiry:
    """Something that ends: a licence or a certificate. `fault` says why it is no good at all."""

    what: str
    where: str
    ends: datetime | None = None
    fault: str = ""


@dataclass(frozen=True)
class SiteFacts:
    """Everything that was seen of a site at `now` (UTC)."""

    site: Site
    now: datetime
    hosts: Mapping[str, HostFacts]
    states: Mapping[str, tuple[Replica, ...]] | None = None
    """The replicas in Terraform's states, by pack; a pack whose state can't be read isn't there. None: no fleet."""
    routes: Mapping[str, str] | None = None
    """Code → pack, as the gateway has it now; None when it doesn't tell."""
    gateway: Answer | None = None
    expiries: tuple[Expiry, ...] = ()
    gaps: tuple[str, ...] = ()
    """What couldn't be looked at, and why, one sentence each."""

    @property
    def used_hosts(self) -> frozenset[str]:
        """The hosts that carry something of this site."""
        names = {replica.host for replicas in (self.states or {}).values() for replica in replicas}
        if self.site.fleet:
            names |= {self.site.fleet.shared, self.site.fleet.gateway}
        return frozenset(names) if self.states is not None else frozenset(self.hosts)
