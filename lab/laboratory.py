"""A lab: its hosts, from nothing to up to nothing."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lab import faults, image, kernel, machine, registry
from lab.cgroups import LabGroups, hierarchies
from lab.commands import Commands
from lab.guest import Guest, Tools
from lab.host import LabHost
from lab.keys import Keys
from lab.network import Network, numbers
from lab.podman import Podman
from lab.room import Room
from lab.size import size
from lab.state import HostState, LabState
from lab.trouble import LabClash, LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 4
GONE_S = 20
CRUN = Path("/run/crun")


class Lab:
    """Hosts under one name: a network, keys and a pool file of their own. Labs of other names are not disturbed."""

    def __init__(self, name: str = "default", *, say: Callable[[str], None] = lambda line: None) -> None:
        self.name = registry.check_name(name)
        self._network = Network(next(numbers(name)))
        self._say = say
        self._settle(ROOT)

    def _settle(self, checkout: Path) -> None:
        self.folder = checkout / ".babelrack" / "lab" / self.name
        self.cache = checkout / ".cache" / "lab"
        self.keys = Keys(self.folder)
        self.pool_file = self.folder / "hosts.yaml"
        self._state = LabState(self.folder / "state.json")

    # --- what there is ---------------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """The network that the lab has, or had last."""
        if record := registry.records().get(self.name):
            self._network = Network.of(record.subnet)
        return self._network

    @property
    def hosts(self) -> list[LabHost]:
        """The hosts that have been made, in order."""
        return [
            LabHost(self, host.name, self.network.address(host.index), host.suite)
            for host in self._state.read().values()
            if host.key
        ]

    def host(self, name: str) -> LabHost:
        """A host by name; raises `LabError` where there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        there = ", ".join(host.name for host in self.hosts) or "none; bring some up: python -m lab up"
        raise LabError(f"lab {self.name} has no host {name}; it has {there}")

    def broken(self, name: str) -> list[str]:
        """The faults that a host has."""
        return list(self._known(name).broken)

    def cgroup(self, name: str, controller: str = "pids") -> Path:
        """A host's control group for a controller, as this machine sees it."""
        return LabGroups(hierarchies(), self.name).host(controller, self._known(name).container)

    # --- up and down -----------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Take the name and addresses that are free, so that `up` can't clash; a lab that is up keeps its own.

        Raises `LabClash` where another checkout has the name, or something else on this machine has the addresses.
        """
        machine.check()
        _reap_orphans(self.name, self._say)
        if self.name in registry.records() and (clash := self.network.clash()):
            raise LabClash(f"lab {self.name} uses {self.network.subnet}, but {clash} has it now; take the lab down")
        free = (network for number in numbers(self.name) if not (network := Network(number)).clash())
        registry.enter(self.name, self.folder, (network.subnet for network in free))

    def up(
        self,
        count: int,
        suites: Sequence[str] = ("bookworm",),
        *,
        memory: str | None = None,
        disk: str = "4g",
    ) -> list[LabHost]:
        """Have `count` hosts: the missing ones are made, of the suites in turn; surplus ones are removed.

        `memory` limits each new host (`2g`), `disk` is the size of its checkpoints' and state's file system.
        Raises `LabUnavailable` where this machine can't make hosts, `LabClash` where another lab is in the way, else
        `LabError`.
        """
        if memory is not None:
            size(memory, least=faults.LEAST_MEMORY, what="memory")
        size(disk, least=32 << 20, what="disk")
        machine.check()
        with self._holding():
            self.reserve()
            self._open()
            hosts = self._state.read()
            for host in [host for host in hosts.values() if host.index > count]:
                self._say(f"removing {host.name}: {count} are wanted")
                self._guest(host, self._tools(hosts)).remove()
                del hosts[host.name]
                self._state.write(hosts)
            self._revive(hosts)
            self._add(hosts, count, suites, memory, disk)
            self._introduce(hosts)
        return self.hosts

    def down(self) -> None:
        """Remove all of it: hosts, network, mounts, files; raises `LabError` where something stays."""
        record = registry.records().get(self.name)
        if record and record.folder != str(self.folder):
            if not record.orphan:
                raise LabError(f"lab {self.name} is up for {Path(record.folder).parents[2]}; take it down there")
            self._settle(Path(record.folder).parents[2])
        if record is None and not self._remains():
            return
        machine.check()
        with self._holding():
            self._clear()
            registry.leave(self.name)

    def make_images(self, suites: Sequence[str] = image.SUITES) -> list[Path]:
        """Make the images of these suites that aren't there, and remove those that nobody uses; gives their stores."""
        machine.check()
        with self._holding():
            self.reserve()
            self._open()
            tools = self._tools({})
            stores = [self._image(suite, tools).store for suite in suites]
            in_use = {
                host.store
                for file in self.folder.parent.glob("*/state.json")
                for host in LabState(file).read().values()
            }
            for old in image.unused(self.cache, in_use):
                self._say(f"removing {old.name}: no host stands on it")
                shutil.rmtree(old)
        return stores

    # --- faults ----------------------------------------------------------------------------------------------

    def break_(self, name: str, how: str) -> None:
        """Give a host a fault of `faults.FAULTS`; raises `LabError`.

        Having it already is as good, but `oom` kills again.
        """
        with self._holding():
            hosts = self._state.read()
            state = self._known(name, hosts)
            guest = self._guest(state, self._tools(hosts))
            faults.check_possible(how, guest)
            new = how not in state.broken
            if not new and how != "oom":
                return
            if new:
                state.broken.append(how)
                self._state.write(hosts)
            try:
                faults.make(how, guest)
            except LabError:
                if new:
                    state.broken.remove(how)
                    self._state.write(hosts)
                raise

    def mend(self, name: str, how: str | None = None) -> list[str]:
        """Take a fault away, or all of them, and give what was mended; not having it is as good. Raises `LabError`."""
        if how is not None:
            faults.check(how)
        with self._holding():
            hosts = self._state.read()
            state = self._known(name, hosts)
            guest = self._guest(state, self._tools(hosts))
            wanted = [fault for fault in reversed(state.broken) if how in {None, fault}]
            for fault in wanted:
                if fault in state.broken:
                    faults.mend(fault, guest)
                    self._state.write(hosts)
            if "kill" in wanted:
                guest.introduce(self._names(hosts))
        return wanted

    # --- inside ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Have a room and a network; what a killed or half-removed lab left is cleared first."""
        groups = LabGroups(hierarchies(), self.name)
        half = Room(groups).keeper is None or not self.keys.public.exists()
        if half and (self.folder.exists() or groups):
            self._say("clearing what an earlier run left")
            self._clear()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tools = self._tools({})
        tools.room.open(tools.commands)
        kernel.suffice()
        self.network.make(tools.commands)
        self.keys.make(tools.commands)

    def _add(
        self, hosts: dict[str, HostState], count: int, suites: Sequence[str], memory: str | None, disk: str
    ) -> None:
        names = {f"host-{index}": index for index in range(1, count + 1)}
        missing = {name: index for name, index in names.items() if not (name in hosts and hosts[name].key)}
        if not missing:
            return
        for name in [name for name in missing if name in hosts]:
            self._guest(hosts[name], self._tools(hosts)).remove()
            del hosts[name]
        wanted = {name: suites[(index - 1) % len(suites)] for name, index in missing.items()}
        images = {suite: self._image(suite, self._tools({})) for suite in dict.fromkeys(wanted.values())}
        for name, index in missing.items():
            made_of = images[wanted[name]]
            hosts[name] = HostState(name, index, made_of.suite, disk, memory, str(made_of.store))
        self._state.write(hosts)
        tools = self._tools(hosts)
        if tools.podman.driver != "overlay":
            self._say(f"{self.folder} lies on an overlay itself, so each host is a full copy: slow, and 300 MB each")
        tools.podman("info")  # makes the storage, which several at once would race for

        def make(name: str) -> None:
            began = time.monotonic()
            self._guest(hosts[name], tools).make(images[wanted[name]].reference, self.keys.public)
            took = time.monotonic() - began
            self._say(f"{name} {self.network.address(hosts[name].index)} {wanted[name]}: up after {took:.1f} s")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(make, name) for name in missing]:
                done.result()
                self._state.write(hosts)

    def _revive(self, hosts: dict[str, HostState]) -> None:
        """Switch on what went off by itself; what has a fault keeps it."""
        tools = self._tools(hosts)
        for host in hosts.values():
            if host.broken:
                self._say(
                    f"{host.name} stays as it is, with {' and '.join(host.broken)}; python -m lab mend {host.name}"
                )
            elif host.key and (status := self._guest(host, tools).status) != "running":
                self._say(f"starting {host.name}, which was {status}")
                self._guest(host, tools).start()

    def _introduce(self, hosts: dict[str, HostState]) -> None:
        """Tell everybody who there is: SSH's files, the pool, and each host's /etc/hosts."""
        self.keys.write({host.name: (self.network.address(host.index), host.key) for host in hosts.values()})
        write_pool(self, hosts)
        tools = self._tools(hosts)
        for host in hosts.values():
            if not {"kill", "pause"} & set(host.broken):
                self._guest(host, tools).introduce(self._names(hosts))

    def _names(self, hosts: dict[str, HostState]) -> str:
        return "".join(f"{self.network.address(host.index)} {host.name}\n" for host in hosts.values())

    def _clear(self) -> None:
        groups = LabGroups(hierarchies(), self.name)
        containers = groups.containers()
        groups.end()
        if network := self._network_to_remove():
            network.remove()
        _wait_for_loops(self.folder)
        leftovers = [self.folder, registry.RUN / self.name, *(CRUN / container for container in containers)]
        for folder in [*leftovers, *(self.cache / "apt").glob(f"*/{self.name}.*")]:
            if folder.exists():
                shutil.rmtree(folder)

    def _remains(self) -> bool:
        network = self._network_to_remove()
        return (
            self.folder.exists()
            or bool(LabGroups(hierarchies(), self.name))
            or bool(network is not None and network.remains())
        )

    def _network_to_remove(self) -> Network | None:
        """The lab's network; None where it is another lab's by now, because this one never had it or has it no more."""
        network = self.network
        others = {record.subnet for record in registry.records().values() if record.name != self.name}
        return None if network.subnet in others else network

    def _known(self, name: str, hosts: dict[str, HostState] | None = None) -> HostState:
        self.host(name)
        return (hosts or self._state.read())[name]

    def _guest(self, host: HostState, tools: Tools) -> Guest:
        packages = self.cache / "apt" / host.suite / f"{self.name}.{host.name}"
        return Guest(host, self.folder / "hosts" / host.name, packages, tools)

    def _tools(self, hosts: dict[str, HostState]) -> Tools:
        groups = LabGroups(hierarchies(), self.name)
        commands, room = Commands(groups.make("work")), Room(groups)
        stores = sorted({Path(host.store) for host in hosts.values() if host.store})
        podman = Podman(commands, room, self.folder / "storage", registry.RUN / self.name, stores)
        return Tools(groups, commands, room, podman, self.network)

    def _image(self, suite: str, tools: Tools) -> image.Image:
        return image.ensure(self.cache, registry.RUN / self.name, suite, tools.commands, tools.room, self._say)

    @contextmanager
    def _holding(self) -> Iterator[None]:
        with registry.holding(self.name, lambda: self._say(f"waiting: another program is at work on lab {self.name}")):
            yield


def labs(checkout: Path = ROOT) -> list[str]:
    """The names of the labs that a checkout has on this machine, whole or half."""
    home = checkout / ".babelrack" / "lab"
    listed = {record.name for record in registry.records().values() if Path(record.folder).parent == home}
    return sorted(listed | {folder.name for folder in home.glob("*") if folder.is_dir()})


def write_pool(lab: Lab, hosts: dict[str, HostState]) -> None:
    """Describe the hosts as a pool of machines, beside the lab's keys."""
    machine_ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    pool = {
        "ssh": {"user": "root", "private_key": lab.keys.private.name, "known_hosts": lab.keys.known_hosts.name},
        "hosts": {
            host.name: {
                "address": lab.network.address(host.index),
                "gpus": 0,
                "ram_gib": _gib(size(host.memory, least=0, what="memory") if host.memory else machine_ram),
                "disk_gib": _gib(size(host.disk, least=0, what="disk")),
                "rack": "lab",
                "labels": {"suite": host.suite},
            }
            for host in hosts.values()
        },
    }
    new = lab.pool_file.with_name(lab.pool_file.name + ".new")
    new.write_text("---\n# The hosts of this lab, as a pool.\n" + yaml.safe_dump(pool, sort_keys=False))
    new.replace(lab.pool_file)


def _gib(number: int) -> int:
    return max(1, number >> 30)


def _reap_orphans(but: str, say: Callable[[str], None]) -> None:
    """Take down labs whose checkout was deleted while they were up."""
    for record in registry.records().values():
        if record.orphan and record.name != but:
            say(f"removing lab {record.name}: its checkout {Path(record.folder).parents[2]} is gone")
            Lab(record.name).down()


def _wait_for_loops(folder: Path) -> None:
    until = time.monotonic() + GONE_S
    while left := [file for file in Path("/sys/block").glob("loop*/loop/backing_file") if _backs(file, folder)]:
        if time.monotonic() > until:
            raise LabError(f"/dev/{left[0].parent.parent.name} still holds a disk under {folder}; see: losetup -l")
        time.sleep(0.05)


def _backs(file: Path, folder: Path) -> bool:
    try:
        return file.read_text().startswith(f"{folder}/")
    except OSError:
        return False
