"""The provider on hosts with an init system of their own: the lab's containers, as root and through sudo."""

import pytest
import yaml

import terraform
from babelrack.packs.pool import load_pool
from babelrack.provider.hosts import Hosts
from babelrack.provider.needs import Needs, Owner, Wish
from babelrack.provider.remote import HostError, Remote

REPLICAS = 2
WISH = Wish(Owner("indic", "lab", 0), Needs(0, 0, 1, 1), {"api": 7100, "model": 2233, "metrics": 9090})


@pytest.fixture(scope="module")
def hosts(make_lab):
    lab = make_lab("terraform")
    lab.up(REPLICAS)
    return lab


def write_pool(lab, file, **ssh):
    """The lab's pool in another place; its paths are absolute there."""
    data = yaml.safe_load(lab.pool_file.read_text())
    pool = load_pool(lab.pool_file)
    for name in ("private_key", "known_hosts"):
        data["ssh"][name] = str(pool.path(data["ssh"][name]))
    data["ssh"] |= ssh
    file.write_text(yaml.safe_dump(data))
    return load_pool(file)


@pytest.fixture
def project(hosts, tmp_path):
    terraform.require()
    project = terraform.Project(tmp_path / "project")
    project.site(indic={"replicas": REPLICAS})
    write_pool(hosts, project.hosts_file)
    return project


def test_a_pack_is_claimed_grown_and_destroyed_on_lab_hosts(project, hosts):
    indic = project.root("packs/indic").ready()
    indic.apply()
    replicas = indic.output()["replicas"]
    assert {replica["address"] for replica in replicas.values()} == {host.address for host in hosts.hosts}
    for host in hosts.hosts:
        assert '"pack": "indic"' in host.run("cat /var/lib/babelrack/claims/place-0/claim.json").stdout
    assert indic.plan().empty
    indic.destroy()
    for host in hosts.hosts:
        assert host.run("ls /var/lib/babelrack/claims").stdout.split() == []


def test_an_account_that_is_not_root_claims_through_sudo_and_is_told_when_it_may_not(hosts, tmp_path):
    host = hosts.hosts[0]
    sudoers = "/etc/sudoers.d/babelrack-test"
    host.run("useradd --create-home --shell /bin/sh ops && cp -r ~root/.ssh /home/ops/ && chown -R ops: /home/ops/.ssh")
    pool = write_pool(hosts, tmp_path / "hosts.yaml", user="ops")
    with pytest.raises(HostError, match="does not let ops become root without a password"):
        Hosts(pool, Remote(pool)).look(host.name)
    host.run(f"echo 'ops ALL=(ALL) NOPASSWD: ALL' > {sudoers} && chmod 440 {sudoers}")
    assert Hosts(pool, Remote(pool)).claim(WISH).host == host.name
    owner = host.run("stat -c %U /var/lib/babelrack/claims/place-0/claim.json").stdout.strip()
    assert owner == "root"
    assert Hosts(pool, Remote(pool)).release(host.name, 0, WISH.owner) is None


def test_the_facts_are_those_of_the_host_and_not_of_the_control_machine(hosts):
    pool = load_pool(hosts.pool_file)
    host = hosts.hosts[0]
    facts = Hosts(pool, Remote(pool)).look(host.name).facts
    assert f'PRETTY_NAME="{facts.os_name}"' in host.run("cat /etc/os-release").stdout
    size = host.run("df -Pk /var/cache/babelrack | tail -n 1").stdout.split()[1]
    assert facts.disk_gib == pytest.approx(int(size) / 2**20, abs=0.1)
