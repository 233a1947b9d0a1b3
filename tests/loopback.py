"""Hosts for the provider's tests: real SSH servers on 127.0.0.1, each in a mount namespace of its own.

So each host has its own `/var/lib/babelrack`, and may have a PCI bus and an `nvidia-smi` that print what was recorded
from a real machine. No container, no network of its own: a host is there in a tenth of a second.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

CLAIMS = "/var/lib/babelrack/claims"
# The one thing that a host's server runs before it serves: its own folders over those of this machine.
_ENTER = """
set -e
mkdir -p /var/lib/babelrack /run/sshd
mount --bind "$1/lib" /var/lib/babelrack
if [ -d "$1/pci" ]; then mount --bind "$1/pci" /sys/bus/pci/devices; fi
if [ -d "$1/bin" ]; then mount --bind "$1/bin" /usr/local/sbin; fi
exec /usr/sbin/sshd -D -e -f "$1/sshd_config"
"""


def require():
    """Skip where such hosts can't be made, saying what is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an SSH server that hands out other users' shells, and mounts")
    for program, package in (
        ("/usr/sbin/sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("unshare", "util-linux"),
    ):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}; apt-get install {package}")
    probe = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/sys/bus/pci/devices"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs mount namespaces, which this machine doesn't allow")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LoopbackHost:
    """One host; `folder/lib` is its /var/lib/babelrack."""

    def __init__(self, folder: Path, name: str, client_key: Path):
        self.folder, self.name = folder, name
        self.port = free_port()
        self.lib = folder / "lib"
        self.lib.mkdir(parents=True)
        self.host_key = folder / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.host_key], check=True)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {client_key}.pub\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "MaxStartups 100\n"
        )
        self.process = None

    def with_facts(self, recorded: Path):
        """Give the host the PCI bus and the nvidia-smi of a recorded machine."""
        for line in recorded.read_text().splitlines():
            kind, _, value = line.partition(" ")
            if kind == "pci":
                address, *values = value.split()
                for name, content in zip(("class", "vendor", "device"), values, strict=True):
                    file = self.folder / "pci" / address / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(f"{content}\n")
        rows = [
            line.removeprefix("nvidia-smi ")
            for line in recorded.read_text().splitlines()
            if line.startswith("nvidia-smi ")
        ]
        (self.folder / "pci").mkdir(exist_ok=True)
        if rows:
            program = self.folder / "bin" / "nvidia-smi"
            program.parent.mkdir()
            program.write_text("#!/bin/sh\n" + "".join(f"echo {shlex.quote(row)}\n" for row in rows))
            program.chmod(0o755)
        return self

    def start(self):
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "host", self.folder]
        log = (self.folder / "sshd.log").open("a")
        self.process = subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self):
        """Power off; what is on its disk stays."""
        if self.process is not None:
            for signalled in (signal.SIGCONT, signal.SIGTERM):
                os.kill(self.process.pid, signalled)
            self.process.wait(10)
            self.process = None

    def known_as(self, key_of=None):
        """The line of a known_hosts file, with another host's key to be an impostor's."""
        kind, key = Path(f"{(key_of or self).host_key}.pub").read_text().split()[:2]
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

    @property
    def claims(self):
        """What is on the host: place → claim.json's text."""
        return {path.parent.name: path.read_text() for path in sorted((self.lib / "claims").glob("place-*/claim.json"))}


class LoopbackHosts:
    """Hosts a, b, c, … with one client key; `pool(…)` writes their hosts.yaml."""

    def __init__(self, folder: Path, count: int):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.key = folder / "client_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.known_hosts = folder / "known_hosts"
        self.hosts = {}
        for name in "abcdefgh"[:count]:
            self.hosts[name] = LoopbackHost(folder / name, name, self.key)
        self.trust()

    def __getitem__(self, name):
        return self.hosts[name]

    def __enter__(self):
        for host in self.hosts.values():
            host.start()
        return self

    def __exit__(self, *_):
        for host in self.hosts.values():
            host.stop()

    def trust(self, **key_of):
        self.known_hosts.write_text("".join(host.known_as(key_of.get(name)) for name, host in self.hosts.items()))

    def forget_claims(self):
        for host in self.hosts.values():
            shutil.rmtree(host.lib / "claims", ignore_errors=True)

    def pool(self, file: Path, **listed):
        """A pool file; a keyword changes what is listed of a host, None leaves the host out."""
        hosts = {}
        for name, host in self.hosts.items():
            if listed.get(name, {}) is not None:
                plain = {"address": "127.0.0.1", "ssh_port": host.port, "ram_gib": 4, "disk_gib": 4}
                hosts[name] = plain | listed.get(name, {})
        ssh = {"user": "root", "private_key": str(self.key), "known_hosts": str(self.known_hosts)}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"ssh": ssh, "hosts": hosts}, sort_keys=False))
        return file

    @property
    def claims(self):
        """(host, place) → claim.json's text."""
        return {(name, place): text for name, host in self.hosts.items() for place, text in host.claims.items()}
