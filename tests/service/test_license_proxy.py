"""The licence proxy as a process: its answers, its health, its upstream, and the operator's commands."""

import json
import time
from datetime import timedelta

import httpx
import pytest
from license_rig import PATIENCE, Issuer, Proxy, question
from typer.testing import CliRunner

from babelrack.cli.license import app
from babelrack.licensing import UsageRecord


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path)


@pytest.fixture
def proxy(issuer, tmp_path):
    proxy = Proxy(issuer, tmp_path / "proxy")
    yield proxy
    proxy.kill()


@pytest.fixture
def upstream(issuer, tmp_path):
    upstream = Proxy(issuer, tmp_path / "upstream")
    yield upstream
    upstream.kill()


def records(number, **changes):
    one = {"deployment": "indic", "checkpoint": "indic-multi", "language": "hi", "key": "acme", "audio_seconds": 1.5}
    return [json.loads(UsageRecord(**(one | changes)).model_dump_json()) for _ in range(number)]


def eventually(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_answers_say_what_is_wrong_with_the_right_status(proxy):
    proxy.issuer.write(seats=1)
    proxy.start()
    with proxy.client() as client:
        assert client.post("/v1/validate", json=question()).json()["seats_used"] == 1
        assert client.post("/v1/validate", json=question("two")).status_code == 409
        assert client.post("/v1/validate", json=question("two", role="model")).status_code == 200
        assert client.post("/v1/release", json={"instance": "api-1"}).json() == {"released": True}
        assert client.post("/v1/validate", json=question("two")).status_code == 200
        for body in ({}, question(role="boss"), question("a b"), question("x" * 129), [], "text"):
            answer = client.post("/v1/validate", json=body)
            assert answer.status_code == 400
            assert answer.json()["message"]
        for content in (b"", b"{", b"\xff", b"[" * 100_000):
            assert client.post("/v1/validate", content=content).status_code == 400
        assert client.get("/v1/usage", params={"by": "secret"}).status_code == 400
        assert client.get("/v1/usage", params={"since": "yesterday"}).status_code == 400
        assert client.post("/v1/usage", json={"batch_id": "b", "records": records(501)}).status_code == 400
        assert client.get("/nothing").status_code == 404
    for key in ("", "brl_wrong", "é"):
        headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
        with httpx.Client(base_url=proxy.url, headers=headers, trust_env=False, timeout=PATIENCE) as client:
            for answer in (
                client.post("/v1/validate", json=question()),
                client.post("/v1/usage", json={"batch_id": "b", "records": []}),
                client.post("/v1/release", json={"instance": "api-1"}),
                client.get("/v1/usage"),
            ):
                assert answer.status_code == 401
                assert answer.json()["status"] == "error"


def test_a_body_is_bounded_whether_or_not_it_says_its_length(proxy):
    proxy.start()
    with proxy.client() as client:
        for content in (b"x" * 1_100_000, (b"x" * 10_000 for _ in range(110))):
            assert client.post("/v1/usage", content=content).status_code == 413
        largest = records(500, checkpoint="\U0001f600" * 100)
        assert client.post("/v1/usage", json={"batch_id": "b", "records": largest}).status_code == 200


def test_health_says_when_the_licence_ends_and_when_it_has(proxy):
    proxy.start()
    assert proxy.health()[0] == 200
    assert proxy.health()[1]["status"] == "healthy"
    proxy.issuer.write(ends=timedelta(days=13))
    eventually(lambda: proxy.health()[1]["status"] == "degraded")
    assert "expires in 12 days" in proxy.health()[1]["reason"]
    proxy.issuer.write(ends=timedelta(hours=-1))
    eventually(lambda: proxy.health()[0] == 503)
    assert "expired on" in proxy.health()[1]["reason"]
    with proxy.client() as client:
        assert client.post("/v1/validate", json=question()).status_code == 402
    proxy.issuer.write()
    eventually(lambda: proxy.health()[1]["status"] == "healthy")


def test_a_licence_file_that_breaks_keeps_the_last_good_licence_and_is_reported(proxy):
    proxy.start()
    assert proxy.health()[1]["status"] == "healthy"
    proxy.issuer.license_file.write_text("half a lic")
    eventually(lambda: proxy.health()[1]["status"] == "degraded")
    assert "malformed" in proxy.health()[1]["reason"]
    with proxy.client() as client:
        assert client.post("/v1/validate", json=question()).status_code == 200
    proxy.kill()
    proxy.start()
    assert proxy.health()[0] == 503
    with proxy.client() as client:
        answer = client.post("/v1/validate", json=question())
    assert answer.status_code == 503
    assert "malformed" in answer.json()["message"]


def test_metrics_count_seats_days_usage_and_validations(proxy):
    proxy.start()
    with proxy.client() as client:
        client.post("/v1/validate", json=question())
        client.post("/v1/usage", json={"batch_id": "b", "records": records(3)})
    with proxy.client("brl_wrong") as client:
        client.post("/v1/validate", json=question())
    lines = httpx.get(f"{proxy.url}/metrics", trust_env=False, timeout=PATIENCE).text.splitlines()
    for line in (
        "license_seats_used 1.0",
        "license_seats 2.0",
        'license_validations_total{result="ok"} 1.0',
        'license_validations_total{result="unknown_key"} 1.0',
        'license_usage_records_total{result="accepted"} 3.0',
    ):
        assert line in lines


def test_a_database_that_cannot_be_opened_is_one_sentence_and_exit_code_2(proxy):
    proxy.database.mkdir()
    proxy.spawn()
    assert proxy.process.wait(PATIENCE) == 2
    said = (proxy.folder / "log").read_text()
    assert str(proxy.database) in said
    assert "Traceback" not in said


def test_the_upstream_is_asked_remembered_and_told_the_usage(proxy, upstream, tmp_path):
    key_file = tmp_path / "license.key"
    key_file.write_text(proxy.issuer.license_key)
    key_file.chmod(0o600)
    upstream.start()
    relay = Proxy(None, tmp_path / "relay", {"UPSTREAM_URL": upstream.url, "LICENSE_KEY_FILE": str(key_file)})
    try:
        relay.start()
        with relay.client(proxy.issuer.license_key) as client:
            good = client.post("/v1/validate", json=question()).json()
            assert good["customer"] == "Test & Söhne"
            assert client.post("/v1/usage", json={"batch_id": "b", "records": records(5)}).json()["accepted"] == 5
            with upstream.client(proxy.issuer.license_key) as above:
                eventually(lambda: above.get("/v1/usage").json() == client.get("/v1/usage").json() != [])
            upstream.kill()
            # The relay remembers, also across its own death, for those who were validated and with their key only.
            assert client.post("/v1/validate", json=question()).json() == good
            relay.kill()
            relay.start()
            assert client.post("/v1/validate", json=question()).json() == good
            assert client.post("/v1/validate", json=question("never-seen")).status_code == 503
            assert relay.health()[1]["status"] == "degraded"
            assert client.post("/v1/usage", json={"batch_id": "c", "records": records(2)}).json()["accepted"] == 2
        with relay.client("brl_wrong") as client:
            assert client.post("/v1/validate", json=question()).status_code in (401, 503)
            assert client.post("/v1/usage", json={"batch_id": "d", "records": records(1)}).status_code == 401
        upstream.start()
        with upstream.client(proxy.issuer.license_key) as above:
            eventually(lambda: above.get("/v1/usage").json()[0]["requests"] == 7)
        # A definite no from above is passed on, and what it said before is forgotten.
        upstream.issuer.write(ends=timedelta(hours=-1))
        with relay.client(proxy.issuer.license_key) as client:
            eventually(lambda: client.post("/v1/validate", json=question()).status_code == 402)
            upstream.kill()
            assert client.post("/v1/validate", json=question()).status_code == 503
    finally:
        relay.kill()


def test_with_its_own_licence_a_proxy_goes_on_when_the_upstream_never_answered(proxy, tmp_path):
    key_file = tmp_path / "license.key"
    key_file.write_text(proxy.issuer.license_key)
    proxy.environment |= {"UPSTREAM_URL": "http://127.0.0.1:9", "LICENSE_KEY_FILE": str(key_file)}
    proxy.start()
    with proxy.client() as client:
        assert client.post("/v1/validate", json=question()).status_code == 200
    status, health = proxy.health()
    assert (status, health["status"]) == (200, "degraded")
    assert "upstream" in health["reason"]


def test_usage_is_read_over_http_as_from_the_database(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    key_file = tmp_path / "license.key"
    key_file.write_text(proxy.issuer.license_key)
    proxy.start()
    with proxy.client() as client:
        client.post("/v1/usage", json={"batch_id": "b", "records": records(4) + records(2, language="en")})
    reports = [
        CliRunner().invoke(app, ["usage", *source, "--by", by, "--format", format_]).stdout
        for by, format_ in (("language,pack", "csv"), ("day", "table"))
        for source in (
            ["--database", str(proxy.database)],
            ["--url", proxy.url, "--license-key-file", str(key_file)],
        )
    ]
    assert reports[0] == reports[1] == "language,pack,requests,audio_seconds\nen,indic,2,3.000\nhi,indic,4,6.000\n"
    assert reports[2] == reports[3]
    assert "0:00:09.0" in reports[2]
    key_file.write_text("brl_wrong")
    refused = CliRunner().invoke(app, ["usage", "--url", proxy.url, "--license-key-file", str(key_file)])
    assert refused.exit_code == 1
    assert "401" in str(refused.exception)
