"""A whole site on lab hosts: a shared host, a gateway, three machines for indic and western_sea."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import yaml
from lab.laboratory import ROOT
from lab.project import LabProject
from safetensors.numpy import load_file, save_file

import speech
from traffic import PAUSE_S, Sessions, Traffic

SHARED, GATEWAY = "host-1", "host-2"
# The gateway runs no release, and so may have another Python than this checkout's, whose release the others run.
SUITES = ("bookworm", "trixie", "bookworm", "bookworm", "bookworm")
HOSTS = len(SUITES)
# So short that a test can wait for its end; western_sea has the day that is usual.
INDIC_GRACE_S = 60
PORTS = {"api": 7100, "model": 2233, "metrics": 9090}
_CLIPS = {"indic": "en-3s-a", "western_sea": "id-3s-b"}
_SPOKEN = {"indic": "en-11s-a", "western_sea": "id-11s-a"}


class LabSite:
    """The lab, the project that describes it, and the commands that an operator has."""

    def __init__(self, lab, folder: Path):
        self.lab = lab
        self.project = LabProject(folder, lab)

    def make(self):
        """From nothing to two packs that serve; what is there already is kept."""
        self.lab.up(HOSTS, SUITES)
        for name in ("dist", "checkpoints"):
            (self.project.folder / name).mkdir(parents=True, exist_ok=True)
        self.project.make()
        self._settle()
        self.build(ROOT)
        for root in ("shared", "packs/indic", "packs/western_sea"):
            self.must(self.project.terraform(root, "apply", "-auto-approve", "-no-color", **CAPTURED))
        return self.play("site.yml")

    def _settle(self):
        fleet = {"shared": SHARED, "gateway": GATEWAY}
        self.edit_site(lambda site: site.update(packs=["indic", "western_sea"], fleet=fleet))
        self.edit_site(lambda site: site["deployments"].pop("future", None))
        variables = self.project.site_folder / "group_vars"
        everywhere = yaml.safe_load((variables / "all.yml").read_text())
        everywhere["checkpoints_ship"] = [
            everywhere["checkpoints_ship"][0],
            {"from": "checkpoints/deaf", "to": "/srv/babelrack/checkpoints/deaf"},
        ]
        (variables / "all.yml").write_text(yaml.safe_dump(everywhere))
        grace = {"LICENSE_GRACE_SECONDS": INDIC_GRACE_S}
        (variables / "pack_indic.yml").write_text(yaml.safe_dump({"api_server_settings": grace, "asr_settings": grace}))
        _write_deaf(self.project.folder / "checkpoints" / "deaf")

    # --- what an operator does -------------------------------------------------------------------------------

    def edit_site(self, change):
        """Change site.yaml with a function of its content."""
        self._edit(self.project.site_file, change)

    def edit_pack(self, pack, change):
        """Change a pack file with a function of its content."""
        self._edit(self.project.folder / "packs" / f"{pack}.yaml", change)

    def _edit(self, file, change):
        content = yaml.safe_load(file.read_text())
        change(content)
        file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def build(self, project):
        """Build a release of a checkout; it is the latest from then on."""
        out = self.project.folder / "dist" / "release"
        self.must(self.project.run("babelrack", "release", "build", "--project", project, "--out", out, **CAPTURED))

    def babelrack(self, *arguments, code=0):
        """A command that changes the site, agreed to; gives what it printed."""
        return self.must(
            self.project.run("babelrack", *arguments, "--site", self.project.site_file, "--yes", **CAPTURED), code
        )

    def doctor(self):
        """The exit code and the findings of `babelrack doctor`."""
        done = self.project.run("babelrack", "doctor", "--site", self.project.site_file, "--format", "json", **CAPTURED)
        assert done.returncode in (0, 1, 2), done.stdout
        return done.returncode, json.loads(done.stdout)["findings"]

    def play(self, playbook, *arguments):
        """Run a playbook; gives its output."""
        return self.must(self.project.playbook(playbook, *arguments, **CAPTURED))

    def plan_is_empty(self, root):
        """Whether Terraform has nothing to do in a root."""
        done = self.project.terraform(root, "plan", "-detailed-exitcode", "-no-color", **CAPTURED)
        assert done.returncode in (0, 2), done.stdout
        return done.returncode == 0

    @staticmethod
    def must(done, code=0):
        """The output of a command that ended as it should."""
        assert done.returncode == code, done.stdout[-8000:]
        return done.stdout

    # --- what there is ---------------------------------------------------------------------------------------

    @property
    def gateway(self):
        """The gateway's URL."""
        return f"http://{self.lab.host(GATEWAY).address}:8080"

    @property
    def serves(self):
        """Whether there is a gateway already that answers."""
        try:
            return bool(self.lab.hosts) and httpx.get(f"{self.gateway}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def hosts(self, pack):
        """The hosts of a pack, in the order of their replicas."""
        done = self.project.terraform(f"packs/{pack}", "output", "-json", "deployment", stdout=subprocess.PIPE)
        replicas = json.loads(done.stdout)["replicas"] if done.returncode == 0 else {}
        return [self.lab.host(replicas[index]["host"]) for index in sorted(replicas, key=int)]

    def replicas(self, pack, number):
        """Have so many replicas of a pack."""
        if len(self.hosts(pack)) != number:
            self.babelrack("scale", pack, str(number))
        return self.hosts(pack)

    def traffic(self, pack, clients=1, pause_s=PAUSE_S):
        """Clients of a pack, through the gateway."""
        return self._clients(_CLIPS[pack], clients, pause_s)

    def sessions(self, pack, clients=1):
        """Clients of a pack that speak, through the gateway."""
        return Sessions(self.project, self.gateway, speech.clip(_SPOKEN[pack]), clients)

    def ask(self, name):
        """Transcribe a fixture through the gateway once."""
        return self._clients(name).once()

    def _clients(self, name, clients=1, pause_s=PAUSE_S):
        return Traffic(self.gateway, self.project.client_key.read_text().strip(), speech.clip(name), clients, pause_s)

    def units(self, pack):
        """Each replica's units with the process that they run and how often they were started again."""
        return {host.name: units_of(host, pack) for host in self.hosts(pack)}

    def claims(self):
        """Which pack holds each host of the lab, by the hosts' own word."""
        found = {}
        for host in self.lab.hosts:
            said = host.run("cat /var/lib/babelrack/claims/place-0/claim.json").stdout
            if said:
                found[host.name] = json.loads(said)["pack"]
        return found


CAPTURED = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


def units_of(host, pack):
    """The lines MainPID, NRestarts and ActiveEnterTimestamp of a replica's units."""
    return host.run(
        f"systemctl show --property Id,MainPID,NRestarts,ActiveEnterTimestamp asr@{pack} api-server@{pack}", check=True
    ).stdout


def changed(output):
    """How much a playbook changed, by host, from its recap."""
    return {
        name: int(number) for name, number in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)
    }


def copy_of_project(folder: Path, comment: str) -> Path:
    """What a release is built from, with a comment more, so that it is another release."""
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "services", folder / "services", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "services" / "babelrack" / "logs.py").open("a") as file:
        file.write(f"# {comment}\n")
    return folder


def _write_deaf(folder: Path):
    """A checkpoint that loads and hears nothing of what is said: its encoder's last norm is turned round."""
    source = ROOT / ".cache" / "checkpoints" / "whisper-base"
    if folder.exists():
        return
    folder.mkdir()
    for file in source.glob("*.json"):
        shutil.copy(file, folder / file.name)
    tensors = load_file(source / "model.safetensors")
    name = "model.encoder.layer_norm.weight"
    tensors[name] = -tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
