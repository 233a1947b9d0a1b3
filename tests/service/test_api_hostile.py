"""Hostile input: every byte of it gets one sentence and a status, and the server goes on as before."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import av
import httpx
import numpy as np
import pytest
from api_rig import PATIENCE, eventually, speech

pytest_plugins = ["api_pack"]

GET_TEXT = "/waves/v1/pulse/get_text"
CLIP = "en-3s-a"


@pytest.fixture(scope="module")
def client(pack):
    with pack.client() as client:
        yield client


@pytest.fixture(autouse=True)
def unharmed(pack):
    """After each test the server still serves, and holds nothing."""
    process = pack.api.process.pid
    yield
    assert pack.api.process.poll() is None
    assert pack.api.process.pid == process
    eventually(lambda: pack.api.health()[1]["in_flight"] == 0, pack.api.health)
    eventually(lambda: active(pack) == 0, pack.api.health)
    assert "Traceback" not in pack.api.log
    assert "request failed" not in pack.api.log


def active(pack) -> int:
    checkpoint = pack.model.health()[1]["checkpoints"][0]
    return checkpoint["active"] + checkpoint["queued"]


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def refused(answer: httpx.Response, *statuses: int) -> str:
    """The sentence of a refusal, which must be one."""
    assert answer.status_code in (statuses or (400,)), (answer.status_code, answer.text[:500])
    body = answer.json()
    assert body["status"] == "error"
    message = body["message"]
    assert 10 < len(message) < 500
    assert "Traceback" not in message
    assert "\n" not in message
    return message


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


LYING = {
    "a wav of 4 GiB in 44 bytes": wav(np.zeros(10))[:40] + struct.pack("<I", 0xFFFFFFFF),
    "a wav at 4 GHz": wav(np.zeros(1000))[:24] + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + wav(np.zeros(1000))[32:],
    "a wav of 65535 channels": wav(np.zeros(1000))[:22] + struct.pack("<H", 65535) + wav(np.zeros(1000))[24:],
    "a wav of format 0xFFFF": wav(np.zeros(1000))[:20] + b"\xff\xff" + wav(np.zeros(1000))[22:],
    "a flac magic and noise": b"fLaC" + random_bytes(1, 5000),
    "an ogg magic and noise": b"OggS" + random_bytes(2, 5000),
    "an mp4 box of 4 GiB": b"\xff\xff\xff\xffftypM4A " + random_bytes(3, 5000),
    "an ebml head and noise": b"\x1a\x45\xdf\xa3" + random_bytes(4, 5000),
    "an id3 tag of 256 MiB": b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + random_bytes(5, 5000),
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a concat script": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "an html page": b"<!doctype html><title>404</title>" * 50,
    "a zip": b"PK\x03\x04" + random_bytes(6, 2000),
}


@pytest.mark.parametrize("name", LYING)
def test_a_container_that_lies_is_a_400(client, name):
    refused(client.post(GET_TEXT, content=LYING[name]))


@pytest.mark.parametrize("size", [1, 3, 44, 1000, 100_000])
def test_random_bytes_are_a_400(client, size):
    refused(client.post(GET_TEXT, content=random_bytes(size, size)))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_transcribed_as_far_as_it_goes_or_refused(client, share):
    audio = speech(CLIP)
    answer = client.post(GET_TEXT, params={"language": "en"}, content=audio[: int(len(audio) * share)])
    if answer.status_code != 200:
        refused(answer)
    else:
        assert answer.json()["metadata"]["duration"] <= 2.7


@pytest.mark.parametrize("seed", range(8))
def test_a_file_with_flipped_bits_is_transcribed_or_refused(client, seed):
    audio = bytearray(speech(CLIP))
    chance = random.Random(seed)
    for _ in range(40):
        audio[chance.randrange(len(audio))] ^= 1 << chance.randrange(8)
    answer = client.post(GET_TEXT, params={"language": "en"}, content=bytes(audio))
    if answer.status_code != 200:
        refused(answer)


def test_no_bytes_no_samples_and_an_empty_part_are_empty(client):
    assert "empty" in refused(client.post(GET_TEXT, content=b""))
    refused(client.post(GET_TEXT, content=wav(np.zeros(0))))
    assert "empty" in refused(client.post(GET_TEXT, files={"file": ("a.wav", b"")}))
    assert "no audio part" in refused(client.post("/v1/listen", files={"x": (None, b"y")}))
    refused(client.post(GET_TEXT, params={"encoding": "linear16"}, content=b""))


def test_silence_is_an_empty_transcript_and_no_error(client):
    answer = client.post(GET_TEXT, params={"language": "en"}, content=wav(np.zeros(16_000)))
    assert answer.status_code == 200
    assert answer.json()["transcription"] == ""
    assert answer.json()["metadata"]["duration"] == pytest.approx(1, abs=0.05)


def test_a_handful_of_samples_is_no_error(client):
    assert client.post(GET_TEXT, params={"language": "en"}, content=wav(np.zeros(7))).status_code in (200, 400)


def test_five_hours_are_too_long_and_told_so_soon(client, tmp_path: Path):
    path = tmp_path / "long.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8_000 * 60), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8_000
        for minute in range(5 * 60):
            frame.pts = minute * 8_000 * 60
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    answer = client.post(GET_TEXT, content=path.read_bytes())
    refused(answer)
    assert answer.json()["error_code"] == "TOO_LONG"


def zeros(size: int):
    piece = bytes(1_000_000)
    while size > 0:
        yield piece[:size]
        size -= len(piece)


def resident(pid: int) -> int:
    """Bytes of memory that a process alone holds, without what lies in files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


@pytest.mark.parametrize(
    ("path", "status"), [(GET_TEXT, 400), ("/waves/v1/stt/?model=pulse", 413), ("/v1/listen", 413)]
)
def test_250_megabytes_are_the_most_with_the_documented_status(pack, client, path, status):
    declared = talk(pack, head(pack, "Content-Length: 250000001", path=path), until_closed=False)
    assert status_of(declared) == status
    assert b"250 MB" in declared
    sent = client.post(path, content=zeros(251_000_000))
    assert "250 MB" in refused(sent, status)


def test_a_250_megabyte_body_never_lies_in_memory(pack, client):
    before = resident(pack.api.process.pid)
    most = before
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.is_set():
            most = max(most, resident(pack.api.process.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        form = client.post("/v1/listen", files={"audio": ("a.bin", BytesIO(bytes(249_000_000)))})
        raw = client.post("/v1/listen", content=zeros(250_000_000))
    finally:
        done.set()
        watcher.join()
    refused(form)
    refused(raw)
    assert most - before < 64 * 1024 * 1024
    assert list((pack.folder / "api" / "state" / "spool").iterdir()) == []


def talk(pack, *pieces: bytes, until_closed: bool = True) -> bytes:
    """Send raw bytes and return what the server says; that it closes while they are sent is its right."""
    address = urlsplit(pack.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
        said = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while received := connection.recv(65_536):
                said += received
                if not until_closed and said.endswith(b"}"):
                    break
        except (ConnectionResetError, BrokenPipeError):
            pass
        return said


def head(pack, *headers: str, path: str = GET_TEXT) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {pack.key}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


CLOSE = "Connection: close"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: -5"],
        ["Content-Length: five"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked, identity"],
        ["Bad Header: x"],
        ["X: a\x00b"],
        [": empty"],
    ],
)
def test_a_malformed_head_is_a_400_in_json(pack, lines):
    answer = talk(pack, head(pack, *lines, CLOSE) + b"abcde")
    assert status_of(answer) == 400
    assert b'"status":' in answer


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-x\r\n", b"GET\r\n\r\n", random_bytes(9, 500)]
)
def test_what_is_not_http_is_a_400_and_a_close(pack, junk):
    assert status_of(talk(pack, junk)) == 400


def test_a_bad_chunk_is_a_400_and_a_close(pack):
    chunked = head(pack, "Transfer-Encoding: chunked", "Content-Type: audio/wav")
    assert status_of(talk(pack, chunked + b"zz\r\nabc\r\n")) == 400


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Large: " + "x" * 100_000],
        [f"X-{number}: y" for number in range(5000)],
        ["X-" + "n" * 100_000 + ": y"],
    ],
)
def test_a_head_that_is_too_large_is_a_431(pack, lines):
    assert status_of(talk(pack, head(pack, *lines))) == 431


def test_a_head_that_never_ends_is_cut_off_at_its_bound(pack):
    said = talk(pack, b"POST / HTTP/1.1\r\nX: ", *([b"x" * 8192] * 500))
    assert said == b"" or status_of(said) == 431  # a reset may overtake the answer while the client still sends


def test_a_target_of_a_hundred_kilobytes_is_refused(pack):
    assert status_of(talk(pack, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")) in (400, 404, 431)


def test_slow_heads_slow_bodies_and_silent_connections_are_given_up(pack):
    """Each of these would hold a connection, or a place, for as long as it likes."""
    body = head(pack, "Content-Length: 100000", "Content-Type: audio/wav")

    def drip(*pieces: bytes) -> bytes:
        address = urlsplit(pack.api.url)
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
            for piece in pieces:
                connection.sendall(piece)
            said = b""
            while received := connection.recv(65_536):
                said += received
            return said

    with ThreadPoolExecutor(4) as many:
        silent = many.submit(drip)
        half_a_head = many.submit(drip, b"POST /v1/listen HTTP/1.1\r\nHost: x\r\n")
        half_a_body = many.submit(drip, body, b"x" * 500)
        keep_alive = many.submit(drip, head(pack, "Content-Length: 3", CLOSE) + b"abc")
        assert silent.result() == b""
        assert half_a_head.result() == b""
        assert status_of(half_a_body.result()) == 408
        assert status_of(keep_alive.result()) == 400


def test_an_unread_body_does_not_hide_the_answer(pack):
    """The answer to a bad key comes while the body is still on its way, and the client can read it."""
    stranger = head(pack, "Content-Length: 50000000").replace(pack.key.encode(), b"wrong")
    assert status_of(talk(pack, stranger, *([bytes(65_536)] * 20), until_closed=False)) == 401


MULTIPART = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("multipart/form-data", b"x"),
        (MULTIPART, b""),
        (MULTIPART, b"--b"),
        (MULTIPART, b"--b--\r\n"),
        (MULTIPART, b"--b\r\n\r\nx\r\n--b--\r\n"),
        (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx'),
        (MULTIPART, b"--b\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--b--\r\n"),
        (MULTIPART, b"--b\r\nX: " + b"y" * 1_000_000),
        (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 10_000 + b"--b--\r\n"),
        (
            MULTIPART,
            b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"y" * 500_000 + b"\r\n--b--\r\n",
        ),
        ("multipart/form-data; boundary=" + "b" * 5000, b"x"),
        ("multipart/form-data; boundary=\x01\x02", b"x"),
    ],
)
def test_multipart_abuse_is_a_400(client, content_type, content):
    refused(client.post("/v1/listen", content=content, headers={"Content-Type": content_type}))


def test_a_form_made_of_line_ends_does_not_hold_up_the_others(pack, client):
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    content = part + b"\r\n" * 4_000_000 + b"\r\n--b--\r\n"
    with ThreadPoolExecutor(1) as one:
        nasty = one.submit(client.post, "/v1/listen", content=content, headers={"Content-Type": MULTIPART})
        while not nasty.done():
            assert httpx.get(f"{pack.api.url}/health", trust_env=False, timeout=PATIENCE).status_code == 200
        refused(nasty.result())


@pytest.mark.parametrize(
    "content", [b"[" * 60_000, b'{"url": "http://x"', b'{"url": ' + b'"x' * 100_000, b"\xff\xfe", b"null"]
)
def test_json_abuse_is_a_400(client, content):
    refused(client.post("/v1/listen", content=content, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize(
    "query", ["a=1&" * 5000, "language=%ff%fe", "language=%00", "language=" + "x" * 50_000, "=&=&="]
)
def test_query_abuse_is_refused_or_ignored(client, query):
    answer = client.post(f"{GET_TEXT}?{query}", content=b"x")
    refused(answer, 400, 431)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1.nip.example/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0xa9fea9fe/x",
        "http://10.0.0.1:22/",
    ],
)
def test_a_url_into_the_private_network_is_a_400(client, url):
    refused(client.post("/v1/listen", json={"url": url}))


def test_a_client_that_goes_away_frees_its_work_within_a_moment(pack):
    audio = b"".join(speech(name) for name in ["en-28s"])
    address = urlsplit(pack.api.url)
    for how in ("close", "reset"):
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
            request = head(pack, f"Content-Length: {len(audio)}", path=f"{GET_TEXT}?language=en") + audio
            connection.sendall(request)
            eventually(lambda: active(pack) > 0)
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: active(pack) == 0)
        eventually(lambda: pack.api.health()[1]["in_flight"] == 0)
    metrics = httpx.get(f"{pack.api.url}/metrics", trust_env=False, timeout=PATIENCE).text
    assert f'api_requests_total{{endpoint="{GET_TEXT}",status="499"}}' in metrics


def test_a_client_that_stops_in_its_body_frees_its_place(pack):
    address = urlsplit(pack.api.url)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
        connection.sendall(head(pack, "Content-Length: 100000", "Content-Type: audio/wav") + bytes(1000))
        eventually(lambda: pack.api.health()[1]["in_flight"] == 1)
    eventually(lambda: pack.api.health()[1]["in_flight"] == 0)


def test_a_stream_that_its_client_leaves_is_cancelled(pack):
    with pack.client() as client:
        form = {
            "files": {"file": ("a.flac", speech("en-28s"))},
            "data": {"model": "pulse", "language": "en", "stream": "true"},
        }
        with client.stream("POST", "/v1/audio/transcriptions", **form) as stream:
            assert stream.status_code == 200
            assert next(stream.iter_lines()).startswith("data: ")
    eventually(lambda: active(pack) == 0)
