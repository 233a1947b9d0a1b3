"""The ssh command line that reaches a host of a pool; host keys are always checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babelrack.packs.pool import Pool, PoolHost


def ssh_command(pool: Pool, host: PoolHost, *, connect_timeout_s: int) -> list[str]:
    """The words of the command, up to the address; what is to run there is added to it."""
    ssh = pool.ssh
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(connect_timeout_s),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        # A connection of its own each time: one that somebody else opened may have checked other keys.
        "ControlMaster": "no",
        "ControlPath": "none",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
        "LogLevel": "ERROR",
    }
    if known_hosts := pool.path(ssh.known_hosts):
        # In quotes, because ssh takes several files here: a space would end the first.
        options |= {"UserKnownHostsFile": f'"{known_hosts}"', "GlobalKnownHostsFile": "none"}
    command = ["ssh", "-T"]
    for option, value in options.items():
        command += ["-o", f"{option}={value}"]
    if private_key := pool.path(ssh.private_key):
        command += ["-o", "IdentitiesOnly=yes", "-i", str(private_key)]
    return [*command, "-p", str(host.ssh_port or ssh.port), "-l", ssh.user, "--", host.address]
