"""`babelrack status`: how every deployment is, and what they share."""

from __future__ import annotations

import asyncio
import enum
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from babelrack.cli.rack import SITE, STATE, StateOption, running_rack
from babelrack.cli.rack_display import STYLES
from babelrack.client import read_routes
from babelrack.fleet.gathering import gather
from babelrack.local.probe import Probe, http_probe, redis_probe
from babelrack.local.secrets import Secrets
from babelrack.local.service import Role
from babelrack.packs.pool import load_pool
from babelrack.packs.routes import Routes
from babelrack.packs.site import Address, load_site

if TYPE_CHECKING:
    from babelrack.fleet.facts import Answer
    from babelrack.local.state import RackRecord

DEGRADED, NOT_RUNNING = 1, 3
UNREACHABLE = "unreachable"
_TIMEOUT_SECONDS = 5.0


class Format(enum.StrEnum):
    """How the answer is written."""

    TABLE = "table"
    JSON = "json"


@dataclass
class DeploymentStatus:
    """One replica of a pack, as its API server describes itself and its model server."""

    deployment: str
    url: str
    status: str = UNREACHABLE
    reason: str | None = None
    uptime_s: float | None = None
    version: str | None = None
    license: str | None = None
    redis: str | None = None
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    restarts: int = 0
    host: str | None = None
    """In a fleet, the host that carries the replica."""


@dataclass
class SharedStatus:
    """The gateway, the licence proxy or Redis."""

    name: str
    url: str
    status: str
    reason: str | None = None
    restarts: int = 0


@dataclass
class RackStatus:
    """Everything that was asked."""

    deployments: list[DeploymentStatus]
    shared: list[SharedStatus]

    @property
    def exit_code(self) -> int:
        """0 when all is well, 3 when nothing answers, else 1."""
        rows: list[DeploymentStatus | SharedStatus] = [*self.deployments, *self.shared]
        if all(row.status == UNREACHABLE for row in rows):
            return NOT_RUNNING
        return 0 if all(row.status == "healthy" for row in rows) else DEGRADED


def status(
    site: Annotated[
        Path | None, typer.Option("--site", help="Ask the servers of this site file, wherever they run.")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option("--gateway", help="Ask the servers that this gateway's /routes.json names.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    state: StateOption = STATE,
) -> None:
    """Show each deployment's health, checkpoints and load, and the health of what they share.

    Asks what `up` runs here, unless a site or a gateway is named. Exit code 0 when all is healthy, 1 when something
    isn't, 3 when nothing answers.
    """
    fleet = _ask_fleet(site) if site and not gateway else None
    found = fleet or asyncio.run(_ask(site, gateway, running_rack(state)))
    if format_ is Format.JSON:
        typer.echo(json.dumps(asdict(found) | {"exit_code": found.exit_code}, indent=2, ensure_ascii=False))
    elif found.exit_code == NOT_RUNNING:
        fix = f"ask `babelrack doctor --site {site}`" if fleet else "start it with `babelrack up`"
        typer.echo(f"Nothing answers; {fix}.")
    else:
        _print(found)
    raise typer.Exit(found.exit_code)


async def _ask(site: Path | None, gateway: str | None, record: RackRecord | None) -> RackStatus:
    # Whose certificate the gateway has doesn't matter for the question whether it answers.
    async with httpx.AsyncClient(verify=False, timeout=_TIMEOUT_SECONDS) as client:  # noqa: S501
        if gateway:
            routes = await asyncio.to_thread(read_routes, f"{gateway.rstrip('/')}/routes.json", verify=False)
            return await _Question(client, routes.packs).ask({"nginx": (gateway, _gateway_probe(gateway, client))})
        if site is None and record:
            return await _ask_rack(client, record)
        return await _ask_site(client, site or SITE)


async def _ask_rack(client: httpx.AsyncClient, record: RackRecord) -> RackStatus:
    packs = {s.pack: (s.url,) for s in record.services if s.role is Role.API_SERVER and s.pack}
    probes: dict[str, tuple[str, Probe]] = {}
    for service in record.services:
        if service.role is Role.GATEWAY:
            probes[service.name] = service.url, _gateway_probe(service.url, client)
        elif service.role is Role.LICENSE_PROXY:
            probes[service.name] = service.url, http_probe(f"{service.url}/health", client)
        elif service.role is Role.REDIS:
            address = Address.parse(service.url.removeprefix("redis://"))
            password = Secrets.beside(record.key_file).redis_password
            probes[service.name] = service.url, redis_probe(address.host, address.port, password)
    found = await _Question(client, packs).ask(probes)
    for row in found.deployments:
        pair = [s for s in record.services if s.pack == row.deployment]
        row.restarts = sum(s.restarts for s in pair)
        failed = next((s for s in pair if s.condition in ("failed", "waiting")), None)
        if failed and row.status != "healthy":
            last = f": {failed.last_lines[-1]}" if failed.last_lines else ""
            row.status, row.reason = failed.condition, f"{failed.name} {failed.reason}{last}"
    for shared in found.shared:
        shared.restarts = next(s.restarts for s in record.services if s.name == shared.name)
    return found


async def _ask_site(client: httpx.AsyncClient, file: Path) -> RackStatus:
    site = load_site(file)
    proxy, redis = site.license_proxy, site.redis
    proxy_url = f"http://{Address(proxy.address, proxy.port)}"
    address = site.gateway.address if site.gateway.address not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    gateway = f"{'https' if site.gateway.tls else 'http'}://{Address(address, site.gateway.listen)}"
    probes = {
        "nginx": (gateway, _gateway_probe(gateway, client)),
        "license-proxy": (proxy_url, http_probe(f"{proxy_url}/health", client)),
        "redis": (
            f"redis://{Address(redis.address, redis.port)}",
            redis_probe(redis.address, redis.port, password_file=None),
        ),
    }
    return await _Question(client, Routes.from_site(site).packs).ask(probes)


def _ask_fleet(file: Path) -> RackStatus | None:
    """Each replica as its own host sees it: API servers let only the gateway in. None when the site has no fleet."""
    site = load_site(file)
    if site.fleet is None:
        return None
    facts = gather(site, load_pool(file.with_name("hosts.yaml")), file.absolute().parent)
    rows = []
    for pack, replicas in (facts.states or {}).items():
        for replica in replicas:
            port = site.deployments[pack].ports.api if pack in site.deployments else 0
            row = DeploymentStatus(pack, f"http://{Address(replica.address, port)}", host=replica.host)
            host = facts.hosts.get(replica.host)
            pair = host.pairs.get(pack) if host else None
            if pair and pair.api:
                _take(row, pair.api)
            else:
                row.reason = (host.fault if host else "not in hosts.yaml") or "was never rolled"
            rows.append(row)
    shared = []
    proxy = facts.hosts[site.fleet.shared].license_proxy
    for name, answer in (("nginx", facts.gateway), ("license-proxy", proxy)):
        if answer:
            status_ = "healthy" if name == "nginx" and not answer.error else answer.health
            shared.append(SharedStatus(name, answer.url, status_, answer.reason or None))
        else:
            shared.append(SharedStatus(name, site.fleet.shared, UNREACHABLE, "doesn't run"))
    return RackStatus(rows, shared)


def _take(row: DeploymentStatus, answer: Answer) -> None:
    row.status, row.reason, body = answer.health, answer.reason or None, answer.body
    row.uptime_s, row.version = body.get("uptime_s"), body.get("version")
    row.license, row.redis = body.get("license"), body.get("redis")
    row.checkpoints = (body.get("model_server") or {}).get("checkpoints") or []


def _gateway_probe(url: str, client: httpx.AsyncClient) -> Probe:
    return http_probe(f"{url.rstrip('/')}/routes.json", client)


class _Question:
    """Asks every replica of every pack, and what is shared, at the same time."""

    def __init__(self, client: httpx.AsyncClient, packs: Any) -> None:
        self._client = client
        self._packs = packs

    async def ask(self, probes: dict[str, tuple[str, Probe]]) -> RackStatus:
        replicas = [(name, url) for name, urls in self._packs.items() for url in urls]
        deployments, shared = await asyncio.gather(
            asyncio.gather(*(self._deployment(name, url) for name, url in replicas)),
            asyncio.gather(*(_shared(name, url, probe) for name, (url, probe) in probes.items())),
        )
        return RackStatus(deployments, shared)

    async def _deployment(self, name: str, url: str) -> DeploymentStatus:
        row = DeploymentStatus(name, url)
        try:
            answer = await self._client.get(f"{url}/health", params={"verbose": "true"})
            body = answer.json()
            row.status, row.reason = str(body["status"]), body.get("reason")
        except httpx.HTTPError as error:
            row.reason = f"doesn't answer ({type(error).__name__})"
            return row
        except (ValueError, KeyError, TypeError):
            row.status, row.reason = "unhealthy", "answers, but is no API server"
            return row
        row.uptime_s, row.version = body.get("uptime_s"), body.get("version")
        row.license, row.redis = body.get("license"), body.get("redis")
        row.checkpoints = (body.get("model_server") or {}).get("checkpoints") or []
        if body.get("deployment") not in (None, name):
            row.status, row.reason = "unhealthy", f"is the deployment {body['deployment']}, not {name}"
        return row


async def _shared(name: str, url: str, probe: Probe) -> SharedStatus:
    wrong = await probe()
    status_ = "healthy" if wrong is None else UNREACHABLE if wrong.startswith("doesn't") else "unhealthy"
    return SharedStatus(name, url, status_, wrong)


def _print(found: RackStatus) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("deployment", "health", "checkpoint"):
        table.add_column(heading, no_wrap=True)
    for heading in ("concurrency", "active", "queued", "uptime"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.deployments:
        name = f"{row.deployment} on {row.host}" if row.host else row.deployment
        head: list[Text | str] = [name, _health(row)]
        for checkpoint in row.checkpoints or [{}]:
            load = [str(checkpoint.get(name, "")) for name in ("concurrency", "active", "queued")]
            table.add_row(*head, checkpoint.get("name", ""), *load, _duration(row.uptime_s))
            head, row.uptime_s = ["", ""], None
    for shared in found.shared:
        table.add_row(shared.name, _health(shared))
    console.print(table)
    named: list[tuple[str, DeploymentStatus | SharedStatus]] = [(row.deployment, row) for row in found.deployments]
    named += [(shared.name, shared) for shared in found.shared]
    for name, asked in named:
        if asked.reason:
            console.print(f"{name} ({asked.url}): {asked.reason}", markup=False, soft_wrap=True)
        if asked.restarts:
            console.print(f"{name}: restarted {asked.restarts} times since `up`", markup=False)


def _health(row: DeploymentStatus | SharedStatus) -> Text:
    return Text(row.status, style=STYLES.get(row.status, "red"))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])
