"""Redis as API servers, the operator, and everybody else find it."""

import os
from pathlib import Path

import pytest

SECRETS = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "secrets"


@pytest.fixture
def ask(host):
    """Ask Redis as a user, with passwords over standard input as the role does."""

    def ask(command, user=None, where="127.0.0.1"):
        login = ""
        if user:
            login = f"AUTH {user} {(SECRETS / f'redis-{user}-password').read_text().strip()}\n"
        done = host.run(f"printf '%s' '{login}{command}' | redis-cli -h {where}")
        assert done.rc == 0, done.stderr
        return done.stdout.removeprefix("OK\n").strip()

    return ask


def inside(host):
    return host.check_output("hostname -I").split()[0]


def test_it_runs_and_starts_with_the_machine(host):
    service = host.service("redis-server")
    assert service.is_running
    assert service.is_enabled


def test_it_listens_inside_and_on_loopback_and_nowhere_else(host):
    listening = {socket for socket in host.socket.get_listening_sockets() if socket.endswith(":6379")}
    assert listening == {f"tcp://{address}:6379" for address in ("127.0.0.1", "::1", inside(host))}


def test_an_api_server_counts_publishes_and_subscribes_but_does_nothing_else(host, ask):
    assert ask("PING", "api", inside(host)) == "PONG"
    assert ask("ZADD babelrack:{indic}:running:acme 1 lease", "api") in ("0", "1")
    assert ask("PUBLISH babelrack:stream:1 word", "api") == "0"
    for command in ("KEYS *", "FLUSHALL", "CONFIG GET maxmemory", "GET elsewhere", "PUBLISH elsewhere word"):
        assert ask(command, "api").startswith("NOPERM"), command


def test_the_operator_may_do_everything(ask):
    assert "redis" in ask("INFO server", "admin")


def test_nobody_gets_in_without_a_name_and_the_right_password(host, ask):
    assert ask("PING").startswith("NOAUTH")
    assert ask("AUTH api guess").startswith("WRONGPASS")
    assert ask("AUTH default guess").startswith("WRONGPASS")


def test_its_memory_is_bounded_and_nothing_is_kept_on_disk(host, ask):
    settings = {
        "maxmemory": str(256 * 2**20),
        "maxmemory-policy": "allkeys-lru",
        "maxmemory-clients": str(256 * 2**20),
        "appendonly": "no",
        "save": "",
        "protected-mode": "yes",
    }
    for name, value in settings.items():
        assert ask(f"CONFIG GET {name}", "admin").removeprefix(name).strip() == value
    assert f"pubsub {32 * 2**20} {8 * 2**20} 60" in ask("CONFIG GET client-output-buffer-limit", "admin")
    assert host.check_output("systemctl show --property MemoryMax --value redis-server") == str(2**30)


def test_it_is_confined(host):
    [line] = host.check_output("systemd-analyze security redis-server | tail -1").splitlines()
    assert float(line.split("redis-server.service: ")[1].split()[0]) <= 2.5


def test_no_password_is_on_the_host(host):
    for user in ("api", "admin"):
        password = (SECRETS / f"redis-{user}-password").read_text().strip()
        assert len(password) >= 24
        assert host.run(f"grep --recursive --quiet {password} /etc /var/log /var/lib/redis").rc == 1
    assert host.file("/etc/redis/users.acl").mode == 0o640
    assert (SECRETS / "redis-api-password").stat().st_mode & 0o777 == 0o600
    assert SECRETS.stat().st_mode & 0o777 == 0o700


def test_a_changed_password_restarted_redis_and_nothing_else(host):
    """The side effect changed it; what ran before still runs, with the same process."""
    for unit in host.file("/run/ran-before").content_string.strip().split("\n\n"):
        before = dict(line.split("=", 1) for line in unit.splitlines())
        now = host.check_output(f"systemctl show --property MainPID --value '{before['Id']}'")
        assert (now == before["MainPID"]) == (before["Id"] != "redis-server.service"), before["Id"]


def test_it_comes_back_when_it_is_killed(host):
    old = host.check_output("systemctl show --property MainPID --value redis-server")
    host.check_output(f"kill -9 {old}")
    new = host.check_output(
        "for try in $(seq 60); do redis-cli PING 2>&1 | grep -q NOAUTH && break; sleep 1; done; "
        "systemctl show --property MainPID --value redis-server"
    )
    assert new not in (old, "0")
