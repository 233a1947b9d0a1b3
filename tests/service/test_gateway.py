"""The gateway's promises, kept by a real nginx with the generated configuration in front of real ASGI servers."""

import asyncio
import contextlib
import datetime
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from babelrack.client import AsyncClient, Client, TranscriptionError
from babelrack.packs.gateway import RETRY_AFTER_S, StandalonePaths, render_nginx
from babelrack.packs.languages import LANGUAGES
from babelrack.packs.routes import Routes
from babelrack.packs.site import Address, Site, load_site

PATIENCE_S = 60
PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class ApiServer:
    """A replica: says what reached it, and can be stopped and started on the same port."""

    pack: str
    port: int = field(default_factory=free_port)
    first_bytes: threading.Event = field(default_factory=threading.Event)
    hang_up: threading.Event = field(default_factory=threading.Event)
    requests: list[dict] = field(default_factory=list)

    def start(self) -> None:
        app = Starlette(
            routes=[
                Route("/stream", self._stream),
                Route("/busy", self._busy, methods=["GET", "POST"]),
                WebSocketRoute("/{path:path}", self._talk),
                Route("/{path:path}", self._answer, methods=["GET", "POST"]),
            ]
        )
        # Without a configuration of its own for logs, which would stay for all tests after these.
        config = uvicorn.Config(
            app, port=self.port, log_config=None, timeout_keep_alive=75, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, f"the API server of {self.pack} to start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    async def _answer(self, request: Request) -> Response:
        size = 0
        try:
            async for block in request.stream():
                size += len(block)
                if block:
                    self.first_bytes.set()
        finally:
            query = dict(request.query_params)
            seen = {"path": request.url.path, "query": query, "size": size, "headers": dict(request.headers)}
            self.requests.append(seen)
        body = {"status": "success", "transcription": f"{self.pack} heard {size} bytes", "request_id": "r2"}
        body |= {"language": query.get("language"), "metadata": {"duration": 1.5}, "pack": self.pack, "port": self.port}
        return JSONResponse(body, headers={"X-Checkpoint": "c"})

    async def _stream(self, request: Request) -> Response:
        async def parts():
            yield b"first\n"
            await asyncio.to_thread(self.hang_up.wait, PATIENCE_S)
            yield b"last\n"

        return StreamingResponse(parts(), media_type="text/plain")

    async def _busy(self, request: Request) -> Response:
        body = {"status": "error", "message": "full", "request_id": "r1"}
        return JSONResponse(body, 503, headers={"Retry-After": "7"})

    async def _talk(self, socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(Exception):
            while True:
                await socket.send_text(f"{self.pack} heard {await socket.receive_text()}")


def wait_until(ready, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@dataclass
class Gateway:
    routes: Routes
    paths: StandalonePaths
    url: str
    port: int
    process: subprocess.Popen[bytes]

    def log(self) -> list[dict]:
        return [json.loads(line) for line in self.paths.access_log.read_text().splitlines()]


def write_site(folder: Path, packs: dict[str, tuple[str, int]], **gateway: object) -> Site:
    (folder / "packs").mkdir(exist_ok=True)
    deployments = {}
    for number, (name, (languages, replicas)) in enumerate(packs.items()):
        label = name.replace("_", "-")
        checkpoint = {"name": label, "url": "hf:a/b", "languages": languages.split(), "role": "multilingual"}
        pack = {"name": name, "aggregator": f"multi-{label}", "checkpoints": [checkpoint]}
        (folder / "packs" / f"{name}.yaml").write_text(yaml.safe_dump(pack))
        ports = {"api": 7100 + number, "model": 2233 + number, "metrics": 9090 + number}
        deployments[name] = {"replicas": replicas, "ports": ports}
    site = {"packs": list(packs), "deployments": deployments}
    site["gateway"] = {"address": "127.0.0.1", "server_name": "stt.test", "listen": free_port()} | gateway
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return load_site(folder / "site.yaml")


@contextlib.contextmanager
def running(site: Site, state: Path, servers: list[ApiServer]) -> Iterator[Gateway]:
    addresses = {name: [Address("127.0.0.1", s.port) for s in servers if s.pack == name] for name in site.deployments}
    paths = StandalonePaths(state)
    paths.create()
    paths.config.write_text(render_nginx(site, standalone=paths, addresses=addresses))
    process = subprocess.Popen(
        ["nginx", "-e", "stderr", "-p", state, "-c", paths.config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    scheme = "https" if site.gateway.tls else "http"
    url = f"{scheme}://127.0.0.1:{site.gateway.listen}"
    gateway = Gateway(Routes.from_site(site, addresses), paths, url, site.gateway.listen, process)

    def listens() -> bool:
        assert process.poll() is None, paths.error_log.read_text() if paths.error_log.exists() else "nginx ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", gateway.port), 1):
            return True
        return False

    try:
        wait_until(listens, "nginx to listen")
        yield gateway
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def servers() -> Iterator[list[ApiServer]]:
    started = [ApiServer("indic"), ApiServer("indic"), ApiServer("western_sea")]
    for server in started:
        server.start()
    yield started
    for server in started:
        server.stop()


PACKS = {"indic": ("hi en", 2), "western_sea": ("mr th", 1)}


@pytest.fixture(scope="module")
def gateway(servers: list[ApiServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running(write_site(folder, PACKS), folder / "state", servers) as started:
        yield started


@pytest.fixture
def http_client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    ("language", "pack"),
    [("hi", "indic"), ("en", "indic"), ("multi-indic", "indic")]
    + [(language, "western_sea") for language in ("mr", "th", "multi-western-sea")],
)
def test_the_language_picks_the_pack(gateway: Gateway, http_client: httpx.Client, language: str, pack: str) -> None:
    for path in ("/waves/v1/pulse/get_text", "/v1/audio/transcriptions", "/waves/v1/stt/?model=pulse&x=1"):
        url = f"{gateway.url}{path}{'&' if '?' in path else '?'}language={language}"
        assert http_client.post(url, content=b"audio").json()["pack"] == pack


def test_the_request_arrives_as_it_was_sent(
    gateway: Gateway, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    headers = {"Authorization": "Bearer key", "X-Request-ID": "mine-1", "Content-Type": "audio/wav"}
    url = f"{gateway.url}/v1/a%20b?language=mr&keywords=x%3A1%2Cy&punctuate=false"
    http_client.post(url, content=b"12345", headers=headers)
    seen = servers[2].requests[-1]
    assert (seen["path"], seen["size"]) == ("/v1/a b", 5)
    assert seen["query"] == {"language": "mr", "keywords": "x:1,y", "punctuate": "false"}
    assert seen["headers"]["authorization"] == "Bearer key"
    assert seen["headers"]["x-request-id"] == "mine-1"
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert seen["headers"]["x-forwarded-proto"] == "http"
    assert "upgrade" not in seen["headers"]


@pytest.mark.parametrize("query", ["", "?language=", "?lang=hi", "?xlanguage=hi"])
def test_no_language_is_a_400_that_names_the_parameter_and_what_is_routed(
    gateway: Gateway, http_client: httpx.Client, query: str
) -> None:
    answer = http_client.post(f"{gateway.url}/v1/audio/transcriptions{query}", content=b"x")
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert body["status"] == "error"
    assert body["error_code"] == "LANGUAGE_MISSING"
    assert body["languages"] == ["hi", "en", "mr", "th", "multi-indic", "multi-western-sea"]
    assert "?language=CODE" in body["message"]
    assert "indic.stt.test" in body["message"]
    assert body["request_id"]


@pytest.mark.parametrize("language", ["fr", "HI", "hi-IN", "hindi", "multi", "multi-eu", "x" * 32])
def test_a_language_that_no_pack_routes_is_a_400_that_names_it(
    gateway: Gateway, http_client: httpx.Client, language: str
) -> None:
    answer = http_client.get(f"{gateway.url}/waves/v1/pulse/get_text?language={language}")
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert body["error_code"] == "LANGUAGE_NOT_ENABLED"
    assert body["language"] == language
    assert f"'{language}'" in body["message"]
    assert "hi" in body["languages"]


@pytest.mark.parametrize(
    "language",
    ['"},"a":"', "%22%7D", "$host", "%00", "hi%0a", "<script>", "x" * 33, "हि", "\\", "hi%20", "%68%69", "..", "'"],
)
def test_what_is_not_a_code_is_never_echoed_and_leaves_the_json_whole(gateway: Gateway, language: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as raw:
        request = f"GET /v1/models?language={language} HTTP/1.1\r\nHost: stt.test\r\nConnection: close\r\n\r\n"
        raw.sendall(request.encode())
        answer = raw.makefile("rb").read()
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    body = json.loads(content)
    assert "language" not in body
    assert "\n" not in body["message"]
    assert "multi-indic" in body["message"]


def test_a_pack_s_own_host_name_takes_every_language(gateway: Gateway, http_client: httpx.Client) -> None:
    for host, pack in (("indic.stt.test", "indic"), ("Western-Sea.stt.test:8080", "western_sea")):
        for query in ("", "?language=hi", "?language=fr", "?language=multi-eu"):
            answer = http_client.post(f"{gateway.url}/v1/audio/transcriptions{query}", headers={"Host": host})
            assert (answer.status_code, answer.json()["pack"]) == (200, pack)


def test_health_is_the_gateway_s_own_and_a_pack_s_under_its_name(gateway: Gateway, http_client: httpx.Client) -> None:
    answer = http_client.get(f"{gateway.url}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
    assert answer.headers["server"] == "nginx"
    answer = http_client.get(f"{gateway.url}/health", headers={"Host": "western-sea.stt.test"})
    assert (answer.json()["pack"], answer.json()["transcription"]) == ("western_sea", "western_sea heard 0 bytes")


def test_routes_json_is_the_flat_map(gateway: Gateway, http_client: httpx.Client) -> None:
    answer = http_client.get(f"{gateway.url}/routes.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == gateway.routes.to_dict()
    assert Routes.from_dict(answer.json()) == gateway.routes


def test_routes_json_holds_any_number_of_languages_and_replicas(tmp_path: Path, http_client: httpx.Client) -> None:
    codes = list(LANGUAGES)
    site = write_site(tmp_path, {f"pack_{n}": (" ".join(codes[n * 5 : n * 5 + 5]), 30) for n in range(20)})
    closed = [ApiServer(f"pack_{n}", port=port) for n in range(20) for port in range(2, 32)]
    with running(site, tmp_path / "state", closed) as gateway:
        answer = http_client.get(f"{gateway.url}/routes.json")
        assert len(answer.content) > 3 * 4096
        assert answer.json() == gateway.routes.to_dict()
        refused = http_client.get(f"{gateway.url}/?language=nope").json()
        assert len(refused["languages"]) == 120


def test_replicas_share_the_load_and_one_that_is_down_is_passed_over(
    gateway: Gateway, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    def ports(count: int) -> set[int]:
        url = f"{gateway.url}/waves/v1/pulse/get_text?language=hi"
        answers = [http_client.post(url, content=b"audio" * 1000) for _ in range(count)]
        assert {answer.status_code for answer in answers} == {200}
        return {answer.json()["port"] for answer in answers}

    first, second = servers[:2]
    assert ports(8) == {first.port, second.port}
    first.stop()
    try:
        assert ports(8) == {second.port}
    finally:
        first.start()


def test_a_busy_replica_gets_the_next_requests_only_when_it_is_the_idlest(
    gateway: Gateway, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    with http_client.stream("GET", f"{gateway.url}/stream?language=hi") as held:
        lines = held.iter_lines()
        assert next(lines) == "first"
        ports = {http_client.get(f"{gateway.url}/x?language=hi").json()["port"] for _ in range(6)}
        for server in servers[:2]:
            server.hang_up.set()
        assert next(lines) == "last"
    assert len(ports) == 1


def test_a_pack_whose_replicas_are_all_down_is_a_502_that_says_when_to_retry_and_leaves_the_others_alone(
    gateway: Gateway, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    servers[2].stop()
    try:
        for content in (b"audio", iter([b"au", b"dio"])):
            answer = http_client.post(f"{gateway.url}/v1/listen?language=mr", content=content)
            assert (answer.status_code, answer.headers["content-type"]) == (502, "application/json")
            assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
            # It may close before it has read the body, and a client must know not to send the next request here.
            assert answer.headers["connection"] == "close"
            assert answer.json()["message"] == "No replica of the pack western_sea answers; try again soon."
            assert answer.json()["status"] == "error"
        assert http_client.post(f"{gateway.url}/v1/listen?language=hi").status_code == 200
    finally:
        servers[2].start()
    wait_until(
        lambda: http_client.post(f"{gateway.url}/v1/listen?language=mr").status_code == 200,
        "the pack to be routed again",
    )


def test_a_replica_s_own_refusal_passes_through_unchanged(gateway: Gateway, http_client: httpx.Client) -> None:
    for method in ("POST", "GET") * 6:
        answer = http_client.request(method, f"{gateway.url}/busy?language=hi")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert answer.json()["message"] == "full"
    # Being full is not being gone: nothing is marked as failed.
    assert http_client.post(f"{gateway.url}/x?language=hi").status_code == 200


def test_a_body_reaches_the_replica_while_the_client_is_still_sending(
    gateway: Gateway, servers: list[ApiServer]
) -> None:
    for server in servers:
        server.first_bytes.clear()
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as raw:
        raw.sendall(
            b"POST /v1/listen?language=th HTTP/1.1\r\nHost: stt.test\r\nContent-Length: 10\r\nConnection: close\r\n\r\n"
        )
        raw.sendall(b"12345")
        assert servers[2].first_bytes.wait(PATIENCE_S), "nginx kept the body to itself"
        raw.sendall(b"67890")
        assert b"western_sea heard 10 bytes" in raw.makefile("rb").read()


def test_an_answer_reaches_the_client_while_the_replica_is_still_sending(
    gateway: Gateway, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    servers[2].hang_up.clear()
    with http_client.stream("GET", f"{gateway.url}/stream?language=mr") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "first"
        servers[2].hang_up.set()
        assert next(lines) == "last"


@pytest.mark.parametrize(("path", "status"), [("/waves/v1/stt/", 413), ("/waves/v1/pulse/get_text", 400)])
def test_a_body_over_250_mb_is_refused_before_it_is_sent(gateway: Gateway, path: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)
    connection.putrequest("POST", f"{path}?language=hi")
    connection.putheader("Content-Length", str(250 * 2**20 + 1))
    connection.endheaders()
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert body["status"] == "error"
    assert body["message"] == "The body is larger than 250 MB; split the audio."
    connection.close()


def test_a_body_without_a_length_is_cut_off_at_the_limit(
    servers: list[ApiServer], tmp_path: Path, http_client: httpx.Client
) -> None:
    with running(write_site(tmp_path, PACKS, max_body_mb=1), tmp_path / "state", servers) as gateway:
        url = f"{gateway.url}/waves/v1/stt/?language=mr"
        assert http_client.post(url, content=iter([b"x" * 2**19] * 2)).status_code == 200
        answer = http_client.post(url, content=iter([b"x" * 2**16] * 64))
        assert (answer.status_code, answer.json()["status"]) == (413, "error")


def test_a_body_of_many_megabytes_arrives_whole_and_nginx_keeps_none_of_it(
    gateway: Gateway, http_client: httpx.Client
) -> None:
    block = os.urandom(2**20)
    answer = http_client.post(f"{gateway.url}/v1/listen?language=th", content=iter([block] * 40))
    assert answer.json()["transcription"] == f"western_sea heard {40 * 2**20} bytes"
    assert not [path for path in gateway.paths.temporary.rglob("*") if path.is_file()]


def test_a_websocket_reaches_the_pack_of_its_language(gateway: Gateway) -> None:
    url = gateway.url.replace("http", "ws", 1)
    with connect(f"{url}/waves/v1/stt/live?model=pulse&language=mr", open_timeout=PATIENCE_S, proxy=None) as live:
        for word in ("one", "two"):
            live.send(word)
            assert live.recv(PATIENCE_S) == f"western_sea heard {word}"
    with pytest.raises(InvalidStatus, match="400"):
        connect(f"{url}/waves/v1/stt/live?model=pulse&language=fr", open_timeout=PATIENCE_S, proxy=None)


def test_no_upgrade_but_websocket_passes(gateway: Gateway, servers: list[ApiServer], http_client: httpx.Client) -> None:
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    assert http_client.get(f"{gateway.url}/x?language=th", headers=headers).status_code == 200
    assert "upgrade" not in servers[2].requests[-1]["headers"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /x y HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /?language=hi&k=" + b"x" * 70000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /?language=hi HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 400),
        (b"TRACE /?language=hi HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ],
)
def test_a_request_that_nginx_can_not_take_is_answered_in_json(
    gateway: Gateway, request_bytes: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(request_bytes)
        raw.shutdown(socket.SHUT_WR)
        content = b""
        with contextlib.suppress(ConnectionError):
            while block := raw.recv(65536):
                content += block
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["status"] == "error"


def test_a_query_as_long_as_many_keywords_passes(gateway: Gateway, http_client: httpx.Client) -> None:
    keywords = ",".join(f"keyword{n}:1" for n in range(4000))
    assert http_client.get(f"{gateway.url}/x?language=hi&keywords={keywords}").status_code == 200


def test_the_log_has_the_language_but_no_query_and_no_key(gateway: Gateway, http_client: httpx.Client) -> None:
    headers = {"Authorization": "Bearer very-secret", "X-Request-ID": "find-me"}
    http_client.get(f"{gateway.url}/v1/models?language=hi&token=very-secret", headers=headers)
    http_client.get(f"{gateway.url}/v1/models?language=%22very-secret", headers=headers | {"X-Request-ID": '"bad'})
    wait_until(lambda: any(line["request_id"] == "find-me" for line in gateway.log()), "the line in the log")
    line = next(line for line in gateway.log() if line["request_id"] == "find-me")
    assert (line["path"], line["language"], line["pack"], line["status"]) == ("/v1/models", "hi", "indic", 200)
    assert "very-secret" not in gateway.paths.access_log.read_text()


def test_a_default_pack_takes_requests_without_a_language_and_no_others(
    servers: list[ApiServer], tmp_path: Path, http_client: httpx.Client
) -> None:
    site = write_site(tmp_path, PACKS, default_pack="western_sea")
    with running(site, tmp_path / "state", servers) as gateway:
        assert http_client.post(f"{gateway.url}/v1/listen").json()["pack"] == "western_sea"
        assert http_client.post(f"{gateway.url}/v1/listen?language=hi").json()["pack"] == "indic"
        assert http_client.post(f"{gateway.url}/v1/listen?language=fr").status_code == 400
        assert http_client.get(f"{gateway.url}/health").json() == {"status": "healthy"}


def self_made_certificate(folder: Path) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stt.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("stt.test"), x509.DNSName("*.stt.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "gateway.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "gateway.key").write_bytes(private)
    return {"certificate": "gateway.pem", "key": "gateway.key"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize("hsts", [0, 31536000])
def test_with_a_certificate_the_gateway_speaks_tls_only(servers: list[ApiServer], tmp_path: Path, hsts: int) -> None:
    tls = self_made_certificate(tmp_path) | {"hsts_max_age": hsts}
    trust = ssl.create_default_context(cafile=str(tmp_path / "gateway.pem"))
    with running(write_site(tmp_path, PACKS, tls=tls), tmp_path / "state", servers) as gateway:
        with httpx.Client(verify=trust, timeout=PATIENCE_S, trust_env=False) as https:
            answer = https.post(f"{gateway.url}/v1/listen?language=mr", content=b"audio")
            refused = https.post(f"{gateway.url}/v1/listen?language=xx")
        assert answer.json()["pack"] == "western_sea"
        assert servers[2].requests[-1]["headers"]["x-forwarded-proto"] == "https"
        for one in (answer, refused):
            assert one.headers.get("strict-transport-security") == (f"max-age={hsts}" if hsts else None)
        plain = httpx.get(gateway.url.replace("https", "http"), timeout=PATIENCE_S, trust_env=False)
        assert (plain.status_code, plain.json()["message"]) == (400, "This port speaks TLS only; use https.")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        too_old = pytest.raises(ssl.SSLError, match=r"(?i)protocol.version")
        with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as raw, too_old:
            old.wrap_socket(raw)
        with Client(f"{gateway.url}/routes.json", verify=trust) as client:
            assert client.routes == gateway.routes
    # Without HSTS, which is the site's choice, that choice is all there is to find.
    assert findings(gateway.paths.config, *([] if hsts else ["hsts_header"])) == []


def test_the_client_routes_by_the_gateway_s_map(gateway: Gateway, servers: list[ApiServer], tmp_path: Path) -> None:
    audio = tmp_path / "audio.wav"
    audio.write_bytes(os.urandom(300_000))
    with Client(f"{gateway.url}/routes.json", api_key="key") as client:
        ports = set()
        for source in (audio, str(audio), audio.read_bytes(), io.BytesIO(audio.read_bytes())):
            transcript = client.transcribe(source, language="hi", word_timestamps=True)
            assert transcript.text == "indic heard 300000 bytes"
            ports.add(transcript.raw["port"])
        assert ports == {servers[0].port, servers[1].port}
        seen = servers[0].requests[-1]
        assert seen["query"] == {"language": "hi", "word_timestamps": "true"}
        assert seen["headers"]["authorization"] == "Bearer key"
        assert seen["headers"]["content-length"] == "300000"
        assert (transcript.language, transcript.duration, transcript.checkpoint) == ("hi", 1.5, "c")
        assert (transcript.pack, transcript.request_id) == ("indic", "r2")


async def test_the_client_works_through_the_gateway_too(gateway: Gateway) -> None:
    routes = {"hi": gateway.url, "mr": [gateway.url]}
    with Client(routes) as client:
        assert client.transcribe(b"audio", language="mr").text == "western_sea heard 5 bytes"
    async with AsyncClient(routes) as client:
        texts = await asyncio.gather(*(client.transcribe(b"audio", language=code) for code in ("hi", "mr")))
        assert [transcript.text for transcript in texts] == ["indic heard 5 bytes", "western_sea heard 5 bytes"]
    with Client({"fr": gateway.url}) as client, pytest.raises(TranscriptionError) as caught:
        client.transcribe(b"audio", language="fr")
    assert caught.value.status == 400
    assert caught.value.body["error_code"] == "LANGUAGE_NOT_ENABLED"
    assert caught.value.request_id


def children(process: subprocess.Popen[bytes]) -> set[str]:
    return set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())


def test_a_reload_leaves_running_requests_alone(
    tmp_path: Path, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    with running(write_site(tmp_path, PACKS), tmp_path / "state", servers) as gateway:
        servers[2].hang_up.clear()
        old = children(gateway.process)
        with http_client.stream("GET", f"{gateway.url}/stream?language=mr") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "first"
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda: children(gateway.process) - old, "the new workers")
            assert httpx.get(f"{gateway.url}/x?language=mr", timeout=PATIENCE_S, trust_env=False).status_code == 200
            servers[2].hang_up.set()
            assert next(lines) == "last"


@contextlib.contextmanager
def reloadable(folder: Path, servers: list[ApiServer]) -> Iterator[tuple[Gateway, Callable[..., None]]]:
    """A gateway, and a function that reloads it with replicas drained and returns once it works with that."""
    site = write_site(folder, PACKS)
    addresses = {name: [Address("127.0.0.1", s.port) for s in servers if s.pack == name] for name in PACKS}
    with running(site, folder / "state", servers) as gateway:

        def reload(*drained: ApiServer) -> None:
            down = [Address("127.0.0.1", server.port) for server in drained]
            config = render_nginx(site, standalone=gateway.paths, addresses=addresses, drained=down)
            [digest] = re.findall(r"X-Babelrack-Configuration ([0-9a-f]{16}) ", config)
            gateway.paths.config.write_text(config)
            gateway.process.send_signal(signal.SIGHUP)

            def works() -> bool:
                health = httpx.get(f"{gateway.url}/health", trust_env=False)
                return health.headers["x-babelrack-configuration"] == digest

            wait_until(works, "the reloaded configuration")

        yield gateway, reload


def ports_of(gateway: Gateway, language: str) -> set[int]:
    answers = [httpx.get(f"{gateway.url}/x?language={language}", trust_env=False) for _ in range(12)]
    return {answer.json()["port"] for answer in answers}


def test_a_drained_replica_finishes_what_it_has_and_gets_nothing_new(
    tmp_path: Path, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    with reloadable(tmp_path, servers) as (gateway, reload):
        for server in servers:
            server.hang_up.clear()
        reload(servers[1])
        with http_client.stream("GET", f"{gateway.url}/stream?language=hi") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "first"
            reload(servers[0])
            assert ports_of(gateway, "hi") == {servers[1].port}
            servers[0].hang_up.set()
            assert next(lines) == "last"
        reload()
        assert ports_of(gateway, "hi") == {servers[0].port, servers[1].port}


def test_a_pack_whose_replicas_are_all_drained_says_so_and_others_go_on(
    tmp_path: Path, servers: list[ApiServer], http_client: httpx.Client
) -> None:
    with reloadable(tmp_path, servers) as (gateway, reload):
        reload(servers[2])
        refused = http_client.get(f"{gateway.url}/x?language=mr")
        assert (refused.status_code, refused.headers["retry-after"]) == (502, str(RETRY_AFTER_S))
        assert "western_sea" in refused.json()["message"]
        assert ports_of(gateway, "hi") == {servers[0].port, servers[1].port}
        reload()
        assert ports_of(gateway, "mr") == {servers[2].port}


def test_a_fleet_without_any_replica_has_a_gateway_that_says_so(tmp_path: Path, http_client: httpx.Client) -> None:
    site = write_site(tmp_path, PACKS)
    fleet = yaml.safe_load((tmp_path / "site.yaml").read_text()) | {"fleet": {"shared": "a", "gateway": "a"}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(fleet))
    site = load_site(tmp_path / "site.yaml")
    with running(site, tmp_path / "state", []) as gateway:
        assert http_client.get(f"{gateway.url}/health").json() == {"status": "healthy"}
        for query, code in (("?language=hi", "LANGUAGE_NOT_ENABLED"), ("", "LANGUAGE_MISSING")):
            answer = http_client.post(f"{gateway.url}/v1/listen{query}", content=b"x")
            assert (answer.status_code, answer.json()["error_code"], answer.json()["languages"]) == (400, code, [])
            assert "has a replica yet" in answer.json()["message"]
    assert findings(gateway.paths.config) == []


def test_nothing_is_left_when_the_gateway_is_told_to_end(tmp_path: Path, servers: list[ApiServer]) -> None:
    with running(write_site(tmp_path, PACKS), tmp_path / "state", servers) as gateway:
        assert int(gateway.paths.pid.read_text()) == gateway.process.pid
        workers = children(gateway.process)
        assert workers
    assert gateway.process.returncode == 0
    assert not gateway.paths.pid.exists()
    assert not [worker for worker in workers if Path("/proc", worker).exists()]
    assert "[emerg]" not in gateway.paths.error_log.read_text()


def nginx_finds(config: str, state: Path) -> tuple[int, str]:
    """What `nginx -t` says about a configuration that listens on a port that is free here."""
    paths = StandalonePaths(state)
    paths.create()
    paths.config.write_text(re.sub(r"listen \S+:\d+", f"listen 127.0.0.1:{free_port()}", config))
    command = ["nginx", "-t", "-q", "-e", "stderr", "-p", str(state), "-c", str(paths.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stderr


def findings(config: Path, *skips: str) -> list[dict]:
    """What gixy-ng finds in a configuration."""
    gixy = Path(sys.executable).with_name("gixy")
    command = [str(gixy), "-f", "json", *(["--skips", ",".join(skips)] if skips else []), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "WARNING" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def test_nginx_and_gixy_find_nothing_wrong_with_the_local_gateway(tmp_path: Path) -> None:
    site = load_site(PROJECT / "inventories" / "local" / "site.yaml")
    assert nginx_finds(render_nginx(site, standalone=StandalonePaths(tmp_path)), tmp_path) == (0, "")
    assert findings(tmp_path / "nginx.conf") == []


def test_gixy_would_find_something(tmp_path: Path) -> None:
    site = load_site(PROJECT / "inventories" / "local" / "site.yaml")
    config = render_nginx(site, standalone=StandalonePaths(tmp_path))
    (tmp_path / "nginx.conf").write_text(config.replace("Host $host", "Host $http_host"))
    assert [finding["plugin"] for finding in findings(tmp_path / "nginx.conf")] == ["host_spoofing"]


def test_the_fragment_fits_into_an_nginx_that_is_there_already(tmp_path: Path) -> None:
    site = load_site(PROJECT / "inventories" / "local" / "site.yaml")
    fragment = re.sub(r"listen \S+:\d+", f"listen 127.0.0.1:{free_port()}", render_nginx(site))
    (tmp_path / "babelrack.conf").write_text(fragment.replace("/var/log/nginx", str(tmp_path)))
    around = (
        f"pid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\nworker_rlimit_nofile 2048;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ types_hash_max_size 2048; access_log {tmp_path}/a.log; include {tmp_path}/babelrack.conf; }}\n"
    )
    assert nginx_finds(around, tmp_path) == (0, "")
    assert findings(tmp_path / "nginx.conf") == []


def test_long_names_are_no_trouble(tmp_path: Path) -> None:
    site = write_site(tmp_path, {f"pack_{'x' * 20}": ("hi", 1)}, server_name=".".join(["a" * 60] * 3))
    assert nginx_finds(render_nginx(site, standalone=StandalonePaths(tmp_path)), tmp_path) == (0, "")
