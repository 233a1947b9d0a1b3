"""Gathering the facts of a fleet: every host over SSH, the gateway over HTTP, Terraform's states, the site's files."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
from cryptography import x509

from babelrack.fleet import FleetError
from babelrack.fleet.facts import Answer, ClaimFacts, Expiry, FileSystem, HostFacts, PairFacts, SiteFacts
from babelrack.fleet.replicas import claimed_replicas
from babelrack.fleet.ssh import run_python
from babelrack.licensing.document import LicenseError, load_public_key, read, unverified
from babelrack.packs.site import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babelrack.fleet.replicas import Replica
    from babelrack.packs.pool import Pool
    from babelrack.packs.site import Site

HOST_SECONDS: Final = 25
GATEWAY_SECONDS: Final = 5
_AT_A_TIME: Final = 16
_PROBE: Final = Path(__file__).with_name("host_probe.py")


def gather(site: Site, pool: Pool, folder: Path) -> SiteFacts:
    """The facts of a fleet whose site file is in `folder`; takes at most about half a minute.

    Raises:
        FleetError: when the site has no fleet, or names a host that the pool doesn't have.
    """
    if site.fleet is None:
        raise FleetError(f"The site {site.name} has no fleet: its packs run on this machine, not on a pool of hosts.")
    for name in (site.fleet.shared, site.fleet.gateway):
        if name not in pool.hosts:
            raise FleetError(
                f"{pool.file} has no host {name!r}, which the site's fleet names; add it, or name another."
            )
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        hosts = {name: threads.submit(look_at_host, pool, name) for name in pool.hosts}
        entrance = threads.submit(look_at_gateway, site, pool.hosts[site.fleet.gateway].address)
        states, gaps = _states(site)  # here: Terraform's module is for one thread
        gateway, routes, certificate = entrance.result()
        licence = look_at_license(folder / "secrets" / "license.jws", folder / "secrets" / "license-public.pem")
        return SiteFacts(
            site=site,
            now=datetime.now(UTC),
            hosts={name: future.result() for name, future in hosts.items()},
            states=states,
            routes=routes,
            gateway=gateway,
            expiries=tuple(expiry for expiry in (licence, certificate) if expiry),
            gaps=gaps,
        )


def look_at_host(pool: Pool, name: str) -> HostFacts:
    """One host's facts, or why there are none."""
    address = pool.hosts[name].address
    began = time.time()
    try:
        said = json.loads(run_python(pool, name, _PROBE.read_text(), seconds=HOST_SECONDS))
    except FleetError as error:
        return HostFacts(name, address, fault=str(error))
    except ValueError:
        return HostFacts(name, address, fault="its answer is not what the probe prints; does its shell print more?")
    return parse_host(name, address, said, began=began, ended=time.time())


def parse_host(name: str, address: str, said: Mapping[str, Any], *, began: float, ended: float) -> HostFacts:
    """A host's facts from what the probe printed between `began` and `ended` (Unix time here)."""
    claims = (ClaimFacts(place=entry["place"], **entry["claim"]) for entry in said["claims"])
    return HostFacts(
        name=name,
        address=address,
        clock_ahead_s=_clock_ahead(said["began"], said["ended"], began, ended),
        file_systems=tuple(FileSystem(**entry) for entry in said["file_systems"]),
        claims=tuple(claims),
        pairs={pack: _pair(pack, entry) for pack, entry in said["packs"].items()},
        license_proxy=_answer(said["license_proxy"]),
        drained=tuple(said["drained"]),
    )


def _clock_ahead(there_began: float, there_ended: float, here_began: float, here_ended: float) -> float:
    """Only what is certain: the probe ran within our own interval, whatever the connection took."""
    return round(max(there_ended - here_ended, 0.0) + min(there_began - here_began, 0.0), 3)


def _pair(pack: str, entry: Mapping[str, Any]) -> PairFacts:
    return PairFacts(
        pack=pack,
        api=_answer(entry.get("api")),
        model=_answer(entry.get("model")),
        api_environment=entry["api_environment"],
        model_environment=entry["model_environment"],
        release=entry["release"],
        units=entry["units"],
    )


def _answer(entry: Mapping[str, Any] | None) -> Answer | None:
    return Answer(**entry) if entry else None


def _states(site: Site) -> tuple[dict[str, tuple[Replica, ...]], tuple[str, ...]]:
    """The states of this site's packs and of every other pack that has a Terraform root."""
    if shutil.which("terraform") is None:
        return {}, ("Terraform's states were not read: terraform is not installed here.",)
    roots = sorted(path.parent.name for path in (site.root / "terraform" / "packs").glob("*/main.tf"))
    states: dict[str, tuple[Replica, ...]] = {}
    gaps = []
    for pack in dict.fromkeys([*site.deployments, *roots]):
        try:
            states[pack] = claimed_replicas(site.root, pack, site.name)
        except FleetError as error:
            gaps.append(f"The state of {pack} could not be read: {error}")
    return states, tuple(gaps)


def look_at_gateway(site: Site, address: str) -> tuple[Answer, dict[str, str] | None, Expiry | None]:
    """What the gateway answers, the map that it has, and its certificate when it speaks TLS."""
    gateway = site.gateway
    scheme = "https" if gateway.tls else "http"
    url = f"{scheme}://{Address(address, gateway.listen)}/routes.json"
    certificate = look_at_certificate(address, gateway.listen) if gateway.tls else None
    try:
        # Whether its certificate is good is another question, and has its own answer.
        response = httpx.get(
            url,
            headers={"Host": gateway.server_name},
            timeout=GATEWAY_SECONDS,
            verify=False,  # noqa: S501
            trust_env=False,
        )
        document = response.raise_for_status().json()
        return Answer(url, response.status_code), document["languages"] | document["aggregators"], certificate
    except httpx.HTTPError as error:
        return Answer(url, error=f"doesn't answer ({str(error) or type(error).__name__})"), None, certificate
    except (ValueError, KeyError, TypeError):
        return Answer(url, error="answers, but not with routes"), None, certificate


def look_at_certificate(address: str, port: int) -> Expiry:
    """Until when the certificate is good that a server shows."""
    where = str(Address(address, port))
    try:
        pem = ssl.get_server_certificate((address, port), timeout=GATEWAY_SECONDS)
        return Expiry("certificate", where, ends=x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc)
    except (OSError, ValueError, socket.gaierror) as error:
        return Expiry("certificate", where, fault=f"the certificate could not be read ({error})")


def look_at_license(file: Path, public_key: Path) -> Expiry | None:
    """Until when the licence in a file is good; None when there is none."""
    try:
        token = file.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        return Expiry("licence", str(file), fault=f"the licence can't be read ({error.strerror})")
    try:
        licence = read(token, load_public_key(public_key)) if public_key.is_file() else unverified(token)
    except LicenseError as error:
        return Expiry("licence", str(file), fault=str(error))
    return Expiry("licence", str(file), ends=licence.expires)
