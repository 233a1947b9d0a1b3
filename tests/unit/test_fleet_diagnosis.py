"""The doctor's checks: each finds its mistake, names it with a fix, and finds nothing where nothing is wrong."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from babelrack.fleet.diagnosis import CHECKS, diagnose
from babelrack.fleet.facts import Answer, ClaimFacts, Expiry, FileSystem, HostFacts, PairFacts, SiteFacts
from babelrack.fleet.replicas import Replica
from babelrack.packs.site import load_site

NOW = datetime(2026, 3, 1, tzinfo=UTC)
GIB = 1024**3

INDIC = """
name: indic
aggregator: multi-indic
checkpoints:
  - {name: indic-hi, role: dedicated, languages: [hi], url: "file:///store/hi"}
  - {name: indic-multi, role: multilingual, languages: [hi, ta], url: "file:///store/multi"}
replicas: 2
"""
SEA = """
name: sea
aggregator: multi-sea
checkpoints: [{name: sea, role: multilingual, languages: [id], url: "file:///store/sea"}]
"""
SITE = """
packs: [indic, sea]
deployments: {sea: {ports: {api: 7101, model: 2234, metrics: 9091}}}
fleet: {shared: hub, gateway: hub}
"""


@pytest.fixture
def site(tmp_path):
    def make(indic=INDIC, sea=SEA, site=SITE):
        for file, text in (("packs/indic.yaml", indic), ("packs/sea.yaml", sea), ("inventories/lab/site.yaml", site)):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        return load_site(tmp_path / "inventories/lab/site.yaml")

    return make


def model_health(deployment):
    return {
        "status": "healthy",
        "deployment": deployment.pack.name,
        "aggregator": deployment.pack.aggregator,
        "checkpoints": [
            {"name": checkpoint.name, "role": checkpoint.role, "languages": list(checkpoint.languages)}
            for checkpoint in deployment.pack.checkpoints
        ],
    }


def pair(site, name):
    """A pack's two servers as a good roll leaves them."""
    deployment = site.deployments[name]
    ports, health = deployment.ports, model_health(deployment)
    shared = {"DEPLOYMENT_NAME": name, "AGGREGATOR": deployment.pack.aggregator, "API_BASE_URL": "http://10.0.0.1:6699"}
    return PairFacts(
        name,
        api=Answer(
            f"http://10.0.0.2:{ports.api}", 200, {"status": "healthy", "deployment": name, "model_server": health}
        ),
        model=Answer(f"http://127.0.0.1:{ports.model}", 200, health),
        api_environment=shared | {"API_SERVER_PORT": str(ports.api), "ASR_BASE_URL": f"http://127.0.0.1:{ports.model}"},
        model_environment=shared
        | {
            "PORT": str(ports.model),
            "METRICS_PORT": str(ports.metrics),
            "MODEL_URL": deployment.pack.model_url(site),
        },
        units={f"asr@{name}.service": "active", f"api-server@{name}.service": "active"},
    )


def host(name, *pairs, claims=(), **fields):
    return HostFacts(
        name,
        f"10.0.0.{len(name)}",
        pairs={pair.pack: pair for pair in pairs},
        claims=tuple(claims),
        file_systems=(FileSystem("/", 100 * GIB, 50 * GIB),),
        **fields,
    )


def good(site):
    """A fleet with nothing wrong: two replicas of indic, one of sea beside the first of them, an idle host."""
    indic, sea = pair(site, "indic"), pair(site, "sea")
    hosts = [
        host("hub", license_proxy=Answer("http://10.0.0.1:6699/health", 200, {"status": "healthy"})),
        host("one", indic, sea, claims=[ClaimFacts(0, "indic", "lab", 0), ClaimFacts(1, "sea", "lab", 0)]),
        host("two", indic, claims=[ClaimFacts(0, "indic", "lab", 1)]),
        host("idle", claims=[ClaimFacts(0, "indic", "another-site", 7)]),
    ]
    return SiteFacts(
        site=site,
        now=NOW,
        hosts={entry.name: entry for entry in hosts},
        states={
            "indic": (Replica(0, "one", "10.0.0.3", 0), Replica(1, "two", "10.0.0.3", 0)),
            "sea": (Replica(0, "one", "10.0.0.3", 1),),
        },
        routes={"hi": "indic", "ta": "indic", "multi-indic": "indic", "id": "sea", "multi-sea": "sea"},
        gateway=Answer("http://10.0.0.3:8080/routes.json", 200),
        expiries=(
            Expiry("licence", "secrets/license.jws", NOW + timedelta(days=60)),
            Expiry("certificate", "10.0.0.3:443", NOW + timedelta(days=60)),
        ),
    )


@pytest.fixture
def fleet(site):
    return good(site())


def change_host(facts, name, **fields):
    return replace(facts, hosts={**facts.hosts, name: replace(facts.hosts[name], **fields)})


def change_pair(facts, name, pack, **fields):
    pairs = facts.hosts[name].pairs
    return change_host(facts, name, pairs={**pairs, pack: replace(pairs[pack], **fields)})


def only(facts):
    """The one thing that is wrong."""
    (finding,) = diagnose(facts)
    assert finding.fix
    return finding


def said(facts):
    return [(finding.check, finding.where) for finding in diagnose(facts)]


def test_a_good_fleet_has_no_findings(fleet):
    assert diagnose(fleet) == []


def test_an_api_server_behind_which_another_packs_model_server_runs(fleet):
    body = fleet.hosts["one"].pairs["indic"].api.body
    wrong = body | {
        "status": "unhealthy",
        "reason": "wrong pair: this API server is indic, the model server at … is sea",
        "model_server": model_health(fleet.site.deployments["sea"]),
    }
    finding = only(change_pair(fleet, "one", "indic", api=Answer("http://x", 503, wrong)))
    assert (finding.check, finding.severity, finding.where) == ("wrong-pair", "error", "one: API server of indic")
    assert "model server of sea" in finding.what


@pytest.mark.parametrize(
    ("name", "value"),
    [("ASR_BASE_URL", "http://127.0.0.1:2234"), ("AGGREGATOR", "multi-sea"), ("DEPLOYMENT_NAME", "x")],
)
def test_a_wrong_pair_is_found_in_its_settings_before_it_is_restarted(fleet, name, value):
    environment = fleet.hosts["one"].pairs["indic"].api_environment | {name: value}
    finding = only(change_pair(fleet, "one", "indic", api_environment=environment))
    assert finding.check == "wrong-pair"
    assert value in finding.what


def test_a_drained_replica_is_worse_when_it_is_the_only_one(fleet):
    one = only(change_host(fleet, "hub", drained=("10.0.0.3:7101", "10.9.9.9:7100")))
    assert (one.check, one.severity, one.where) == ("drained-replica", "error", "one: sea")
    of_two = diagnose(change_host(fleet, "hub", drained=("10.0.0.3:7100",)))
    assert {finding.severity for finding in of_two} == {"warning"}


def test_a_second_licence_proxy(fleet):
    second = Answer("http://127.0.0.1:6699/health", 200, {"status": "healthy"})
    finding = only(change_host(fleet, "idle", license_proxy=second))
    assert (finding.check, finding.where) == ("two-license-proxies", "idle")
    assert "belongs on hub" in finding.what


def test_servers_that_ask_another_licence_proxy_than_the_rest(fleet):
    environment = fleet.hosts["two"].pairs["indic"].model_environment | {"API_BASE_URL": "http://10.9.9.9:6699"}
    finding = only(change_pair(fleet, "two", "indic", model_environment=environment))
    assert (finding.check, finding.where) == ("two-license-proxies", "indic on two")
    assert "http://10.9.9.9:6699" in finding.what


def test_three_checkpoints_of_one_family(site):
    third = '  - {name: indic-ta, role: dedicated, languages: [ta], url: "file:///store/ta"}\nreplicas: 2'
    finding = only(good(site(indic=INDIC.replace("replicas: 2", third))))
    assert (finding.check, finding.severity) == ("three-checkpoints", "warning")
    assert "48 requests" in finding.what


def test_three_checkpoints_of_several_families_are_nobodys_mistake(site):
    third = '  - {name: indic-ja, role: dedicated, languages: [ja], url: "file:///store/ja"}\nreplicas: 2'
    facts = good(site(indic=INDIC.replace("replicas: 2", third)))
    assert diagnose(replace(facts, routes=facts.routes | {"ja": "indic"})) == []


def test_a_checkpoint_list_that_was_changed_and_not_rolled(fleet, site):
    changed = replace(fleet, site=site(indic=INDIC.replace("file:///store/multi", "file:///store/multi-2")))
    findings = diagnose(changed)
    assert [(finding.check, finding.where) for finding in findings] == [
        ("not-rolled", "one: indic"),
        ("not-rolled", "two: indic"),
    ]
    assert "file:///store/multi-2" in findings[0].what
    assert findings[0].fix == "`babelrack apply indic`"


def test_a_model_server_that_was_not_restarted_with_its_new_settings(fleet):
    body = fleet.hosts["one"].pairs["indic"].model.body
    old = body | {"checkpoints": body["checkpoints"][1:]}
    facts = replace(fleet, routes=fleet.routes | {"hi": "indic"})
    finding = only(change_pair(facts, "one", "indic", model=Answer("x", 200, old)))
    assert finding.check == "not-rolled"
    assert "has loaded indic-multi" in finding.what


def test_another_port_in_the_site_file_than_on_the_host(fleet, site):
    changed = replace(fleet, site=site(site=SITE.replace("9091", "9099")))
    finding = only(changed)
    assert finding.what == "METRICS_PORT is 9091, the files say 9099"


def test_another_number_of_replicas_in_the_files_than_claimed(fleet, site):
    finding = only(replace(fleet, site=site(indic=INDIC.replace("replicas: 2", "replicas: 3"))))
    assert (finding.check, finding.where) == ("not-rolled", "indic")
    assert "ask for 3 replicas, 2 are claimed" in finding.what


def test_a_pack_that_was_never_applied(fleet):
    facts = replace(
        fleet, states=fleet.states | {"sea": ()}, routes={"hi": "indic", "ta": "indic", "multi-indic": "indic"}
    )
    pairs = {"indic": facts.hosts["one"].pairs["indic"]}
    facts = change_host(facts, "one", pairs=pairs, claims=facts.hosts["one"].claims[:1])
    assert "never applied" in only(facts).what


def test_a_replica_that_was_claimed_and_never_rolled(fleet):
    assert only(change_host(fleet, "two", pairs={})).what.startswith("replica 1 has its host")


def test_a_language_that_the_map_routes_and_no_checkpoint_covers(fleet):
    facts = replace(fleet, routes=fleet.routes | {"bn": "indic"})
    assert said(facts) == [("uncovered-language", "one: indic"), ("uncovered-language", "two: indic")]
    assert "sends bn to this pack" in diagnose(facts)[0].what


def test_a_map_that_names_a_pack_which_is_not_of_this_site(fleet):
    finding = only(replace(fleet, routes=fleet.routes | {"ja": "future"}))
    assert (finding.check, finding.where) == ("uncovered-language", "gateway")


def test_a_map_that_lacks_a_language_which_a_pack_serves(fleet):
    routes = {code: pack for code, pack in fleet.routes.items() if code != "ta"}
    finding = only(replace(fleet, routes=routes))
    assert (finding.check, finding.where) == ("not-rolled", "gateway")
    assert finding.what.startswith("ta should go to indic")


def test_a_claim_that_no_state_knows(fleet):
    claims = (ClaimFacts(0, "indic", "lab", 2, "op@control"),)
    finding = only(change_host(fleet, "idle", claims=claims))
    assert (finding.check, finding.where) == ("claim-without-state", "idle: place 0")
    assert "replica 2 of indic (by op@control)" in finding.what
    assert "rm -r /var/lib/babelrack/claims/place-0" in finding.fix


def test_a_claim_of_a_pack_that_the_site_does_not_list(fleet):
    finding = only(change_host(fleet, "idle", claims=(ClaimFacts(0, "gone", "lab", 0),)))
    assert finding.check == "claim-without-state"


def test_a_claim_that_can_not_be_read(fleet):
    finding = only(change_host(fleet, "idle", claims=(ClaimFacts(1),)))
    assert (finding.check, finding.severity) == ("claim-without-state", "warning")


def test_a_state_that_can_not_be_read_accuses_no_claim(fleet):
    states = {"indic": fleet.states["indic"]}
    assert diagnose(replace(fleet, states=states)) == []


def test_a_claim_that_vanished(fleet):
    finding = only(change_host(fleet, "two", claims=()))
    assert (finding.check, finding.where) == ("state-without-claim", "two: place 0")
    assert "nobody has claimed the place" in finding.what


def test_a_place_that_another_pack_took(fleet):
    claims = (ClaimFacts(0, "sea", "another-site", 3),)
    finding = only(change_host(fleet, "two", claims=claims))
    assert "sea at another-site has claimed the place" in finding.what


def test_a_replica_on_a_host_that_left_the_pool(fleet):
    hosts = {name: entry for name, entry in fleet.hosts.items() if name != "two"}
    finding = only(replace(fleet, hosts=hosts))
    assert (finding.check, finding.where) == ("state-without-claim", "replica 1 of indic")


def test_a_pack_that_still_runs_on_a_host_which_is_not_its_own(fleet):
    left = fleet.hosts["one"].pairs["sea"]
    finding = only(change_host(fleet, "idle", pairs={"sea": left}))
    assert (finding.check, finding.where) == ("left-over", "idle: sea")


def test_what_is_only_left_on_disk_is_no_left_over(fleet):
    left = PairFacts("sea", model_environment={}, api_environment={}, units={"asr@sea.service": "inactive"})
    assert diagnose(change_host(fleet, "idle", pairs={"sea": left})) == []


@pytest.mark.parametrize(("ahead", "severity"), [(1.9, None), (-2.5, "warning"), (31, "error"), (-3600, "error")])
def test_a_clock_that_is_wrong(fleet, ahead, severity):
    findings = diagnose(change_host(fleet, "one", clock_ahead_s=ahead))
    assert [(finding.check, finding.severity) for finding in findings] == (
        [("clock-skew", severity)] if severity else []
    )


@pytest.mark.parametrize(("free", "severity"), [(11, None), (9, "warning"), (2, "error"), (0, "error")])
def test_a_disk_that_is_full(fleet, free, severity):
    findings = diagnose(change_host(fleet, "one", file_systems=(FileSystem("/var", 100 * GIB, free * GIB),)))
    assert [(finding.check, finding.severity) for finding in findings] == (
        [("disk-full", severity)] if severity else []
    )


@pytest.mark.parametrize("what", ["licence", "certificate"])
@pytest.mark.parametrize(("days", "severity"), [(15, None), (13, "warning"), (1, "error"), (-1, "error")])
def test_a_licence_or_certificate_that_ends(fleet, what, days, severity):
    findings = diagnose(replace(fleet, expiries=(Expiry(what, "x", NOW + timedelta(days=days)),)))
    check = {"licence": "license-expiring", "certificate": "certificate-expiring"}[what]
    assert [(finding.check, finding.severity) for finding in findings] == ([(check, severity)] if severity else [])


def test_a_licence_that_is_no_good_is_told_in_its_own_words(fleet):
    finding = only(replace(fleet, expiries=(Expiry("licence", "x", fault="bears another signature"),)))
    assert finding.what == "bears another signature"


@pytest.mark.parametrize(("name", "severity"), [("one", "error"), ("hub", "error"), ("idle", "warning")])
def test_a_host_that_does_not_answer_is_worse_when_it_is_used(fleet, name, severity):
    hosts = {**fleet.hosts, name: HostFacts(name, "10.0.0.9", fault="Connection timed out")}
    finding = only(replace(fleet, hosts=hosts))
    assert (finding.check, finding.severity, finding.where) == ("unreachable-host", severity, name)


def test_a_server_that_is_not_well_is_told_once_and_in_its_own_words(fleet):
    api = fleet.hosts["one"].pairs["sea"].api.body
    facts = change_pair(
        fleet,
        "one",
        "sea",
        model=Answer("http://127.0.0.1:2234/health", error="doesn't answer (Connection refused)"),
        api=Answer("http://x", 503, api | {"status": "unhealthy", "reason": "the model server at … does not answer"}),
        units={"asr@sea.service": "failed", "api-server@sea.service": "active"},
    )
    finding = only(facts)
    assert (finding.check, finding.where) == ("unhealthy", "one: model server of sea")
    assert finding.what == "unreachable: doesn't answer (Connection refused) (its unit is failed)"


def test_a_gateway_that_does_not_answer(fleet):
    finding = only(replace(fleet, gateway=Answer("http://x", error="doesn't answer (refused)"), routes=None))
    assert (finding.check, finding.where) == ("unhealthy", "gateway")


def test_a_licence_proxy_that_is_not_well(fleet):
    answer = Answer("x", 200, {"status": "degraded", "reason": "the licence expires in 3 days; renew it"})
    finding = only(change_host(fleet, "hub", license_proxy=answer))
    assert (finding.severity, finding.where) == ("warning", "hub: licence proxy")


def test_errors_come_before_warnings(fleet):
    facts = change_host(change_host(fleet, "one", clock_ahead_s=3), "two", claims=())
    assert [finding.severity for finding in diagnose(facts)] == ["error", "warning"]


def test_a_rack_on_this_machine_is_judged_by_what_it_says(site):
    local = site(
        indic=INDIC.replace("replicas: 2", ""),
        site="packs: [indic, sea]\ndeployments: {sea: {ports: {api: 7101, model: 2234, metrics: 9091}}}\n",
    )
    pairs = {
        name: replace(pair(local, name), api_environment=None, model_environment=None, units={})
        for name in ("indic", "sea")
    }
    here = HostFacts("this machine", "127.0.0.1", pairs=pairs)
    facts = SiteFacts(site=local, now=NOW, hosts={"this machine": here}, routes={"hi": "indic", "bn": "indic"})
    assert said(facts) == [("uncovered-language", "this machine: indic")]
    body = pairs["sea"].model.body
    body = body | {"checkpoints": [body["checkpoints"][0] | {"languages": ["id", "ms"]}]}
    facts = change_pair(replace(facts, routes={}), "this machine", "sea", model=Answer("x", 200, body))
    assert only(facts).fix == "`babelrack down`, then `babelrack up`"


def test_every_check_has_its_section_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert set(re.findall(r"^## `([a-z-]+)`", text, re.MULTILINE)) == set(CHECKS)
