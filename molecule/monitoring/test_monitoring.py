"""Prometheus asks everything, its rules see what is wrong, and nobody but the inside can ask it."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml

ALERTS = Path(__file__).parents[2] / "ansible" / "roles" / "monitoring" / "files" / "alerts"
RULES = [
    rule
    for file in ALERTS.glob("*.yml")
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
# What Prometheus has after its first rounds of questions; a slow machine takes longer.
PATIENCE_S = 180


def inside(host):
    return host.check_output("hostname -I").split()[0]


@pytest.fixture
def ask(host):
    """Prometheus's answer to a question."""

    def ask(path):
        answer = json.loads(
            host.check_output("curl --silent --fail --globoff http://%s:9190/api/v1/%s", inside(host), path)
        )
        assert answer["status"] == "success"
        return answer["data"]

    return ask


def until(look):
    """What `look` returns, as soon as it is something."""
    end = time.monotonic() + PATIENCE_S
    while not (seen := look()) and time.monotonic() < end:
        time.sleep(2)
    return seen


@pytest.mark.parametrize("unit", ["prometheus", "prometheus-blackbox-exporter", "prometheus-node-exporter"])
def test_a_service_runs_confined_and_starts_with_the_machine(host, unit):
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled
    [line] = host.check_output(f"systemd-analyze security {unit} --no-pager | tail -1").splitlines()
    assert float(line.split(f"{unit}.service: ")[1].split()[0]) <= 2.5
    assert host.check_output(f"systemctl show --property MemoryMax --value {unit}").isdecimal()


def test_they_listen_inside_or_on_loopback_and_nowhere_else(host):
    listening = {socket for socket in host.socket.get_listening_sockets() if re.search(r":(9[01]\d\d)$", socket)}
    assert listening == {f"tcp://{inside(host)}:9190", f"tcp://{inside(host)}:9100", "tcp://127.0.0.1:9115"}


def test_everything_in_the_inventory_is_a_target_with_its_labels(ask):
    def targets():
        return {
            (labels["job"], labels["instance"], labels.get("pack"), labels.get("machine"))
            for target in ask("targets?state=active")["activeTargets"]
            for labels in [target["labels"]]
            if labels["site"] == "molecule"
        }

    replicas = {
        ("indic-0", "indic", "host-1"),
        ("western-sea-0", "western_sea", "host-2"),
        ("future-0", "future", "host-2"),
    }
    expected = {
        *((job, *replica) for job in ("api", "model") for replica in replicas),
        *(("pack", pack, pack, None) for pack in ("indic", "western_sea", "future")),
        ("node", "host-1", None, "host-1"),
        ("node", "host-2", None, "host-2"),
        ("gateway", "gateway", None, None),
        ("license-proxy", "license-proxy", None, None),
        ("prometheus", "prometheus", None, None),
    }
    # Prometheus takes what a targets file says anew within some seconds, job by job.
    assert until(lambda: targets() == expected), targets() ^ expected


def test_what_answers_is_up_and_what_does_not_is_not(ask):
    def settled():
        found = {
            one["metric"]["instance"]: one["value"][1]
            for one in ask("query?query=up{job=~'api|node|gateway'}")["result"]
        }
        # future-0 came last, and is asked for the first time up to 15 s later.
        up = found.get("host-1") == found.get("host-2") == found.get("gateway") == "1"
        return found if up and "future-0" in found else None

    assert until(settled) == {
        "indic-0": "1",
        "western-sea-0": "0",
        "future-0": "0",
        "host-1": "1",
        "host-2": "1",
        "gateway": "1",
    }


def test_a_new_replica_is_watched_without_a_restart(host):
    """The side effect added future-0, which the test above finds among the targets."""
    before = host.file("/run/prometheus-before").content_string.strip()
    assert host.check_output("systemctl show --property MainPID --value prometheus") == before


def test_every_rule_is_loaded_and_can_be_evaluated(ask):
    def evaluated():
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = until(evaluated)
    assert {rule["name"] for rule in rules} == {rule.get("alert") or rule["record"] for rule in RULES}
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_the_exporters_show_every_metric_that_a_rule_asks_them_for(ask):
    asked = set().union(*(re.findall(r"\b(?:node|probe|prometheus)_\w+", rule["expr"]) for rule in RULES))
    assert until(lambda: asked <= set(ask("label/__name__/values"))), asked - set(ask("label/__name__/values"))


def test_a_pack_that_is_away_is_noticed_and_one_that_is_well_is_not(ask):
    def packs(name):
        return {alert["labels"]["pack"] for alert in ask("alerts")["alerts"] if alert["labels"]["alertname"] == name}

    assert until(lambda: packs("PackDown") >= {"western_sea", "future"})
    assert "indic" not in packs("PackDown") | packs("PackUnreachable") | packs("WrongPair")


def test_a_certificate_that_ends_soon_is_noticed(ask):
    assert until(lambda: [a for a in ask("alerts")["alerts"] if a["labels"]["alertname"] == "CertificateEndsSoon"])
    assert not [a for a in ask("alerts")["alerts"] if a["labels"]["alertname"] == "GatewayDown"]


def test_a_watchdog_that_bites_is_counted(ask):
    query = "query?query=node_systemd_service_restart_total{name='license-proxy.service'}>0"
    assert until(lambda: {one["metric"]["machine"] for one in ask(query)["result"]} == {"host-1", "host-2"})


def test_a_disk_of_the_machines_is_seen(ask):
    query = "query?query=node_filesystem_avail_bytes{mountpoint='/var/cache/babelrack'}"
    assert until(lambda: {one["metric"]["machine"] for one in ask(query)["result"]} == {"host-1", "host-2"})


def test_samples_are_bounded(host, ask):
    flags = ask("status/flags")
    assert flags["storage.tsdb.retention.time"] == "30d"
    assert flags["storage.tsdb.retention.size"].startswith("5G")
    assert flags["web.enable-admin-api"] == flags["web.enable-lifecycle"] == "false"
