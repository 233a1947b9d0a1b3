"""The inventory plugin: a site's files and its Terraform outputs become machines and replicas, or a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

ansible_errors = pytest.importorskip("ansible.errors")

from ansible.inventory.data import InventoryData  # noqa: E402
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.plugins.loader import init_plugin_loader, inventory_loader  # noqa: E402

PROJECT = Path(__file__).parents[2]
PLUGINS = PROJECT / "ansible" / "plugins" / "inventory"
HOSTS = {
    "ssh": {"user": "ops", "private_key": "keys/id", "known_hosts": "keys/known_hosts"},
    "hosts": {
        "gpu-01": {"address": "10.0.0.1", "ram_gib": 64, "disk_gib": 100, "gpus": 4, "gpu_memory_gib": 24, "places": 2},
        "gpu-02": {"address": "10.0.0.2", "ram_gib": 64, "disk_gib": 100, "ssh_port": 2222, "rack": "b"},
        "spare": {"address": "10.0.0.3", "ram_gib": 64, "disk_gib": 100},
        "front": {"address": "10.0.0.9", "ram_gib": 8, "disk_gib": 20},
    },
}
SITE = {
    "packs": ["one", "two_seas"],
    "deployments": {"two_seas": {"ports": {"api": 7101, "model": 2234, "metrics": 9091}}},
    "fleet": {"shared": "front", "gateway": "front"},
}
ONE = {"0": {"host": "gpu-01", "address": "old", "place": 1, "gpu_ids": [2, 3]}}
TWO = {
    "10": {"host": "gpu-01", "address": "10.0.0.1", "place": 0, "gpu_ids": [0, 1]},
    "2": {"host": "gpu-02", "address": "10.0.0.2", "place": 0, "gpu_ids": []},
}


@pytest.fixture(scope="module", autouse=True)
def _plugins():
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on this machine")
    init_plugin_loader()
    inventory_loader.add_directory(str(PLUGINS))


class SiteFolder:
    """A project of its own with one site, `here`."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.folder = project / "inventories" / "here"
        self.folder.mkdir(parents=True)
        (project / "packs").mkdir()
        (project / "packs" / "clip.flac").write_bytes(b"fLaC")
        self.write("babelrack.yml", {"plugin": "babelrack"})
        self.write("hosts.yaml", HOSTS)
        self.write("site.yaml", SITE)
        self.pack("one", "en hi", canary={"audio": "clip.flac", "language": "en", "text": "Good morning."})
        self.pack("two_seas", "es")

    def write(self, name: str, content: dict) -> None:
        (self.folder / name).write_text(yaml.safe_dump(content))

    def pack(self, name: str, languages: str, **fields: object) -> None:
        checkpoint = {"name": f"{name}-all", "url": "hf:a/b", "sha256": "ab" * 32, "languages": languages.split()}
        pack = {"name": name, "aggregator": f"multi-{name[:3]}", "checkpoints": [checkpoint | {"role": "multilingual"}]}
        (self.project / "packs" / f"{name}.yaml").write_text(yaml.safe_dump(pack | fields))

    def claim(self, pack: str, replicas: dict, *, site: str = "here", workspace: str = "here") -> None:
        """What `terraform apply` leaves: the pack's root, and a state with its output."""
        root = self.project / "terraform" / "packs" / pack
        state = root / "terraform.tfstate.d" / workspace / "terraform.tfstate"
        state.parent.mkdir(parents=True, exist_ok=True)
        (root / "outputs.tf").write_text('output "deployment" {\n  value = {}\n}\n')
        value = {"pack": pack, "site": site, "replicas": replicas}
        outputs = {"deployment": {"value": value, "type": "dynamic"}}
        # The type as Terraform writes it, from the value.
        outputs["deployment"]["type"] = ["object", {"pack": "string", "site": "string", "replicas": _type(replicas)}]
        state.write_text(
            json.dumps(
                {
                    "version": 4,
                    "terraform_version": "1.11.0",
                    "serial": 1,
                    "lineage": "6f0b3a5e-7d6c-4d0a-9a53-8a8f5a1c0001",
                    "outputs": outputs,
                    "resources": [],
                }
            )
        )

    def read(self) -> InventoryData:
        inventory = InventoryData()
        plugin = inventory_loader.get("babelrack")
        source = str(self.folder / "babelrack.yml")
        assert plugin.verify_file(source)
        plugin.parse(inventory, DataLoader(), source)
        inventory.reconcile_inventory()
        return inventory

    def fault(self) -> str:
        with pytest.raises(ansible_errors.AnsibleParserError) as caught:
            self.read()
        return str(caught.value)


def _type(value: object) -> object:
    if isinstance(value, dict):
        return ["object", {key: _type(inner) for key, inner in value.items()}]
    if isinstance(value, list):
        return ["tuple", [_type(inner) for inner in value]]
    return "number" if isinstance(value, int) else "string"


@pytest.fixture
def site(tmp_path):
    return SiteFolder(tmp_path)


def groups(inventory: InventoryData) -> dict[str, set[str]]:
    return {
        name: {host.name for host in group.get_hosts()}
        for name, group in inventory.groups.items()
        if name not in ("all", "ungrouped")
    }


def test_claims_become_machines_and_replicas_in_their_groups(site):
    site.claim("one", ONE)
    site.claim("two_seas", TWO)
    assert groups(site.read()) == {
        "machines": {"gpu-01", "gpu-02", "front"},
        "replicas": {"one-0", "two-seas-2", "two-seas-10"},
        "shared": {"front"},
        "gateway": {"front"},
        "gpu": {"gpu-01"},
        "machines_one": {"gpu-01"},
        "machines_two_seas": {"gpu-01", "gpu-02"},
        "pack_one": {"one-0"},
        "pack_two_seas": {"two-seas-2", "two-seas-10"},
    }


def test_a_machine_nobody_claimed_is_left_alone(site):
    site.claim("one", ONE)
    assert set(site.read().hosts) == {"front", "gpu-01", "one-0"}


def test_a_pack_that_was_never_applied_has_no_replicas_and_keeps_its_empty_groups(site):
    site.claim("two_seas", {}, site="elsewhere", workspace="elsewhere")
    inventory = site.read()
    assert groups(inventory)["pack_one"] == groups(inventory)["pack_two_seas"] == set()
    assert inventory.groups["all"].vars["babelrack_packs"]["two_seas"]["replicas"] == []


def test_a_replica_knows_its_place_its_gpus_its_ports_and_what_it_serves(site):
    site.claim("one", ONE)
    replica = site.read().hosts["one-0"].vars["babelrack_replica"]
    assert replica == {
        "pack": "one",
        "deployment_name": "one",
        "index": 0,
        "machine": "gpu-01",
        "address": "10.0.0.1",
        "place": 1,
        "gpu_ids": [2, 3],
        "ports": {"api": 7100, "model": 2233, "metrics": 9090},
        "needs": {"gpus": 1, "gpu_memory_gib": 0, "ram_gib": 8, "disk_gib": 20},
        "aggregator": "multi-one",
        "languages": ["en", "hi"],
        "model_url": f"hf:a/b#name=one-all&role=multilingual&languages=en+hi&sha256={'ab' * 32}",
        "speaker_model_url": "",
        "checkpoints": [{"name": "one-all", "url": "hf:a/b", "sha256": "ab" * 32}],
        "canary": {
            "audio": str(site.project / "packs" / "clip.flac"),
            "language": "en",
            "text": "Good morning.",
            "max_word_error_rate": 0.3,
        },
    }


def test_every_host_is_reached_by_the_pools_key_and_only_with_a_known_host_key(site):
    site.claim("two_seas", TWO)
    for name, port, address in (
        ("two-seas-2", 2222, "10.0.0.2"),
        ("gpu-02", 2222, "10.0.0.2"),
        ("front", 22, "10.0.0.9"),
    ):
        variables = site.read().hosts[name].vars
        assert (variables["ansible_host"], variables["ansible_port"]) == (address, port)
        assert (variables["ansible_user"], variables["ansible_become"]) == ("ops", True)
        assert variables["ansible_ssh_private_key_file"] == str(site.project / "keys" / "id")
        options = variables["ansible_ssh_common_args"]
        assert "StrictHostKeyChecking=yes" in options
        assert f"UserKnownHostsFile={site.project / 'keys' / 'known_hosts'}" in options


def test_everybody_knows_the_shared_services_by_the_address_that_others_reach(site):
    site.claim("two_seas", TWO)
    known = site.read().groups["all"].vars
    assert known["babelrack_site"] == "here"
    assert known["babelrack_redis"] == {"address": "10.0.0.9", "port": 6379}
    assert known["babelrack_license_proxy"] == {"address": "10.0.0.9", "port": 6699}
    assert known["babelrack_shared_address"] == known["babelrack_gateway_address"] == "10.0.0.9"
    assert known["babelrack_packs"]["two_seas"]["replicas"] == [
        {"name": "two-seas-2", "machine": "gpu-02", "address": "10.0.0.2", "port": 7101},
        {"name": "two-seas-10", "machine": "gpu-01", "address": "10.0.0.1", "port": 7101},
    ]


def test_a_service_elsewhere_keeps_its_address(site):
    site.write("site.yaml", SITE | {"redis": {"address": "redis.example.org", "port": 6400}})
    assert site.read().groups["all"].vars["babelrack_redis"] == {"address": "redis.example.org", "port": 6400}


def without_fleet(site):
    site.write("site.yaml", {key: value for key, value in SITE.items() if key != "fleet"})


def unlisted_shared(site):
    site.write("site.yaml", SITE | {"fleet": {"shared": "nobody", "gateway": "front"}})


def host_gone(site):
    site.claim("one", {"0": ONE["0"] | {"host": "gone"}})


def foreign_state(site):
    site.claim("one", ONE, site="other")


def one_port_twice(site):
    site.write("site.yaml", {**SITE, "deployments": {}})
    site.claim("one", ONE)
    site.claim("two_seas", TWO)


def missing_clip(site):
    site.claim("one", ONE)
    (site.project / "packs" / "clip.flac").unlink()


def host_called_like_a_replica(site):
    hosts = HOSTS["hosts"] | {"one-0": {"address": "10.0.0.7", "ram_gib": 1, "disk_gib": 1}}
    site.write("hosts.yaml", {"hosts": hosts})
    site.claim("one", ONE)


def wrong_pack_file(site):
    site.pack("one", "english")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_fleet, "has no fleet:, which names the pool's hosts"),
        (unlisted_shared, "fleet.shared of site.yaml names the host 'nobody'"),
        (host_gone, "pack one, replica 0, names the host 'gone'"),
        (foreign_state, "the Terraform output of pack one is for pack 'one' at site 'other'"),
        (one_port_twice, "deployments.two_seas.ports.api is port 7100 on gpu-01, which deployments.one.ports.api has"),
        (missing_clip, "canary.audio is clip.flac, which is no file in"),
        (host_called_like_a_replica, "the host one-0 is called like a replica of the pack one; rename it"),
        (wrong_pack_file, "one.yaml: checkpoints[0].languages[0] is wrong"),
    ],
)
def test_what_does_not_fit_together_is_named(site, spoil, sentence):
    spoil(site)
    assert sentence in site.fault()


def test_a_state_that_cannot_be_read_is_named_instead_of_taken_for_no_replicas(site):
    site.claim("one", ONE)
    root = site.project / "terraform" / "packs" / "one"
    (root / "terraform.tfstate.d" / "here" / "terraform.tfstate").write_text("{")
    fault = site.fault()
    assert str(root) in fault
    assert "`terraform output` failed" in fault


def test_without_terraform_the_inventory_says_so(site, monkeypatch):
    site.claim("one", ONE)
    monkeypatch.setenv("BABELRACK_TERRAFORM", "/nowhere/terraform")
    assert "/nowhere/terraform is not on this machine" in site.fault()
