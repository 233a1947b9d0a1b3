"""From facts to findings: each of the classic mistakes is one function, which sees nothing but the facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

from babelrack.packs.languages import family, is_aggregator
from babelrack.packs.pack import CONCURRENCY, MAX_CHECKPOINTS
from babelrack.packs.site import offered_codes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from babelrack.fleet.facts import ClaimFacts, HostFacts, PairFacts, SiteFacts
    from babelrack.fleet.replicas import Replica
    from babelrack.packs.pack import Pack
    from babelrack.packs.site import Deployment

SKEW_WARNING_S: Final = 2.0
SKEW_ERROR_S: Final = 30.0
FULL_SHARE: Final = 0.03
NEARLY_FULL_SHARE: Final = 0.10
EXPIRES_SOON: Final = timedelta(days=14)
EXPIRES_NOW: Final = timedelta(days=2)
_GIB: Final = 1024**3

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `check` is its section in docs/doctor.md, `where` a host, a pack or a file."""

    severity: Severity
    check: str
    where: str
    what: str
    fix: str


def diagnose(facts: SiteFacts) -> list[Finding]:
    """Every finding, errors first, in the order of the checks."""
    found = [finding for check in CHECKS.values() for finding in check(facts)]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity != "error")


def unreachable_hosts(facts: SiteFacts) -> Iterator[Finding]:
    """A host of the pool that SSH doesn't reach; grave when this site uses it."""
    for host in facts.hosts.values():
        if not host.fault:
            continue
        used = host.name in facts.used_hosts
        yield Finding(
            "error" if used else "warning",
            "unreachable-host",
            host.name,
            f"the control machine can't look at it: {host.fault}"
            + ("" if used else " (nothing of this site runs there)"),
            f"try `ssh {host.address}` yourself; see to its power, its network and its key in known_hosts, or take it "
            "out of hosts.yaml",
        )


def unhealthy_servers(facts: SiteFacts) -> Iterator[Finding]:
    """A server that isn't well, in its own words; what has a check of its own is left to that."""
    if facts.gateway and facts.gateway.error:
        yield Finding(
            "error",
            "unhealthy",
            "gateway",
            f"{facts.gateway.url} {facts.gateway.error}",
            "look at `journalctl -u nginx` on the gateway's host; `nginx -t` says what is wrong with its configuration",
        )
    for host, pair in _pairs(facts):
        if (host.name, pair.pack) not in _expected_places(facts) or _wrong_pair(pair):
            continue
        for role, unit, answer in (("model server", "asr", pair.model), ("API server", "api-server", pair.api)):
            if answer and answer.health == "healthy":
                continue
            if role == "API server" and answer and _names_the_model_server(answer.reason):
                continue  # the model server's own line says it
            state = pair.units.get(f"{unit}@{pair.pack}.service", "")
            said = answer.reason if answer else "it is not configured"
            yield Finding(
                "warning" if answer and answer.health == "degraded" else "error",
                "unhealthy",
                f"{host.name}: {role} of {pair.pack}",
                f"{answer.health if answer else 'missing'}: {said}" + (f" (its unit is {state})" if state else ""),
                f"read `journalctl -u {unit}@{pair.pack}` on {host.name}; `babelrack apply {pair.pack}` puts it right "
                "when only its configuration is wrong",
            )
    for host in facts.hosts.values():
        if host.license_proxy and host.license_proxy.health != "healthy":
            yield Finding(
                "warning" if host.license_proxy.health == "degraded" else "error",
                "unhealthy",
                f"{host.name}: licence proxy",
                f"{host.license_proxy.health}: {host.license_proxy.reason}",
                f"read `journalctl -u license-proxy` on {host.name}; packs go on for 24 hours after its last answer",
            )


def drained_replicas(facts: SiteFacts) -> Iterator[Finding]:
    """A replica that the gateway sends nothing to: a roll failed there, is under way, or somebody drained it."""
    at = {
        f"[{replica.address}]:{port}" if ":" in replica.address else f"{replica.address}:{port}": (pack, replica)
        for pack, replicas in (facts.states or {}).items()
        if pack in facts.site.deployments
        for port in (facts.site.deployments[pack].ports.api,)
        for replica in replicas
    }
    for host in facts.hosts.values():
        for address in host.drained:
            if address not in at:
                continue
            pack, replica = at[address]
            others = len((facts.states or {})[pack]) - 1
            yield Finding(
                "warning" if others else "error",
                "drained-replica",
                f"{replica.host}: {pack}",
                f"the gateway sends replica {replica.index} ({address}) nothing, because it is drained",
                f"unless a roll is under way: `babelrack apply {pack}` rolls it again and says why if that fails; one "
                "that was drained by hand is put back by hand (docs/operations.md)",
            )


def _names_the_model_server(reason: str) -> bool:
    return reason.startswith("the model server")


def wrong_pairs(facts: SiteFacts) -> Iterator[Finding]:
    """An API server whose model server is of another pack, by what they say and by what they are configured to."""
    for host, pair in _pairs(facts):
        if wrong := _wrong_pair(pair):
            yield Finding(
                "error",
                "wrong-pair",
                f"{host.name}: API server of {pair.pack}",
                wrong,
                f"`babelrack apply {pair.pack}` writes both servers' settings anew; change them nowhere else",
            )


def _wrong_pair(pair: PairFacts) -> str | None:
    api = pair.api.body if pair.api else {}
    behind = api.get("model_server") or {}
    if api.get("deployment", pair.pack) != pair.pack:
        return (
            f"what answers at {pair.api.url if pair.api else ''} is the deployment {api['deployment']}, not {pair.pack}"
        )
    if behind.get("deployment", pair.pack) != pair.pack:
        return f"it is paired with the model server of {behind['deployment']}"
    if pair.model and pair.model.body.get("deployment", pair.pack) != pair.pack:
        return f"the model server that is configured for it is of {pair.model.body['deployment']}"
    if str(api.get("reason", "")).startswith("wrong pair"):
        return str(api["reason"])
    return _wrongly_configured(pair)


def _wrongly_configured(pair: PairFacts) -> str | None:
    if pair.api_environment is None or pair.model_environment is None:
        return None
    for name in ("DEPLOYMENT_NAME", "AGGREGATOR"):
        ours, theirs = pair.api_environment.get(name), pair.model_environment.get(name)
        if ours and theirs and ours != theirs:
            return f"its {name} is {ours}, its model server's is {theirs}"
    url, port = pair.api_environment.get("ASR_BASE_URL"), pair.model_environment.get("PORT")
    if url and port and (target := urlsplit(url)).port and str(target.port) != port:
        return f"its ASR_BASE_URL is {url}, but its model server listens on {port}"
    return None


def license_proxies(facts: SiteFacts) -> Iterator[Finding]:
    """More than one licence proxy, or servers that ask different ones: seats and usage are then counted twice."""
    if facts.site.fleet is None:
        return
    right = facts.site.fleet.shared
    running = [host.name for host in facts.hosts.values() if host.license_proxy]
    for name in running:
        if name != right:
            yield Finding(
                "error",
                "two-license-proxies",
                name,
                f"a licence proxy runs here; the site's only one belongs on {right}, so seats and usage are split",
                f"on {name}: `systemctl disable --now license-proxy`; bring its usage journal in first if it has any",
            )
    asked: dict[str, list[str]] = {}
    for host, pair in _pairs(facts):
        for environment in (pair.api_environment, pair.model_environment):
            if environment and (url := environment.get("API_BASE_URL")):
                asked.setdefault(url.rstrip("/"), []).append(f"{pair.pack} on {host.name}")
    if len(asked) > 1:
        usual = max(asked, key=lambda url: len(asked[url]))
        for url, users in asked.items():
            if url != usual:
                packs = sorted({user.partition(" on ")[0] for user in users})
                yield Finding(
                    "error",
                    "two-license-proxies",
                    ", ".join(dict.fromkeys(users)),
                    f"asks the licence proxy at {url}, the others ask {usual}",
                    " and ".join(f"`babelrack apply {pack}`" for pack in packs),
                )


def three_checkpoints(facts: SiteFacts) -> Iterator[Finding]:
    """Three checkpoints for one family of languages, where one multilingual checkpoint would do."""
    for name, deployment in facts.site.deployments.items():
        pack = deployment.pack
        families = {family(code) for code in pack.languages}
        if len(pack.checkpoints) == MAX_CHECKPOINTS and len(families) == 1:
            yield Finding(
                "warning",
                "three-checkpoints",
                f"{deployment.file}",
                f"{name} has three checkpoints for one language family ({families.pop()}): each decodes "
                f"{CONCURRENCY[MAX_CHECKPOINTS]} requests at a time, {CONCURRENCY[1]} would be one's alone",
                "measure whether one multilingual checkpoint is as good; if so, list only that one and apply the pack",
            )


def not_rolled(facts: SiteFacts) -> Iterator[Finding]:
    """A pack file or site file that says something else than what runs."""
    for name, deployment in facts.site.deployments.items():
        yield from _replicas_differ(facts, name, deployment)
        for host, pair in _pairs(facts):
            if pair.pack == name and (not facts.states or (host.name, name) in _expected_places(facts)):
                yield from _pair_differs(facts, host, pair, deployment)
    yield from _map_differs(facts)


def _replicas_differ(facts: SiteFacts, name: str, deployment: Deployment) -> Iterator[Finding]:
    if facts.states is None or name not in facts.states:
        return
    claimed = facts.states[name]
    if not claimed:
        yield Finding(
            "warning",
            "not-rolled",
            name,
            "the site lists this pack, but it was never applied here, so none of its languages is served",
            f"`babelrack apply {name}`, or take it out of the site file's packs",
        )
    elif len(claimed) != deployment.replicas:
        yield Finding(
            "warning",
            "not-rolled",
            name,
            f"the files ask for {deployment.replicas} replicas, {len(claimed)} are claimed",
            f"`babelrack apply {name}`",
        )
    for replica in claimed:
        host = facts.hosts.get(replica.host)
        if host and not host.fault and name not in host.pairs:
            yield Finding(
                "error",
                "not-rolled",
                f"{host.name}: {name}",
                f"replica {replica.index} has its host, but the pack was never rolled onto it",
                f"`babelrack apply {name}`",
            )


def _pair_differs(facts: SiteFacts, host: HostFacts, pair: PairFacts, deployment: Deployment) -> Iterator[Finding]:
    configured = _configuration_differs(facts, pair, deployment)
    loaded = _checkpoints_differ(pair, deployment.pack)
    # A changed checkpoint shows in both; what is configured says more.
    if what := configured or (
        f"the model server has loaded {loaded}; {deployment.file} says otherwise" if loaded else ""
    ):
        fix = f"`babelrack apply {pair.pack}`" if facts.states is not None else "`babelrack down`, then `babelrack up`"
        yield Finding("warning", "not-rolled", f"{host.name}: {pair.pack}", what, fix)


def _configuration_differs(facts: SiteFacts, pair: PairFacts, deployment: Deployment) -> str:
    ports, model, api = deployment.ports, pair.model_environment, pair.api_environment
    differing = []
    if model is not None:
        wanted = {
            "AGGREGATOR": deployment.pack.aggregator,
            "PORT": str(ports.model),
            "METRICS_PORT": str(ports.metrics),
        }
        differing += [
            _difference(name, model[name], value) for name, value in wanted.items() if model.get(name, value) != value
        ]
        url = deployment.pack.model_url(facts.site)
        if (running := model.get("MODEL_URL", url)) != url:
            differing.append(f"the checkpoints are {_listed(running)}, the files say {_listed(url)}")
    if api is not None and api.get("API_SERVER_PORT", str(ports.api)) != str(ports.api):
        differing.append(_difference("API_SERVER_PORT", api["API_SERVER_PORT"], str(ports.api)))
    return "; ".join(differing)


def _difference(name: str, running: str, wanted: str) -> str:
    return f"{name} is {running}, the files say {wanted}"


def _listed(model_url: str) -> str:
    """The checkpoints of a MODEL_URL as a sentence has them: name, then what is particular about it."""
    listed = []
    for url in model_url.split(","):
        fields = {name: values[0] for name, values in parse_qs(urlsplit(url).fragment).items()}
        digest = f", sha256 {fields['sha256'][:8]}…" if fields.get("sha256") else ""
        location = url.partition("#")[0]
        listed.append(f"{fields.get('name', 'unnamed')} ({location}, {fields.get('languages', '')}{digest})")
    return " and ".join(listed)


def _checkpoints_differ(pair: PairFacts, pack: Pack) -> str:
    if not pair.model or "checkpoints" not in pair.model.body:
        return ""
    loaded = _loaded(pair.model.body)
    wanted = {checkpoint.name: (checkpoint.role, frozenset(checkpoint.languages)) for checkpoint in pack.checkpoints}
    if not loaded or loaded == wanted:  # one that is starting has none yet, which its health says
        return ""
    return " and ".join(f"{name} ({role}: {' '.join(sorted(codes))})" for name, (role, codes) in loaded.items())


def _loaded(health: Mapping[str, Any]) -> dict[str, tuple[str, frozenset[str]]]:
    return {
        str(checkpoint.get("name")): (str(checkpoint.get("role")), frozenset(checkpoint.get("languages") or ()))
        for checkpoint in health["checkpoints"]
    }


def _map_differs(facts: SiteFacts) -> Iterator[Finding]:
    """Languages that the site's files route to a pack with replicas, and the gateway doesn't."""
    if facts.routes is None or facts.states is None:
        return
    for name, deployment in facts.site.deployments.items():
        if not facts.states.get(name):
            continue
        codes = [code for code in offered_codes(deployment.pack) if facts.site.routes.get(code, name) == name]
        missing = [code for code in codes if facts.routes.get(code) != name]
        if missing:
            others = {facts.routes[code] for code in missing if code in facts.routes}
            where = f"sends them to {', '.join(sorted(others))}" if others else "doesn't know them"
            yield Finding(
                "error",
                "not-rolled",
                "gateway",
                f"{', '.join(missing)} should go to {name}; the gateway's map {where}",
                f"`babelrack apply {name}` renders the map anew",
            )


def uncovered_languages(facts: SiteFacts) -> Iterator[Finding]:
    """A language that the gateway's map sends to a pack, of which no loaded checkpoint covers it."""
    for pack, codes in _by_pack(facts.routes or {}).items():
        pairs = [(host, pair) for host, pair in _pairs(facts) if pair.pack == pack]
        if pack not in facts.site.deployments:
            yield Finding(
                "error",
                "uncovered-language",
                "gateway",
                f"the map sends {', '.join(codes)} to {pack}, which is no pack of this site",
                "`babelrack apply` of any pack renders the map anew; list the pack in the site file if it is to stay",
            )
        for host, pair in pairs:
            if not pair.model or not (loaded := _loaded({"checkpoints": pair.model.body.get("checkpoints") or ()})):
                continue
            covered = {code for _, languages in loaded.values() for code in languages}
            covered.add(str(pair.model.body.get("aggregator")))
            if missing := [code for code in codes if code not in covered]:
                kind = "aggregator" if all(map(is_aggregator, missing)) else "language"
                yield Finding(
                    "error",
                    "uncovered-language",
                    f"{host.name}: {pack}",
                    f"the map sends {', '.join(missing)} to this pack, and no checkpoint that is loaded here covers "
                    f"the {kind}{'s' if len(missing) > 1 else ''}",
                    "give it to a checkpoint in the pack file, or route it elsewhere in the site file, then "
                    f"`babelrack apply {pack}`",
                )


def claims_without_state(facts: SiteFacts) -> Iterator[Finding]:
    """A place that is claimed for this site and that no Terraform state knows: a host that nobody uses."""
    for host in facts.hosts.values():
        for claim in host.claims:
            path = f"/var/lib/babelrack/claims/place-{claim.place}"
            if claim.pack is None or claim.site is None:
                yield Finding(
                    "warning",
                    "claim-without-state",
                    f"{host.name}: place {claim.place}",
                    f"{path}/claim.json can't be read, so nobody knows whose the place is, and nobody gets it",
                    f"when no apply is under way and nothing runs there: on {host.name}, `rm -r {path}`",
                )
                continue
            if claim.site != facts.site.name or facts.states is None:
                continue
            if claim.pack in facts.states and _held(facts.states[claim.pack], host, claim):
                continue
            if claim.pack in facts.site.deployments and claim.pack not in facts.states:
                continue  # its state can't be read, which is among the gaps
            yield Finding(
                "error",
                "claim-without-state",
                f"{host.name}: place {claim.place}",
                f"it is claimed for replica {claim.replica} of {claim.pack} (by {claim.claimed_by or 'somebody'}), "
                "which Terraform's state doesn't have there",
                f"`babelrack apply {claim.pack}` takes it over if that replica is wanted; else, when no apply is under "
                f"way, on {host.name}: `rm -r {path}`",
            )


def states_without_claim(facts: SiteFacts) -> Iterator[Finding]:
    """A replica in Terraform's state whose place on its host is free, or somebody else's."""
    for pack, replicas in (facts.states or {}).items():
        for replica in replicas:
            host = facts.hosts.get(replica.host)
            if host is None:
                yield Finding(
                    "error",
                    "state-without-claim",
                    f"replica {replica.index} of {pack}",
                    f"it is on {replica.host}, which is not in hosts.yaml",
                    f"put the host back, or `babelrack apply {pack}` to claim another",
                )
                continue
            if host.fault:
                continue
            holder = next((claim for claim in host.claims if claim.place == replica.place), None)
            if holder is None or not _is_claim_of(holder, facts, pack, replica):
                whose = "nobody has claimed"
                if holder:
                    whose = f"{holder.pack or 'somebody'} at {holder.site or 'another site'} has claimed"
                yield Finding(
                    "error",
                    "state-without-claim",
                    f"{host.name}: place {replica.place}",
                    f"the state has replica {replica.index} of {pack} here, but {whose} the place",
                    f"`babelrack apply {pack}` shows what it will do about it and claims a place again",
                )


def leftovers(facts: SiteFacts) -> Iterator[Finding]:
    """A pack that still runs on a host which isn't its own any more."""
    if facts.states is None:
        return
    for host, pair in _pairs(facts):
        known = pair.pack in facts.states or pair.pack not in facts.site.deployments
        if known and pair.running and (host.name, pair.pack) not in _expected_places(facts):
            yield Finding(
                "warning",
                "left-over",
                f"{host.name}: {pair.pack}",
                f"{pair.pack} runs here, but no replica of it has this host",
                f"on {host.name}: `systemctl disable --now api-server@{pair.pack} asr@{pair.pack}`",
            )


def clock_skew(facts: SiteFacts) -> Iterator[Finding]:
    """A clock that is certainly wrong, measured against the control machine's."""
    for host in facts.hosts.values():
        if host.fault or abs(host.clock_ahead_s) < SKEW_WARNING_S:
            continue
        direction = "ahead of" if host.clock_ahead_s > 0 else "behind"
        yield Finding(
            "error" if abs(host.clock_ahead_s) >= SKEW_ERROR_S else "warning",
            "clock-skew",
            host.name,
            f"its clock is at least {abs(host.clock_ahead_s):.0f} s {direction} this machine's",
            "see `timedatectl` on both; the role `base` sets up the clock, its servers must be reachable",
        )


def full_disks(facts: SiteFacts) -> Iterator[Finding]:
    """A file system with little space left."""
    for host in facts.hosts.values():
        for system in host.file_systems:
            share = system.free / system.size
            if share >= NEARLY_FULL_SHARE:
                continue
            yield Finding(
                "error" if share < FULL_SHARE else "warning",
                "disk-full",
                f"{host.name}: {system.path}",
                f"{system.free / _GIB:.1f} of {system.size / _GIB:.1f} GiB are free",
                "`du -xh --max-depth=2 /var /opt | sort -h` shows what takes it; old checkpoints lie under "
                "/var/cache/babelrack/checkpoints, old releases under /opt/babelrack/releases",
            )


def expiring_licenses(facts: SiteFacts) -> Iterator[Finding]:
    """A licence that has ended, ends soon, or is no good."""
    fix = "put the renewed licence in its place, then `babelrack apply shared`; no server restarts"
    yield from _expiring(facts, "licence", "license-expiring", fix)


def expiring_certificates(facts: SiteFacts) -> Iterator[Finding]:
    """A certificate that has ended, ends soon, or can't be read."""
    fix = "put the renewed certificate in its place, then `babelrack apply shared`; nginx reloads it"
    yield from _expiring(facts, "certificate", "certificate-expiring", fix)


def _expiring(facts: SiteFacts, what: str, check: str, fix: str) -> Iterator[Finding]:
    for expiry in facts.expiries:
        if expiry.what != what:
            continue
        if expiry.ends is None:
            if expiry.fault:
                yield Finding("error", check, expiry.where, expiry.fault, fix)
            continue
        left = expiry.ends - facts.now
        if left > EXPIRES_SOON:
            continue
        when = f"{expiry.ends:%Y-%m-%d %H:%M} UTC"
        sentence = f"the {what} ended on {when}" if left <= timedelta() else f"the {what} ends on {when}"
        yield Finding("error" if left <= EXPIRES_NOW else "warning", check, expiry.where, sentence, fix)


def _pairs(facts: SiteFacts) -> Iterator[tuple[HostFacts, PairFacts]]:
    for host in facts.hosts.values():
        for pair in host.pairs.values():
            yield host, pair


def _expected_places(facts: SiteFacts) -> set[tuple[str, str]]:
    """(host, pack) of every replica; without a fleet every pack is where it is."""
    if facts.states is None:
        return {(host.name, pair.pack) for host, pair in _pairs(facts)}
    return {(replica.host, pack) for pack, replicas in facts.states.items() for replica in replicas}


def _held(replicas: tuple[Replica, ...], host: HostFacts, claim: ClaimFacts) -> bool:
    return any(
        (replica.host, replica.place, replica.index) == (host.name, claim.place, claim.replica) for replica in replicas
    )


def _is_claim_of(claim: ClaimFacts, facts: SiteFacts, pack: str, replica: Replica) -> bool:
    return (claim.pack, claim.site, claim.replica) == (pack, facts.site.name, replica.index)


def _by_pack(routes: Mapping[str, str]) -> dict[str, list[str]]:
    packs: dict[str, list[str]] = {}
    for code, pack in routes.items():
        packs.setdefault(pack, []).append(code)
    return packs


CHECKS: Final[dict[str, Callable[[SiteFacts], Iterator[Finding]]]] = {
    "unreachable-host": unreachable_hosts,
    "unhealthy": unhealthy_servers,
    "drained-replica": drained_replicas,
    "wrong-pair": wrong_pairs,
    "two-license-proxies": license_proxies,
    "uncovered-language": uncovered_languages,
    "not-rolled": not_rolled,
    "claim-without-state": claims_without_state,
    "state-without-claim": states_without_claim,
    "left-over": leftovers,
    "disk-full": full_disks,
    "clock-skew": clock_skew,
    "license-expiring": expiring_licenses,
    "certificate-expiring": expiring_certificates,
    "three-checkpoints": three_checkpoints,
}
