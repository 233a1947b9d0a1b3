"""What is on a host after a release came, went and came again."""

import json
import os
from pathlib import Path

import pytest

RELEASES = "/opt/babelrack/releases"
BUILT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / ".cache/molecule/release/latest/release.json"


@pytest.fixture
def version():
    return json.loads(BUILT.read_text())["version"]


@pytest.fixture
def on_machine(host):
    if host.ansible.get_variables()["inventory_hostname"] != "host-1":
        pytest.skip("only host-1 has a release")


pytestmark = pytest.mark.usefixtures("on_machine")


def test_its_servers_run_on_the_hosts_own_python(host, version):
    python = f"{RELEASES}/{version}/bin/python"
    assert host.check_output(f"readlink -f {python}") == "/usr/bin/python3.11"
    host.check_output(f"{python} -c 'import babelrack.model_server.app, babelrack.api_server.app'")


def test_the_host_needed_no_package_for_it(host):
    assert not host.package("python3-venv").is_installed
    assert not host.package("python3-pip").is_installed


def test_exactly_the_releases_packages_are_in_it(host, version):
    code = "import importlib.metadata as m; print(len(list(m.distributions())))"
    wheels = json.loads(BUILT.read_text())["wheels"]
    installed = int(host.check_output(f"{RELEASES}/{version}/bin/python -I -c '{code}'"))
    assert installed == wheels - 1, "all but pip"
    assert host.run(f"test -e {RELEASES}/{version}/bin/pip").rc == 1


def test_services_cannot_write_into_it_and_find_their_byte_code(host, version):
    release = f"{RELEASES}/{version}"
    assert host.check_output(f"find {release} ! -type l '(' ! -user root -o ! -group root -o -perm /022 ')'") == ""
    assert host.check_output(f"find {release} ! -type l ! -perm -004") == ""
    package = f"{release}/lib/python3.11/site-packages"
    for module in ("babelrack/model_server/app", "torch/__init__", "numpy/__init__"):
        folder, name = module.rsplit("/", 1)
        assert host.file(f"{package}/{folder}/__pycache__/{name}.cpython-311.pyc").exists


def test_what_was_shipped_is_gone(host):
    assert host.check_output(f"find {RELEASES} -maxdepth 1 -name '.wheels-*'") == ""
    assert list(BUILT.parents[1].glob(".shipment-*")) == []


def test_a_rollback_exchanged_current_and_previous(host, version):
    assert host.file("/opt/babelrack/current/indic").linked_to == f"{RELEASES}/{version}"
    assert host.file("/opt/babelrack/previous/indic").linked_to == f"{RELEASES}/0.2.0-0123456789ab"
    assert host.check_output("readlink /opt/babelrack/current/indic") == f"../releases/{version}"


def test_another_packs_release_stayed(host, version):
    assert host.file("/opt/babelrack/current/western_sea").linked_to == f"{RELEASES}/{version}"
    assert not host.file("/opt/babelrack/previous/western_sea").exists


def test_old_releases_are_removed_but_not_what_a_pack_can_roll_back_to(host, version):
    there = set(host.check_output(f"ls {RELEASES}").splitlines())
    kept_for_nothing_but_being_new = "0.0.1-000000000000"
    assert there == {version, "0.2.0-0123456789ab", "0.0.3-000000000000", kept_for_nothing_but_being_new}


def test_a_broken_off_installation_was_made_anew(host, version):
    assert host.file(f"{RELEASES}/{version}/lib/python3.11/site-packages/torch/__init__.py").exists
    assert json.loads(host.file(f"{RELEASES}/{version}/release.json").content_string)["version"] == version


def test_it_shares_the_files_of_what_both_releases_have_but_not_what_was_changed(host, version):
    def inode(release, name):
        return host.check_output(f"stat --format %i {RELEASES}/{release}/{name}")

    package, other = "lib/python3.11/site-packages", "0.2.0-0123456789ab"
    for shared in ("torch/__init__.py", "torch/__pycache__/__init__.cpython-311.pyc", "babelrack/api_server/app.py"):
        assert inode(version, f"{package}/{shared}") == inode(other, f"{package}/{shared}")
    changed = f"{package}/numpy/__init__.py"
    assert inode(version, changed) != inode(other, changed)
    assert host.run(f"grep -q '^# changed' {RELEASES}/{version}/{changed}").rc == 1
    for script in ("babelrack", "uvicorn"):
        first = host.check_output(f"head -n 1 {RELEASES}/{version}/bin/{script}")
        assert first == f"#!{RELEASES}/{version}/bin/python"


def test_a_release_that_arrived_damaged_is_not_there(host):
    assert host.check_output(f"find {RELEASES} -maxdepth 1 -name '0.1.1-*'") == ""
