"""A model server as a process: the socket, health, overload, hostile clients, drain, and starts that fail."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from babelrack.pairing import (
    Delta,
    Done,
    Failed,
    LanguageDetected,
    ModelClient,
    ModelServerLost,
    Refused,
    Request,
    Segment,
)
from rack import free_ports
from speech import clip, recording, score

START_SECONDS = 120
FRAME = 32_000


class Server:
    """One model server on free ports."""

    def __init__(self, folder, model_url, **environment):
        self.port, self.metrics_port = free_ports(2)
        self.log = folder / "model-server.log"
        settings = {
            "PORT": self.port,
            "METRICS_PORT": self.metrics_port,
            "DEPLOYMENT_NAME": "indic",
            "AGGREGATOR": "multi-indic",
            "MODEL_URL": model_url,
            "MODEL_CACHE_DIR": folder / "cache",
            "STATE_DIR": folder / "state",
            "THREADS": 1,
        } | environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "babelrack.model_server"],
            env=os.environ | {name: str(value) for name, value in settings.items()},
            stderr=self.log.open("w"),
        )
        self.client = ModelClient(f"http://127.0.0.1:{self.port}", "indic")

    def health(self):
        return httpx.get(f"{self.client.base_url}/health", trust_env=False)

    def wait(self, status="healthy"):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.health().json()["status"] == status:
                    return self
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    async def idle(self):
        """Wait until no request is active."""
        async with asyncio.timeout(60):
            while any(c["active"] or c["queued"] for c in self.health().json()["checkpoints"]):
                await asyncio.sleep(0.1)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def url(path, name="many", role="multilingual", languages="hi+en+bn+ta+te+es"):
    return f"file:{path}#name={name}&role={role}&languages={languages}"


@pytest.fixture(scope="module")
def server(tmp_path_factory, checkpoint):
    model_url = ",".join([url(checkpoint), url(checkpoint, "spanish", "dedicated", "es")])
    running = Server(tmp_path_factory.mktemp("model-server"), model_url, IDLE_SECONDS=3)
    yield running.wait()
    running.stop()


def request(language="en", **options):
    return Request(request_id="test", deployment="indic", language=language, **options)


async def ask(server, samples, *args, **options):
    """All events of one request."""
    async with server.client.transcribe(request(*args, **options)) as session:

        async def send():
            pcm = samples.tobytes()
            for start in range(0, len(pcm), FRAME):
                await session.send(pcm[start : start + FRAME])
            await session.end()

        sending = asyncio.create_task(send())
        events = [event async for event in session]
        await sending
        return events


async def test_speech_in_text_out_with_times_and_the_checkpoint_that_did_it(server):
    events = await ask(server, clip("en-11s-a").samples())
    assert events[0] == LanguageDetected(language="en", checkpoint="many", probability=1.0)
    assert isinstance(events[-1], Done)
    assert score([clip("en-11s-a").text], [events[-1].text]).wer < 0.1
    assert events[-1].duration == pytest.approx(clip("en-11s-a").seconds, abs=0.05)
    assert 0.5 < events[-1].confidence <= 1
    segments = [event for event in events if isinstance(event, Segment)]
    assert " ".join(segment.text for segment in segments) == events[-1].text


async def test_a_dedicated_checkpoint_is_preferred_also_when_the_language_is_detected(server):
    given = await ask(server, clip("es-3s-a").samples(), "es")
    detected = await ask(server, clip("es-11s-a").samples(), "multi-indic")
    assert given[-1].checkpoint == detected[-1].checkpoint == "spanish"
    assert detected[0].language == "es"


async def test_text_streams_while_it_is_decoded(server):
    events = await ask(server, clip("en-11s-b").samples(), stream=True)
    deltas = [event.text for event in events if isinstance(event, Delta)]
    assert len(deltas) > 5
    assert "".join(deltas) == events[-1].text


async def test_a_long_recording_is_cut_at_pauses_and_stitched_with_right_times(server):
    long = recording(70, "en")
    events = await ask(server, long.samples)
    assert events[-1].windows >= 3
    assert score([long.text], [events[-1].text]).wer < 0.1
    segments = [event for event in events if isinstance(event, Segment)]
    edges = [edge for segment in segments for edge in (segment.start, segment.end)]
    assert edges == sorted(edges)
    assert edges[-1] <= long.seconds + 0.1
    assert [segment.id for segment in segments] == list(range(len(segments)))


async def test_silence_and_nothing_at_all_give_an_empty_transcript(server):
    silence = clip("en-silence-3s").samples()
    assert (await ask(server, silence))[-1].text == ""
    assert (await ask(server, silence[:0]))[-1].duration == 0


async def test_requests_that_can_not_be_served_are_refused_with_the_reason(server):
    with pytest.raises(Refused, match="serves hi, en, bn, ta, te, es, or multi-indic") as refused:
        await ask(server, clip("en-3s-a").samples(), "fr")
    assert (refused.value.status, refused.value.code) == (400, "LANGUAGE_NOT_ENABLED")
    assert refused.value.languages == ["hi", "en", "bn", "ta", "te", "es"]
    async with connect(f"ws://127.0.0.1:{server.port}/v1/transcribe", proxy=None) as socket:
        await socket.send(request().model_copy(update={"deployment": "future"}).model_dump_json())
        answer = json.loads(await socket.recv())
    assert answer["code"] == "PAIRING"
    assert "'indic'" in answer["message"]
    assert "'future'" in answer["message"]


@pytest.mark.parametrize("first", ["", "{}", "nonsense", b"\0\0", '{"type": "end"}'])
async def test_what_is_no_request_is_refused(server, first):
    async with connect(f"ws://127.0.0.1:{server.port}/v1/transcribe", proxy=None) as socket:
        await socket.send(first)
        assert json.loads(await socket.recv())["code"] == "BAD_REQUEST"


@pytest.mark.parametrize("second", ["nonsense", b"\0" * 65_537, "{}"])
async def test_what_is_no_audio_ends_the_request(server, second):
    async with connect(f"ws://127.0.0.1:{server.port}/v1/transcribe", proxy=None) as socket:
        await socket.send(request().model_dump_json())
        assert json.loads(await socket.recv())["type"] == "accepted"
        await socket.send(second)
        assert json.loads(await socket.recv())["code"] == "BAD_AUDIO"
    await server.idle()


async def test_an_odd_number_of_bytes_and_odd_frames_do_no_harm(server):
    pcm = clip("en-3s-a").samples().tobytes() + b"\1"
    async with server.client.transcribe(request()) as session:
        for start in range(0, len(pcm), 999):
            await session.send(pcm[start : start + 999])
        await session.end()
        events = [event async for event in session]
    assert "library" in events[-1].text


async def test_a_client_that_stalls_is_closed(server):
    async with server.client.transcribe(request()) as session:
        await session.send(clip("en-3s-a").samples().tobytes()[:FRAME])
        events = [event async for event in session]
    assert events == [Failed(code="IDLE", message="the client sent nothing for 3 s")]


async def test_clients_that_go_away_leave_nothing_behind(server):
    async def leave(number):
        async with server.client.transcribe(request()) as session:
            pcm = clip("en-28s").samples().tobytes()
            for start in range(0, len(pcm), FRAME):
                await session.send(pcm[start : start + FRAME])
            if number % 2:
                await session.end()
            await asyncio.sleep(0.05 * number)

    await asyncio.gather(*(leave(number) for number in range(8)))
    await server.idle()
    metrics = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics", trust_env=False).text
    assert 'asr_active_requests{checkpoint="many"} 0.0' in metrics
    assert "library" in (await ask(server, clip("en-3s-a").samples()))[-1].text


async def test_a_client_that_goes_away_while_it_is_held_back_is_noticed(server):
    """With a long recording the server stops reading; a killed client leaves frames behind that nobody reads."""
    long = recording(1800, "en").samples.tobytes()
    script = f"""
import asyncio, sys
from babelrack.pairing import ModelClient, Request

async def main():
    pcm = sys.stdin.buffer.read()
    client = ModelClient("{server.client.base_url}", "indic")
    async with client.transcribe(Request(request_id="gone", deployment="indic", language="en")) as session:
        for start in range(0, len(pcm), {FRAME}):
            await session.send(pcm[start : start + {FRAME}])

asyncio.run(main())
"""
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE)
    feeding = asyncio.create_task(client.communicate(long))
    async with asyncio.timeout(60):
        while not server.health().json()["checkpoints"][0]["active"]:
            await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    assert server.health().json()["checkpoints"][0]["active"] == 1, "it must be held back when it is killed"
    client.kill()
    await asyncio.gather(feeding, return_exceptions=True)
    async with asyncio.timeout(20):
        while server.health().json()["checkpoints"][0]["active"]:
            await asyncio.sleep(0.1)


async def test_metrics_count_what_was_done(server):
    def read(name):
        metrics = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics", trust_env=False).text
        found = [line for line in metrics.splitlines() if line.startswith(f'{name}{{checkpoint="many"}}')]
        return float(found[0].split()[-1])

    before = read("asr_windows_total"), read("asr_audio_seconds_total")
    await ask(server, clip("en-3s-a").samples())
    assert read("asr_windows_total") == before[0] + 1
    assert read("asr_audio_seconds_total") == pytest.approx(before[1] + clip("en-3s-a").seconds, abs=1)
    assert read("asr_slots") == 64


async def test_health_tells_what_is_loaded(server):
    health = await server.client.health()
    assert (health.status, health.deployment, health.aggregator) == ("healthy", "indic", "multi-indic")
    assert [(c.name, c.role, c.concurrency) for c in health.checkpoints] == [
        ("many", "multilingual", 64),
        ("spanish", "dedicated", 64),
    ]


async def test_under_sigterm_running_requests_finish_new_ones_are_refused_and_it_exits_0(tmp_path, checkpoint):
    server = Server(tmp_path, url(checkpoint)).wait()
    try:
        started = asyncio.Event()

        async def run():
            async with server.client.transcribe(request()) as session:
                pcm = clip("en-11s-a").samples().tobytes()
                for start in range(0, len(pcm), FRAME):
                    await session.send(pcm[start : start + FRAME])
                started.set()
                await asyncio.sleep(1)  # the server is told to stop in this second
                await session.end()
                return [event async for event in session]

        running = asyncio.create_task(run())
        await started.wait()
        server.process.send_signal(signal.SIGTERM)
        while server.health().json()["status"] != "draining":
            await asyncio.sleep(0.02)
        assert server.health().status_code == 503
        with pytest.raises(Refused, match="shutting down"):
            await ask(server, clip("en-3s-a").samples())
        assert "river" in (await running)[-1].text
        assert await asyncio.to_thread(server.process.wait, 60) == 0
    finally:
        server.stop()


async def test_past_its_queue_it_refuses_at_once_and_serves_the_rest(tmp_path, checkpoint):
    server = Server(tmp_path, url(checkpoint), MAX_QUEUE=2).wait()
    try:
        async with asyncio.timeout(120):
            sockets = [await connect(f"ws://127.0.0.1:{server.port}/v1/transcribe", proxy=None) for _ in range(132)]
            answers = []
            for socket in sockets:
                await socket.send(request().model_dump_json())
                answers.append(json.loads(await socket.recv()))
        kinds = [answer["type"] for answer in answers]
        assert kinds == ["accepted"] * 130 + ["refused"] * 2
        assert answers[-1]["code"] == "OVERLOADED"
        assert answers[-1]["retry_after"] > 0
        (loaded,) = server.health().json()["checkpoints"]
        assert (loaded["active"], loaded["queued"]) == (128, 2)
        for socket in sockets:
            await socket.close()
        await server.idle()
    finally:
        server.stop()


async def test_killed_in_the_middle_its_clients_hear_at_once(tmp_path, checkpoint):
    server = Server(tmp_path, url(checkpoint)).wait()
    try:
        asking = [asyncio.create_task(ask(server, clip("en-28s").samples())) for _ in range(4)]
        await asyncio.sleep(0.5)
        server.process.kill()
        async with asyncio.timeout(10):
            for task in asking:
                with pytest.raises(ModelServerLost):
                    await task
            with pytest.raises(ModelServerLost, match="does not answer"):
                await server.client.health()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("model_url", "code", "sentence"),
    [
        ("file:/a,file:/b,file:/c,file:/d", 2, "MODEL_URL"),
        ("ftp://host/x", 2, "MODEL_URL"),
        ("file:/nowhere/at/all#name=x&role=dedicated&languages=hi", 1, "/nowhere/at/all"),
    ],
)
def test_a_start_that_can_not_succeed_says_why_and_ends(tmp_path, model_url, code, sentence):
    server = Server(tmp_path, model_url)
    try:
        assert server.process.wait(60) == code
        last = server.log.read_text().splitlines()[-1]
        assert last.startswith("model server: ")
        assert sentence in last
        assert "Traceback" not in server.log.read_text()
    finally:
        server.stop()


async def test_before_it_is_ready_it_says_that_it_is_starting(tmp_path, checkpoint):
    server = Server(tmp_path, url(checkpoint))
    try:
        server.wait("starting")
        with pytest.raises(Refused, match="is starting"):
            await ask(server, clip("en-3s-a").samples())
    except ConnectionClosed:
        pytest.fail("a refusal, not a closed socket")
    finally:
        server.stop()
