"""Webhooks: what was accepted is delivered, signed, whatever dies in between."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import shutil
import signal
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from api_rig import PATIENCE, Rig, Server, api_server, eventually, said, speech, start_rig, words
from test_limits_shared import PASSWORD, RedisServer

from babelrack.keys.file import add_key

GET_TEXT = "/waves/v1/pulse/get_text"
CLIP = "en-3s-a"
SECRET = "a-secret-of-this-deployment"


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack of this module's own, because its servers are killed."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "webhook.secret").write_text(SECRET + "\n")
    (folder / "webhook.secret").chmod(0o600)
    rig = start_rig(folder, WEBHOOK_SECRET_FILE=str(folder / "webhook.secret"), URL_ALLOWED_NETWORKS="127.0.0.0/8")
    yield rig
    rig.stop()


@pytest.fixture
def another(pack, tmp_path):
    """Start further API servers in front of the pack's model server."""
    started = []

    def start(*, key="tests", **environment):
        folder = tmp_path / f"api-{len(started)}"
        folder.mkdir()
        key = add_key(folder / "keys.yaml", key, requests_per_minute=None, concurrency=None)
        given = {name: pack.api.environment[name] for name in ("WEBHOOK_SECRET_FILE", "URL_ALLOWED_NETWORKS")}
        server = api_server(folder, pack.model.url, pack.proxy, **(given | environment))
        started.append(server)
        server.start()
        return Rig(pack.folder, pack.proxy, pack.model, server, key, key)

    yield start
    for server in started:
        if server.process is not None:
            server.kill()


class Receiver:
    """A client's web server: answers `statuses` in turn, the last one for ever, and keeps what came."""

    def __init__(self, *statuses: int, location: str = "") -> None:
        self.came: list[tuple[str, dict, bytes]] = []
        outer, answers = self, list(statuses or (200,))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.came.append((f"{self.command} {self.path}", dict(self.headers), body))
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_PUT(self):
                self.do_POST()

            def do_GET(self):
                content = speech(CLIP)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments): ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.url = f"{self.host}/hook?token=a-clients-own"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, count: int = 1) -> list[dict]:
        """The bodies, once so many have come."""
        eventually(lambda: len(self.came) >= count, lambda: self.came)
        return [json.loads(body) for _, _, body in self.came]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver():
    """Make receivers."""
    with contextlib.ExitStack() as open_:

        def make(*statuses: int, **options) -> Receiver:
            made = Receiver(*statuses, **options)
            open_.callback(made.close)
            return made

        yield make


def submit(rig: Rig, url: str, *, content: bytes | None = None, path=GET_TEXT, **query) -> dict:
    query = {"language": "en", "webhook_url": url, **query}
    with rig.client() as client:
        answer = client.post(path, params=query, content=speech(CLIP) if content is None else content)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body == {"status": "processing", "request_id": answer.headers["x-request-id"]}
    return body


def state(rig: Rig, request_id: str, key: str | None = None) -> dict:
    headers = {"Authorization": f"Bearer {key or rig.key}"}
    with rig.client(headers=headers) as client:
        return client.get(f"/waves/v1/jobs/{request_id}").json()


def until(rig: Rig, request_id: str, wanted: str) -> dict:
    eventually(lambda: state(rig, request_id)["state"] == wanted, lambda: state(rig, request_id))
    return state(rig, request_id)


@contextlib.contextmanager
def frozen(server: Server):
    """A server that answers nothing for a while, so that what it is asked stays under way."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if server.process is not None:
            server.process.send_signal(signal.SIGCONT)


def right(body: dict) -> bool:
    return body["status"] == "success" and words(body["transcription"]) == words(said(CLIP))


def signed(headers: dict, body: bytes) -> bool:
    stamp, digest = (part.partition("=")[2] for part in headers["X-Babelrack-Signature"].split(","))
    expected = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return abs(time.time() - int(stamp)) < PATIENCE and hmac.compare_digest(digest, expected)


def kept(rig: Rig) -> list[str]:
    """The audio that the API server keeps for its jobs."""
    return [file.name for file in (rig.api.folder / "state" / "jobs" / "audio").iterdir()]


@pytest.mark.parametrize(
    ("extra", "delivered"),
    [('{"case": 7, "tags": ["a"]}', {"case": 7, "tags": ["a"]}), ("case:7", "case:7"), ("7", "7"), ("[NaN]", "[NaN]")],
)
def test_what_was_accepted_is_delivered_as_the_path_answers_signed_and_with_the_clients_own_words(
    pack, receiver, extra, delivered
):
    hook = receiver()
    request_id = submit(pack, hook.url, webhook_extra=extra)["request_id"]
    (body,) = hook.wait()
    assert right(body)
    assert body["webhook_extra"] == delivered
    assert body["request_id"] == request_id
    assert body.keys() == {
        *("status", "transcription", "words", "utterances", "language", "request_id", "metadata"),
        "webhook_extra",
    }
    line, headers, raw = hook.came[0]
    assert line == "POST /hook?token=a-clients-own"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == request_id
    assert signed(headers, raw)
    assert until(pack, request_id, "delivered")["attempts"] == 1
    assert kept(pack) == []


def test_the_unified_path_delivers_by_the_method_that_is_asked_for(pack, receiver):
    hook = receiver(204)
    submit(pack, hook.url, path="/waves/v1/stt/", model="pulse", webhook_method="PUT", punctuate="false")
    (body,) = hook.wait()
    assert right(body)
    assert "." not in body["transcription"]
    assert hook.came[0][0].startswith("PUT ")


@pytest.mark.parametrize("how", ["form", "json"])
def test_listen_delivers_its_own_answer_to_the_callback(pack, receiver, how):
    hook = receiver()
    options = {"callback_url": hook.url, "language": "en"}
    form = {"files": {"audio": ("a.flac", speech(CLIP))}, "data": options}
    url = {"json": {"url": f"{hook.host}/audio.flac", **options}}
    with pack.client() as client:
        answer = client.post("/v1/listen", **(form if how == "form" else url))
    assert answer.json()["status"] == "processing"
    (body,) = hook.wait()
    assert body.keys() == {"request_id", "text", "confidence", "duration", "language", "words"}
    assert words(body["text"]) == words(said(CLIP))


def test_a_receiver_that_fails_twice_gets_it_a_third_time_and_the_state_says_so_meanwhile(pack, receiver):
    hook = receiver(500, 503, 200)
    request_id = submit(pack, hook.url)["request_id"]
    hook.wait()
    eventually(lambda: state(pack, request_id).get("message"), lambda: state(pack, request_id))
    waiting = state(pack, request_id)
    assert waiting["state"] == "delivering"
    assert waiting["attempts"] >= 1
    assert waiting["message"] == "the receiver answered 500."
    assert waiting["next_try_at"] > waiting["created_at"]
    hook.wait(3)
    delivered = until(pack, request_id, "delivered")
    assert delivered["attempts"] == 3
    assert len({body for _, _, body in hook.came}) == 1
    assert {headers["Idempotency-Key"] for _, headers, _ in hook.came} == {request_id}


def test_a_receiver_that_is_gone_for_good_is_not_tried_again(pack, receiver):
    hook = receiver(410)
    request_id = submit(pack, hook.url)["request_id"]
    failed = until(pack, request_id, "failed")
    assert "410" in failed["message"]
    assert len(hook.came) == 1


def test_a_redirect_is_not_followed_wherever_it_leads(pack, receiver):
    target = receiver()
    hook = receiver(307, location=target.url)
    request_id = submit(pack, hook.url)["request_id"]
    eventually(lambda: "redirects" in state(pack, request_id).get("message", ""), lambda: state(pack, request_id))
    assert target.came == []


@pytest.mark.parametrize("path", [GET_TEXT, "/v1/listen"])
@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::ffff:192.168.0.1]/", "ftp://example.org/x"]
)
def test_a_webhook_inside_of_a_private_network_is_refused(pack, path, url):
    name = "callback_url" if path == "/v1/listen" else "webhook_url"
    with pack.client() as client:
        refused = client.post(path, params={"language": "en", name: url}, content=speech(CLIP))
    assert refused.status_code == 400
    assert refused.json()["error_code"] == "WEBHOOK"
    assert refused.json()["message"].startswith(f"{name}: ")


def test_a_network_that_is_closed_after_the_acceptance_is_not_entered(another, receiver):
    hook = receiver(500)
    rig = another()
    request_id = submit(rig, hook.url)["request_id"]
    hook.wait()
    rig.api.kill()
    rig.api.environment["URL_ALLOWED_NETWORKS"] = ""
    came = len(hook.came)
    rig.api.start()
    eventually(lambda: "network" in state(rig, request_id).get("message", ""), lambda: state(rig, request_id))
    assert len(hook.came) == came


def test_audio_that_can_not_be_decoded_is_delivered_as_the_error_that_it_is(pack, receiver):
    hook = receiver()
    request_id = submit(pack, hook.url, content=b"no audio at all" * 100, webhook_extra="x")["request_id"]
    (body,) = hook.wait()
    assert body["status"] == "error"
    assert body["error_code"] == "NOT_AUDIO"
    assert body["request_id"] == request_id
    assert body["webhook_extra"] == "x"
    until(pack, request_id, "delivered")


def test_no_audio_at_all_is_told_at_once(pack, receiver):
    with pack.client() as client:
        refused = client.post(GET_TEXT, params={"webhook_url": receiver().url}, content=b"")
    assert refused.status_code == 400
    assert refused.json()["error_code"] == "EMPTY"


def test_a_request_id_makes_one_job_and_only_its_own_key_may_see_it(pack, receiver):
    hook = receiver()
    headers, query = {"X-Request-Id": "call-42"}, {"language": "en", "webhook_url": hook.url}
    with pack.client(headers=pack.headers | headers) as client:
        assert client.post(GET_TEXT, params=query, content=speech(CLIP)).json()["request_id"] == "call-42"
        again = client.post(GET_TEXT, params=query, content=speech(CLIP))
    assert again.status_code == 400
    assert again.json()["error_code"] == "JOB_EXISTS"
    with pack.client() as client:
        assert client.get("/waves/v1/jobs/call-42").status_code == 200
        assert client.get("/waves/v1/jobs/call-43").status_code == 404
    with pack.client(headers={"Authorization": f"Bearer {pack.limited}"}) as client:
        assert client.get("/waves/v1/jobs/call-42").status_code == 404
    with pack.client(headers={}) as client:
        assert client.get("/waves/v1/jobs/call-42").status_code == 401
    hook.wait()


def test_when_the_api_server_is_killed_before_the_delivery_it_is_made_after_the_restart(pack, receiver):
    hook = receiver()
    with frozen(pack.model):
        request_id = submit(pack, hook.url)["request_id"]
        assert len(kept(pack)) == 1
        pack.api.kill()
    assert hook.came == []
    pack.api.start()
    (body,) = hook.wait()
    assert right(body)
    assert body["request_id"] == request_id
    until(pack, request_id, "delivered")
    assert kept(pack) == []


def test_when_the_model_server_is_killed_while_it_transcribes_the_job_is_transcribed_later(pack, receiver):
    hook = receiver()
    with frozen(pack.model):
        request_id = submit(pack, hook.url)["request_id"]
        until(pack, request_id, "transcribing")
        pack.model.process.kill()
        pack.model.kill()
    eventually(lambda: pack.api.health()[0] == 503)
    assert state(pack, request_id)["state"] == "queued"
    pack.model.start()
    pack.api.wait()
    (body,) = hook.wait()
    assert right(body)


def test_when_the_server_is_told_to_stop_a_running_job_is_queued_again_and_goes_on_after_the_start(another, receiver):
    hook = receiver()
    rig = another()
    with frozen(rig.model):
        request_id = submit(rig, hook.url)["request_id"]
        until(rig, request_id, "transcribing")
        rig.api.process.send_signal(signal.SIGTERM)
        assert rig.api.process.wait(PATIENCE) == 0
    assert hook.came == []
    with contextlib.closing(sqlite3.connect(rig.api.folder / "state" / "jobs" / "jobs.sqlite")) as database:
        assert database.execute("SELECT state, tries FROM jobs").fetchall() == [("queued", 0)]
    rig.api.start()
    hook.wait()
    assert "Traceback" not in rig.api.log


def test_what_is_more_than_may_wait_is_refused_with_a_time_to_come_back_and_health_stays_good(another, receiver):
    hook = receiver(500)
    rig = another(MAX_JOBS="1")
    submit(rig, hook.url)
    with rig.client() as client:
        refused = client.post(GET_TEXT, params={"webhook_url": hook.url}, content=speech(CLIP))
        assert refused.status_code == 503
        assert refused.json()["error_code"] == "JOBS_FULL"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post(GET_TEXT, params={"language": "en"}, content=speech(CLIP)).status_code == 200
        assert 'api_jobs{state="queued"}' in client.get("/metrics").text
    assert rig.api.health()[1]["status"] == "healthy"
    few = another(MAX_JOB_BYTES="1000")
    with few.client() as client:
        refused = client.post(GET_TEXT, params={"webhook_url": hook.url}, content=speech(CLIP))
    assert refused.json()["error_code"] == "JOBS_FULL"
    assert kept(few) == []


def test_without_a_secret_webhooks_are_refused_by_the_settings_name(another, receiver):
    rig = another(WEBHOOK_SECRET_FILE="")
    with rig.client() as client:
        refused = client.post(GET_TEXT, params={"webhook_url": receiver().url}, content=speech(CLIP))
    assert refused.status_code == 400
    assert "WEBHOOK_SECRET_FILE" in refused.json()["message"]


def test_a_job_is_counted_once_whatever_became_of_it(another, receiver):
    """Cut off by a kill while it was transcribed, transcribed again, delivered: one record, with its audio."""
    hook = receiver(500, 200)
    rig = another(key="counted")
    with frozen(rig.model):
        request_id = submit(rig, hook.url)["request_id"]
        until(rig, request_id, "transcribing")
        rig.api.kill()
    rig.api.start()
    until(rig, request_id, "delivered")
    rig.api.stop()  # its last deed is to deliver what it counted
    with contextlib.closing(sqlite3.connect(f"file:{rig.proxy.database}?mode=ro", uri=True)) as database:
        records = [json.loads(body) for (body,) in database.execute("SELECT body FROM records")]
    (record,) = (record for record in records if record["key"] == "counted")
    assert record["status"] == 200
    assert record["audio_seconds"] == pytest.approx(2.686, abs=0.05)
    assert record["features"] == ["webhook_url"]


def test_a_key_with_a_bound_has_no_more_jobs_at_once_than_requests_and_keeps_those_for_live_ones(pack, receiver):
    hook = receiver()
    limited = Rig(pack.folder, pack.proxy, pack.model, pack.api, pack.limited, pack.limited)
    with frozen(pack.model):
        ids = [submit(limited, hook.url)["request_id"] for _ in range(3)]
        others = submit(pack, hook.url)["request_id"]
        until(pack, others, "transcribing")
        assert [state(limited, each)["state"] for each in ids].count("transcribing") <= 1
    assert {body["request_id"] for body in hook.wait(4)} == {*ids, others}


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_any_replica_says_how_a_job_is_and_without_redis_still_its_own(another, receiver, tmp_path_factory):
    redis = RedisServer(tmp_path_factory.mktemp("r"))
    redis.start()
    try:
        password = redis.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o600)
        shared = {"REDIS_URL": redis.url, "REDIS_PASSWORD_FILE": str(password)}
        first, second = another(**shared), another(**shared)
        stranger = another(key="stranger", **shared)
        hook = receiver(500, 200)
        request_id = submit(first, hook.url)["request_id"]
        eventually(lambda: state(second, request_id).get("state") == "delivering", lambda: state(second, request_id))
        assert state(stranger, request_id)["error_code"] == "NO_JOB"
        until(second, request_id, "delivered")
        assert state(second, request_id) == state(first, request_id)
    finally:
        redis.kill()
    assert state(second, request_id)["error_code"] == "NO_JOB"
    until(first, submit(first, receiver().url)["request_id"], "delivered")


def test_neither_a_clients_url_nor_its_audio_is_left_in_the_log_or_on_the_disk(pack):
    assert "a-clients-own" not in pack.api.log
    eventually(lambda: kept(pack) == [])
    assert "Traceback" not in pack.api.log
