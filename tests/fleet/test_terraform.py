"""The roots with the real terraform, over real SSH servers: what a plan shows, an apply does, and a destroy leaves."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import loopback
import terraform
from babelrack.packs.pool import load_pool
from terraform import SMALL

REPLICA = "module.pack.onprem_host_claim.replica[{}]"
ROOT = Path(__file__).parents[2]
ROOTS = sorted(str(path.parent.relative_to(ROOT / "terraform")) for path in (ROOT / "terraform").rglob("versions.tf"))
FUTURE_PORTS = {"api": 7102, "model": 2235, "metrics": 9092}


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    loopback.require()
    with loopback.LoopbackHosts(tmp_path_factory.mktemp("hosts"), 4) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def initialised(tmp_path_factory):
    """A project whose roots are initialised, to be copied: an init takes longer than a plan."""
    terraform.require()
    project = terraform.Project(tmp_path_factory.mktemp("project") / "main")
    project.site()
    for name in ("packs/indic", "packs/western_sea"):
        project.root(name).ready()
    return project


@pytest.fixture
def project(initialised, machines):
    """The project, with nothing claimed, no state, and four hosts a to d in its pool."""
    machines.forget_claims()
    for state in (initialised.folder / "terraform").rglob("*.tfstate*"):
        if ".terraform" not in state.parts and state.is_file():
            state.unlink()
    for file in (ROOT / "packs").glob("*.yaml"):
        shutil.copy(file, initialised.folder / "packs")
    initialised.site()
    machines.pool(initialised.hosts_file)
    return initialised


@pytest.fixture
def indic(project):
    return project.root("packs/indic")


@pytest.fixture
def western_sea(project):
    return project.root("packs/western_sea")


def test_an_apply_claims_a_host_for_each_replica_and_a_second_changes_nothing(project, indic, machines):
    project.site(indic={"replicas": 2})
    planned = indic.plan()
    assert planned.actions == {REPLICA.format(0): "create", REPLICA.format(1): "create"}
    assert not machines.claims
    indic.apply()
    assert sorted(host for host, _ in machines.claims) == ["a", "b"]
    deployment = indic.output()
    assert (deployment["pack"], deployment["site"]) == ("indic", "lab")
    for index, replica in deployment["replicas"].items():
        said = json.loads(machines.claims[replica["host"], "place-0"])
        assert str(said["replica"]) == index
        assert replica == {"host": replica["host"], "address": "127.0.0.1", "place": 0, "gpu_ids": []}
    assert indic.plan().empty
    claims = machines.claims
    indic.apply()
    assert machines.claims == claims


def test_scaling_claims_another_host_and_releases_the_highest(project, indic, machines):
    indic.apply()
    before = machines.claims
    project.site(indic={"replicas": 3})
    assert indic.plan().actions == {REPLICA.format(1): "create", REPLICA.format(2): "create"}
    indic.apply()
    assert before.items() <= machines.claims.items()
    hosts = indic.hosts()
    project.site(indic={"replicas": 2})
    assert indic.plan().actions == {REPLICA.format(2): "destroy"}
    indic.apply()
    assert indic.hosts() == {"0": hosts["0"], "1": hosts["1"]}
    assert len(machines.claims) == 2
    indic.destroy()
    assert not machines.claims


def test_a_changed_checkpoint_claims_nothing(project, indic, machines):
    indic.apply()
    file = project.folder / "packs" / "indic.yaml"
    file.write_text(re.sub(r"@[0-9a-f]{40}", f"@{'0' * 40}", file.read_text()))
    assert indic.plan().empty


def test_another_packs_broken_file_is_no_fault_of_this_pack(project, indic, western_sea, machines):
    western_sea.apply()
    (project.folder / "packs" / "indic.yaml").write_text("name: [")
    assert western_sea.plan().empty
    failed = indic("plan", code=1)
    assert "packs/indic.yaml" in failed.text


def test_a_fault_of_a_pack_stops_the_plan_and_names_attribute_file_and_field(project, indic):
    file = project.folder / "packs" / "indic.yaml"
    file.write_text(file.read_text().replace("replicas: 1", "replicas: many").replace("aggregator:", "agregator:"))
    said = indic("plan", code=1).text
    assert 'in data "onprem_pack" "this": 2: name = var.pack' in said
    assert "packs/indic.yaml: replicas is wrong" in said
    assert "replicas is 'many'; write a whole number" in said
    assert "agregator is not a field here; did you mean 'aggregator'?" in said
    file.write_text((ROOT / "packs" / "indic.yaml").read_text())
    project.site(indic={"host": SMALL | {"gpus": 99}})
    said = indic("plan", code=1).text
    assert "site_file = " in said
    assert "deployments.indic.host.gpus is 99; write 16 or less" in said


def test_a_workspace_that_is_no_site_is_refused(indic):
    said = indic("plan", code=1, TF_WORKSPACE="default").text
    assert "No site is chosen. Run `terraform workspace select -or-create SITE`" in said
    assert "hosts.yaml" not in said


def test_a_site_that_is_not_there_is_named(indic):
    assert "inventories/nowhere/site.yaml: the file is wrong" in indic("plan", "-var=site=nowhere", code=1).text


def test_a_claim_that_vanished_is_shown_and_made_again(indic, machines):
    indic.apply()
    shutil.rmtree(machines["a"].lib / "claims" / "place-0")
    planned = indic.plan()
    assert planned.actions == {REPLICA.format(0): "create"}
    assert "Warning: a/place-0 is not claimed any more" in planned.text
    indic.apply()
    assert list(machines.claims) == [("a", "place-0")]
    assert indic.plan().empty


def test_a_claim_that_another_pack_holds_is_shown_and_left_alone(indic, machines):
    indic.apply()
    file = machines["a"].lib / "claims" / "place-0" / "claim.json"
    stolen = file.read_text().replace('"indic"', '"future"')
    file.write_text(stolen)
    planned = indic.plan()
    assert planned.actions == {REPLICA.format(0): "create"}
    assert "Warning: a/place-0 is not indic replica 0 of site lab's any more" in planned.text
    assert "future replica 0 of site lab holds it" in planned.text
    indic.apply()
    assert indic.hosts() == {"0": "b"}
    indic.destroy()
    assert machines.claims == {("a", "place-0"): stolen}


def test_a_destroy_releases_nothing_of_anothers(indic, machines):
    indic.apply()
    file = machines["a"].lib / "claims" / "place-0" / "claim.json"
    file.write_text(file.read_text().replace('"indic"', '"future"'))
    done = indic.destroy("-refresh=false")
    assert "future replica 0 of site lab, so it is left as it is" in done.text
    assert list(machines.claims) == [("a", "place-0")]


def test_a_host_that_stops_answering_keeps_its_claim(indic, machines):
    indic.apply()
    machines["a"].stop()
    try:
        for failed in (indic("plan", code=1), indic.destroy(code=1), indic.destroy("-refresh=false", code=1)):
            assert "a does not answer at 127.0.0.1 port" in failed.text
            assert "The claim stays in the state" in failed.text
        assert indic("state", "list").stdout.split() == ["module.pack.data.onprem_pack.this", REPLICA.format(0)]
    finally:
        machines["a"].start()
    assert not indic.plan().actions
    assert list(machines.claims) == [("a", "place-0")]


def test_other_packs_do_not_notice_a_host_that_stops_answering(indic, western_sea, machines):
    indic.apply()
    western_sea.apply()
    machines["a"].stop()
    try:
        assert western_sea.plan().empty
    finally:
        machines["a"].start()


def test_a_pool_with_too_few_hosts_is_told_when_planned_and_refused_when_applied(project, indic, machines):
    machines.pool(project.hosts_file, c=None, d={"ram_gib": 1})
    project.site(indic={"replicas": 3, "host": SMALL | {"ram_gib": 2}})
    planned = indic.plan()
    assert "Warning: There will be no host for indic replica" in planned.text
    assert "An apply will fail." in planned.text
    assert "d: it is listed with 1 GiB of memory, 2 needed" in planned.text
    failed = indic.apply(code=1)
    assert "Error: No host for indic replica" in failed.text
    assert re.search(r"a: its place is taken by indic replica \d of site lab", failed.text)
    assert len(machines.claims) == 2
    project.site(indic={"replicas": 2, "host": SMALL | {"ram_gib": 2}})
    machines.pool(project.hosts_file)
    indic.apply()
    assert len(machines.claims) == 2
    assert indic.plan().empty


def test_a_pack_that_lacks_a_replica_is_destroyed_all_the_same(project, indic, machines):
    machines.pool(project.hosts_file, b=None, c=None, d=None)
    project.site(indic={"replicas": 2})
    indic.apply(code=1)
    assert len(machines.claims) == 1
    indic.destroy()
    assert not machines.claims


def test_needs_that_the_host_meets_are_written_into_its_claim(project, indic, machines):
    indic.apply()
    project.site(indic={"host": SMALL | {"ram_gib": 3}, "ports": FUTURE_PORTS})
    planned = indic.plan()
    assert planned.actions == {REPLICA.format(0): "update"}
    indic.apply()
    said = json.loads(machines.claims["a", "place-0"])
    assert (said["needs"]["ram_gib"], said["ports"]) == (3, FUTURE_PORTS)
    assert indic.plan().empty


def test_needs_that_the_host_does_not_meet_replace_its_claim(project, indic, machines):
    indic.apply()
    machines.pool(project.hosts_file, a={"ram_gib": 2})
    project.site(indic={"host": SMALL | {"ram_gib": 3}})
    planned = indic.plan()
    assert planned.actions == {REPLICA.format(0): "replace"}
    assert "# forces replacement" in planned.text
    assert "a: it is listed with 2 GiB of memory, 3 needed. The claim is replaced." in planned.text
    indic.apply()
    assert list(machines.claims) == [("b", "place-0")]
    assert indic.plan().empty


def test_a_host_that_promises_less_is_a_warning_until_somebody_replaces_it(project, indic, machines):
    project.site(indic={"host": SMALL | {"ram_gib": 3}})
    indic.apply()
    machines.pool(project.hosts_file, a={"ram_gib": 2})
    planned = indic.plan()
    assert planned.empty
    assert "Warning: a is not what indic replica 0 of site lab needs any more" in planned.text
    indic.apply(f"-replace={REPLICA.format(0)}")
    assert list(machines.claims) == [("b", "place-0")]


def test_a_claim_is_imported_by_host_and_place(project, indic, machines):
    indic.apply()
    indic("state", "rm", REPLICA.format(0))
    done = indic("import", REPLICA.format(0), "nohost/place-0", code=1)
    assert "lists no host nohost" in done.text
    assert "b has no claim at place-0" in indic("import", REPLICA.format(0), "b/place-0", code=1).text
    assert "write HOST/place-0" in indic("import", REPLICA.format(0), "a", code=1).text
    indic("import", REPLICA.format(0), "a/place-0")
    claims = machines.claims
    assert indic.plan().actions in ({}, {REPLICA.format(0): "update"})
    indic.apply()
    assert machines.claims == claims
    assert indic.plan().empty


def test_an_imported_claim_of_another_pack_never_changes_hands(indic, western_sea, machines):
    western_sea.apply()
    indic("import", REPLICA.format(0), "a/place-0")
    for failed in (indic("plan", code=1), indic.apply(code=1)):
        assert "A claim never changes hands: a/place-0 is for western_sea replica 0 of site lab" in failed.text
    indic("state", "rm", REPLICA.format(0))
    assert western_sea.plan().empty
    assert len(machines.claims) == 1


def test_a_state_is_never_applied_to_another_site(project, indic, machines):
    indic.apply()
    other = project.site("other")
    shutil.copy(project.hosts_file, other.parent / "hosts.yaml")
    failed = indic.apply("-var=site=other", code=1)
    assert "A claim never changes hands: a/place-0 is for indic replica 0 of site lab" in failed.text
    assert list(machines.claims) == [("a", "place-0")]


def test_an_apply_that_is_killed_half_way_is_healed_by_the_next(project, indic, machines):
    project.site(indic={"replicas": 3})
    running = indic.start("apply", "-auto-approve")
    terraform.wait_for(lambda: machines.claims, 120)
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    assert machines.claims
    planned = indic.plan()
    # Terraform may have written the first claim into the state before it was killed.
    assert planned.actions
    assert planned.actions.items() <= {REPLICA.format(index): "create" for index in range(3)}.items()
    before = machines.claims
    unknown = len(before) - (3 - len(planned.actions))
    taken_over = r"Warning: \w/place-0 will be taken over by indic replica \d of site lab"
    assert len(re.findall(taken_over, planned.text)) == unknown
    assert ("in no state: an apply was cut short, or its state was lost" in planned.text) == bool(unknown)
    done = indic.apply()
    assert len(re.findall(r"Warning: \w/place-0 is taken over by indic replica \d of site lab", done.text)) == unknown
    assert before.items() <= machines.claims.items()
    assert len(machines.claims) == 3
    assert sorted(indic.hosts().values()) == sorted(host for host, _ in machines.claims)
    assert indic.plan().empty
    indic.destroy()
    assert not machines.claims


def test_ctrl_c_ends_an_apply_with_every_claim_in_the_state(project, indic, machines):
    project.site(indic={"replicas": 3})
    running = indic.start("apply", "-auto-approve")
    terraform.wait_for(lambda: machines.claims, 120)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=120)
    state = indic("state", "list").stdout.count("onprem_host_claim")
    assert state == len(machines.claims) >= 1
    indic.destroy()
    assert not machines.claims


def test_two_applies_at_once_never_get_one_host(project, indic, western_sea, machines):
    project.site(indic={"replicas": 2}, western_sea={"replicas": 2})
    machines.pool(project.hosts_file, d=None)
    for _ in range(3):
        runs = [root.start("apply", "-auto-approve") for root in (indic, western_sea)]
        for run in runs:
            run.communicate(timeout=200)
        assert len(machines.claims) == 3
        owners = [(json.loads(text)["pack"], json.loads(text)["replica"]) for text in machines.claims.values()]
        assert len(set(owners)) == 3
        states = [
            line
            for root in (indic, western_sea)
            for line in root("state", "list").stdout.split()
            if "onprem_host_claim" in line
        ]
        assert len(states) == 3
        for root in (indic, western_sea):
            root.destroy()
        assert not machines.claims


def test_the_shared_root_sees_its_hosts(project, machines):
    shared = project.root("shared")
    project.site(fleet={"shared": "c", "gateway": "d"})
    shared.ready()
    shared.apply()
    assert shared.output("shared") == {
        "site": "lab",
        "shared": {"host": "c", "address": "127.0.0.1"},
        "gateway": {"host": "d", "address": "127.0.0.1"},
    }
    assert shared.plan().empty
    project.site()
    assert "inventories/lab/site.yaml has no `fleet`" in shared("plan", code=1).text
    assert "No site is chosen" in shared("plan", code=1, TF_WORKSPACE="default").text
    project.site(fleet={"shared": "nohost", "gateway": "d"})
    assert "lists no host nohost" in shared("plan", code=1).text
    machines.trust(d=machines["a"])
    project.site(fleet={"shared": "c", "gateway": "d"})
    try:
        assert "d has a host key that" in shared("plan", code=1).text
    finally:
        machines.trust()


def test_the_shared_hosts_are_left_to_themselves_while_others_fit(project, indic, machines):
    project.site(indic={"replicas": 3}, fleet={"shared": "a", "gateway": "b"})
    indic.apply()
    assert sorted(host for host, _ in machines.claims) == ["a", "c", "d"]


def test_formatting_is_terraforms_own(project):
    folders = [ROOT / "terraform", ROOT / "services/babelrack/provider/templates"]
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", "-recursive", *folders],
        env=project.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "root",
    sorted(str(path.parent.relative_to(ROOT / "terraform")) for path in (ROOT / "terraform").rglob("versions.tf")),
)
def test_every_root_and_module_is_valid(project, root):
    folder = project.root(root)
    folder("init", "-backend=false")
    assert "Success! The configuration is valid." in folder("validate").text


def test_a_pool_that_terraform_made_is_a_pool(project, tmp_path):
    root = project.root("made")
    root.folder.mkdir()
    (root.folder / "main.tf").write_text("""
        module "pool" {
          source = "../modules/pool"
          ssh    = { user = "ops" }
          hosts  = {
            gpu-1 = { address = "10.20.0.11", gpus = 1, gpu_model = "NVIDIA L4", ram_gib = 64, disk_gib = 500 }
            gpu-2 = { address = "10.20.0.12", ram_gib = 64, disk_gib = 500, labels = { room = "b" } }
          }
        }
        output "hosts_yaml" { value = module.pool.hosts_yaml }
    """)
    root("init")
    root.apply()
    file = tmp_path / "hosts.yaml"
    file.write_text(root("output", "-raw", "hosts_yaml").stdout)
    pool = load_pool(file)
    assert pool.ssh.user == "ops"
    assert (pool.hosts["gpu-1"].gpu_model, pool.hosts["gpu-1"].places) == ("NVIDIA L4", 1)
    assert pool.hosts["gpu-2"].labels == {"room": "b"}


@pytest.mark.parametrize("example", ["maas", "libvirt", "proxmox", "vsphere"])
def test_an_example_says_that_it_was_not_run(example):
    assert "NOT RUN HERE" in (ROOT / "terraform/examples" / example / "main.tf").read_text()


def test_the_modules_own_tests_pass_with_a_provider_that_is_mocked(project):
    module = project.root("modules/language_pack")
    module("init")
    assert re.search(r"Success! \d+ passed, 0 failed", module("test").text)


def test_the_modules_own_tests_pass_on_real_hosts(project, machines):
    module = project.root("modules/language_pack")
    module("init", "-test-directory=real")
    done = module("test", "-test-directory=real", f"-var=project={project.folder}")
    assert re.search(r"Success! \d+ passed, 0 failed", done.text)
    assert not machines.claims
