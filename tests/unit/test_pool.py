"""A pool file is refused with every fault at once, or becomes exactly the hosts that it lists."""

from pathlib import Path

import pytest
import yaml

from babelrack.packs.faults import PackError
from babelrack.packs.pool import load_pool

HOST = {"address": "10.20.0.11", "ram_gib": 16, "disk_gib": 100}


@pytest.fixture
def pool(tmp_path):
    def load(data):
        file = tmp_path / "inventories" / "lab" / "hosts.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
        return load_pool(file)

    return load


def faults(load, data):
    with pytest.raises(PackError) as caught:
        load(data)
    return [f"{fault.field} {fault.message}" for fault in caught.value.faults]


def test_hosts_keep_the_files_order_and_what_is_left_out_has_its_default(pool):
    loaded = pool({"hosts": {"zeta": HOST, "alpha": HOST | {"address": "10.20.0.12", "gpus": 4, "places": 2}}})
    assert list(loaded.hosts) == ["zeta", "alpha"]
    assert (loaded.hosts["zeta"].gpus, loaded.hosts["zeta"].places, loaded.hosts["zeta"].gpus_per_place) == (0, 1, 0)
    assert loaded.hosts["alpha"].gpus_per_place == 2
    assert (loaded.ssh.user, loaded.ssh.port, loaded.ssh.private_key) == ("root", 22, None)


def test_paths_start_at_the_projects_root(pool, tmp_path):
    loaded = pool({"ssh": {"private_key": "keys/lab", "known_hosts": "~/known"}, "hosts": {"a": HOST}})
    assert loaded.root == tmp_path
    assert loaded.path(loaded.ssh.private_key) == tmp_path / "keys" / "lab"
    assert loaded.path(loaded.ssh.known_hosts) == Path.home() / "known"
    assert loaded.path(None) is None


def test_every_fault_is_named_at_once(pool):
    found = faults(pool, {"hosts": {"a": {"address": "10.0.0.1:22", "ram_gib": 0}, "B": HOST}, "shh": {}})
    assert any(line.startswith("hosts.a.address is '10.0.0.1:22'; write a host name") for line in found)
    assert "hosts.a.ram_gib is 0; write 1 or more" in found
    assert any(line.startswith("hosts.a.disk_gib is missing") for line in found)
    assert any(line.startswith("hosts.B ") for line in found)
    assert "shh is not a field here; did you mean 'ssh'?" in found


def test_places_that_do_not_divide_the_gpus_are_refused(pool):
    assert faults(pool, {"hosts": {"a": HOST | {"gpus": 3, "places": 2}}}) == [
        "hosts.a shares 3 GPUs among 2 places; choose places that divide the GPUs"
    ]


@pytest.mark.parametrize("other", ["10.20.0.11", "::ffff:10.20.0.11", "Rack-1", "2001:DB8::1"])
def test_a_machine_is_listed_once(pool, other):
    twin = {"10.20.0.11": "10.20.0.11", "Rack-1": "rack-1", "2001:DB8::1": "2001:db8:0::1"}.get(other)
    data = {"hosts": {"a": HOST | {"address": twin or "10.20.0.11"}, "b": HOST | {"address": other}}}
    if twin is None:
        assert list(pool(data).hosts) == ["a", "b"]
    else:
        assert faults(pool, data) == [f"hosts.b.address is {other!r}, as that of a; list a machine once"]


def test_two_ssh_ports_of_one_address_are_two_hosts(pool):
    assert len(pool({"hosts": {"a": HOST, "b": HOST | {"ssh_port": 2222}}}).hosts) == 2


@pytest.mark.parametrize("address", ["-oProxyCommand=true", "a b", "user@host", "", "host;true", "$(true)"])
def test_an_address_can_not_be_an_option_or_a_command(pool, address):
    assert faults(pool, {"hosts": {"a": HOST | {"address": address}}})[0].startswith("hosts.a.address is ")


@pytest.mark.parametrize("user", ["-l", "root root", "Root", "", "a;b"])
def test_a_user_can_not_be_an_option_or_a_command(pool, user):
    assert faults(pool, {"ssh": {"user": user}, "hosts": {"a": HOST}})[0].startswith("ssh.user is ")


@pytest.mark.parametrize("text", ["", "hosts:", "hosts: {}", "- a", "hosts: {a: &x {}, b: *x}"])
def test_a_file_without_hosts_is_refused_with_a_sentence(pool, text):
    assert faults(pool, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PackError, match=r"hosts\.yaml: the file does not exist"):
        load_pool(tmp_path / "hosts.yaml")
