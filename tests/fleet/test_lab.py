"""Lab hosts are like machines in a rack, and leave nothing behind."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from lab import FAULTS, Lab, LabClash, LabError, LabHost, kernel, registry
from lab.laboratory import ROOT
from lab.network import numbers

from babelrack.packs.pool import load_pool

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("lab")]

BOOT_ID = "systemctl show --property=UserspaceTimestampMonotonic --value"
HOG = (
    "systemd-run --unit=hog --property=Restart=on-failure "
    "python3 -c 'import time; x = b\"x\" * (160 << 20); time.sleep(9999)'"
)


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[LabHost]:
    """Debian 12, Debian 13, Debian 12."""
    return lab.up(3, ("bookworm", "trixie"))


@pytest.fixture
def well(lab: Lab, hosts: list[LabHost]) -> list[LabHost]:
    """The same; whatever fault a test leaves is mended."""
    yield hosts
    for host in hosts:
        lab.mend(host.name)


# --- what a host is ----------------------------------------------------------------------------------------------


def test_hosts_of_both_debians_boot_to_running_and_let_only_the_labs_key_in(lab, hosts):
    assert [host.run(". /etc/os-release; echo $VERSION_ID", check=True).stdout.strip() for host in hosts] == [
        "12",
        "13",
        "12",
    ]
    for host in hosts:
        assert host.run("systemctl is-system-running", check=True).stdout.strip() == "running"
        refused = subprocess.run(
            ["ssh", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityFile=/dev/null",
             "-o", f"UserKnownHostsFile={lab.keys.known_hosts}", "-o", "StrictHostKeyChecking=yes",
             f"root@{host.address}", "true"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Permission denied" in refused.stderr


def test_a_host_with_another_hosts_key_is_refused(lab, hosts, tmp_path):
    keys = lab.keys.known_hosts.read_text().replace(hosts[0].address, "x").replace(hosts[1].address, hosts[0].address)
    (tmp_path / "known_hosts").write_text(keys)
    done = subprocess.run(
        ["ssh", "-o", "BatchMode=yes", "-i", lab.keys.private, "-o", f"UserKnownHostsFile={tmp_path / 'known_hosts'}",
         "-o", "StrictHostKeyChecking=yes", f"root@{hosts[0].address}", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode
    assert "verification failed" in done.stderr


def test_each_hosts_units_lie_under_its_own_container_and_no_other_hosts(hosts):
    for host in hosts:
        host.run("systemd-run --unit=probe sleep 98765", check=True)
    for host in hosts:
        seconds = {
            hierarchy: [pid for pid in members(host.cgroup(hierarchy)) if command(pid).endswith("sleep 98765")]
            for hierarchy in ("pids", "memory")
        }
        assert len(seconds["pids"]) == 1, f"{host.name}: {seconds}"
        assert seconds["memory"] == seconds["pids"]
        unit = unit_group(seconds["pids"][0])
        assert unit.startswith(f"/babelrack-lab/{host.lab.name}/{host.cgroup().name}/")
        assert unit.endswith("system.slice/probe.service")
    hosts[0].run("systemctl daemon-reexec; systemctl stop probe", check=True)
    assert hosts[0].run("systemctl is-active probe").stdout.strip() == "inactive"
    assert [host.run("systemctl is-active probe").stdout.strip() for host in hosts[1:]] == ["active", "active"]


def test_sandboxed_units_run_as_on_a_machine_of_iron(hosts):
    for host in hosts:
        host.run("install -m 600 /dev/stdin /etc/lab-secret", stdin="word", check=True)
        sandbox = " ".join(
            f"--property={line}"
            for line in (
                "DynamicUser=yes", "ProtectSystem=strict", "PrivateTmp=yes", "PrivateDevices=yes", "PrivateUsers=yes",
                "NoNewPrivileges=yes", "SystemCallFilter=@system-service", "LoadCredential=secret:/etc/lab-secret",
                "MemoryMax=100M", "TasksMax=50", "StateDirectory=trial",
            )
        )  # fmt: skip
        script = "cat $CREDENTIALS_DIRECTORY/secret; id -u; touch /etc/x 2>&1 || true; touch $STATE_DIRECTORY/y"
        done = host.run(f"systemd-run --pipe --wait --quiet {sandbox} sh -ec '{script}'", check=True)
        user, refused = done.stdout.removeprefix("word").splitlines()
        assert done.stdout.startswith("word")
        assert int(user) > 60000
        assert "Read-only file system" in refused


def test_hosts_reach_each_other_by_name(hosts):
    hosts[1].run("cd /etc && systemd-run --unit=web --working-directory=/etc python3 -m http.server 8000", check=True)
    answered = hosts[0].run(
        "curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 http://host-2:8000/hostname"
    )
    assert answered.stdout.strip() == "host-2"


def test_a_hosts_memory_limit_holds(make_lab):
    lab = make_lab("memory")
    host = lab.up(1, memory="256m")[0]
    try:
        assert host.run("python3 -c 'x = b\"x\" * (400 << 20)'; echo $?").stdout.strip() == "137"
        assert host.run("systemctl is-system-running").stdout.strip() == "running"
    finally:
        lab.down()


def test_hosts_install_packages_at_the_same_time_and_download_each_only_once(hosts):
    install = "apt-get install --yes --no-install-recommends jq"
    pair = [hosts[0], hosts[2]]
    with ThreadPoolExecutor() as pool:
        assert [done.returncode for done in pool.map(lambda host: host.run(install, timeout=300), pair)] == [0, 0]
    hosts[0].run("apt-get install --yes --no-install-recommends tree", check=True, timeout=300)
    second = hosts[2].run("apt-get install --yes --no-install-recommends tree", check=True, timeout=300)
    assert re.search(r"Need to get 0 B/", second.stdout), second.stdout


def test_a_reboot_brings_the_same_host_back(hosts):
    host = hosts[1]
    before = host.run(f"touch /opt/disk /run/memory; {BOOT_ID}", check=True).stdout
    host.run("systemctl reboot")
    wait_until(lambda: host.run(BOOT_ID).stdout not in {"", before})
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"
    assert host.run("ls /opt/disk /run/memory").stdout.split() == ["/opt/disk"]


def test_the_pool_file_describes_the_hosts(lab, hosts):
    pool = load_pool(lab.pool_file)
    assert {name: host.address for name, host in pool.hosts.items()} == {host.name: host.address for host in hosts}
    assert {host.gpus for host in pool.hosts.values()} == {0}
    assert pool.path(pool.ssh.private_key) == lab.keys.private
    assert pool.path(pool.ssh.known_hosts) == lab.keys.known_hosts


# --- faults ------------------------------------------------------------------------------------------------------


def test_kill_is_a_power_cut_and_mend_boots_the_same_host(well):
    host = well[0]
    host.run("touch /opt/disk /run/memory /var/lib/babelrack/state; sync", check=True)
    with socket.create_connection((host.address, 22), timeout=5) as connection:
        assert connection.recv(4) == b"SSH-"
        host.break_("kill")
        connection.settimeout(1)
        # Neither an end nor a reset: a host without power says nothing.
        with pytest.raises(TimeoutError):
            b"".join(iter(lambda: connection.recv(4096) or b"the end", b"the end"))
    assert not answers(host)
    assert not members(host.cgroup())
    host.mend()
    assert host.run("ls /opt/disk /run/memory /var/lib/babelrack/state").stdout.split() == [
        "/opt/disk",
        "/var/lib/babelrack/state",
    ]
    assert host.run("getent hosts host-2", check=True).stdout.split()[0] == well[1].address


def test_pause_takes_connections_and_answers_none(well):
    host = well[0]
    began = host.run(BOOT_ID, check=True).stdout
    host.break_("pause")
    with socket.create_connection((host.address, 22), timeout=5) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(4)
    host.mend("pause")
    assert host.run(BOOT_ID, check=True).stdout == began


def test_partition_cuts_a_host_off_from_everybody_while_it_runs_on(well):
    host, other, _ = well
    host.run("systemd-run --unit=pulse sh -c 'while sleep 0.1; do date +%s.%N >/var/tmp/pulse; done'", check=True)
    host.break_("partition")
    cut = time.time()
    assert not answers(host)
    assert other.run(f"timeout 2 bash -c '</dev/tcp/{host.address}/22'").returncode
    assert other.run("true").returncode == 0
    host.mend()
    wait_until(lambda: answers(host))
    assert float(host.run("cat /var/tmp/pulse", check=True).stdout) > cut


def test_a_full_disk_refuses_checkpoints_and_state_and_nothing_else(well):
    host = well[0]
    host.break_("disk-full")
    for folder in ("/var/cache/babelrack", "/var/lib/babelrack"):
        refused = host.run(f"echo word >{folder}/trial")
        assert "No space left on device" in refused.stderr
    host.run("echo word >/var/tmp/trial", check=True)
    host.mend()
    host.run("rm -f /var/cache/babelrack/trial; echo word >/var/cache/babelrack/trial", check=True)


def test_a_full_disk_is_full_after_a_power_cut_and_empty_after_both_are_mended(well):
    host = well[0]
    host.break_("disk-full")
    host.break_("kill")
    host.mend("kill")
    assert host.run("echo word >/var/lib/babelrack/trial").returncode
    host.mend()
    host.run("echo word >/var/lib/babelrack/trial", check=True)


def test_oom_kills_the_biggest_process_and_mend_lets_it_live(well):
    host, other, _ = well
    for each in (host, other):
        each.run(HOG, check=True)
        wait_until(lambda each=each: any(resident(pid) > 150 << 20 for pid in members(each.cgroup())))
    biggest = max(members(host.cgroup()), key=resident)
    host.break_("oom")
    assert not Path(f"/proc/{biggest}").exists() or command(biggest) == ""
    assert host.run("systemctl is-active ssh").stdout.strip() == "active"
    assert other.run("systemctl show hog --property=NRestarts --value").stdout.strip() == "0"
    host.mend()
    host.run("systemctl reset-failed hog; systemctl is-active hog || systemctl restart hog")
    wait_until(lambda: any(resident(pid) > 150 << 20 for pid in members(host.cgroup())))
    for each in (host, other):
        each.run("systemctl stop hog", check=True)


def test_oom_is_refused_where_nothing_big_runs(make_lab):
    lab = make_lab("small")
    host = lab.up(1)[0]
    try:
        with pytest.raises(LabError, match="host-1 runs nothing big"):
            host.break_("oom")
        assert lab.broken("host-1") == []
    finally:
        lab.down()


def test_a_fault_or_host_that_does_not_exist_is_named(lab, hosts):
    with pytest.raises(LabError, match="no fault 'flood'; choose one of kill, pause, partition, disk-full, oom"):
        hosts[0].break_("flood")
    with pytest.raises(LabError, match="has no host host-9; it has host-1, host-2, host-3"):
        lab.break_("host-9", "kill")
    assert set(FAULTS) == {"kill", "pause", "partition", "disk-full", "oom"}


# --- up and down -------------------------------------------------------------------------------------------------


def test_up_again_changes_nothing_more_adds_and_fewer_removes_the_last(make_lab):
    said: list[str] = []
    lab = make_lab("updown")
    lab._say = said.append
    try:
        lab.up(2)
        groups = [host.cgroup().name for host in lab.hosts]
        booted = [host.run(BOOT_ID).stdout for host in lab.hosts]
        said.clear()
        lab.up(2)
        assert said == []
        lab.up(3)
        assert [host.cgroup().name for host in lab.hosts][:2] == groups
        assert lab.hosts[0].run("getent hosts host-3", check=True).stdout.split()[0] == lab.hosts[2].address
        lab.break_("host-3", "partition")
        said.clear()
        lab.up(2)
        assert said == ["removing host-3: 2 are wanted"]
        assert [host.run(BOOT_ID).stdout for host in lab.hosts] == booted
        assert list(load_pool(lab.pool_file).hosts) == ["host-1", "host-2"]
        assert f"{lab.network.bridge}-3" not in links()
        assert lab.up(3)[2].run("true").returncode == 0
    finally:
        lab.down()


def test_up_leaves_faults_alone_and_says_so(make_lab):
    said: list[str] = []
    lab = make_lab("faulty")
    lab._say = said.append
    try:
        host = lab.up(1)[0]
        host.break_("kill")
        lab.up(2)
        assert any(line.startswith("host-1 stays as it is, with kill") for line in said)
        assert not answers(host)
        host.mend()
        assert host.run("getent hosts host-2", check=True).stdout.split()[0] == lab.hosts[1].address
    finally:
        lab.down()


def test_down_leaves_nothing_even_of_hosts_with_faults(make_lab):
    lab = make_lab("gone")
    lab.down()
    alone, before = not registry.records(), kernel.read()
    hosts = lab.up(4)
    for host, how in zip(hosts, ("kill", "pause", "partition", "disk-full"), strict=True):
        host.break_(how)
    assert remains(lab)
    lab.down()
    assert remains(lab) == []
    assert kernel.read() == before or not alone
    lab.down()  # nothing to do is no error


def test_down_leaves_nothing_of_an_up_that_was_killed_at_any_moment(make_lab):
    lab = make_lab("killed")
    lab.up(1)  # the image is there, so that the moments fall on hosts
    lab.down()
    chance = random.Random()
    for moment in [0.05, 0.2, *(chance.uniform(0.3, 3) for _ in range(6))]:
        program = subprocess.Popen(
            [sys.executable, "-m", "lab", "up", "3", "--name", lab.name],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(moment)
        program.send_signal(signal.SIGKILL)
        program.wait()
        lab.down()
        time.sleep(0.3)  # what was still on its way would have arrived
        assert remains(lab) == [], f"killed after {moment:.2f} s"


def test_up_after_a_killed_up_gives_whole_hosts(make_lab):
    lab = make_lab("again")
    try:
        for moment in (0.8, 1.3, 1.8):
            program = subprocess.Popen(
                [sys.executable, "-m", "lab", "up", "3", "--name", lab.name],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(moment)
            program.kill()
            program.wait()
        hosts = lab.up(3)
        assert [host.run("systemctl is-system-running").stdout.strip() for host in hosts] == ["running"] * 3
    finally:
        lab.down()


def test_a_login_some_time_after_the_last_one_does_not_wait(hosts):
    for host in hosts:
        host.run("true", check=True)
    time.sleep(12)  # by then a user's systemd would be stopping
    for host in hosts:
        assert host.run("true", timeout=10).returncode == 0


def test_two_names_that_lead_to_one_network_have_two_and_keep_them(make_lab):
    first = make_lab("first")
    number = next(numbers(first.name))
    taken = first.network.number
    twin = next(name for name in map("twin-{}".format, count()) if next(numbers(name)) == number)
    second = Lab(twin)
    try:
        second.up(0)
        own = second.network
        assert own.number not in {taken, number}
        assert own.bridge in links()
        # One that was never up takes nothing from who has the network that its name leads to.
        other = next(name for name in map("other-{}".format, count()) if next(numbers(name)) == own.number)
        Lab(other).down()
        Lab(other).folder.mkdir()
        Lab(other).down()
        assert own.bridge in links()
        first.down()
        second.up(1)
        assert Lab(twin).network.subnet == own.subnet
        assert second.hosts[0].address == own.address(1)
    finally:
        second.down()
    assert remains(second) == []


def test_labs_of_two_names_do_not_reach_each_other(lab, hosts, make_lab):
    other = make_lab("neighbour")
    try:
        stranger = other.up(1)[0]
        assert stranger.run("true").returncode == 0
        assert stranger.run(f"timeout 2 bash -c '</dev/tcp/{hosts[0].address}/22'").returncode
    finally:
        other.down()
    assert hosts[0].run("true").returncode == 0


def test_a_lab_of_another_checkout_is_refused_and_one_of_a_deleted_checkout_is_removed(make_lab, tmp_path):
    mine = make_lab("mine")
    name, folder = mine.name, mine.folder
    mine.down()
    elsewhere = checkout(tmp_path)
    assert run_lab(elsewhere, "up", "1", "--name", name).returncode == 0
    lab = Lab(name)
    for attempt in (lambda: lab.up(1), lab.down):
        with pytest.raises(
            (LabClash, LabError), match=f"lab (named )?{name} is up for {elsewhere}; take it down there"
        ):
            attempt()
    assert remains(lab, folder=elsewhere / ".babelrack")
    # Its host still runs, and writes while the folder is being deleted.
    wait_until(lambda: shutil.rmtree(elsewhere, ignore_errors=True) or not elsewhere.exists())
    reaper = make_lab("reaper")
    reaper.down()
    assert remains(lab, folder=elsewhere / ".babelrack") == []
    assert lab.folder == folder


def test_what_is_missing_is_named_in_one_sentence(make_lab, tmp_path):
    name = make_lab("unavailable").name
    Lab(name).down()
    for before, sentence in (
        (["setpriv", "--reuid=65534", "--clear-groups"], "lab: lab hosts need root, for mounts and networks"),
        (["setpriv", "--bounding-set=-sys_admin"], "lab: this machine doesn't let us mount"),
        (["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /usr/bin/podman; exec "$@"', "sh"],
         "lab: lab hosts need podman; run: make setup"),
    ):  # fmt: skip
        here = checkout(tmp_path)
        here.chmod(0o755)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.owner() == "root" and folder.is_relative_to("/tmp/pytest-of-root"):
                folder.chmod(0o755)
        done = run_lab(here, "up", "1", "--name", name, before=before)
        run_lab(here, "down", "--name", name)
        assert done.returncode == os.EX_UNAVAILABLE, done.stderr
        assert done.stderr.startswith(sentence)
        assert len(done.stderr.splitlines()) == 1
        shutil.rmtree(here)


# --- how the tests look ------------------------------------------------------------------------------------------


def checkout(folder: Path) -> Path:
    """A copy of the lab in another place, with the images of this one."""
    place = folder / "checkout"
    shutil.copytree(ROOT / "lab", place / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    (place / ".cache" / "lab").mkdir(parents=True)
    (ROOT / ".cache" / "lab" / "images").mkdir(parents=True, exist_ok=True)
    (place / ".cache" / "lab" / "images").symlink_to(ROOT / ".cache" / "lab" / "images")
    return place


def run_lab(place: Path, *words: str, before: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(before or []), sys.executable, "-m", "lab", *words],
        cwd=place, capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def remains(lab: Lab, folder: Path | None = None) -> list[str]:
    """Whatever this machine has of a lab: looked for without the lab's own eyes."""
    home = str(folder or lab.folder)
    groups = (folder for folder, _, _ in os.walk("/sys/fs/cgroup"))
    found = [f"group {folder}" for folder in groups if folder.endswith(f"/babelrack-lab/{lab.name}")]
    found += [
        f"link {link}" for link in links() if link == lab.network.bridge or link.startswith(f"{lab.network.bridge}-")
    ]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    found += [table for table in tables if table.endswith(f"_lab_{lab.network.number}")]
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        # Other labs' come and go meanwhile, as do groups and processes.
        with contextlib.suppress(OSError):
            if file.read_text().startswith(home):
                found.append(f"loop {file}")
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if home in line]
    for folder_of_process in Path("/proc").glob("[0-9]*"):
        line = command(int(folder_of_process.name))
        if f"{home}/" in line or f"/run/babelrack-lab/{lab.name}/" in line:
            found.append(f"process {line}")
    found += [str(path) for path in (Path(home), Path("/run/babelrack-lab") / lab.name) if path.exists()]
    found += [str(path) for path in Path("/run/babelrack-lab").glob(f"{lab.name}.json")]
    return found


def links() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir()]


def answers(host: LabHost) -> bool:
    try:
        with socket.create_connection((host.address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def members(group: Path) -> list[int]:
    """The processes of a control group and of those inside, which come and go meanwhile."""
    found = []
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()]
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def unit_group(pid: int) -> str:
    """A process's control group as its systemd keeps it, in the machine's eyes."""
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return groups.get("name=systemd") or groups[""]


def wait_until(condition: Callable[[], bool]) -> None:
    """Bounded by the test's own timeout."""
    while not condition():
        time.sleep(0.1)
