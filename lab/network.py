"""A lab's network: a bridge, a pair of interfaces for each host, and one nft table that lets them out."""

from __future__ import annotations

import json
import subprocess
import zlib
from typing import TYPE_CHECKING, Self

from lab.commands import environment
from lab.trouble import LabError, LabUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.commands import Commands
    from lab.room import Room

ALL_LABS = "10.89.0.0/16"
FIRST = 10
FAMILIES = ("ip", "bridge")
_NETWORKS = 254


def numbers(name: str) -> Iterator[int]:
    """The networks that a lab of that name may have, the one that follows from its name first."""
    first = zlib.crc32(name.encode())
    return (1 + (first + step) % _NETWORKS for step in range(_NETWORKS))


class Network:
    """The network of one lab: `10.89.x.0/24`, where x is its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.subnet = f"10.89.{self.number}.0/24"
        self.gateway = f"10.89.{self.number}.1"
        self.bridge = f"bablab{self.number}"
        self._table = f"babelrack_lab_{self.number}"

    @classmethod
    def of(cls, subnet: str) -> Self:
        """The network with that subnet."""
        return cls(int(subnet.split(".")[2]))

    def address(self, index: int) -> str:
        """The address of a host, counted from 1."""
        return f"10.89.{self.number}.{FIRST + index}"

    def interface(self, index: int) -> str:
        """The outer end of a host's cable."""
        return f"bablab{self.number}-{index}"

    def clash(self) -> str | None:
        """What else on this machine uses these addresses."""
        for route in _ip("-4", "route", "show", "table", "all", "root", self.subnet):
            if route.get("dev") != self.bridge:
                return f"the route {route['dst']} on {route.get('dev', '?')}"
        return None

    def make(self, commands: Commands) -> None:
        """The bridge and its rules; what is there is left alone."""
        if not _ip("link", "show", "dev", self.bridge):
            try:
                commands("ip", "link", "add", "name", self.bridge, "type", "bridge", "forward_delay", "0")
            except LabError as error:
                raise LabUnavailable(
                    f"this machine lets us make no bridge ({error}); lab hosts need root with CAP_NET_ADMIN "
                    "and a kernel with bridges"
                ) from error
        commands("ip", "address", "replace", f"{self.gateway}/24", "dev", self.bridge)
        commands("ip", "link", "set", self.bridge, "up")
        commands("nft", "-f", "-", stdin=self._rules())

    def plug(self, commands: Commands, room: Room, index: int, file: Path) -> None:
        """Make a host's network namespace, kept by `file` within the room, with its address and its way out."""
        outer = self.interface(index)
        self.unplug(commands, index)
        file.touch()
        commands(*room.enter, "sh", "-c", 'umount "$1" 2>/dev/null; exec unshare --net="$1" true', "sh", file)
        commands(*room.enter, "ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", file)
        commands("ip", "link", "set", outer, "master", self.bridge, "up")
        script = (
            f"ip link set lo up; ip address add {self.address(index)}/24 dev eth0; "
            f"ip link set eth0 up; ip route add default via {self.gateway}"
        )
        commands(*room.enter, "nsenter", f"--net={file}", "sh", "-ec", script)

    def unplug(self, commands: Commands, index: int) -> None:
        """Remove a host's cable; a later host of that number gets a whole one."""
        self.cut(commands, index, off=False)
        commands("ip", "link", "delete", self.interface(index), check=False)

    def cut(self, commands: Commands, index: int, *, off: bool) -> None:
        """Make a host unreachable, silently and with its link up, as behind a switch that died; or reachable again.

        This machine then forgets that it failed to reach the host, which would outlast the mending by seconds.
        """
        if off != self._is_cut(index):
            verb = "add" if off else "delete"
            commands("nft", verb, "element", "bridge", self._table, "cut", f'{{ "{self.interface(index)}" }}')
        if not off:
            commands("ip", "neighbour", "flush", "dev", self.bridge, "to", self.address(index), check=False)

    def _is_cut(self, index: int) -> bool:
        listed = _quietly("nft", "list", "set", "bridge", self._table, "cut").stdout
        return f'"{self.interface(index)}"' in listed

    def _rules(self) -> str:
        """Hosts reach the world but no other lab; nothing passes the cables in `cut`, which an update leaves alone."""
        return f"""\
table ip {self._table}
delete table ip {self._table}
table ip {self._table} {{
    chain out {{
        type nat hook postrouting priority srcnat
        ip saddr {self.subnet} ip daddr != {self.subnet} masquerade
    }}
    chain apart {{
        type filter hook forward priority filter
        ip saddr {self.subnet} ip daddr {ALL_LABS} ip daddr != {self.subnet} drop
    }}
}}
table bridge {self._table} {{
    set cut {{ type ifname; }}
    chain from {{ type filter hook prerouting priority 0; }}
    chain to {{ type filter hook postrouting priority 0; }}
}}
flush chain bridge {self._table} from
flush chain bridge {self._table} to
add rule bridge {self._table} from iifname @cut drop
add rule bridge {self._table} to oifname @cut drop
"""

    def remove(self) -> None:
        """Take away what is left of it; raises `LabError` where something stays."""
        for link in _ip("link", "show"):
            name = link.get("ifname", "")
            if name == self.bridge or name.startswith(f"{self.bridge}-"):
                _quietly("ip", "link", "delete", name)
        for family in FAMILIES:
            _quietly("nft", "delete", "table", family, self._table)
        if left := self.remains():
            raise LabError(f"{' and '.join(left)} can't be removed; see: ip link, nft list tables")

    def remains(self) -> list[str]:
        """What this machine still has of it."""
        names = [link.get("ifname", "") for link in _ip("link", "show")]
        left = [name for name in names if name == self.bridge or name.startswith(f"{self.bridge}-")]
        tables = _quietly("nft", "list", "tables").stdout.splitlines()
        return [*left, *(table for table in tables if table.split()[-1] == self._table)]


def _ip(*words: str) -> list[dict[str, str]]:
    done = _quietly("ip", "-json", *words)
    found = json.loads(done.stdout or "[]") if not done.returncode else []
    return [entry for entry in found if entry]


def _quietly(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
