"""The facts of a rack that `babelrack up` runs on this machine, for `babelrack doctor`."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import httpx

from babelrack.cli.rack import running_rack
from babelrack.fleet.facts import Answer, FileSystem, HostFacts, PairFacts, SiteFacts
from babelrack.fleet.gathering import look_at_certificate, look_at_license
from babelrack.local.secrets import Secrets
from babelrack.local.service import Role

if TYPE_CHECKING:
    from pathlib import Path

    from babelrack.local.state import RackRecord
    from babelrack.packs.site import Site

HERE: Final = "this machine"
_SECONDS: Final = 5


def gather_rack(site: Site, state: Path) -> SiteFacts:
    """What the servers say that run from a state folder; without any, what the files say."""
    record = running_rack(state)
    gaps = []
    if record is None:
        gaps.append(f"No rack runs from {state}, so only the files were checked; start it with `babelrack up`.")
    # Whose certificate the gateway has is another question.
    with httpx.Client(timeout=_SECONDS, verify=False, trust_env=False) as client:  # noqa: S501
        pairs = _pairs(record, client) if record else {}
        routes = _routes(record, client) if record else None
        proxy = next((s.url for s in record.services if s.role is Role.LICENSE_PROXY), None) if record else None
        answer = _ask(f"{proxy}/health", client) if proxy else None
    usage = shutil.disk_usage(state if state.is_dir() else site.root)
    disk = FileSystem(str(state if state.is_dir() else site.root), usage.total, usage.free)
    host = HostFacts(HERE, "127.0.0.1", file_systems=(disk,), pairs=pairs, license_proxy=answer)
    secrets = Secrets(state / "secrets")
    expiries = [look_at_license(secrets.license, secrets.license_public_key)]
    if record and site.gateway.tls:
        expiries.append(look_at_certificate("127.0.0.1", site.gateway.listen))
    return SiteFacts(
        site=site,
        now=datetime.now(UTC),
        hosts={HERE: host},
        routes=routes,
        expiries=tuple(expiry for expiry in expiries if expiry),
        gaps=tuple(gaps),
    )


def _pairs(record: RackRecord, client: httpx.Client) -> dict[str, PairFacts]:
    answers: dict[str, dict[Role, Answer]] = {}
    for service in record.services:
        if service.pack and service.role in (Role.API_SERVER, Role.MODEL_SERVER):
            query = "?verbose=true" if service.role is Role.API_SERVER else ""
            answers.setdefault(service.pack, {})[service.role] = _ask(f"{service.url}/health{query}", client)
    return {
        pack: PairFacts(pack, api=roles.get(Role.API_SERVER), model=roles.get(Role.MODEL_SERVER))
        for pack, roles in answers.items()
    }


def _routes(record: RackRecord, client: httpx.Client) -> dict[str, str] | None:
    try:
        document: dict[str, dict[str, str]] = client.get(f"{record.gateway}/routes.json").raise_for_status().json()
        return document["languages"] | document["aggregators"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _ask(url: str, client: httpx.Client) -> Answer:
    try:
        response = client.get(url)
        body = response.json()
    except httpx.HTTPError as error:
        return Answer(url, error=f"doesn't answer ({type(error).__name__})")
    except ValueError:
        return Answer(url, error="answers with something that isn't JSON")
    return Answer(url, response.status_code, body if isinstance(body, dict) else {})
