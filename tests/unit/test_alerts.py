"""Alert rules ask for numbers that exist, fire when they should, and can be looked up at night."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client import CollectorRegistry

from babelrack.api_server.app import Secrets, create_app
from babelrack.api_server.settings import Settings
from babelrack.license_proxy.metrics import Metrics as LicenseProxyMetrics
from babelrack.model_server.metrics import ModelServerCollector

PROJECT = Path(__file__).parents[2]
ROLE = PROJECT / "ansible" / "roles" / "monitoring"
GROUPS = {
    file.stem: yaml.safe_load(file.read_text())["groups"] for file in sorted((ROLE / "files/alerts").glob("*.yml"))
}
RULES = [rule for groups in GROUPS.values() for group in groups for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASES = sorted((Path(__file__).parent / "alerts").glob("*.yml"))

# Of Debian's exporters and of Prometheus itself. The molecule scenario of the role looks for them on a live one.
OTHERS = {
    "up",
    "babelrack_machine_gpus",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_systemd_service_restart_total",
    "node_systemd_unit_state",
    "node_time_seconds",
    "node_timex_sync_status",
    "node_vmstat_oom_kill",
    "probe_ssl_earliest_cert_expiry",
    "probe_success",
    "prometheus_config_last_reload_successful",
    "prometheus_notifications_dropped_total",
    "prometheus_rule_evaluation_failures_total",
}
WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "offset", "bool"}


def metrics_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression names."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"(?<![\w.])[A-Za-z_][\w:]*\b(?!\s*\()", bare)) - WORDS


def names(registry: CollectorRegistry) -> set[str]:
    """Every series that a registry may show, also those without a sample yet."""
    found = set()
    for family in registry.collect():
        match family.type:
            case "counter":
                found.add(f"{family.name}_total")
            case "histogram":
                found |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            case _:
                found.add(family.name)
    return found


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> set[str]:
    """What this package's own servers show."""
    settings = Settings(deployment_name="indic", state_dir=tmp_path_factory.mktemp("state"))
    app = create_app(settings, Secrets())
    api = next(layer.kwargs["metrics"] for layer in app.user_middleware if "metrics" in layer.kwargs)
    model = CollectorRegistry()
    # Without a checkpoint it shows the names of its metrics and no samples.
    model.register(ModelServerCollector(SimpleNamespace(loaded=object(), admissions={}, status=("healthy", None))))
    return names(api.registry) | names(model) | names(LicenseProxyMetrics().registry)


def test_every_metric_of_a_rule_exists(registered):
    counters = {row[0] for row in csv.reader((ROLE / "files/gpu-counters.csv").open()) if not row[0].startswith("#")}
    known = registered | counters | OTHERS | {rule["record"] for rule in RULES if "record" in rule}
    for rule in RULES:
        asked = metrics_in(rule["expr"])
        assert asked - known == set(), f"{rule.get('alert') or rule['record']} asks for what nothing shows"


def test_metrics_are_found_in_an_expression():
    expression = 'sum by (pack) (rate(a_total{x="and", y!~"b"}[5m])) / on (site) c:d > 0.5 * e and up{job="api"} == 0'
    assert metrics_in(expression) == {"a_total", "c:d", "e", "up"}


def test_nothing_is_listed_that_no_rule_asks_for():
    assert set().union(*(metrics_in(rule["expr"]) for rule in RULES)) >= OTHERS


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_whom_it_wakes_and_in_one_sentence_why(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket") or name == "Watchdog"
    assert alert["annotations"].keys() == {"summary"}
    assert alert["annotations"]["summary"].rstrip().endswith((".", "down."))


def test_no_two_rules_have_one_name():
    assert len(ALERTS) == sum("alert" in rule for rule in RULES)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_in_the_handbook_with_what_to_do(name):
    handbook = (PROJECT / "docs" / "monitoring.md").read_text()
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", handbook, re.MULTILINE | re.DOTALL)
    assert section, f"docs/monitoring.md has no section {name}"
    severity = ALERTS[name]["labels"]["severity"]
    assert section[1].lstrip().startswith(f"*{severity}*"), f"docs/monitoring.md: {name} is a {severity}"


def test_the_handbook_has_no_alert_that_is_no_more():
    headings = re.findall(r"^### (\w+)$", (PROJECT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    assert set(headings) == set(ALERTS)


@pytest.mark.parametrize("name", [name for name in ALERTS if name != "Watchdog"])
def test_an_alert_is_seen_firing_and_not_firing(name):
    cases = [test for file in CASES for test in yaml.safe_load(file.read_text())["tests"]]
    looks = [look for test in cases for look in test["alert_rule_test"] if look["alertname"] == name]
    assert any(look["exp_alerts"] for look in looks), f"no case where {name} fires"
    series = [set(re.findall(r"^\w+", one["series"])) for test in cases for one in test.get("input_series", [])]
    assert metrics_in(ALERTS[name]["expr"]) - {"replica:healthy"} <= set().union(*series)
    assert any(not look["exp_alerts"] for look in looks), f"no case where {name} stays silent"


@pytest.mark.parametrize("case", CASES, ids=lambda file: file.stem)
def test_rules_fire_when_they_should(case):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; apt-get install prometheus")
    run = subprocess.run(
        [promtool, "test", "rules", case.name], cwd=case.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
