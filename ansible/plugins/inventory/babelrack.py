"""The inventory of a site: its pool, its site file, and what Terraform claimed for each pack."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

DOCUMENTATION = """
name: babelrack
short_description: A Babelrack site, from its pool, its site file and the packs' Terraform outputs
description:
  - Machines carry their name from the pool; replicas are called C(<pack>-<n>), with dashes for underscores.
  - Groups of machines are C(machines), C(shared), C(gateway), C(gpu) and C(machines_<pack>).
  - Groups of replicas are C(replicas) and C(pack_<pack>).
  - A pack whose root has no state for the site yet has no replicas.
options:
  plugin:
    description: Always V(babelrack).
    required: true
    choices: [babelrack]
  site:
    description: The site's name, which is also its Terraform workspace. The name of the source's folder when left out.
    type: str
  site_file:
    description: The site file, from the source's folder.
    type: str
    default: site.yaml
  pool_file:
    description: The pool file, from the source's folder.
    type: str
    default: hosts.yaml
  secrets:
    description: The folder of the site's secrets, from the source's folder.
    type: str
    default: secrets
  terraform:
    description: The Terraform program.
    type: str
    default: terraform
    env:
      - name: BABELRACK_TERRAFORM
"""

EXAMPLES = """
# inventories/lab/babelrack.yml
plugin: babelrack
"""

try:
    from babelrack.packs.faults import PackError
    from babelrack.packs.pool import Pool, PoolHost, load_pool
    from babelrack.packs.site import Address, Deployment, Shared, Site, load_site
except ImportError as error:  # told when the inventory is read, with the fix
    MISSING: ImportError | None = error
else:
    MISSING = None

_TERRAFORM_SECONDS = 60


class InventoryModule(BaseInventoryPlugin):
    """Reads `inventories/<site>/babelrack.yml`."""

    NAME = "babelrack"

    def verify_file(self, path: str) -> bool:
        """Whether the source is this plugin's, by its name."""
        return super().verify_file(path) and Path(path).name in ("babelrack.yml", "babelrack.yaml")

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory; raises AnsibleParserError with a sentence."""
        super().parse(inventory, loader, path, cache)
        if MISSING is not None:
            raise AnsibleParserError(
                f"{path}: {MISSING}; run the Ansible of the project's .venv, where babelrack is installed"
            )
        self._read_config_data(path)
        folder = Path(path).absolute().parent
        try:
            site = load_site(folder / self.get_option("site_file"))
            pool = load_pool(folder / self.get_option("pool_file"))
        except PackError as error:
            raise AnsibleParserError(str(error)) from None
        name = self.get_option("site") or site.name
        outputs = _outputs(site, name, self.get_option("terraform"))
        try:
            fleet = _Fleet(name, site, pool, outputs, folder)
            for variable, value in fleet.shared_variables(folder / self.get_option("secrets")).items():
                self.inventory.set_variable("all", variable, value)
            fleet.fill(self.inventory)
        except _WrongError as error:
            raise AnsibleParserError(f"{path}: {error}") from None


class _WrongError(Exception):
    """What the files and the states say doesn't fit together."""


class _Fleet:
    """A site's machines and replicas, as inventory hosts and their variables."""

    def __init__(self, name: str, site: Site, pool: Pool, outputs: dict[str, dict[str, Any]], folder: Path) -> None:
        if site.fleet is None:
            raise _WrongError(
                f"{folder / 'site.yaml'} has no fleet:, which names the pool's hosts for what all packs share; "
                "add fleet: {shared: …, gateway: …}, or use `babelrack up` for a site that is this machine alone"
            )
        self.name = name
        self.site = site
        self.pool = pool
        self.folder = folder
        self.shared = self._host(site.fleet.shared, "fleet.shared of site.yaml")
        self.gateway = self._host(site.fleet.gateway, "fleet.gateway of site.yaml")
        self.replicas = {
            pack: self._replicas(deployment, outputs.get(pack, {})) for pack, deployment in site.deployments.items()
        }
        self._refuse_shared_ports()

    def _host(self, name: str, where: str) -> PoolHost:
        host = self.pool.hosts.get(name)
        if host is None:
            raise _WrongError(f"{where} names the host {name!r}, which {self.pool.file} doesn't list; add it there")
        return host

    def _replicas(self, deployment: Deployment, output: dict[str, Any]) -> list[dict[str, Any]]:
        name = deployment.pack.name
        claimed = output.get("replicas") or {}
        if claimed and (output.get("pack"), output.get("site")) != (name, self.name):
            raise _WrongError(
                f"the Terraform output of pack {name} is for pack {output.get('pack')!r} at site "
                f"{output.get('site')!r}; select the workspace {self.name} there and apply again"
            )
        model_url = deployment.pack.model_url(self.site)
        return [self._replica(deployment, int(index), claimed[index], model_url) for index in sorted(claimed, key=int)]

    def _replica(self, deployment: Deployment, index: int, claim: dict[str, Any], model_url: str) -> dict[str, Any]:
        pack = deployment.pack
        host = self._host(claim["host"], f"the Terraform state of pack {pack.name}, replica {index},")
        checkpoints = []
        for checkpoint in pack.checkpoints:
            url, sha256 = self.site.source(checkpoint)
            checkpoints.append({"name": checkpoint.name, "url": url, "sha256": sha256})
        return {
            "pack": pack.name,
            "deployment_name": pack.name,
            "index": index,
            "machine": claim["host"],
            # The pool is asked, not the state: a machine that got another address keeps its claim.
            "address": host.address,
            "place": claim["place"],
            "gpu_ids": list(claim["gpu_ids"]),
            "ports": deployment.ports.model_dump(),
            "needs": deployment.host.model_dump(),
            "aggregator": pack.aggregator,
            "languages": list(pack.languages),
            "model_url": model_url,
            "speaker_model_url": self.site.speaker_model_url,
            "checkpoints": checkpoints,
            "canary": self._canary(deployment),
        }

    def _canary(self, deployment: Deployment) -> dict[str, Any] | None:
        canary = deployment.pack.canary
        if canary is None:
            return None
        # Absolute even where the site was named by a relative path: a role reads it from its own folder.
        audio = deployment.file.absolute().parent / canary.audio
        if not audio.is_file():
            raise _WrongError(f"{deployment.file}: canary.audio is {canary.audio}, which is no file in {audio.parent}")
        return canary.model_dump() | {"audio": str(audio)}

    def _refuse_shared_ports(self) -> None:
        taken: dict[tuple[str, int], str] = {}
        for pack, replicas in self.replicas.items():
            for replica in replicas:
                for use, port in replica["ports"].items():
                    key, user = (replica["machine"], port), f"deployments.{pack}.ports.{use}"
                    other = taken.setdefault(key, user)
                    if other != user:
                        raise _WrongError(
                            f"{user} is port {port} on {key[0]}, which {other} has already; "
                            "give one of them another port in site.yaml"
                        )

    def shared_variables(self, secrets: Path) -> dict[str, Any]:
        """What every host knows."""
        return {
            "babelrack_site": self.name,
            "babelrack_project": str(self.site.root.absolute()),
            "babelrack_site_file": str(self.folder / "site.yaml"),
            "babelrack_secrets": str(secrets),
            "babelrack_packs": {
                pack: {
                    "ports": deployment.ports.model_dump(),
                    "aggregator": deployment.pack.aggregator,
                    "replicas": [
                        {
                            "name": _replica_name(replica),
                            "machine": replica["machine"],
                            "address": replica["address"],
                            "port": replica["ports"]["api"],
                        }
                        for replica in self.replicas[pack]
                    ],
                }
                for pack, deployment in self.site.deployments.items()
            },
            "babelrack_shared_address": self.shared.address,
            "babelrack_gateway_address": self.gateway.address,
            "babelrack_license_proxy": self._service(self.site.license_proxy),
            "babelrack_redis": self._service(self.site.redis),
            "babelrack_url_networks": list(self.site.url_input.allowed_networks),
        }

    def _service(self, shared: Shared) -> dict[str, Any]:
        # The site file's default is this machine, which in a fleet is the shared host as all others see it.
        here = Address(shared.address, shared.port).machine == "127.0.0.1"
        return {"address": self.shared.address if here else shared.address, "port": shared.port}

    def fill(self, inventory: Any) -> None:
        """Add hosts, groups and variables."""
        for group in ("machines", "replicas", "shared", "gateway", "gpu"):
            inventory.add_group(group)
        for pack in self.site.deployments:
            inventory.add_group(f"machines_{pack}")
            inventory.add_group(f"pack_{pack}")
        fleet = self.site.fleet
        assert fleet is not None  # noqa: S101 - __init__ refuses a site without
        self._add_machine(inventory, fleet.shared, "shared")
        self._add_machine(inventory, fleet.gateway, "gateway")
        for pack, replicas in self.replicas.items():
            for replica in replicas:
                self._add_machine(inventory, replica["machine"], f"machines_{pack}")
                name = _replica_name(replica)
                if name in self.pool.hosts:
                    raise _WrongError(
                        f"{self.pool.file}: the host {name} is called like a replica of the pack {pack}; rename it"
                    )
                inventory.add_host(name)
                for group in ("replicas", f"pack_{pack}"):
                    inventory.add_host(name, group=group)
                self._connect(inventory, name, replica["machine"])
                inventory.set_variable(name, "babelrack_replica", replica)

    def _add_machine(self, inventory: Any, name: str, group: str) -> None:
        host = self.pool.hosts[name]
        for each in ("machines", group, *(["gpu"] if host.gpus else [])):
            inventory.add_host(name, group=each)
        self._connect(inventory, name, name)
        facts = host.model_dump(include={"address", "gpus", "gpu_model", "gpu_memory_gib", "ram_gib", "rack", "labels"})
        inventory.set_variable(name, "babelrack_machine", {"name": name} | facts)

    def _connect(self, inventory: Any, name: str, machine: str) -> None:
        ssh, host = self.pool.ssh, self.pool.hosts[machine]
        options = ["-o", "StrictHostKeyChecking=yes"]
        if known_hosts := self.pool.path(ssh.known_hosts):
            options += ["-o", f"UserKnownHostsFile={known_hosts.absolute()}", "-o", "GlobalKnownHostsFile=/dev/null"]
        variables = {
            "ansible_host": host.address,
            "ansible_port": host.ssh_port or ssh.port,
            "ansible_user": ssh.user,
            "ansible_become": ssh.user != "root",
            "ansible_ssh_common_args": shlex.join(options),
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        if private_key := self.pool.path(ssh.private_key):
            variables["ansible_ssh_private_key_file"] = str(private_key.absolute())
        for variable, value in variables.items():
            inventory.set_variable(name, variable, value)


def _replica_name(replica: dict[str, Any]) -> str:
    return f"{replica['pack'].replace('_', '-')}-{replica['index']}"


def _outputs(site: Site, workspace: str, program: str) -> dict[str, dict[str, Any]]:
    """Each pack's `deployment` output; a pack that was never applied at this site is left out."""
    roots = {pack: site.root / "terraform" / "packs" / pack for pack in site.deployments}
    with ThreadPoolExecutor(max_workers=8) as threads:
        found = threads.map(lambda item: (item[0], _output(item[1], workspace, program)), roots.items())
        return {pack: output for pack, output in found if output is not None}


def _output(root: Path, workspace: str, program: str) -> dict[str, Any] | None:
    if not root.is_dir():
        return None
    command = [program, f"-chdir={root}", "output", "-json", "-no-color"]
    environment = os.environ | {"TF_WORKSPACE": workspace, "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
    if not Path(environment.get("TF_CLI_CONFIG_FILE", "/")).exists():
        del environment["TF_CLI_CONFIG_FILE"]  # Terraform would say on stderr that it isn't there
    try:
        run = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TERRAFORM_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise AnsibleParserError(
            f"{program} is not on this machine; install Terraform, or set BABELRACK_TERRAFORM to where it is"
        ) from None
    except subprocess.TimeoutExpired:
        raise AnsibleParserError(
            f"{root}: `terraform output` didn't end within {_TERRAFORM_SECONDS} s; is its state's backend reachable?"
        ) from None
    if run.returncode:
        said = " ".join(run.stderr.replace("│", " ").replace("╷", " ").replace("╵", " ").split())
        raise AnsibleParserError(f"{root}: `terraform output` failed ({said[:400]}); run `terraform init` there")
    outputs = json.loads(run.stdout or "{}")
    deployment = outputs.get("deployment", {}).get("value")
    return deployment if isinstance(deployment, dict) else None
