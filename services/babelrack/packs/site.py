"""A site: which packs run, where, from which checkpoints, and behind which gateway."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from babelrack.packs.document import read_document
from babelrack.packs.faults import Fault, PackError, nearest, schema_faults, shown
from babelrack.packs.pack import (
    STRICT,
    Checkpoint,
    Host,
    Pack,
    PackName,
    Port,
    Ports,
    Sha256,
    load_pack,
    resolve_file_url,
    url_fault,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ModelWrapValidatorHandler

EVERY_CHECKPOINT: Final = "*"
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_PLAIN_PATH: Final = re.compile(r"[^\x00-\x1f\x7f\"'\\$;{}#\s]+")


@dataclass(frozen=True, order=True)
class Address:
    """A host (a name, an IPv4 address or an IPv6 address without brackets) and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address written as `host:port` or `[IPv6]:port`; raises ValueError with a sentence."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not _is_host(host, ipv6=bracketed):
            raise ValueError(f"is {shown(text)}; write host:port, or [address]:port for IPv6")
        if re.fullmatch(r"[0-9]{1,5}", port) is None or not 1 <= int(port) <= 65535:
            raise ValueError(f"is {shown(text)}; write a port from 1 to 65535 after the last colon")
        return cls(host, int(port))

    @property
    def machine(self) -> str:
        """The host under one name: every spelling of this machine is `127.0.0.1`."""
        return "127.0.0.1" if self.host in ("localhost", "::1", "0.0.0.0", "::") else self.host.lower()  # noqa: S104 - compared, not bound

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_host(host: str, *, ipv6: bool) -> bool:
    if ipv6:
        try:
            return ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(host) is not None


def _check_address(text: str) -> str:
    Address.parse(text)
    return text


def _check_bind(host: str) -> str:
    if not _is_host(host, ipv6=":" in host):
        raise ValueError(f"is {shown(host)}; write a host name or an address, without a port")
    return host


def _check_server_name(name: str) -> str:
    if _HOST_NAME.fullmatch(name) is None or len(name) > 200:
        raise ValueError(f"is {shown(name)}; write a host name such as stt.example.org")
    return name.lower()


def _check_path(path: str) -> str:
    if _PLAIN_PATH.fullmatch(path) is None:
        raise ValueError(f"is {shown(path)}; write a path without spaces, quotes, and the signs $ ; {{ }} \\ #")
    return path


def _check_source_url(url: str) -> str:
    if fault := url_fault(url, relative_files=True):
        raise ValueError(fault)
    return url


def _check_network(network: str) -> str:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        raise ValueError(f"is {shown(network)}; write a network such as 10.20.0.0/16 ({error})") from None
    return network


HostName = Annotated[str, AfterValidator(_check_bind)]


class CheckpointSource(BaseModel):
    """Where this site takes a checkpoint from, instead of the pack's URL and checksum."""

    model_config = STRICT

    url: Annotated[str, AfterValidator(_check_source_url)] = Field(
        description="As in a pack file; a relative file: path starts at the project's root."
    )
    sha256: Sha256 | None = Field(
        default=None, description="SHA-256 of what this URL holds; the pack's own is for the pack's URL and not used."
    )


class DeploymentOverride(BaseModel):
    """What this site changes about a pack's deployment."""

    model_config = STRICT

    ports: dict[Literal["api", "model", "metrics"], Port] = Field(
        default={}, description="Other ports than the pack's: api, model, metrics."
    )
    replicas: int | None = Field(default=None, ge=1, le=1000, description="Another number of replicas than the pack's.")
    host: dict[Literal["gpus", "gpu_memory_gib", "ram_gib", "disk_gib"], int] = Field(
        default={}, description="Other needs of a host than the pack's: gpus, gpu_memory_gib, ram_gib, disk_gib."
    )
    addresses: tuple[Annotated[str, AfterValidator(_check_address)], ...] = Field(
        default=(),
        strict=False,
        description="Where the gateway finds this pack's API servers, one host:port a replica; "
        "127.0.0.1 and the pack's api port when left out, and in a fleet the hosts that Terraform claimed.",
    )


class Tls(BaseModel):
    """The gateway's certificate."""

    model_config = STRICT

    certificate: Annotated[str, AfterValidator(_check_path)] = Field(
        description="PEM file with the certificate and its chain, on the gateway's machine."
    )
    key: Annotated[str, AfterValidator(_check_path)] = Field(
        description="PEM file with the private key, on the gateway's machine."
    )
    hsts_max_age: int = Field(
        default=0,
        ge=0,
        le=63072000,
        description="Seconds for which browsers must come back over TLS only; 0 sends no such header.",
    )


class Gateway(BaseModel):
    """The nginx in front of the packs."""

    model_config = STRICT

    address: HostName = Field(default="0.0.0.0", description="The address that the gateway listens on.")  # noqa: S104 - it is the door
    listen: Port = Field(default=8080, description="The port that the gateway listens on.")
    server_name: Annotated[str, AfterValidator(_check_server_name)] = Field(
        default="localhost",
        description="The gateway's host name; a pack's own is the pack's name before it, indic.<server_name>.",
    )
    tls: Tls | None = Field(default=None, description="The certificate; without one the gateway speaks plain HTTP.")
    max_body_mb: int = Field(default=250, ge=1, le=10240, description="The largest request body, in MB (2^20 bytes).")
    default_pack: PackName | None = Field(
        default=None, description="The pack for requests that name no language; without one they get a 400."
    )


class Shared(BaseModel):
    """Where a service that all packs share is found."""

    model_config = STRICT

    address: HostName = Field(default="127.0.0.1", description="The host's name or address.")
    port: Port = Field(description="The port, 1 to 65535.")


class UrlInput(BaseModel):
    """Requests that give a URL instead of audio."""

    model_config = STRICT

    allowed_networks: tuple[Annotated[str, AfterValidator(_check_network)], ...] = Field(
        default=(),
        strict=False,
        description="Private networks, such as 10.20.0.0/16, that audio may be fetched from; others are refused.",
    )


class Fleet(BaseModel):
    """Which hosts of the pool (`hosts.yaml` beside the site file) carry what all packs share."""

    model_config = STRICT

    shared: str = Field(description="The pool's host that carries the licence proxy, Redis and the monitoring.")
    gateway: str = Field(description="The pool's host that carries the gateway; it may be the shared one.")


class SiteFile(BaseModel):
    """A site file as it is written; `load_site` makes a `Site` of it."""

    model_config = STRICT

    packs: tuple[PackName, ...] = Field(
        min_length=1, strict=False, description="The packs that run at this site, by name."
    )
    packs_dir: Annotated[str, AfterValidator(_check_path)] = Field(
        default="packs", description="The folder of the pack files, from the project's root."
    )
    deployments: dict[PackName, DeploymentOverride] = Field(
        default={}, description="What this site changes about a pack's deployment, by the pack's name."
    )
    checkpoint_sources: dict[str, CheckpointSource] = Field(
        default={}, description="Where checkpoints come from here, by the checkpoint's name; '*' for all others."
    )
    speaker_model: CheckpointSource | None = Field(
        default=None, description="The speaker model, a URL as for checkpoints; without one `diarize` is refused."
    )
    routes: dict[str, PackName] = Field(
        default={}, description="The pack that serves a language or an aggregator which two packs have."
    )
    gateway: Gateway = Field(default=Gateway(), description="The nginx in front of the packs.")
    license_proxy: Shared = Field(default=Shared(port=6699), description="Where the licence proxy is found.")
    redis: Shared = Field(default=Shared(port=6379), description="Where Redis is found.")
    url_input: UrlInput = Field(default=UrlInput(), description="Requests that give a URL instead of audio.")
    fleet: Fleet | None = Field(
        default=None, description="For a site of several machines: the hosts of what the packs share."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _raise_pack_error(cls, data: Any, handler: ModelWrapValidatorHandler[SiteFile]) -> SiteFile:
        try:
            return handler(data)
        except ValidationError as error:
            raise PackError(schema_faults(cls, error)) from None


@dataclass(frozen=True)
class Deployment:
    """A pack as it runs at a site."""

    pack: Pack
    file: Path
    ports: Ports
    replicas: int
    host: Host
    addresses: tuple[Address, ...]
    """Where the gateway finds API servers; empty when the site names none and is a fleet or has several replicas."""


@dataclass(frozen=True)
class Site:
    """A site whose every name and port has been checked; `load_site` makes it."""

    name: str
    root: Path
    deployments: Mapping[str, Deployment]
    checkpoint_sources: Mapping[str, CheckpointSource]
    speaker_model: CheckpointSource | None
    routes: Mapping[str, str]
    """The site's own choice of a pack for codes that two packs have."""
    gateway: Gateway
    license_proxy: Shared
    redis: Shared
    url_input: UrlInput
    fleet: Fleet | None
    """None for a site that is this one machine."""

    @property
    def speaker_model_url(self) -> str:
        """The model servers' `SPEAKER_MODEL_URL`, its SHA-256 in the fragment; empty without a speaker model."""
        model = self.speaker_model
        if model is None:
            return ""
        url = resolve_file_url(model.url, self.root)
        return f"{url}#sha256={model.sha256}" if model.sha256 else url

    def source(self, checkpoint: Checkpoint) -> tuple[str, str | None]:
        """The URL that a checkpoint is fetched from here, `file:` ones absolute, and the SHA-256 that goes with it."""
        source = self.checkpoint_sources.get(checkpoint.name) or self.checkpoint_sources.get(EVERY_CHECKPOINT)
        if source is None:
            return checkpoint.url, checkpoint.sha256
        return resolve_file_url(source.url, self.root), source.sha256


def project_root(path: Path) -> Path:
    """Where a site file's relative paths start: above `inventories/<site>/`, else the file's own folder."""
    folder = path.absolute().parent
    return folder.parent.parent if folder.parent.name == "inventories" else folder


def load_site(path: Path) -> Site:
    """The site in a file, with its packs; raises `PackError` with every fault of all these files."""
    file = str(path)
    try:
        return _site(path, _site_file(path))
    except PackError as error:
        raise error.in_file(file) from None


def load_deployment(path: Path, name: str) -> tuple[Deployment, Fleet | None]:
    """One pack as a site file has it, and the site's fleet; the files of its other packs are not read.

    So a fault in another pack's file is no fault here; `load_site` finds what two packs contradict each other in.
    Raises `PackError` with every fault.
    """
    try:
        return _one_deployment(path, _site_file(path), name)
    except PackError as error:
        raise error.in_file(str(path)) from None


def _one_deployment(path: Path, written: SiteFile, name: str) -> tuple[Deployment, Fleet | None]:
    if name not in written.packs:
        fault = Fault("packs", f"has no {shown(name)}; {_choose(name, list(written.packs))}, or add it to the list")
        raise PackError([fault])
    faults: list[Fault] = []
    packs = _load_packs(path, project_root(path) / written.packs_dir, (name,), faults)
    if faults:
        raise PackError(faults)
    pack_file, pack = packs[name]
    override = written.deployments.get(name, DeploymentOverride())
    return _deployment(pack, pack_file, override, fleet=written.fleet is not None), written.fleet


def _site_file(path: Path) -> SiteFile:
    data = read_document(path)
    if not isinstance(data, dict):
        raise PackError([Fault("", "the file holds no mapping; start with packs: and the names of this site's packs")])
    return SiteFile.model_validate(data)


def _site(path: Path, written: SiteFile) -> Site:
    root = project_root(path)
    faults: list[Fault] = []
    deployments = {}
    for name, (file, pack) in _load_packs(path, root / written.packs_dir, written.packs, faults).items():
        try:
            override = written.deployments.get(name, DeploymentOverride())
            deployments[name] = _deployment(pack, file, override, fleet=written.fleet is not None)
        except PackError as error:
            faults += error.faults
    site = Site(
        name=path.absolute().parent.name,
        root=root,
        deployments=deployments,
        checkpoint_sources=written.checkpoint_sources,
        speaker_model=written.speaker_model,
        routes=written.routes,
        gateway=_with_absolute_paths(written.gateway, root),
        license_proxy=written.license_proxy,
        redis=written.redis,
        url_input=written.url_input,
        fleet=written.fleet,
    )
    complete = len(deployments) == len(set(written.packs))
    faults += _unknown_names(site, written, complete=complete)
    faults += _unrouted_codes(site)
    faults += _route_faults(site)
    faults += _port_faults(site)
    if faults:
        raise PackError(faults)
    return site


def _with_absolute_paths(gateway: Gateway, root: Path) -> Gateway:
    if gateway.tls is None:
        return gateway
    paths = {"certificate": str(root / gateway.tls.certificate), "key": str(root / gateway.tls.key)}
    return gateway.model_copy(update={"tls": gateway.tls.model_copy(update=paths)})


def _load_packs(site: Path, folder: Path, names: tuple[str, ...], faults: list[Fault]) -> dict[str, tuple[Path, Pack]]:
    packs: dict[str, tuple[Path, Pack]] = {}
    for index, name in enumerate(names):
        if name in names[:index]:
            faults.append(Fault(f"packs[{index}]", f"lists {shown(name)} a second time; take it out"))
            continue
        file = _near(folder / f"{name}.yaml", site)
        if not file.is_file():
            known = sorted(found.stem for found in folder.glob("*.yaml"))
            meant = nearest(name, known)
            fix = f"did you mean {meant!r}?" if meant else f"the packs in {folder} are {', '.join(known) or 'none'}"
            faults.append(Fault(f"packs[{index}]", f"is {shown(name)}, which no pack file is named for; {fix}"))
            continue
        try:
            packs[name] = file, load_pack(file)
        except PackError as error:
            faults += error.faults
    return packs


def _near(file: Path, site: Path) -> Path:
    """The pack's file as a reader of the site's path would write it: relative when the site's path was."""
    if site.is_absolute():
        return file
    try:
        return file.relative_to(Path.cwd())
    except ValueError:
        return file


def _deployment(pack: Pack, file: Path, override: DeploymentOverride, *, fleet: bool) -> Deployment:
    where = f"deployments.{pack.name}"
    faults: list[Fault] = []
    ports, host = pack.ports, pack.host
    try:
        host = Host.model_validate(pack.host.model_dump() | override.host)
    except ValidationError as error:
        faults += [replace(fault, field=f"{where}.host.{fault.field}") for fault in schema_faults(Host, error)]
    chosen = pack.ports.model_dump() | override.ports
    if len(set(chosen.values())) < len(chosen):
        numbers = ", ".join(f"{name} {port}" for name, port in chosen.items())
        faults.append(Fault(f"{where}.ports", f"with the pack's make {numbers}; give each its own port"))
    else:
        ports = Ports.model_validate(chosen)
    replicas = override.replicas or pack.replicas
    addresses = tuple(Address.parse(text) for text in override.addresses)
    if addresses and len(addresses) != replicas:
        faults.append(
            Fault(
                f"{where}.addresses",
                f"lists {len(addresses)} for {replicas} replicas; list one host:port a replica, or change replicas",
            )
        )
    if not addresses and replicas == 1 and not fleet:
        addresses = (Address("127.0.0.1", ports.api),)
    if faults:
        raise PackError(faults)
    return Deployment(pack, file, ports, replicas, host, addresses)


def _unknown_names(site: Site, written: SiteFile, *, complete: bool) -> Iterator[Fault]:
    names = list(dict.fromkeys(written.packs))
    used = [(f"deployments.{name}", name) for name in written.deployments]
    used += [(f"routes.{code}", name) for code, name in written.routes.items()]
    used += [("gateway.default_pack", written.gateway.default_pack)] if written.gateway.default_pack else []
    for field, name in used:
        if name not in names:
            yield Fault(field, f"names the pack {shown(name)}, which this site doesn't run; {_choose(name, names)}")
    if not complete:  # a pack that couldn't be read may have the checkpoint
        return
    checkpoints = [
        checkpoint.name for deployment in site.deployments.values() for checkpoint in deployment.pack.checkpoints
    ]
    for name in written.checkpoint_sources:
        if name != EVERY_CHECKPOINT and name not in checkpoints:
            yield Fault(
                f"checkpoint_sources.{name}",
                f"is for a checkpoint that none of this site's packs has; {_choose(name, checkpoints)}",
            )


def _choose(name: str, known: list[str]) -> str:
    meant = nearest(name, known)
    return f"did you mean {meant!r}?" if meant else f"write one of {', '.join(known)}"


def offered_codes(pack: Pack) -> tuple[str, ...]:
    """Every code that a pack answers: its languages and its aggregator."""
    return (*pack.languages, pack.aggregator)


def _unrouted_codes(site: Site) -> Iterator[Fault]:
    offers: dict[str, list[str]] = {}
    for name, deployment in site.deployments.items():
        for code in offered_codes(deployment.pack):
            offers.setdefault(code, []).append(name)
    for code, names in offers.items():
        if len(names) > 1 and code not in site.routes:
            choices = " or ".join(f"'{code}: {name}'" for name in names)
            yield Fault(
                "routes", f"doesn't say which pack serves {code!r}, which {', '.join(names)} have; add {choices}"
            )


def _route_faults(site: Site) -> Iterator[Fault]:
    for code, name in site.routes.items():
        if name in site.deployments and code not in (offers := offered_codes(site.deployments[name].pack)):
            yield Fault(
                f"routes.{code}",
                f"is {shown(name)}, which doesn't cover {shown(code)} but {', '.join(offers)}; "
                "route it to a pack that does, or take the line out",
            )


def _port_faults(site: Site) -> Iterator[Fault]:
    used: dict[tuple[str, int], str] = {}
    for machine, port, user in _used_ports(site):
        other = used.setdefault((machine, port), user)
        if other != user:
            yield Fault(user, f"is port {port} on {machine}, which {other} has already; give one of them another port")


def _used_ports(site: Site) -> Iterator[tuple[str, int, str]]:
    gateway = Address(site.gateway.address, site.gateway.listen)
    yield gateway.machine, gateway.port, "gateway.listen"
    for field in ("license_proxy", "redis"):
        shared: Shared = getattr(site, field)
        yield Address(shared.address, shared.port).machine, shared.port, f"{field}.port"
    for name, deployment in site.deployments.items():
        ports = deployment.ports
        for index, address in enumerate(deployment.addresses):
            replica = f" of replica {index}" if len(deployment.addresses) > 1 else ""
            yield address.machine, address.port, f"deployments.{name}.ports.api{replica}"
            yield address.machine, ports.model, f"deployments.{name}.ports.model{replica}"
            yield address.machine, ports.metrics, f"deployments.{name}.ports.metrics{replica}"
