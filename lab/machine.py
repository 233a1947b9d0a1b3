"""Whether this machine can make lab hosts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.commands import PATH
from lab.trouble import LabUnavailable

PROGRAMS = {
    "podman": "podman", "crun": "crun", "mmdebstrap": "mmdebstrap", "nft": "nftables", "ip": "iproute2",
    "ssh": "openssh-client", "ssh-keygen": "openssh-client", "unshare": "util-linux", "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs", "tar": "tar",
}  # fmt: skip


def check() -> None:
    """Raises `LabUnavailable` with the first thing that is missing; what only a trial tells comes out at `up`."""
    if os.name != "posix" or os.uname().sysname != "Linux":
        raise LabUnavailable(f"lab hosts are Linux containers, and this machine runs {os.uname().sysname}")
    if os.geteuid() != 0:
        raise LabUnavailable("lab hosts need root, for mounts and networks; run this as root")
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program, path=PATH) is None}
    if missing:
        raise LabUnavailable(f"lab hosts need {', '.join(sorted(missing))}; run: make setup")
    if not Path("/dev/loop-control").exists():
        raise LabUnavailable("there is no /dev/loop-control for the hosts' disks; run: modprobe loop")
