"""Terraform for tests: the real binary on a copy of the project's roots, with the provider in a mirror of its own."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from babelrack.provider.install import install_in_project

ROOT = Path(__file__).parent.parent
SMALL = {"gpus": 0, "gpu_memory_gib": 0, "ram_gib": 1, "disk_gib": 1}


def require():
    if shutil.which("terraform") is None:
        pytest.skip("needs terraform on PATH")


# What a plan says about a resource → what it does.
ACTIONS = {
    "will be created": "create",
    "will be destroyed": "destroy",
    "will be updated in-place": "update",
    "must be replaced": "replace",
    "will be replaced, as requested": "replace",
}
_CHANGE = re.compile(rf"# (\S+) ({'|'.join(ACTIONS)})")


class Project:
    """A project's folder: packs, one site, a copy of terraform/; nothing is written into the repository."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(ROOT / "terraform", folder / "terraform", ignore=_states)
        shutil.copytree(ROOT / "packs", folder / "packs")
        configuration = install_in_project(folder)
        self.environment = os.environ | {
            "TF_CLI_CONFIG_FILE": str(configuration),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "HOME": str(folder / "home"),
            "TF_CLI_ARGS": "-no-color",
        }
        (folder / "home").mkdir()

    def site(self, name="lab", packs=("indic", "western_sea"), fleet=None, **deployments):
        """Write site.yaml; a keyword is what the site changes about a pack."""
        data = {"packs": list(packs)}
        data["deployments"] = {pack: {"host": dict(SMALL)} | deployments.get(pack, {}) for pack in packs}
        if fleet:
            data["fleet"] = fleet
        file = self.folder / "inventories" / name / "site.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return file

    @property
    def hosts_file(self):
        return self.folder / "inventories" / "lab" / "hosts.yaml"

    def root(self, name):
        return Root(self, self.folder / "terraform" / name)


class Root:
    """One root; commands fail the test unless told what to expect."""

    def __init__(self, project, folder):
        self.project, self.folder = project, folder

    def __call__(self, *arguments, code=0, **environment):
        done = subprocess.run(
            ["terraform", *arguments], cwd=self.folder, env=self.project.environment | environment,
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        done.text = " ".join((done.stdout + done.stderr).replace("│", " ").split())
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments):
        return subprocess.Popen(
            ["terraform", *arguments], cwd=self.folder, env=self.project.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ready(self, workspace="lab"):
        self("init")
        if workspace:
            self("workspace", "select", "-or-create", workspace)
        return self

    def plan(self, *arguments, **environment):
        """The plan's resource changes by address, its output, and whether it is empty."""
        done = self("plan", "-detailed-exitcode", *arguments, code=None, **environment)
        assert done.returncode in (0, 2), done.stdout + done.stderr
        actions = {address: ACTIONS[words] for address, words in _CHANGE.findall(done.text)}
        return Plan(actions, done.text, done.returncode == 0)

    def apply(self, *arguments, code=0, **environment):
        return self("apply", "-auto-approve", *arguments, code=code, **environment)

    def destroy(self, *arguments, code=0):
        return self("destroy", "-auto-approve", *arguments, code=code)

    def output(self, name="deployment"):
        return json.loads(self("output", "-json").stdout)[name]["value"]

    def hosts(self):
        return {index: replica["host"] for index, replica in self.output()["replicas"].items()}


class Plan:
    def __init__(self, actions, text, empty):
        self.actions, self.text, self.empty = actions, text, empty


def _states(_folder, names):
    return [name for name in names if name in (".terraform", "terraform.tfstate.d", ".terraform.lock.hcl")]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
