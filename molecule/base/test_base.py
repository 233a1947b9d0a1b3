"""A machine after the role: whose it is, what it bounds, and who may reach which port."""

import json

import pytest

SSH = {22}
EVERY_PORT = SSH | {2233, 2234, 2235, 5000, 6379, 6699, 7100, 7101, 7102, 8443, 9090, 9091, 9092, 9100, 9190, 9400}
# host-1 carries indic and western_sea, host-2 what is shared, and future, host-3 the gateway; host-4 is a stranger.
OPEN = {
    ("host-1", "host-2"): SSH | {6379, 6699},
    ("host-1", "host-3"): SSH | {8443},
    ("host-2", "host-1"): SSH | {7100, 9090, 7101, 9091, 9100},
    ("host-2", "host-3"): SSH | {8443, 9100},
    ("host-3", "host-1"): SSH | {7100, 7101},
    ("host-3", "host-2"): SSH | {7102},
    ("host-4", "host-1"): SSH,
    ("host-4", "host-2"): SSH,
    ("host-4", "host-3"): SSH | {8443},
}
# What the machines have no rule for in IPv6, because the inventory's addresses are IPv4.
ANYBODY = SSH | {8443}
KNOCK = """
import concurrent.futures, json, socket, sys
def knock(port):
    try:
        socket.create_connection((sys.argv[1], port), timeout=2).close()
    except OSError:
        return None
    return port
ports = json.loads(sys.argv[2])
with concurrent.futures.ThreadPoolExecutor(len(ports)) as pool:
    print(json.dumps([port for port in pool.map(knock, ports) if port]))
"""
MACHINES = ("host-1", "host-2", "host-3")


def name(host):
    return host.check_output("hostname")


def open_ports(host, target):
    return set(json.loads(host.check_output("python3 -c %s %s %s", KNOCK, target, json.dumps(sorted(EVERY_PORT)))))


@pytest.fixture
def machine(host):
    if name(host) not in MACHINES:
        pytest.skip("the role did not run here")
    return host


@pytest.mark.parametrize("target", MACHINES)
def test_who_may_reach_which_port(host, target):
    expected = EVERY_PORT if name(host) == target else OPEN[name(host), target]
    assert open_ports(host, target) == expected


@pytest.mark.parametrize("target", MACHINES)
def test_ipv6_is_no_way_around(host, target):
    address = f"fd00:89::{target[-1]}"
    expected = EVERY_PORT if name(host) == target else ANYBODY if target == "host-3" else SSH
    assert open_ports(host, address) == expected


def test_the_listeners_are_everywhere_so_that_what_is_closed_is_the_firewalls(host):
    assert open_ports(host, "127.0.0.1") == EVERY_PORT


def test_the_rules_come_back_with_the_machine(machine):
    assert machine.service("nftables").is_enabled
    machine.check_output("nft --check --file /etc/nftables.conf")
    assert "/etc/nftables.d/*.nft" in machine.file("/etc/nftables.conf").content_string
    kept = machine.file("/etc/nftables.d/babelrack.nft")
    assert kept.mode == 0o600
    assert "192.0.2.0" not in kept.content_string


def test_nothing_waits_to_take_the_rules_back(machine):
    assert not machine.check_output("systemctl list-units --all --no-legend 'babelrack-firewall-undo*'")


@pytest.mark.parametrize("account", ["babelrack-asr", "babelrack-api", "babelrack-proxy"])
def test_an_account_can_run_a_service_and_nothing_else(machine, account):
    user = machine.user(account)
    assert user.shell == "/usr/sbin/nologin"
    assert user.uid < 1000
    assert "babelrack" in user.groups
    assert machine.check_output(f"passwd --status {account}").split()[1] == "L"


def test_folders_belong_to_root_and_the_cache_to_the_model_servers(machine):
    for path in (
        "/etc/babelrack/packs",
        "/opt/babelrack/releases",
        "/opt/babelrack/current",
        "/opt/babelrack/previous",
    ):
        folder = machine.file(path)
        assert (folder.user, folder.mode) == ("root", 0o755), path
    cache = machine.file("/var/cache/babelrack/checkpoints")
    assert (cache.user, cache.group, cache.mode) == ("babelrack-asr", "babelrack", 0o750)


@pytest.mark.parametrize("account", ["babelrack-asr", "babelrack-api", "babelrack-proxy"])
def test_no_account_reads_the_credentials(machine, account):
    assert machine.run(f"runuser -u {account} -- ls /etc/babelrack/credentials").rc != 0
    assert machine.run(f"runuser -u {account} -- touch /opt/babelrack/current/x").rc != 0


def test_the_journal_is_bounded(machine):
    settings = machine.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert "\nSystemMaxUse=2G\n" in settings
    assert machine.service("systemd-journald").is_running


def test_units_get_enough_files(machine):
    for unit in ("asr@", "api-server@", "license-proxy"):
        assert (
            "LimitNOFILE=16384" in machine.file(f"/etc/systemd/system/{unit}.service.d/20-limits.conf").content_string
        )


def test_a_containers_clock_and_kernel_are_left_alone(machine):
    assert not machine.file("/etc/sysctl.d/50-babelrack.conf").exists
    assert not machine.package("systemd-timesyncd").is_installed
