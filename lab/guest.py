"""A host as the lab makes it: a container, a disk and a cable."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.disk import Disk
from lab.memory import Memory
from lab.trouble import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from lab.cgroups import LabGroups
    from lab.commands import Commands
    from lab.network import Network
    from lab.podman import Podman
    from lab.room import Room
    from lab.state import HostState

STOP_S = 20
CAPABILITIES = (
    "SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "AUDIT_WRITE", "NET_RAW", "SETPCAP", "SYS_NICE", "DAC_READ_SEARCH",
    "MKNOD", "IPC_LOCK",
)  # fmt: skip
BOOTED = """\
until=$(($(date +%s) + 90))
while [ "$(date +%s)" -lt "$until" ]; do
    state=$(timeout 10 systemctl is-system-running --wait 2>/dev/null) || true
    case $state in running | degraded) break ;; esac
    sleep 0.1
done
echo "$state"
{ systemctl list-units --failed --plain --no-legend; systemctl list-jobs --no-legend | sed 's/^ *[0-9]* //'; } 2>&1 |
    cut -d ' ' -f 1 | tr '\\n' ' '
echo
cat /etc/ssh/ssh_host_ed25519_key.pub
"""
NAMES = """\
[ -s /etc/hosts ] || printf '127.0.0.1 localhost\\n::1 localhost\\n' >/etc/hosts
{ sed '/# lab begin/,/# lab end/d' /etc/hosts; echo '# lab begin'; cat; echo '# lab end'; } >/etc/hosts.new
mv /etc/hosts.new /etc/hosts
"""


@dataclass(frozen=True)
class Tools:
    """What works on the hosts of one lab."""

    groups: LabGroups
    commands: Commands
    room: Room
    podman: Podman
    network: Network


class Guest:
    """One host; `state` is what is known of it, `folder` is where its disk and its network lie."""

    def __init__(self, state: HostState, folder: Path, packages: Path, tools: Tools) -> None:
        self.state = state
        self.disk = Disk(tools.commands, tools.room, folder)
        self._folder = folder
        self._packages = packages
        self._tools = tools

    @property
    def memory(self) -> Memory:
        """Its memory, while it runs."""
        groups = self._tools.groups
        return Memory(groups.host("memory", self.state.container), unified=groups.hierarchies.unified)

    @property
    def commands(self) -> Commands:
        """Runs programs in the lab's name."""
        return self._tools.commands

    @property
    def podman(self) -> Podman:
        """Runs podman for its lab."""
        return self._tools.podman

    @property
    def status(self) -> str:
        """What podman says of it: running, paused, exited."""
        done = self.podman("inspect", "--format", "{{.State.Status}}", self.state.container, check=False)
        return done.stdout.strip() or "gone"

    def make(self, reference: str, public_key: Path) -> None:
        """Make it and wait until it is up; raises `LabError` when it doesn't boot, or boots with failed units."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "ssh").mkdir(exist_ok=True)
        shutil.copyfile(public_key, self._folder / "ssh" / "authorized_keys")
        self.disk.make(self.state.disk)
        network = self._folder / "network"
        self._tools.network.plug(self.commands, self._tools.room, self.state.index, network)
        self._seed()
        volumes = [f"{self._folder / 'ssh'}:/etc/ssh/lab:ro", f"{self._packages.parent}:/var/cache/lab-apt"]
        self.state.container = self.podman(
            "run", "--detach", "--name", f"{self.state.name}-{secrets.token_hex(4)}", "--hostname", self.state.name,
            "--systemd=always", "--cgroupns=private", "--cgroup-parent", self._tools.groups.path, "--restart", "always",
            "--network", f"ns:{network}", "--no-hosts",
            "--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL",
            "--cap-add", ",".join(CAPABILITIES), *_limits(), "--pids-limit", "16384", "--shm-size", "1g",
            *(("--memory", self.state.memory) if self.state.memory else ()),
            *(word for volume in [*volumes, *self.disk.volumes] for word in ("--volume", volume)),
            "--pull=never", reference,
        ).stdout.strip()  # fmt: skip
        state, units, key = self._booted()
        if state != "running":
            raise LabError(f"{self.state.name} did not boot: it is {state or 'silent'}; units: {units or 'none'}")
        self._write(
            "/etc/apt/apt.conf.d/91lab-archives", f'Dir::Cache::archives "/var/cache/lab-apt/{self._packages.name}/";\n'
        )
        self.state.key = key

    def start(self) -> None:
        """Switch it on again and wait until it has booted, with or without failed units."""
        self.podman("start", self.state.container)
        self.plug()
        self._booted()

    def stop(self) -> None:
        """Cut its power."""
        self.podman("kill", self.state.container, check=False)
        until = time.monotonic() + STOP_S
        while (status := self.status) != "exited":
            if time.monotonic() > until:
                raise LabError(f"{self.state.name} can't be switched off; it is {status}")
            time.sleep(0.05)

    def plug(self) -> None:
        """Have its cable plugged in, or not, as its faults want it: a host without power doesn't say so."""
        off = bool({"kill", "partition"} & set(self.state.broken))
        self._tools.network.cut(self.commands, self.state.index, off=off)

    def introduce(self, names: str) -> None:
        """Write the hosts of the lab, as lines of address and name, into its /etc/hosts."""
        self.podman("exec", "--interactive", self.state.container, "sh", "-ec", NAMES, stdin=names)

    def remove(self) -> None:
        """Remove what there is of it, however little."""
        listed = self.podman(
            "ps", "--all", "--quiet", "--no-trunc", "--filter", f"name=^{self.state.name}-", check=False
        )
        for container in {*listed.stdout.split(), *([self.state.container] if self.state.container else [])}:
            self.podman("rm", "--force", "--time", "0", container, check=False)
        self.disk.remove()
        self._tools.network.unplug(self.commands, self.state.index)
        self.commands(*self._tools.room.enter, "umount", self._folder / "network", check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._packages, ignore_errors=True)

    def _booted(self) -> tuple[str, str, str]:
        done = self.podman("exec", self.state.container, "sh", "-c", BOOTED, check=False)
        lines = done.stdout.splitlines()
        if done.returncode or len(lines) < 3:
            raise LabError(f"{self.state.name} did not boot: {(done.stderr or done.stdout).strip()}")
        return lines[0].strip(), lines[1].strip(), " ".join(lines[2].split()[:2])

    def _write(self, file: str, text: str) -> None:
        self.podman("exec", "--interactive", self.state.container, "sh", "-ec", 'cat >"$1"', "sh", file, stdin=text)

    def _seed(self) -> None:
        """Give it the packages that its siblings have downloaded."""
        pool = self._packages.parent / "pool"
        for folder in (self._packages, pool):
            folder.mkdir(parents=True, exist_ok=True)
        for package in pool.glob("*.deb"):
            if not (self._packages / package.name).exists():
                os.link(package, self._packages / package.name)


def _limits() -> list[str]:
    """As many files and processes as this machine may have itself: podman's defaults can be more than it may give."""
    words = []
    for name, limit, most in (("nofile", resource.RLIMIT_NOFILE, 1 << 20), ("nproc", resource.RLIMIT_NPROC, 30_000)):
        hard = resource.getrlimit(limit)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(hard, most)
        words += ["--ulimit", f"{name}={allowed}:{allowed}"]
    return words
