"""Running a fixed script on a host of the pool, through the system's `ssh`."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from babelrack.packs.ssh import ssh_command

if TYPE_CHECKING:
    from babelrack.packs.pool import Pool, PoolHost

HEADER: Final = "babelrack 1"
CONNECT_TIMEOUT_S: Final = 10
SCRIPT_TIMEOUT_S: Final = 60
# ssh's own failures, whatever the script's: its exit code.
_SSH_FAILED: Final = 255
_FAILED: Final = "result failed "


class HostError(Exception):
    """A host can't be asked; the message is a sentence without its subject: "does not answer at …"."""


@dataclass(frozen=True)
class Remote:
    """The way to the hosts of one pool."""

    pool: Pool
    connect_timeout_s: int = CONNECT_TIMEOUT_S

    def run(self, name: str, script: str, *lines: str) -> list[str]:
        """The lines that a script prints on a host after its header.

        Raises `HostError`, also for a script that says `result failed …`.
        """
        host = self.pool.hosts[name]
        try:
            done = subprocess.run(
                self._command(host, script),
                input="".join(f"{line}\n" for line in lines),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=SCRIPT_TIMEOUT_S + self.connect_timeout_s,
                check=False,
                env=os.environ | {"LC_ALL": "C"},
                # Ctrl-C in the terminal is Terraform's to handle: a claim that is being made is made.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise HostError("can't be reached: this machine has no `ssh`; install openssh-client") from None
        except subprocess.TimeoutExpired:
            seconds = SCRIPT_TIMEOUT_S + self.connect_timeout_s
            raise HostError(f"did not finish in {seconds} s; is {host.address} overloaded or paused?") from None
        # A host may print greetings before our script starts.
        _, header, body = done.stdout.partition(f"{HEADER}\n")
        if header:
            if done.returncode != 0:
                raise HostError(f"broke off in the middle of an answer ({_last_line(done.stderr) or 'no message'})")
            answer = body.splitlines()
            for line in answer:
                if line.startswith(_FAILED):
                    cause = f" ({_last_line(done.stderr)})" if done.stderr.strip() else ""
                    raise HostError(f"answers: {line.removeprefix(_FAILED)}{cause}")
            return answer
        raise HostError(self._reason(host, done.returncode, done.stderr))

    def _command(self, host: PoolHost, script: str) -> list[str]:
        command = ssh_command(self.pool, host, connect_timeout_s=self.connect_timeout_s)
        become = "" if self.pool.ssh.user == "root" else "sudo -n "
        return [*command, f"{become}sh -c {shlex.quote(script)}"]

    def _reason(self, host: PoolHost, code: int, stderr: str) -> str:
        said = _last_line(stderr)
        at = f"{host.address} port {host.ssh_port or self.pool.ssh.port}"
        user = self.pool.ssh.user
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr or "Host key verification failed" in stderr:
            file = self.pool.path(self.pool.ssh.known_hosts) or "~/.ssh/known_hosts"
            return f"has a host key that {file} does not know; compare it at the machine itself, then put it there"
        if "Permission denied" in stderr and code == _SSH_FAILED:
            key = self.pool.path(self.pool.ssh.private_key)
            return f"does not let {user} in{f' with {key}' if key else ''}; put the public key in its authorized_keys"
        if code == _SSH_FAILED:
            return f"does not answer at {at} ({said or 'no message'}); is it on, and is sshd running?"
        if "sudo" in stderr:
            return f"does not let {user} become root without a password ({said}); add NOPASSWD for it in sudoers"
        return f"answers, but can't run the script (exit {code}: {said or 'no message'})"


def _last_line(text: str) -> str:
    return next((line.strip()[:200] for line in reversed(text.splitlines()) if line.strip()), "")
