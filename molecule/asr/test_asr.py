"""The model server of one pack on a host: what it may, what it is given, how it comes back."""

import json
import time

UNIT = "asr@indic.service"


def main_pid(host):
    return int(host.check_output(f"systemctl show --property MainPID --value {UNIT}"))


def environment(host):
    text = host.check_output(f"tr '\\0' '\\n' </proc/{main_pid(host)}/environ")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_it_runs_and_starts_with_the_machine(host):
    unit = host.service(UNIT)
    assert unit.is_running
    assert unit.is_enabled


def test_it_holds_its_checkpoint_and_answers_for_its_pack(host):
    health = json.loads(host.check_output("curl -s http://127.0.0.1:2233/health"))
    assert (health["status"], health["deployment"]) == ("healthy", "indic")
    assert [checkpoint["name"] for checkpoint in health["checkpoints"]] == ["indic-multi"]


def test_only_the_host_itself_reaches_it(host):
    assert host.socket("tcp://127.0.0.1:2233").is_listening
    assert not host.socket("tcp://0.0.0.0:2233").is_listening
    assert {line.split()[3] for line in host.check_output("ss -Hltn sport = :2233").splitlines()} == {"127.0.0.1:2233"}


def test_its_exposure_is_at_most_two_and_a_half(host):
    verdict = host.run(f"systemd-analyze security --no-pager --threshold=25 {UNIT}")
    assert verdict.rc == 0, verdict.stdout[-500:]


def test_it_runs_as_its_own_account_without_any_privilege(host):
    status = host.check_output(f"cat /proc/{main_pid(host)}/status")
    assert host.check_output(f"ps -o user= -p {main_pid(host)}").strip() == "babelrack-asr"
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"


def test_the_licence_key_is_a_credential_and_nowhere_else(host):
    file = host.file("/etc/babelrack/credentials/license_key")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
    key = file.content_string.strip()
    assert key not in host.check_output(f"tr '\\0' '\\n' </proc/{main_pid(host)}/environ")
    assert key not in host.check_output(f"tr '\\0' ' ' </proc/{main_pid(host)}/cmdline")
    assert host.run(f"grep -r -F -e '{key}' /etc/babelrack/packs /etc/systemd/system").rc == 1
    directory = environment(host)["CREDENTIALS_DIRECTORY"]
    assert host.check_output(f"nsenter --target {main_pid(host)} --mount cat {directory}/license_key").strip() == key


def test_what_the_allocator_the_gpus_and_the_threads_need_is_set(host):
    known = environment(host)
    assert known["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert known["CUDA_VISIBLE_DEVICES"] == ""
    assert known["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (known["DEVICE"], known["THREADS"], known["OMP_WAIT_POLICY"]) == ("cpu", "1", "PASSIVE")


def test_its_memory_is_bound_and_its_stop_longer_than_its_drain(host):
    shown = host.check_output(f"systemctl show -p MemoryMax -p TimeoutStopUSec -p WatchdogUSec {UNIT}").splitlines()
    assert dict(line.split("=") for line in shown) == {
        "MemoryMax": str(2 * 2**30),
        "TimeoutStopUSec": "35s",
        "WatchdogUSec": "2min",
    }


def test_it_runs_the_release_by_its_own_path(host):
    release = host.check_output("readlink -f /opt/babelrack/current/indic")
    assert host.check_output(f"tr '\\0' '\\n' </proc/{main_pid(host)}/cmdline").startswith(f"{release}/bin/python")


def test_systemd_finds_no_fault_with_the_unit(host):
    assert host.check_output(f"systemd-analyze verify {UNIT} 2>&1 | grep -e asr@ || true") == ""


def test_killed_it_comes_back(host):
    before = main_pid(host)
    host.check_output(f"kill -KILL {before}")
    deadline = time.monotonic() + 120
    while not (host.service(UNIT).is_running and main_pid(host) != before):
        assert time.monotonic() < deadline, host.check_output(f"systemctl status {UNIT} || true")
        time.sleep(1)
    assert json.loads(host.check_output("curl -s http://127.0.0.1:2233/health"))["status"] == "healthy"
