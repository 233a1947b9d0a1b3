"""A project for a lab: packs, Terraform roots, inventory and licence in a folder of their own.

What runs there leaves nothing in this checkout: states, secrets and locks are in that folder and go with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelrack.credentials import write_private
from babelrack.keys.file import add_key
from babelrack.licensing.document import self_issue
from babelrack.provider.install import install_in_project
from lab.laboratory import ROOT
from lab.site import SITE, write_site_pool

if TYPE_CHECKING:
    from lab.laboratory import Lab

_LICENSE_DAYS = 90.0
_SEATS = 100


class LabProject:
    """The folder, and the commands that are run in it."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder = folder.absolute()
        self.lab = lab
        self.site_folder = self.folder / "inventories" / "lab"
        self.site_file = self.site_folder / "site.yaml"
        self.secrets = self.site_folder / "secrets"

    def make(self) -> None:
        """Copy what is edited, link what isn't, describe the lab's hosts, issue a licence; what is there is kept."""
        for name in ("packs", "terraform"):
            if not (self.folder / name).exists():
                shutil.copytree(ROOT / name, self.folder / name, ignore=_no_states)
        if not self.site_file.exists():
            shutil.copytree(SITE, self.site_folder, ignore=shutil.ignore_patterns("hosts.yaml", "secrets"))
        for name in ("ansible", ".cache", "dist"):
            link = self.folder / name
            if not link.exists():
                (ROOT / name).mkdir(exist_ok=True)
                link.symlink_to(ROOT / name)
        write_site_pool(self.lab, self.site_folder)
        install_in_project(self.folder)
        if not (self.secrets / "license.jws").exists():
            self.issue_license()
        if not self.client_key.exists():
            key = add_key(self.secrets / "keys.json", "lab", requests_per_minute=None, concurrency=None)
            write_private(self.client_key, key + "\n")

    @property
    def client_key(self) -> Path:
        """The key of a client, in the clear."""
        return self.secrets / "client-key"

    def issue_license(self, *, days: float = _LICENSE_DAYS) -> None:
        """Sign a licence for every language, and keep it where the roles look for it; its signing key is forgotten."""
        self.secrets.mkdir(mode=0o700, exist_ok=True)
        licence = self_issue("The lab", seats=_SEATS, days=days)
        write_private(self.secrets / "license-key", licence.license_key + "\n")
        write_private(self.secrets / "license-public.pem", licence.public_key)
        write_private(self.secrets / "license.jws", licence.token + "\n")

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        """The words of `babelrack`, `terraform`, `ansible-playbook` or another program of the virtual environment."""
        program = Path(sys.prefix) / "bin" / name
        return [str(program) if program.exists() else name, *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """What these commands are run with, in `folder`."""
        return os.environ | {
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "TF_CLI_CONFIG_FILE": str(self.folder / ".babelrack" / "terraform" / "terraform.rc"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "ANSIBLE_CONFIG": str(self.folder / "ansible" / "ansible.cfg"),
        }

    def run(self, name: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `options` are those of `subprocess.run`."""
        return subprocess.run(
            self.command(name, *arguments), cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, check=False, **options,
        )  # fmt: skip

    def terraform(self, root: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run Terraform in `packs/<pack>` or `shared`, in the lab's workspace, which is made if it isn't there."""
        where = f"-chdir={self.folder / 'terraform' / root}"
        if not (self.folder / "terraform" / root / ".terraform").exists():
            for setup in (("init", "-no-color"), ("workspace", "select", "-or-create", "lab")):
                done = self.run("terraform", where, *setup, capture_output=True)
                if done.returncode:
                    return done
        return self.run("terraform", where, *arguments, **options)

    def playbook(self, name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of `ansible/` on the lab's inventory."""
        inventory = self.site_folder / "babelrack.yml"
        return self.run("ansible-playbook", "-i", inventory, self.folder / "ansible" / name, *arguments, **options)


def _no_states(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names if name.startswith((".terraform", "terraform.tfstate")) and not name.endswith(".hcl")
    }
