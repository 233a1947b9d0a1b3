"""Running one fixed script on a host of the pool, over the system's ssh; host keys are always checked."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from babelrack.fleet import FleetError

if TYPE_CHECKING:
    from babelrack.packs.pool import Pool

CONNECT_SECONDS: Final = 6


def command(pool: Pool, host: str) -> list[str]:
    """The ssh command line that reaches a host, without what is to run there."""
    machine, ssh = pool.hosts[host], pool.ssh
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR", f"ConnectTimeout={CONNECT_SECONDS}"]
    if known_hosts := pool.path(ssh.known_hosts):
        options.append(f"UserKnownHostsFile={_quoted(str(known_hosts))}")
    arguments = ["ssh", "-T", "-p", str(machine.ssh_port or ssh.port)]
    for option in options:
        arguments += ["-o", option]
    if private_key := pool.path(ssh.private_key):
        arguments += ["-o", "IdentitiesOnly=yes", "-i", str(private_key)]
    return [*arguments, "--", f"{ssh.user}@{machine.address}"]


def run_python(pool: Pool, host: str, script: str, *, seconds: float) -> bytes:
    """What a Python script prints that a host runs as root.

    Raises:
        FleetError: with ssh's or the script's last line, or when it takes longer than `seconds`.
    """
    far = ["python3", "-"] if pool.ssh.user == "root" else ["sudo", "-n", "python3", "-"]
    try:
        done = subprocess.run(
            [*command(pool, host), *far], input=script.encode(), capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise FleetError(f"no answer within {seconds:.0f} s") from None
    except FileNotFoundError:
        raise FleetError("ssh is not installed here; install openssh-client") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise FleetError(lines[-1][:300] if lines else f"ssh ended with exit code {done.returncode}")
    return done.stdout


def _quoted(path: str) -> str:
    # ssh splits the value of this option at spaces.
    return f'"{path}"' if " " in path else path
