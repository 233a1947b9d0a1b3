"""`apply`, `scale`, `destroy` and `doctor` with real Terraform, the real provider, and real Ansible over real SSH.

The playbooks are small ones that leave a mark and look at the claims: what the commands promise is which of the tools
does what, in which order, and what is left when one of them fails. What the real playbooks do has tests of its own.
"""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import loopback
import terraform

# A control socket's path would be too long below pytest's folders.
CONFIGURATION = """
[connection]
pipelining = True
[ssh_connection]
ssh_args = -o ControlMaster=no
"""
SITE_PLAY = """
- name: Roll
  hosts: replicas
  gather_facts: false
  tasks:
    - name: Be told to wait
      ansible.builtin.command: sleep 300
      when: wait | default(false)
      changed_when: false
    - name: Leave a mark
      ansible.builtin.copy: {content: "x", dest: "/var/lib/babelrack/{{ inventory_hostname }}", mode: "0600"}
"""
# Removing a replica whose place is free already would be too late.
REMOVE_PLAY = """
- name: Remove
  hosts: pack_{{ remove_pack }}
  gather_facts: false
  tasks:
    - name: Take it off
      when: remove_replicas is undefined or inventory_hostname.split('-')[1] in remove_replicas.split(',')
      block:
        - name: See that the place is still claimed
          ansible.builtin.command: test -e /var/lib/babelrack/claims/place-0/claim.json
          changed_when: false
        - name: Take the mark away
          ansible.builtin.file: {path: "/var/lib/babelrack/{{ inventory_hostname }}", state: absent}
"""
NOTHING_PLAY = "- hosts: gateway\n  gather_facts: false\n  tasks: []\n"
FORGET_PLAY = """
- name: Forget
  hosts: gateway
  gather_facts: false
  tasks:
    - name: Leave a mark
      ansible.builtin.copy: {content: "x", dest: /var/lib/babelrack/forgotten, mode: "0600"}
"""
FAILING_PLAY = "- hosts: replicas\n  gather_facts: false\n  tasks: [{ansible.builtin.fail: {msg: the unit hangs}}]\n"


class FleetProject:
    """A project with three hosts, a, b and c, whose replicas Ansible finds where a first-fit claim puts them."""

    def __init__(self, folder, hosts):
        self.hosts = hosts
        self.folder = folder
        self.project = terraform.Project(folder)
        self.site_file = self.project.site(packs=["indic"], fleet={"shared": "c", "gateway": "c"})
        hosts.pool(self.project.hosts_file)
        (folder / "ansible").mkdir()
        (folder / "ansible" / "ansible.cfg").write_text(CONFIGURATION)
        self.play("site.yml", SITE_PLAY)
        self.play("remove.yml", REMOVE_PLAY)
        self.inventory()

    def play(self, name, text):
        (self.folder / "ansible" / name).write_text(text)

    def inventory(self, replicas=("indic-0", "indic-1"), **variables):
        at = {name: {"ansible_host": "127.0.0.1", "ansible_port": host.port} for name, host in self.hosts.hosts.items()}
        machine = {"indic-0": "a", "indic-1": "b"}
        shared = {
            "ansible_user": "root",
            "ansible_python_interpreter": sys.executable,
            "ansible_ssh_private_key_file": str(self.hosts.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.hosts.known_hosts}",
        }
        groups = {
            "machines_indic": {"hosts": {name: at[name] for name in "ab"}},
            "pack_indic": {"hosts": {name: at[machine[name]] for name in replicas}},
            "replicas": {"children": {"pack_indic": {}}},
            "shared": {"hosts": {"c": at["c"]}},
            "gateway": {"hosts": {"c": at["c"]}},
        }
        text = yaml.safe_dump({"all": {"vars": shared | variables, "children": groups}})
        (self.site_file.parent / "babelrack.yml").write_text(text)

    def start(self, *arguments, stdin=subprocess.DEVNULL):
        command = [sys.executable, "-m", "babelrack.cli", *arguments, "--site", "inventories/lab/site.yaml"]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.project.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, code=0, answer=None):
        with contextlib.ExitStack() as stack:
            stdin = subprocess.DEVNULL
            if answer is not None:
                ours, stdin = pty.openpty()
                stack.callback(os.close, ours)
                stack.callback(os.close, stdin)
                os.write(ours, f"{answer}\n".encode())
            process = self.start(*arguments, stdin=stdin)
            output = process.communicate(timeout=200)[0]
        assert process.returncode == code, output
        return output

    @property
    def claims(self):
        return sorted(self.hosts.claims)

    @property
    def replicas(self):
        return yaml.safe_load(self.site_file.read_text())["deployments"]["indic"]["replicas"]

    @property
    def marks(self):
        return {path.name for host in self.hosts.hosts.values() for path in host.lib.glob("indic-*")}


@pytest.fixture
def fleet(tmp_path):
    loopback.require()
    terraform.require()
    with loopback.LoopbackHosts(tmp_path / "hosts", 3) as hosts:
        yield FleetProject(tmp_path / "project", hosts)


def test_apply_claims_then_rolls_and_a_second_one_changes_nothing(fleet):
    assert "Nobody is here to agree" in fleet.run("apply", "indic", code=1)
    assert "1 to add" in fleet.run("apply", "indic", code=1, answer="n")
    assert fleet.claims == []
    first = fleet.run("apply", "indic", answer="y")
    assert fleet.claims == [("a", "place-0")]
    assert "indic-0" in fleet.marks
    assert first.splitlines()[-1].endswith("2 changes.")
    second = fleet.run("apply", "indic")
    assert "Terraform has nothing to change" in second
    assert second.splitlines()[-1].endswith("nothing to change.")


def test_scale_and_destroy_take_replicas_off_before_their_hosts_are_released(fleet):
    fleet.run("apply", "indic", "--yes")  # one after the other, so that it is known who is on which host
    before = fleet.site_file.read_text()
    assert "+    replicas: 2" in fleet.run("scale", "indic", "2", code=1, answer="n")
    assert fleet.site_file.read_text() == before
    fleet.run("scale", "indic", "2", "--yes")
    assert fleet.claims == [("a", "place-0"), ("b", "place-0")]
    assert fleet.replicas == 2

    fleet.play("remove.yml", FAILING_PLAY)
    assert "the unit hangs" in fleet.run("scale", "indic", "1", "--yes", code=1)
    assert (len(fleet.claims), fleet.replicas) == (2, 2), "what could not be taken off keeps its host"

    fleet.play("remove.yml", REMOVE_PLAY)
    fleet.play("site.yml", NOTHING_PLAY)
    assert "indic-1 on b is drained at the gateway and stopped" in fleet.run("scale", "indic", "1", "--yes")
    assert (fleet.claims, fleet.marks, fleet.replicas) == ([("a", "place-0")], {"indic-0"}, 1)

    assert "Nothing was changed" in fleet.run("destroy", "indic", code=1, answer="indi")
    assert fleet.claims == [("a", "place-0")]
    fleet.inventory(replicas=["indic-0"])
    fleet.play("site.yml", FAILING_PLAY.replace("replicas", "gateway"))
    assert "the unit hangs" in fleet.run("destroy", "indic", code=1, answer="indic")
    assert (fleet.claims, fleet.marks) == ([], set())

    # What is left is done by the next one, though there is no claim any more.
    fleet.play("site.yml", FORGET_PLAY)
    again = fleet.run("destroy", "indic", "--yes")
    assert "indic has nothing at lab" in again
    assert "indic is gone from lab" in again
    assert (fleet.hosts["c"].lib / "forgotten").exists()


def test_ctrl_c_stops_the_roll_and_keeps_the_claim_and_nobody_else_meddles_meanwhile(fleet):
    fleet.inventory(wait=True)
    process = fleet.start("apply", "indic", "--yes")
    wait_for_sleep(fleet)
    assert "Another command is changing indic at lab" in fleet.run("scale", "indic", "2", "--yes", code=1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "`babelrack apply indic` goes on from here" in output
    assert fleet.claims == [("a", "place-0")]
    assert not running("ansible-playbook", fleet.folder)


def test_the_doctor_sees_what_terraform_does_not_and_looks_on_when_a_host_is_off(fleet):
    fleet.run("apply", "indic", "--yes")
    assert "-without-" not in fleet.run("doctor", code=1)
    theirs = fleet.hosts["b"].lib / "claims"
    theirs.mkdir(exist_ok=True)
    shutil.copytree(fleet.hosts["a"].lib / "claims" / "place-0", theirs / "place-0")
    shutil.rmtree(fleet.hosts["a"].lib / "claims" / "place-0")
    output = fleet.run("doctor", code=1)
    assert "state-without-claim  a: place 0" in output
    assert "claim-without-state  b: place 0" in output
    fleet.hosts["a"].stop()
    output = fleet.run("doctor", code=1)
    assert "error    unreachable-host  a" in output
    assert "2 of 3 hosts" in output
    assert "claim-without-state  b: place 0" in output


def running(word, folder):
    """The command lines of processes that name a program and this project."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes().decode(errors="replace").replace("\0", " ")
            found += [line] if word in line and str(folder) in line else []
    return found


def wait_for_sleep(fleet):
    """Until the play has begun to wait: the claim is there, and Ansible runs."""
    terraform.wait_for(lambda: fleet.claims and running("ansible-playbook", fleet.folder), seconds=60)
    log = fleet.folder / ".babelrack" / "ansible" / "artifacts"
    terraform.wait_for(lambda: any("Be told" in path.read_text() for path in log.glob("*/stdout")), seconds=60)
