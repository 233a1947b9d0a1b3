"""How a lab is reached: an SSH key, a configuration and a list of host keys of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lab.commands import Commands


class Keys:
    """The SSH files of one lab, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.private = folder / "id_ed25519"
        self.public = folder / "id_ed25519.pub"
        self.known_hosts = folder / "known_hosts"
        self.config = folder / "ssh_config"

    def make(self, commands: Commands) -> None:
        """Make the key, unless it is there."""
        if not (self.private.exists() and self.public.exists()):
            self.private.unlink(missing_ok=True)
            commands("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "babelrack-lab", "-f", self.private)

    def write(self, hosts: Mapping[str, tuple[str, str]]) -> None:
        """Write configuration and known hosts for hosts by name, each with its address and its public key."""
        _replace(self.known_hosts, "".join(f"{name},{address} {key}\n" for name, (address, key) in hosts.items()))
        entries = (f"Host {name}\n    HostName {address}\n" for name, (address, _) in hosts.items())
        addresses = " ".join(word for name, (address, _) in hosts.items() for word in (name, address))
        common = f"""\
Host {addresses}
    User root
    IdentityFile {_quoted(self.private)}
    IdentitiesOnly yes
    UserKnownHostsFile {_quoted(self.known_hosts)}
    StrictHostKeyChecking yes
    CheckHostIP no
    HashKnownHosts no
    UpdateHostKeys no
    LogLevel ERROR
"""
        _replace(self.config, "\n".join([*entries, common]) if hosts else "")


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'


def _replace(file: Path, text: str) -> None:
    new = file.with_name(file.name + ".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(file)
