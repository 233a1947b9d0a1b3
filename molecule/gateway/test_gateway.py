"""The gateways after a first run, a second one, and a roll that left the first replica of indic drained."""

import json

import pytest

CERTIFICATE = "/etc/babelrack/gateway/tls/gateway.pem"
KEY = "/etc/babelrack/gateway/tls/gateway.key"


@pytest.fixture(autouse=True)
def _is_a_gateway(host):
    if not host.file("/etc/babelrack/gateway").exists:
        pytest.skip("this host is no gateway")


def ask(host, path, options=""):
    """The gateway's answer and its headers, over TLS that is checked against its own certificate."""
    name = f"--cacert {CERTIFICATE} --resolve stt.lab:443:127.0.0.1 --resolve indic.stt.lab:443:127.0.0.1"
    said = host.check_output(f"curl --silent --show-error --include --http1.1 {name} {options} '{path}'")
    head, _, body = said.replace("\r", "").partition("\n\n")
    status, *lines = head.splitlines()
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, json.loads(body)


def test_nginx_runs_and_starts_with_the_machine(host):
    service = host.service("nginx")
    assert service.is_running
    assert service.is_enabled


def test_it_listens_where_the_site_says_and_the_distribution_s_page_is_gone(host):
    ports = {socket.rsplit(":", 1)[1] for socket in host.socket.get_listening_sockets() if socket.startswith("tcp")}
    assert "443" in ports
    assert "80" not in ports
    assert not host.file("/etc/nginx/sites-enabled/default").exists


def test_its_certificate_is_for_its_name_and_the_packs_names(host):
    for name in ("stt.lab", "indic.stt.lab"):
        status, headers, _body = ask(host, f"https://{name}/health")
        assert status == 200
        assert headers["strict-transport-security"] == "max-age=31536000"
    names = host.check_output(f"openssl x509 -in {CERTIFICATE} -noout -ext subjectAltName")
    address = host.check_output("hostname -I").split()[0]
    assert all(name in names for name in ("DNS:stt.lab", "DNS:*.stt.lab", f"IP Address:{address}"))
    assert host.run(f"openssl x509 -in {CERTIFICATE} -noout -checkend $((300*86400))").rc == 0


def test_a_certificate_that_was_to_end_was_made_anew_and_is_in_use(host):
    before, now = (host.file(path).content_string for path in ("/run/certificate-before", CERTIFICATE))
    assert before != now
    assert "Verify return code: 0" in host.check_output(
        f"openssl s_client -connect 127.0.0.1:443 -CAfile {CERTIFICATE} </dev/null 2>&1"
    )


def test_its_key_is_its_own_secret(host):
    assert (host.file(KEY).mode, host.file(KEY).user) == (0o600, "root")
    assert host.run(f"runuser -u www-data -- cat {KEY}").rc != 0


def test_who_was_drained_stays_so_in_a_normal_run(host):
    [drained] = host.file("/etc/babelrack/gateway/drained").listdir()
    assert drained.endswith(":7100")
    answers = {ask(host, "https://stt.lab/v1/models?language=hi")[2]["port"] for _ in range(6)}
    assert answers == {7101}


def test_a_pack_without_a_replica_is_left_out_and_named_in_no_route(host):
    status, _, body = ask(host, "https://stt.lab/v1/models?language=id")
    assert (status, body["error_code"]) == (400, "LANGUAGE_NOT_ENABLED")
    _, _, routes = ask(host, "https://stt.lab/routes.json")
    assert list(routes["packs"]) == ["indic"]
    assert [url[-5:] for url in routes["packs"]["indic"]] == [":7101"]


def test_a_pack_has_a_host_name_of_its_own(host):
    assert ask(host, "https://indic.stt.lab/v1/models")[2]["port"] == 7101


def test_what_is_written_is_in_force(host):
    _, headers, _ = ask(host, "https://stt.lab/health")
    written = host.file("/etc/nginx/conf.d/babelrack.conf").content_string
    assert f"X-Babelrack-Configuration {headers['x-babelrack-configuration']} " in written


def test_it_was_reloaded_and_never_restarted(host):
    started = host.check_output("systemctl show --property ExecMainStartTimestampMonotonic --value nginx")
    assert host.check_output("systemctl show --property NRestarts --value nginx") == "0"
    assert host.check_output("journalctl --unit nginx --output cat | grep -c '^Started nginx'") == "1", started
    assert int(host.check_output("journalctl --unit nginx --output cat | grep -c '^Reloaded nginx'")) >= 4


def test_it_is_confined(host):
    score = host.check_output("systemd-analyze security nginx | tail -1").split("nginx.service: ")[1].split()[0]
    assert float(score) <= 3.5
    assert host.check_output("systemctl show --property LimitNOFILE --value nginx") == "16384"
    pid = host.check_output("systemctl show --property MainPID --value nginx")
    assert host.run(f"nsenter --target {pid} --mount touch /etc/nginx/x").rc != 0


def test_logs_are_rotated_and_written_on(host):
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    ask(host, "https://stt.lab/v1/models?language=hi", "--header 'X-Request-ID: after-rotation'")
    host.check_output(
        "for try in $(seq 50); do grep -q after-rotation /var/log/nginx/babelrack.log && break; sleep 0.1; done"
    )
    line = host.check_output("grep after-rotation /var/log/nginx/babelrack.log")
    assert json.loads(line)["pack"] == "indic"
    assert host.file("/var/log/nginx/babelrack.log.1").exists


def test_it_comes_back_when_it_is_killed(host):
    if (
        host.check_output("stat --file-system --format %T /sys/fs/cgroup") != "cgroup2fs"
        and "12" in host.system_info.release
    ):
        pytest.skip("without cgroup v2, Debian 12's systemd waits for processes that are gone")
    pid = host.check_output("systemctl show --property MainPID --value nginx")
    host.check_output(f"kill -9 {pid} $(pgrep --parent {pid})")
    answer = "curl --silent --insecure --output /dev/null https://127.0.0.1/health"
    host.check_output(f"for try in $(seq 60); do {answer} && break; sleep 1; done")
    assert ask(host, "https://stt.lab/health")[0] == 200
    assert host.check_output("systemctl show --property MainPID --value nginx") not in ("0", pid)
