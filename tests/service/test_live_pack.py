"""Live sessions of a whole pack: the real model server, the official client, and a real gateway in front."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from dataclasses import dataclass

import jiwer
import pytest
from api_rig import ROOT, said, words
from live_rig import Live
from smallestai import AsyncSmallestAI, SmallestAI
from smallestai.environment import SmallestAIEnvironment
from smallestai.waves.helpers import stream_speech_to_text
from smallestai.waves.speech_to_text.types import CloseStream, FinalizeSignal
from test_gateway import children, running, wait_until, write_site
from websockets.asyncio.client import connect

from babelrack.audio.decode import decode_file

pytest_plugins = ["api_pack"]

FRAME = 3_200  # a tenth of a second


def pcm(name: str) -> bytes:
    return decode_file(ROOT / "tests" / "fixtures" / "speech" / f"{name}.flac").tobytes()


def error_rate(name: str, text: str) -> float:
    return jiwer.wer(" ".join(words(said(name))), " ".join(words(text)))


async def streamed(url: str, key: str, audio: bytes) -> Live:
    async with connect(url, additional_headers={"Authorization": f"Token {key}"}, proxy=None) as connection:
        live = Live(connection)
        for start in range(0, len(audio), FRAME):
            await live.send(audio[start : start + FRAME])
        await live.close()
        return live


@pytest.fixture
def url(pack) -> str:
    return f"ws://127.0.0.1:{pack.api.port}/waves/v1/pulse/get_text"


async def test_speech_is_transcribed_while_it_comes(pack, url):
    options = "language=multi-indic&full_transcript=true&word_timestamps=true&vad_events=true"
    live = await streamed(f"{url}?{options}", pack.key, pcm("en-11s-a"))
    assert live.code == 1000
    transcriptions = [event for event in live.events if event["type"] == "transcription"]
    finals = [event for event in transcriptions if event["is_final"]]
    assert [event["is_last"] for event in transcriptions] == [False] * (len(transcriptions) - 1) + [True]
    full = finals[-1]["full_transcript"]
    assert full == " ".join(text for text in live.finals if text)
    assert error_rate("en-11s-a", full) < 0.15
    assert {event["language"] for event in finals} == {"en"}
    spoken = [word for event in finals for word in event["words"]]
    assert [word["word"] for word in spoken] == full.split()
    times = [time for word in spoken for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 11.5
    assert live.events[0]["type"] == "speech_started"


def environment(pack) -> SmallestAIEnvironment:
    address = f"127.0.0.1:{pack.api.port}"
    return SmallestAIEnvironment(
        atoms=f"http://{address}", waves=f"http://{address}", waves_ws=f"ws://{address}", payment=f"http://{address}"
    )


def test_the_official_client_needs_another_base_url_and_nothing_else(pack):
    client = SmallestAI(api_key=pack.key, environment=environment(pack))
    audio = pcm("en-3s-a")
    heard = []
    with stream_speech_to_text(
        client, language="en", sample_rate=16000, punctuate=True, word_timestamps=True, vad_events=False, max_words=200
    ) as socket:
        for start in range(0, len(audio), FRAME):
            socket.send_audio_chunk_out(audio[start : start + FRAME])
        socket.send_finalize_signal(FinalizeSignal(type="finalize"))
        socket.send_close_stream(CloseStream(type="close_stream"))
        heard += list(socket)
    assert heard[-1].is_last
    finals = [event for event in heard if event.is_final]
    assert error_rate("en-3s-a", " ".join(event.transcript for event in finals)) < 0.15
    assert all(event.transcript == event.transcription for event in heard)
    assert [word.word for event in finals for word in event.words]
    assert any(event.from_finalize for event in finals)


async def test_the_official_asynchronous_client_is_served_too(pack):
    client = AsyncSmallestAI(api_key=pack.key, environment=environment(pack))
    async with stream_speech_to_text(client, language="en", full_transcript=True) as socket:
        await socket.send_audio_chunk_out(pcm("en-3s-b"))
        await socket.send_close_stream(CloseStream(type="close_stream"))
        heard = [event async for event in socket]
    assert heard[-1].is_last
    assert error_rate("en-3s-b", heard[-1].full_transcript) < 0.15


@dataclass
class Replica:
    pack: str
    port: int


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_a_session_through_the_gateway_outlives_its_reload(pack, tmp_path):
    site = write_site(tmp_path, {"indic": ("hi en", 1)})
    audio = pcm("en-3s-a")
    with running(site, tmp_path / "state", [Replica("indic", pack.api.port)]) as gateway:
        url = gateway.url.replace("http", "ws", 1) + "/waves/v1/stt/live?model=pulse&language=en"
        async with connect(url, subprotocols=["token", pack.key], proxy=None) as connection:
            live = Live(connection)
            await live.send(audio[: len(audio) // 2])
            old = children(gateway.process)
            gateway.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(wait_until, lambda: children(gateway.process) - old, "the new workers")
            await live.send(audio[len(audio) // 2 :])
            await live.close()
        assert error_rate("en-3s-a", " ".join(live.finals)) < 0.15
        logged = json.dumps(gateway.log())
        assert pack.key not in logged
