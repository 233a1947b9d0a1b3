"""The Python client against servers that refuse, break off and answer nonsense."""

import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from babelrack.client import AsyncClient, Client, TranscriptionError

SUCCESS = {"status": "success", "transcription": "hello", "language": "es", "metadata": {"duration": 2.0}}


class Replica(ThreadingHTTPServer):
    """Answers every POST with `status`, `headers` and `body`, after the whole request, or by hanging up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.headers, self.body = 200, {}, json.dumps(SUCCESS).encode()
        self.hang_up = False
        self.received: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Replica

    def do_POST(self) -> None:
        if self.server.hang_up:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def replica() -> Iterator[Replica]:
    with Replica() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken and refuses every connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def refusal_of(client: Client, audio: object = b"audio") -> TranscriptionError:
    with pytest.raises(TranscriptionError) as caught:
        client.transcribe(audio, language="es")
    return caught.value


@pytest.mark.parametrize(
    ("status", "headers", "body", "message", "retry_after"),
    [
        (401, {}, b'{"error":"unauthorized"}', "unauthorized", None),
        (429, {"Retry-After": "3"}, b'{"status":"error","message":"too fast"}', "too fast", 3.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b'{"message":"draining"}', "draining", None),
        (503, {"Retry-After": "-1"}, b"{}", "{}", None),
        (502, {}, b"<html>\n<b>Bad Gateway", "<html> <b>Bad Gateway", None),
        (500, {}, b"", "Internal Server Error", None),
        (200, {}, b"not json", "answered with something other than a transcript", None),
        (200, {}, b'{"transcription": 5}', "answered with something other than a transcript", None),
    ],
)
def test_an_answer_that_is_no_transcript_is_one_exception_with_what_the_server_said(
    replica: Replica, status: int, headers: dict, body: bytes, message: str, retry_after: float | None
) -> None:
    replica.status, replica.headers, replica.body = status, headers | {"X-Request-ID": "r7"}, body
    with Client({"es": replica.url}) as client:
        error = refusal_of(client)
    assert (error.status, error.request_id, error.retry_after) == (status, "r7", retry_after)
    assert message in error.message


def test_a_replica_that_refuses_is_passed_over_whatever_its_turn_and_the_whole_file_goes_to_the_next(
    replica: Replica, closed_port: int, tmp_path: Path
) -> None:
    audio = tmp_path / "a.wav"
    audio.write_bytes(os.urandom(200_000))
    with Client({"es": [f"http://127.0.0.1:{closed_port}", replica.url]}) as client:
        for source in (audio, audio.read_bytes(), io.BytesIO(audio.read_bytes()), bytearray(audio.read_bytes())):
            assert client.transcribe(source, language="es").text == "hello"
    assert replica.received == [audio.read_bytes()] * 4


def test_an_open_file_is_sent_from_where_it_stands_and_stays_open(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"0123456789")
    with (tmp_path / "a.raw").open("rb") as file, Client({"es": replica.url}) as client:
        file.seek(4)
        client.transcribe(file, language="es")
        assert not file.closed
    assert replica.received == [b"456789"]


def test_when_no_replica_answers_the_pack_and_the_last_address_are_named(closed_port: int) -> None:
    with Client({"es": f"http://127.0.0.1:{closed_port}"}) as client:
        error = refusal_of(client)
    assert error.status is None
    assert f"http://127.0.0.1:{closed_port} (" in error.message


def test_a_lost_connection_is_not_sent_twice(replica: Replica) -> None:
    replica.hang_up = True
    with Client({"es": [replica.url, replica.url]}) as client:
        error = refusal_of(client)
    assert error.status is None
    assert "was lost before the answer" in error.message
    assert replica.received == []


def test_routes_from_a_url_that_is_not_there_are_refused(replica: Replica, closed_port: int) -> None:
    for url in (f"http://127.0.0.1:{closed_port}/routes.json", f"{replica.url}/routes.json"):
        with pytest.raises(TranscriptionError, match="can't be fetched"):
            Client(url)


async def test_the_async_twin_passes_over_and_refuses_alike(replica: Replica, closed_port: int, tmp_path: Path) -> None:
    audio = tmp_path / "a.wav"
    audio.write_bytes(os.urandom(200_000))
    async with AsyncClient({"es": [f"http://127.0.0.1:{closed_port}", replica.url]}) as client:
        for _ in range(2):
            assert (await client.transcribe(audio, language="es", punctuate=False)).duration == 2.0
        replica.status, replica.body = 429, b'{"message":"too fast"}'
        with pytest.raises(TranscriptionError, match="429: too fast"):
            await client.transcribe(audio, language="es")
    assert replica.received == [audio.read_bytes()] * 3
