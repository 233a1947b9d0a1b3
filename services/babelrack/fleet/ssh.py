"""Running one fixed script on a host of the pool, over the system's ssh."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from babelrack.fleet import FleetError
from babelrack.packs.ssh import ssh_command

if TYPE_CHECKING:
    from babelrack.packs.pool import Pool

CONNECT_SECONDS: Final = 6


def run_python(pool: Pool, host: str, script: str, *, seconds: float) -> bytes:
    """What a Python script prints that a host runs as root.

    Raises:
        FleetError: with ssh's or the script's last line, or when it takes longer than `seconds`.
    """
    way = ssh_command(pool, pool.hosts[host], connect_timeout_s=CONNECT_SECONDS)
    far = ["python3", "-"] if pool.ssh.user == "root" else ["sudo", "-n", "python3", "-"]
    try:
        done = subprocess.run([*way, *far], input=script.encode(), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise FleetError(f"no answer within {seconds:.0f} s") from None
    except FileNotFoundError:
        raise FleetError("ssh is not installed here; install openssh-client") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise FleetError(lines[-1][:300] if lines else f"ssh ended with exit code {done.returncode}")
    return done.stdout
