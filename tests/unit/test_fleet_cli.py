"""The fleet's commands before they touch anything: what they refuse, with the fix, and how a run is shown."""

import json

import pytest
from typer.testing import CliRunner

from babelrack import cli
from babelrack.cli.roll_display import RollDisplay
from babelrack.fleet.playbook import HostResult, RunResult, Step

PACK = """
name: {name}
aggregator: multi-{name}
checkpoints: [{{name: {name}, role: multilingual, languages: [{language}], url: "file:///store/{name}"}}]
"""
POOL = "hosts: {hub: {address: 10.0.0.1, ram_gib: 1, disk_gib: 1}}\n"


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def site(tmp_path):
    def make(fleet="fleet: {shared: hub, gateway: hub}"):
        folder = tmp_path / "inventories" / "lab"
        folder.mkdir(parents=True)
        (tmp_path / "packs").mkdir()
        for name, language in (("indic", "hi"), ("sea", "id")):
            (tmp_path / "packs" / f"{name}.yaml").write_text(PACK.format(name=name, language=language))
        (folder / "site.yaml").write_text(
            f"packs: [indic, sea]\ndeployments: {{sea: {{ports: {{api: 7101, model: 2234, metrics: 1}}}}}}\n{fleet}\n"
        )
        (folder / "hosts.yaml").write_text(POOL)
        return str(folder / "site.yaml")

    return make


@pytest.mark.parametrize("command", [["apply", "indic"], ["scale", "indic", "2"], ["destroy", "indic"]])
def test_a_site_without_a_fleet_is_told_what_to_use_instead(site, command):
    done = run(*command, "--site", site(fleet=""))
    assert done.exit_code == 1
    assert "start its packs with `babelrack up" in done.stderr


def test_a_pack_that_is_not_of_the_site_is_refused_with_the_one_that_was_meant(site):
    done = run("apply", "indik", "--site", site())
    assert (done.exit_code, done.stderr) == (1, "babelrack: The site lab has no pack 'indik'; did you mean 'indic'?\n")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["scale", "shared", "2"], "only packs can be scaled"),
        (["destroy", "shared"], "destroy the packs first"),
        (["rollback", "shared"], "Only packs are rolled back"),
    ],
)
def test_the_shared_host_is_no_pack(site, command, why):
    file = site()
    done = run(*command, "--site", file)
    assert done.exit_code == 1
    assert why in done.stderr


def test_a_checkout_without_its_playbooks_is_refused_before_anything_is_claimed(site):
    done = run("apply", "indic", "--site", site(), "--yes")
    assert done.exit_code == 1
    assert "ansible/site.yml is missing" in done.stderr


def test_no_replica_is_no_number_of_replicas(site):
    assert run("scale", "indic", "0", "--site", site()).exit_code == 2


def test_the_doctor_says_2_when_it_can_not_look(tmp_path):
    done = run("doctor", "--site", str(tmp_path / "nosuch.yaml"))
    assert done.exit_code == 2
    assert "does not exist" in done.stderr


def test_the_doctor_of_a_rack_that_does_not_run_still_reads_the_files(site, tmp_path):
    arguments = ["--site", site(fleet=""), "--state", str(tmp_path / "state"), "--format", "json"]
    report = json.loads(run("doctor", *arguments).stdout)
    assert report["findings"] == []
    assert "No rack runs from" in report["not_looked_at"][0]
    assert report["exit_code"] == 2


def test_a_run_is_shown_by_what_changed_and_what_failed(capsys, tmp_path):
    steps = [
        Step("gpu-1", "Roll", "asr", "asr : Write settings", "started"),
        Step("gpu-1", "Roll", "asr", "asr : Write settings", "changed"),
        Step("gpu-1", "Roll", "", "Look", "ok"),
        Step("gpu-2", "Roll", "health", "Wait", "failed", "no answer\nin 60 s"),
    ]
    failed = HostResult("gpu-2", failed=1, failures=[steps[-1]])
    with RollDisplay() as display:
        for step in steps:
            display.step(step)
    display.summary(RunResult(2, False, (HostResult("gpu-1", ok=2, changed=1, seconds=1.25), failed), tmp_path))
    shown = capsys.readouterr().out
    assert "gpu-1: asr : Write settings: changed" in shown
    assert "Look" not in shown
    assert "gpu-2: health : Wait: failed: no answer\n" in shown
    assert "gpu-2: health : Wait: no answer\nin 60 s" in shown
    assert ["gpu-1", "2", "1", "0", "1.2"] in [line.split() for line in shown.splitlines()]
    assert f"all that Ansible said is in {tmp_path}" in shown.splitlines()[-1]
