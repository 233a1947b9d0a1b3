"""What breaks around the API server: every request is answered or cleanly refused, none hangs, and it recovers."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from api_rig import (
    DEPLOYMENT,
    LANGUAGES,
    PATIENCE,
    Rig,
    api_server,
    eventually,
    model_server,
    said,
    speech,
    start_rig,
    words,
)
from license_rig import Issuer, Proxy

from babelrack.keys.file import add_key

if TYPE_CHECKING:
    import httpx

GET_TEXT = "/waves/v1/pulse/get_text"
CLIP = "en-3s-a"


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack of this module's own, because its servers are killed."""
    rig = start_rig(tmp_path_factory.mktemp("faults"))
    yield rig
    rig.stop()


@pytest.fixture
def another(pack, tmp_path):
    """Start further API servers in front of the pack's model server."""
    started = []

    def start(*, proxy=pack.proxy, model_url=pack.model.url, until=("healthy",), **environment):
        folder = tmp_path / f"api-{len(started)}"
        folder.mkdir()
        key = add_key(folder / "keys.yaml", "tests", requests_per_minute=None, concurrency=None)
        server = api_server(folder, model_url, proxy, **environment)
        started.append(server)
        server.spawn().wait(*until)
        return Rig(pack.folder, proxy, pack.model, server, key, key)

    yield start
    for server in started:
        if server.process is not None:
            server.kill()


def ask(rig: Rig, clip: str = CLIP, **query) -> httpx.Response:
    with rig.client() as client:
        return client.post(GET_TEXT, params={"language": "en", **query}, content=speech(clip))


def transcribes(rig: Rig) -> bool:
    answer = ask(rig)
    return answer.status_code == 200 and words(answer.json()["transcription"]) == words(said(CLIP))


def clean(answer: httpx.Response) -> bool:
    """An answer, or a refusal with a sentence and a time to come back."""
    if answer.status_code == 200:
        return bool(answer.json()["transcription"])
    return answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1 and bool(answer.json()["message"])


def under_load(rig: Rig, clients: int, happening, clip: str = "en-11s-a") -> list[httpx.Response]:
    """Answers of `clients` that ask again and again while `happening()` happens."""
    over = threading.Event()

    def client() -> list[httpx.Response]:
        answers = [ask(rig, clip)]
        while not over.is_set():
            answers.append(ask(rig, clip))
            time.sleep(0.05)
        return answers

    with ThreadPoolExecutor(clients) as many:
        running = [many.submit(client) for _ in range(clients)]
        try:
            eventually(lambda: rig.api.health()[1]["in_flight"] >= clients // 2, rig.api.health)
            happening()
        finally:
            over.set()
        done, hanging = wait(running, timeout=2 * PATIENCE)
        assert not hanging
        return [answer for each in done for answer in each.result()]


def test_when_the_model_server_is_killed_under_load_every_request_is_answered_or_refused(pack):
    def happening():
        pack.model.kill()
        eventually(lambda: pack.api.health()[0] == 503)
        pack.model.start()
        pack.api.wait()

    answers = under_load(pack, 4, happening)
    assert all(clean(answer) for answer in answers), [(each.status_code, each.text[:200]) for each in answers]
    assert any(answer.status_code == 503 for answer in answers)
    assert transcribes(pack)
    eventually(lambda: pack.api.health()[1]["in_flight"] == 0)
    assert "Traceback" not in pack.api.log


def test_a_stream_whose_model_server_is_killed_ends_with_an_error_event(pack):
    form = {
        "files": {"file": ("a.flac", speech("en-28s"))},
        "data": {"model": "pulse", "language": "en", "stream": "true"},
    }
    with pack.client() as client, client.stream("POST", "/v1/audio/transcriptions", **form) as stream:
        lines = stream.iter_lines()
        next(lines)
        pack.model.kill()
        rest = [line for line in lines if line.startswith("data: ")]
    pack.model.start()
    pack.api.wait()
    assert '"error"' in rest[-1] or "transcript.text.done" in rest[-1]


def test_when_the_decoder_is_killed_requests_are_answered_or_refused_and_it_comes_back(pack):
    def children() -> list[int]:
        pid = pack.api.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def happening():
        for child in children():
            assert b"zygote" in Path(f"/proc/{child}/cmdline").read_bytes()
            os.kill(child, signal.SIGKILL)

    answers = under_load(pack, 4, happening, CLIP)
    assert all(clean(answer) for answer in answers), [(each.status_code, each.text[:200]) for each in answers]
    assert transcribes(pack)


def test_a_model_server_that_stops_answering_is_noticed_and_forgiven_when_it_wakes(pack):
    pack.model.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: pack.api.health()[0] == 503)
        refused = ask(pack)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
    finally:
        pack.model.process.send_signal(signal.SIGCONT)
    pack.api.wait()
    assert transcribes(pack)


def test_a_wrong_pair_is_unhealthy_names_both_and_answers_nothing(pack, another):
    wrong = another(until=("unhealthy",), DEPLOYMENT_NAME="future")
    status, health = wrong.api.health()
    assert status == 503
    assert "future" in health["reason"]
    assert DEPLOYMENT in health["reason"]
    refused = ask(wrong)
    assert refused.status_code == 503
    assert "wrong pair" in refused.json()["message"]


def test_a_model_server_that_changes_under_the_api_server_is_not_asked(pack, tmp_path):
    """Between two polls the model server itself refuses a request of another deployment."""
    rig = start_rig(tmp_path, model=model_server(tmp_path / "model"))
    try:
        assert transcribes(rig)
        rig.model.kill()
        rig.model.environment["DEPLOYMENT_NAME"] = "future"
        rig.model.start()
        for _ in range(20):
            answer = ask(rig)
            assert answer.status_code == 503
            if "wrong pair" in answer.json()["message"]:
                break
            time.sleep(0.2)
        else:
            raise AssertionError(answer.text)
    finally:
        rig.stop()


def test_sigterm_finishes_what_runs_refuses_what_comes_and_exits_with_zero(another):
    rig = another()
    with ThreadPoolExecutor(5) as many:
        running = [many.submit(ask, rig, "en-28s") for _ in range(4)]
        eventually(lambda: rig.api.health()[1]["in_flight"] == 4)
        rig.api.process.send_signal(signal.SIGTERM)
        eventually(lambda: rig.api.health()[0] == 503)
        assert "shutting down" in rig.api.health()[1]["reason"]
        refused = ask(rig)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert refused.headers["connection"] == "close"
        answers = [each.result() for each in running]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(words(answer.json()["transcription"])[:3] == words(said("en-28s"))[:3] for answer in answers)
        assert rig.api.process.wait(PATIENCE) == 0
    assert "Traceback" not in rig.api.log


def test_a_drain_that_takes_too_long_ends_with_a_503_for_what_still_runs(another):
    rig = another(DRAIN_SECONDS="0")
    with ThreadPoolExecutor(4) as many:
        running = [many.submit(ask, rig, "en-28s") for _ in range(4)]
        eventually(lambda: rig.api.health()[1]["in_flight"] == 4)
        rig.api.process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in running]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any("shutting down" in answer.text for answer in answers)
    assert rig.api.process.wait(PATIENCE) == 0


def test_an_upload_that_outlasts_the_drain_is_told_so(another):
    rig = another(DRAIN_SECONDS="0", BODY_IDLE_SECONDS="60")
    address = urlsplit(rig.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
        connection.sendall(half_a_request(rig))
        eventually(lambda: rig.api.health()[1]["in_flight"] == 1)
        rig.api.process.send_signal(signal.SIGTERM)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 503 ")
    assert rig.api.process.wait(PATIENCE) == 0
    assert "Traceback" not in rig.api.log


def half_a_request(rig: Rig) -> bytes:
    lines = [f"POST {GET_TEXT}?language=en HTTP/1.1", "Host: x", f"Authorization: Bearer {rig.key}"]
    return "\r\n".join([*lines, "Content-Length: 9", "", "abc"]).encode()


def test_what_is_more_than_all_places_is_refused_at_once_and_places_come_back(another):
    rig = another(MAX_QUEUE="0", BODY_IDLE_SECONDS="60")
    places = rig.api.health()[1]["model_server"]["checkpoints"][0]["concurrency"]
    address = urlsplit(rig.api.url)
    held = [socket.create_connection((address.hostname, address.port), timeout=PATIENCE) for _ in range(places)]
    try:
        for connection in held:
            connection.sendall(half_a_request(rig))
        eventually(lambda: rig.api.health()[1]["in_flight"] == places)
        refused = ask(rig)
        assert refused.status_code == 503
        assert refused.json()["error_code"] == "OVERLOADED"
        assert int(refused.headers["retry-after"]) >= 1
    finally:
        for connection in held:
            connection.close()
    eventually(lambda: rig.api.health()[1]["in_flight"] == 0)
    assert transcribes(rig)


def test_a_licence_that_is_refused_is_a_503_with_the_reason(another):
    rig = another(until=("unhealthy",), LICENSE_KEY="not-the-key")
    status, health = rig.api.health()
    assert status == 503
    assert "licence" in health["reason"]
    refused = ask(rig)
    assert refused.status_code == 503
    assert refused.json()["error_code"] == "LICENSE"
    assert "retry-after" in refused.headers


def test_a_language_outside_of_the_licence_is_a_400_that_says_so(another, tmp_path):
    issuer = Issuer(tmp_path)
    issuer.write(languages=["hi", "ta"])
    proxy = Proxy(issuer, tmp_path / "proxy").start()
    try:
        rig = another(proxy=proxy)
        given, detected = ask(rig), ask(rig, language="multi-indic", clip="en-11s-a")
        for refused in (given, detected):
            assert refused.status_code == 400, refused.text
            body = refused.json()
            assert body["error_code"] == "LANGUAGE_NOT_ENABLED"
            assert body["language"] == "en"
            assert body["languages"] == ["hi", "ta"]
            assert "licence" in body["message"]
        assert ask(rig, language="ta", clip="ta-5s").status_code == 200
    finally:
        proxy.stop()


def test_with_the_licence_proxy_gone_requests_go_on(another, tmp_path):
    proxy = Proxy(Issuer(tmp_path), tmp_path / "proxy").start()
    rig = another(proxy=proxy)
    proxy.kill()
    assert transcribes(rig)
    rig.api.stop()
    rig.api.spawn().wait("healthy", "degraded")
    status, health = rig.api.health()
    assert status == 200
    assert health["status"] == "degraded"
    assert "licence" in health["reason"]
    assert transcribes(rig)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"DEPLOYMENT_NAME": ""}, "DEPLOYMENT_NAME: Field required"),
        ({"URL_ALLOWED_NETWORKS": "intranet"}, "URL_ALLOWED_NETWORKS: 'intranet' is not a network"),
        ({"KEYS_FILE": "/nowhere/keys.yaml"}, "/nowhere/keys.yaml can't be read"),
        ({"LICENSE_KEY_FILE": "/nowhere/license.key"}, "/nowhere/license.key can't be read"),
        ({"STATE_DIR": "/proc/nothing"}, "STATE_DIR /proc/nothing can't be used"),
        ({"REDIS_URL": "carrier-pigeon://x"}, "REDIS_URL"),
        ({"ASR_STREAMING_BASE_URL": "http://elsewhere:1"}, "ASR_STREAMING_BASE_URL"),
    ],
)
def test_a_setting_that_can_not_be_used_is_one_sentence_and_exit_2(pack, tmp_path, environment, why):
    (tmp_path / "api").mkdir()
    add_key(tmp_path / "api" / "keys.yaml", "tests", requests_per_minute=None, concurrency=None)
    server = api_server(tmp_path / "api", pack.model.url, pack.proxy, **environment)
    assert server.spawn().process.wait(PATIENCE) == 2
    assert why in server.log
    assert "Traceback" not in server.log


def test_the_pack_still_serves_after_all_that(pack):
    assert transcribes(pack)
    assert set(LANGUAGES) == set(pack.model.health()[1]["checkpoints"][0]["languages"])
