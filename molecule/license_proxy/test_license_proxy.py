"""The licence proxy after a renewal and a changed setting."""

import json
import os
from pathlib import Path

UNIT = "license-proxy.service"
SECRETS = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "secrets"


def inside(host):
    return host.check_output("hostname -I").split()[0]


def main_pid(host):
    return int(host.check_output(f"systemctl show --property MainPID --value {UNIT}"))


def validate(host, key, role="api", instance="one"):
    """The proxy's answer to a server that shows a key; the key goes over standard input."""
    question = json.dumps({"instance": instance, "deployment": "indic", "role": role, "version": "0"})
    said = host.check_output(
        f"printf '%s' 'header = \"Authorization: Bearer {key}\"' | curl --silent --config - --json '{question}' "
        f"--write-out '\\n%{{http_code}}' http://{inside(host)}:6699/v1/validate"
    )
    body, _, status = said.rpartition("\n")
    return int(status), json.loads(body)


def test_it_runs_and_starts_with_the_machine(host):
    unit = host.service(UNIT)
    assert unit.is_running
    assert unit.is_enabled


def test_it_is_well_and_says_so_to_anybody_inside(host):
    health = json.loads(host.check_output(f"curl --silent --fail http://{inside(host)}:6699/health"))
    assert (health["status"], health["reason"]) == ("healthy", None)
    assert "license_seats 2" in host.check_output(f"curl --silent http://{inside(host)}:6699/metrics")


def test_it_listens_inside_and_nowhere_else(host):
    assert {line.split()[3] for line in host.check_output("ss -Hltn sport = :6699").splitlines()} == {
        f"{inside(host)}:6699"
    }


def test_it_gives_seats_to_who_has_the_key_and_to_nobody_else(host):
    key = (SECRETS / "license-key").read_text().strip()
    status, answer = validate(host, key)
    assert (status, answer["customer"], answer["languages"]) == (200, "Renewed", ["hi", "en"])
    assert validate(host, key, instance="two")[0] == 200
    assert validate(host, key, instance="three")[0] == 409
    assert validate(host, (SECRETS / "another-key").read_text().strip())[0] == 401


def test_seats_and_usage_survive_a_kill(host):
    old = main_pid(host)
    host.check_output(f"kill -9 {old}")
    well = f"curl --silent --fail --output /dev/null http://{inside(host)}:6699/health"
    host.check_output(f"for try in $(seq 60); do {well} && break; sleep 1; done")
    assert main_pid(host) not in (0, old)
    key = (SECRETS / "license-key").read_text().strip()
    assert validate(host, key, instance="three")[0] == 409


def test_its_exposure_is_at_most_two_and_a_half(host):
    verdict = host.run(f"systemd-analyze security --no-pager --threshold=25 {UNIT}")
    assert verdict.rc == 0, verdict.stdout[-500:]


def test_systemd_watches_it(host):
    assert host.check_output(f"systemctl show --property Type,WatchdogUSec {UNIT}") == "Type=notify\nWatchdogUSec=1min"


def test_it_runs_as_its_own_account_without_any_privilege(host):
    fields = dict(line.split(":\t", 1) for line in host.check_output(f"cat /proc/{main_pid(host)}/status").splitlines())
    assert host.check_output(f"ps -o user= -p {main_pid(host)}").strip() == "babelrack-proxy"
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"


def test_the_licence_is_for_the_proxy_s_eyes_and_the_key_isn_t_there_at_all(host):
    for name in ("license.jws", "license-public.pem"):
        file = host.file(f"/etc/babelrack/license/{name}")
        assert (file.user, file.group, file.mode) == ("root", "babelrack-proxy", 0o640)
    assert host.run("runuser -u nobody -- cat /etc/babelrack/license/license.jws").rc != 0
    key = (SECRETS / "license-key").read_text().strip()
    assert host.run(f"grep --recursive --quiet {key} /etc/babelrack /var/lib/babelrack /etc/systemd").rc == 1


def test_its_release_is_the_one_that_the_link_names(host):
    release = host.check_output("readlink -f /opt/babelrack/current/license_proxy")
    assert release.startswith("/opt/babelrack/releases/")
    assert f"{release}/bin/python" in host.check_output(f"tr '\\0' ' ' </proc/{main_pid(host)}/cmdline")
