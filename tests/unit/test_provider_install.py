"""`babelrack provider install` and `babelrack new pack`."""

import hashlib
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from babelrack import cli
from babelrack.packs.pack import load_pack
from babelrack.provider import install as module
from babelrack.provider.install import InstallError, install, install_in_project
from babelrack.provider.templates import root_files
from rack import PROJECT


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def test_the_launcher_lies_where_terraform_looks_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run("provider", "install")
    assert done.exit_code == 0, done.output
    (launcher,) = (tmp_path / ".terraform.d/plugins/registry.terraform.io/babelrack/onprem").glob(
        "*/*/terraform-provider-onprem_v*"
    )
    assert os.access(launcher, os.X_OK)
    assert launcher.parent.parent.name == launcher.name.partition("_v")[2]


def test_a_second_installation_changes_nothing(tmp_path):
    assert install(tmp_path).changed
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not install(tmp_path).changed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_launcher_starts_the_provider_of_this_interpreter_also_through_a_link(tmp_path):
    launcher = install(tmp_path / "mirror").launcher
    (tmp_path / "linked").symlink_to(launcher.parent)
    done = subprocess.run([tmp_path / "linked" / launcher.name], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("This is a Terraform provider: Terraform starts it")


def test_the_launcher_is_the_same_on_every_machine_so_its_checksum_is(tmp_path, monkeypatch):
    here = install(tmp_path / "here").launcher.read_bytes()
    monkeypatch.setattr(sys, "executable", "/somewhere/else/bin/python")
    there = install(tmp_path / "there").launcher.read_bytes()
    assert hashlib.sha256(here).digest() == hashlib.sha256(there).digest()
    assert (tmp_path / "there/babelrack-python").read_text() == "/somewhere/else/bin/python\n"


def test_a_project_install_leaves_the_home_folder_alone(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    configuration = install_in_project(tmp_path / "project")
    assert configuration.read_text().count(str(tmp_path / "project")) == 1
    assert not list(home.iterdir())
    assert run("provider", "install", "--project", str(tmp_path / "project")).output == (
        f"export TF_CLI_CONFIG_FILE={configuration}\n"
    )


def test_a_platform_without_terraform_providers_in_python_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module.platform, "machine", lambda: "s390x")
    with pytest.raises(InstallError, match=r"there is no launcher for linux on s390x"):
        install(tmp_path)


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("provider", "install", "--dir", str(tmp_path / "file" / "plugins"))
    assert done.exit_code == 1
    assert "choose another folder with --dir" in done.stderr


@pytest.fixture
def project(tmp_path):
    (tmp_path / "packs").mkdir()
    (tmp_path / "terraform/packs").mkdir(parents=True)
    return tmp_path


def test_a_new_pack_is_valid_and_has_a_root(project):
    done = run("new", "pack", "far_north", "--languages", "da, no,sv", "--project", str(project))
    assert done.exit_code == 0, done.output
    pack = load_pack(project / "packs/far_north.yaml")
    assert (pack.name, pack.aggregator, pack.languages) == ("far_north", "multi-far-north", ("da", "no", "sv"))
    root = project / "terraform/packs/far_north"
    assert {path.name: path.read_text() for path in root.iterdir()} == root_files("far_north")
    assert 'pack      = "far_north"' in (root / "main.tf").read_text()


@pytest.mark.parametrize("existing", ["packs/nordic.yaml", "terraform/packs/nordic"])
def test_a_new_pack_never_overwrites(project, existing):
    (project / existing).mkdir() if existing.startswith("terraform") else (project / existing).write_text("mine")
    before = sorted(project.rglob("*"))
    done = run("new", "pack", "nordic", "--languages", "da", "--project", str(project))
    assert done.exit_code == 1
    assert f"{existing} exists already; choose another name" in done.stderr
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "languages", "sentence"),
    [
        ("Nordic", "da", "name is 'Nordic'; write a lower-case letter"),
        ("../nordic", "da", "name is '../nordic'"),
        ("nordic", "dansk", "checkpoints[0].languages[0] is wrong"),
        ("nordic", "", "checkpoints[0].languages"),
    ],
)
def test_a_new_pack_that_would_be_wrong_is_not_written(project, name, languages, sentence):
    before = sorted(project.rglob("*"))
    done = run("new", "pack", name, "--languages", languages, "--project", str(project))
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert sorted(project.rglob("*")) == before


def test_outside_of_a_project_nothing_is_written(tmp_path):
    done = run("new", "pack", "nordic", "--languages", "da", "--project", str(tmp_path))
    assert done.exit_code == 1
    assert "run this in the project's folder" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", sorted(path.name for path in (PROJECT / "terraform/packs").iterdir()))
def test_the_roots_of_all_packs_are_as_new_pack_writes_them(root):
    folder = PROJECT / "terraform/packs" / root
    assert {path.name: path.read_text() for path in folder.glob("*.tf")} == root_files(root)
