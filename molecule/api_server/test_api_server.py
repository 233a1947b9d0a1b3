"""The API server of one pack on a host: paired with its own model server, reached at the host's address, sandboxed."""

import json
import time

UNIT = "api-server@indic.service"


def main_pid(host):
    return int(host.check_output(f"systemctl show --property MainPID --value {UNIT}"))


def address(host):
    return host.check_output("hostname -I").split()[0]


def environment(host):
    text = host.check_output(f"tr '\\0' '\\n' </proc/{main_pid(host)}/environ")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def health(host):
    return json.loads(host.check_output(f"curl -s 'http://{address(host)}:7100/health?verbose=true'"))


def test_it_runs_and_starts_with_the_machine(host):
    unit = host.service(UNIT)
    assert unit.is_running
    assert unit.is_enabled


def test_it_is_healthy_with_its_own_packs_model_server_licence_and_redis(host):
    said = health(host)
    assert (said["status"], said["deployment"], said["model_server"]["deployment"]) == ("healthy", "indic", "indic")
    assert (said["license"], said["redis"]) == ("valid", "shared")


def test_it_listens_at_the_hosts_address_alone(host):
    listening = {line.split()[3] for line in host.check_output("ss -Hltn sport = :7100").splitlines()}
    assert listening == {f"{address(host)}:7100"}


def test_its_pair_is_on_this_host(host):
    assert environment(host)["ASR_BASE_URL"] == "http://127.0.0.1:2233"


def test_a_clip_with_the_licence_key_comes_back_as_text(host):
    key = host.file("/etc/babelrack/credentials/license_key").content_string.strip()
    answer = host.check_output(
        f"curl -s -H 'Authorization: Bearer {key}' -H 'Content-Type: audio/flac' --data-binary @/srv/en.flac "
        f"'http://{address(host)}:7100/waves/v1/pulse/get_text?language=en'"
    )
    assert "library" in json.loads(answer).get("transcription", "").lower(), answer


def test_its_exposure_is_at_most_two_and_a_half(host):
    verdict = host.run(f"systemd-analyze security --no-pager --threshold=25 {UNIT}")
    assert verdict.rc == 0, verdict.stdout[-500:]


def test_secrets_are_credentials_and_nowhere_else(host):
    for name in ("license_key", "redis_password", "webhook_secret_indic"):
        file = host.file(f"/etc/babelrack/credentials/{name}")
        assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
        secret = file.content_string.strip()
        assert secret not in host.check_output(f"tr '\\0' '\\n' </proc/{main_pid(host)}/environ")
        assert secret not in host.check_output(f"tr '\\0' ' ' </proc/{main_pid(host)}/cmdline")
        assert host.run(f"grep -r -F -e '{secret}' /etc/babelrack/packs /etc/systemd/system").rc == 1


def test_it_runs_as_its_own_account_without_any_privilege(host):
    assert host.check_output(f"ps -o user= -p {main_pid(host)}").strip() == "babelrack-api"
    fields = dict(line.split(":\t", 1) for line in host.check_output(f"cat /proc/{main_pid(host)}/status").splitlines())
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0


def test_it_stays_while_its_model_server_is_away_says_so_and_recovers(host):
    before = main_pid(host)
    host.check_output("systemctl stop asr@indic.service")
    try:
        deadline = time.monotonic() + 60
        while (said := health(host))["status"] != "unhealthy":
            assert time.monotonic() < deadline
            time.sleep(1)
        assert "model server" in said["reason"]
    finally:
        host.check_output("systemctl start asr@indic.service")
    deadline = time.monotonic() + 60
    while health(host)["status"] != "healthy":
        assert time.monotonic() < deadline
        time.sleep(1)
    assert main_pid(host) == before


def test_killed_it_comes_back(host):
    before = main_pid(host)
    host.check_output(f"kill -KILL {before}")
    deadline = time.monotonic() + 120
    while not (host.service(UNIT).is_running and main_pid(host) != before):
        assert time.monotonic() < deadline, host.check_output(f"systemctl status {UNIT} || true")
        time.sleep(1)
