"""From a site file to the processes of a rack: names, commands, environments, ports."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from babelrack.credentials import write_private
from babelrack.local import RackError
from babelrack.local.probe import http_probe, redis_probe
from babelrack.local.redis import redis_config
from babelrack.local.secrets import Secrets
from babelrack.local.service import Port, Role, Service
from babelrack.packs.gateway import StandalonePaths, render_nginx
from babelrack.packs.site import Address, Deployment, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import httpx

    from babelrack.local.state import StateFolder

LOOPBACK = "127.0.0.1"
DRAIN_SECONDS = 15
# nginx and redis-server are where users' PATH often doesn't look.
PROGRAM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# What a server may inherit. Not all of it: a PORT or a LICENSE_KEY that happens to be set here is not meant for it.
_INHERITED = ("HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "VIRTUAL_ENV")
_INHERITED_PREFIXES = (
    "LC_", "LD_", "SSL_", "PYTHON", "COVERAGE_", "OPENBLAS_", "MKL_", "MALLOC_", "BABELRACK_",
    "REQUESTS_CA", "CURL_CA", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
_INHERITED_BY_MODEL_SERVERS = ("AWS_", "HF_", "CHECKPOINT_", "CUDA_", "NVIDIA_", "PYTORCH_")

# Settings that a caller adds: by role, then by name.
Settings = dict[Role, dict[str, str]]


def setting(text: str) -> tuple[Role, str, str]:
    """`ROLE.NAME=VALUE` in its parts.

    Raises:
        RackError: when it is written otherwise.
    """
    target, equals, value = text.partition("=")
    role, dot, name = target.partition(".")
    if not equals or not dot or role not in set(Role) or not name.isidentifier():
        roles = ", ".join((Role.API_SERVER, Role.MODEL_SERVER, Role.LICENSE_PROXY))
        raise RackError(f"--set {text}: write ROLE.NAME=VALUE with a role of {roles}, such as model_server.THREADS=1.")
    return Role(role), name.upper(), value


def program(name: str) -> str:
    """The path of a program.

    Raises:
        RackError: when it isn't installed.
    """
    found = shutil.which(name, path=PROGRAM_PATH)
    if found is None:
        raise RackError(f"{name} is not installed; run `make setup`, or install Debian's package for it.")
    return found


def local_site(site: Site, names: Sequence[str]) -> Site:
    """The site with only the packs that are named (all when none is), which must have a replica on this machine.

    Raises:
        RackError: when a pack isn't of this site or runs elsewhere.
    """
    for name in names:
        if name not in site.deployments:
            known = ", ".join(site.deployments)
            raise RackError(f"The site {site.name} has no pack {name!r}; its packs are {known}.")
    chosen = {
        name: replace(deployment, addresses=(_here(name, deployment),), replicas=1)
        for name, deployment in site.deployments.items()
        if not names or name in names
    }
    gateway = site.gateway
    if gateway.default_pack not in chosen:
        gateway = gateway.model_copy(update={"default_pack": None})
    routes = {code: name for code, name in site.routes.items() if name in chosen}
    return replace(site, deployments=chosen, routes=routes, gateway=gateway)


def _here(name: str, deployment: Deployment) -> Address:
    for address in deployment.addresses:
        if address.machine == LOOPBACK:
            return address
    raise RackError(f"The pack {name} has no replica on this machine: its addresses in the site file are elsewhere.")


@dataclass(frozen=True)
class Layout:
    """One rack on this machine, ready to be started: `site` has its packs, `services` its processes."""

    site: Site
    state: StateFolder
    secrets: Secrets
    services: tuple[Service, ...]
    gateway: str
    nginx: StandalonePaths

    def write(self) -> None:
        """Make what the processes read: secrets, and the configurations of Redis and nginx.

        Raises:
            RackError, PackError: when something of it can't be made.
        """
        self.secrets.make(customer=f"{self.site.name} (local demo)")
        redis = self.site.redis
        write_private(
            self.secrets.redis_config,
            redis_config(redis.address, redis.port, self.state.folder("redis"), self.secrets.redis_password),
        )
        self.nginx.create()
        self.nginx.config.write_text(render_nginx(self.site, standalone=self.nginx))


class OnOutput(StandalonePaths):
    """nginx that logs to its output, where the supervisor keeps the log bounded."""

    @property
    def access_log(self) -> Path:
        """Standard output."""
        return Path("/dev/stdout")

    @property
    def error_log(self) -> Path:
        """Standard error."""
        return Path("/dev/stderr")


class Blueprint:
    """Makes a `Layout` of a site; nothing is written before `Layout.write`."""

    def __init__(
        self, site: Site, state: StateFolder, client: httpx.AsyncClient, *, threads: int | None, settings: Settings
    ) -> None:
        self._site = site
        self._state = state
        self._client = client
        self._settings = settings
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) // len(site.deployments))
        self._secrets = Secrets(state.path / "secrets")
        self._redis = Port(site.redis.address, site.redis.port)
        self._proxy = Port(site.license_proxy.address, site.license_proxy.port)

    def layout(self) -> Layout:
        """The whole rack. What the site has elsewhere, a shared Redis or licence proxy, is used and not started.

        Raises:
            RackError: when a program is missing.
        """
        gateway = self._site.gateway
        nginx = OnOutput(self._state.path / "nginx")
        services = [*self._shared()]
        for name, deployment in self._site.deployments.items():
            services += [self._model_server(name, deployment), self._api_server(name, deployment)]
        reachable = gateway.address if gateway.address not in ("0.0.0.0", "::") else LOOPBACK  # noqa: S104  (compared)
        url = f"{'https' if gateway.tls else 'http'}://{Address(reachable, gateway.listen)}"
        services.append(self._nginx(nginx, url))
        return Layout(self._site, self._state, self._secrets, tuple(services), url, nginx)

    def _shared(self) -> Iterator[Service]:
        if _is_here(self._redis):
            yield self._redis_server()
        if _is_here(self._proxy):
            yield self._license_proxy()

    def _redis_server(self) -> Service:
        port, secrets = self._redis, self._secrets
        return Service(
            name="redis",
            role=Role.REDIS,
            command=(program("redis-server"), str(secrets.redis_config)),
            environment=self._environment(Role.REDIS),
            probe=redis_probe(port.host, port.number, secrets.redis_password),
            ports=(port,),
            log=self._state.log_file("redis"),
            url=f"redis://{port.host}:{port.number}",
            grace_seconds=10,
        )

    def _license_proxy(self) -> Service:
        port, secrets = self._proxy, self._secrets
        return self._server(
            "license-proxy",
            Role.LICENSE_PROXY,
            port,
            HOST=port.host,
            PORT=port.number,
            LICENSE_FILE=secrets.license,
            LICENSE_PUBLIC_KEY_FILE=secrets.license_public_key,
            DATABASE=self._state.folder("license-proxy") / "usage.sqlite3",
        )

    def _model_server(self, name: str, deployment: Deployment) -> Service:
        pack, ports = deployment.pack, deployment.ports
        service = self._server(
            f"asr@{name}",
            Role.MODEL_SERVER,
            Port(LOOPBACK, ports.model),
            pack=name,
            HOST=LOOPBACK,
            PORT=ports.model,
            METRICS_PORT=ports.metrics,
            DEPLOYMENT_NAME=name,
            AGGREGATOR=pack.aggregator,
            MODEL_URL=pack.model_url(self._site),
            SPEAKER_MODEL_URL=self._site.speaker_model_url,
            MODEL_CACHE_DIR=self._site.root / ".cache" / "models",
            THREADS=self._threads,
            OMP_NUM_THREADS=self._threads,
            OMP_WAIT_POLICY="PASSIVE",
            STATE_DIR=self._state.folder(f"packs/{name}/model-server"),
            **self._licensing(),
        )
        return replace(service, ports=(*service.ports, Port(LOOPBACK, ports.metrics)))

    def _api_server(self, name: str, deployment: Deployment) -> Service:
        address = deployment.addresses[0]
        host = LOOPBACK if address.host == "localhost" else address.host
        return self._server(
            f"api-server@{name}",
            Role.API_SERVER,
            Port(host, address.port),
            pack=name,
            HOST=host,
            API_SERVER_PORT=address.port,
            DEPLOYMENT_NAME=name,
            AGGREGATOR=deployment.pack.aggregator,
            ASR_BASE_URL=f"http://{LOOPBACK}:{deployment.ports.model}",
            REDIS_URL=f"redis://{Address(self._redis.host, self._redis.number)}/0",
            REDIS_PASSWORD_FILE=self._secrets.redis_password,
            KEYS_FILE=self._secrets.keys,
            WEBHOOK_SECRET_FILE=self._secrets.webhook_secret,
            STATE_DIR=self._state.folder(f"packs/{name}/api-server"),
            URL_ALLOWED_NETWORKS=",".join(self._site.url_input.allowed_networks),
            **self._licensing(),
        )

    def _nginx(self, paths: StandalonePaths, url: str) -> Service:
        gateway = self._site.gateway
        return Service(
            name="nginx",
            role=Role.GATEWAY,
            command=(program("nginx"), "-e", "stderr", "-p", str(paths.state), "-c", str(paths.config)),
            environment=self._environment(Role.GATEWAY),
            probe=http_probe(f"{url}/routes.json", self._client),
            url=url,
            ports=(Port(gateway.address, gateway.listen),),
            log=self._state.log_file("nginx"),
            # QUIT lets running requests finish; TERM, when the supervisor is gone, ends the workers too, which a
            # master that is killed can't do.
            stop=signal.SIGQUIT,
            orphaned=signal.SIGTERM,
            grace_seconds=DRAIN_SECONDS + 5,
        )

    def _server(self, name: str, role: Role, port: Port, *, pack: str | None = None, **settings: object) -> Service:
        url = f"http://{Address(port.host, port.number)}"
        settings = {"DRAIN_SECONDS": DRAIN_SECONDS} | settings
        return Service(
            name=name,
            role=role,
            command=(sys.executable, "-m", f"babelrack.{role}"),
            environment=self._environment(role, **{key: str(value) for key, value in settings.items()}),
            probe=http_probe(f"{url}/health", self._client),
            ports=(port,),
            log=self._state.log_file(name),
            pack=pack,
            url=url,
            grace_seconds=DRAIN_SECONDS + 5,
        )

    def _licensing(self) -> Mapping[str, object]:
        proxy = Address(self._proxy.host, self._proxy.number)
        return {"API_BASE_URL": f"http://{proxy}", "LICENSE_KEY_FILE": self._secrets.license_key}

    def _environment(self, role: Role, **settings: str) -> dict[str, str]:
        prefixes: tuple[str, ...] = _INHERITED_PREFIXES
        if role is Role.MODEL_SERVER:
            prefixes += _INHERITED_BY_MODEL_SERVERS
        inherited = {
            name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(prefixes)
        }
        added = self._settings.get(role, {})
        return inherited | {"PATH": PROGRAM_PATH, "PYTHONUNBUFFERED": "1"} | settings | added


def _is_here(port: Port) -> bool:
    return Address(port.host, port.number).machine == LOOPBACK
