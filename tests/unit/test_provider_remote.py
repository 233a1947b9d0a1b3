"""What is run to ask a host: the system's ssh, by a list, with host keys checked and nothing interpolated."""

import shlex
import subprocess

import pytest
import yaml

from babelrack.packs.pool import load_pool
from babelrack.provider import remote
from babelrack.provider.remote import HostError, Remote
from babelrack.provider.scripts import LOOK, WRITE


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What subprocess.run was called with, and what it answers."""
    calls = []

    def make(answer=("babelrack 1\nresult done\n", "", 0), **ssh):
        file = tmp_path / "hosts.yaml"
        hosts = {"a": {"address": "10.0.0.1", "ssh_port": 2222, "ram_gib": 1, "disk_gib": 1}}
        file.write_text(yaml.safe_dump({"ssh": ssh, "hosts": hosts}))

        def run(command, **options):
            calls.append((command, options))
            if isinstance(answer, Exception):
                raise answer
            return subprocess.CompletedProcess(command, answer[2], answer[0], answer[1])

        monkeypatch.setattr(remote.subprocess, "run", run)
        return Remote(load_pool(file)), calls

    return make


def test_host_keys_are_checked_against_the_pools_file_alone(asked):
    way, calls = asked(known_hosts="known", private_key="key")
    way.run("a", LOOK, "/claims")
    ((command, _),) = calls
    root = way.pool.root
    assert command[0] == "ssh"
    for option in (
        "StrictHostKeyChecking=yes", "BatchMode=yes", f'UserKnownHostsFile="{root}/known"', "GlobalKnownHostsFile=none",
        "ControlPath=none", "IdentitiesOnly=yes", "ForwardAgent=no",
    ):  # fmt: skip
        assert command[command.index(option) - 1] == "-o"
    assert command[-7:-1] == ["-p", "2222", "-l", "root", "--", "10.0.0.1"]
    assert command[command.index("-i") + 1] == str(root / "key")


def test_values_go_by_standard_input_and_the_command_is_always_the_same(asked):
    way, calls = asked()
    hostile = "'; touch /tmp/owned; $(reboot) `x`"
    way.run("a", WRITE, "/claims", "take", "mark", "place-0", hostile)
    way.run("a", WRITE, "/other", "release", "mark", "place-1", "{}")
    (first, options), (second, _) = calls
    assert first == second
    assert hostile not in " ".join(first)
    assert options["input"].splitlines()[-1] == hostile
    assert shlex.split(first[-1]) == ["sh", "-c", WRITE]


def test_an_account_that_is_not_root_becomes_root_without_a_password_or_fails(asked):
    way, calls = asked(user="deploy")
    way.run("a", LOOK, "/claims")
    assert shlex.split(calls[0][0][-1])[:4] == ["sudo", "-n", "sh", "-c"]
    refused, _ = asked(("", "sudo: a password is required\n", 1), user="deploy")
    with pytest.raises(HostError, match=r"does not let deploy become root without a password .* add NOPASSWD"):
        refused.run("a", LOOK, "/claims")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (("", "Host key verification failed.\n", 255), r"has a host key that ~/\.ssh/known_hosts does not know"),
        (("", "root@10.0.0.1: Permission denied (publickey).\n", 255), "does not let root in; put the public key"),
        (("", "ssh: connect to host 10.0.0.1 port 2222: No route\n", 255), "does not answer at 10.0.0.1 port 2222"),
        (("", "", 255), r"does not answer at 10.0.0.1 port 2222 \(no message\)"),
        (("", "sh: 1: base64: not found\n", 127), r"can't run the script \(exit 127: sh: 1: base64: not found\)"),
        (("babelrack 1\nos ID", "Connection closed\n", 255), "broke off in the middle"),
        (("babelrack 1\nresult failed no room\n", "mkdir: No space\n", 0), r"answers: no room \(mkdir: No space"),
        (subprocess.TimeoutExpired("ssh", 70), "did not finish in 70 s"),
        (FileNotFoundError("ssh"), "this machine has no `ssh`; install openssh-client"),
    ],
)  # fmt: skip
def test_each_way_to_fail_has_its_sentence(asked, answer, sentence):
    way, _ = asked(answer)
    with pytest.raises(HostError, match=sentence):
        way.run("a", LOOK, "/claims")


def test_what_a_host_says_before_the_script_starts_is_not_read(asked):
    way, _ = asked(("Welcome!\nclaim place-0 e30=\nbabelrack 1\nresult done\n", "", 0))
    assert way.run("a", LOOK, "/claims") == ["result done"]
