"""Live streams at a model server that runs: text, events in order, who may end an utterance, who gives way."""

import asyncio
import json
import signal

import httpx
import numpy as np
import pytest
from test_model_server import FRAME, Server, url
from websockets.asyncio.client import connect

from babelrack.pairing import (
    Failed,
    Final,
    Partial,
    Refused,
    SpeechEnded,
    SpeechStarted,
    StreamDone,
    StreamRequest,
)
from speech import RATE, clip, normalised, recording, score, silence


@pytest.fixture(scope="module")
def server(tmp_path_factory, checkpoint):
    model_url = ",".join([url(checkpoint), url(checkpoint, "spanish", "dedicated", "es")])
    running = Server(tmp_path_factory.mktemp("model-server"), model_url, STREAM_IDLE_SECONDS=3, MAX_QUEUE=0)
    yield running.wait()
    running.stop()


def request(**options):
    return StreamRequest(**{"request_id": "test", "deployment": "indic", "language": "en"} | options)


async def push(session, samples, *, end=True):
    pcm = samples.tobytes()
    for start in range(0, len(pcm), FRAME):
        await session.send(pcm[start : start + FRAME])
    if end:
        await session.end()


async def hear(server, samples, **options):
    """All events of a stream whose audio is there at once."""
    async with server.client.stream(request(**options)) as session:
        sending = asyncio.create_task(push(session, samples))
        events = [event async for event in session]
        await sending
    assert_in_order(events, samples, options.get("start_s", 0.0))
    return events


def assert_in_order(events, samples, start_s=0.0):
    """What holds for every stream, whatever is said in it."""
    end = start_s + len(samples) / RATE + 0.001
    assert events[-1] == StreamDone(duration=round(len(samples) / RATE, 3))
    assert finals(events)[-1].cause == "end"
    assert [final.utterance for final in finals(events)] == list(range(len(finals(events))))
    spoken = [event for event in events if isinstance(event, SpeechStarted | SpeechEnded)]
    assert [type(event) for event in spoken] == [SpeechStarted, SpeechEnded] * (len(spoken) // 2)
    assert [event.at for event in spoken] == sorted(event.at for event in spoken)
    stable, number, edges = "", 0, [start_s]
    for event in events:
        if not isinstance(event, Partial | Final):
            continue
        assert event.utterance == number
        assert event.text.startswith(stable)
        assert edges[-1] - 0.301 <= event.start <= event.end <= end
        stable = event.text[: event.stable] if isinstance(event, Partial) else ""
        if isinstance(event, Final):
            number += 1
            edges += [edge for word in event.words for edge in (word.start, word.end)]
            if event.words:
                assert "".join(word.word for word in event.words) == event.text
        else:
            assert event.text
    assert edges == sorted(edges)
    assert edges[-1] <= end


def finals(events):
    return [event for event in events if isinstance(event, Final)]


def text(events):
    return " ".join(final.text for final in finals(events) if final.text)


def speech(*parts):
    """Clips by name and silences by seconds, one after the other."""
    return np.concatenate([clip(part).samples() if isinstance(part, str) else silence(part) for part in parts])


async def test_utterances_come_with_partials_finals_and_the_times_of_their_words(server):
    samples = speech(0.5, "en-11s-b", 1.5, "en-3s-a", 1.5)
    events = await hear(server, samples, words=True, start_s=100.0)
    assert score([clip("en-11s-b").text + " " + clip("en-3s-a").text], [text(events)]).wer < 0.1
    assert [final.cause for final in finals(events)] == ["endpoint", "endpoint", "end"]
    assert finals(events)[-1].text == ""
    assert sum(isinstance(event, Partial) for event in events) >= 2
    assert sum(isinstance(event, SpeechStarted) for event in events) >= 2
    second = finals(events)[1]
    assert second.words[0].start == pytest.approx(100 + 0.5 + clip("en-11s-b").seconds + 1.5, abs=0.5)
    assert 0.5 < second.confidence <= 1
    assert (second.language, second.checkpoint) == ("en", "many")


async def test_speech_as_it_is_spoken_is_final_when_it_ends(server):
    """At the pace of speech: the first partial comes before the last word is said."""
    samples = speech("en-3s-b", 1.2)
    async with server.client.stream(request(eou_timeout_ms=500)) as session:

        async def speak():
            for start in range(0, len(samples), RATE // 10):
                await session.send(samples[start : start + RATE // 10].tobytes())
                await asyncio.sleep(0.1)
            spoken.append(True)
            await session.end()

        spoken, early, events = [], [], []
        speaking = asyncio.create_task(speak())
        async for event in session:
            events.append(event)
            if isinstance(event, Partial) and not spoken:
                early.append(event)
        await speaking
    assert_in_order(events, samples)
    assert early
    assert "window" in finals(events)[0].text
    assert finals(events)[0].cause == "endpoint"


async def test_a_minute_without_a_pause_is_cut_at_weak_moments_and_reads_like_the_file(server):
    long = recording(60, "en", pause_s=0.0)
    events = await hear(server, long.samples, words=True)
    assert score([long.text], [text(events)]).wer < 0.1
    assert {final.cause for final in finals(events)} <= {"length", "endpoint", "end"}
    assert max(final.end - final.start for final in finals(events)) < 30


async def test_without_a_bound_an_utterance_only_grows_and_its_words_keep_their_times(server):
    long = recording(22, "en", pause_s=0.3)
    events = await hear(server, long.samples, bounded=False, endpointing=False, words=True)
    (final,) = finals(events)
    assert score([long.text], [final.text]).wer < 0.1
    assert final.words[-1].end == pytest.approx(long.seconds - 0.3, abs=0.6)
    windows = [event.end for event in events if isinstance(event, Partial)]
    assert windows == sorted(windows)


async def test_each_finalize_is_answered_by_one_final_in_order(server):
    async with server.client.stream(request(endpointing=False)) as session:
        await session.finalize()
        await push(session, speech("en-3s-a", 0.2), end=False)
        await session.finalize()
        await session.finalize()
        await push(session, speech(2.0, "en-3s-b"))
        events = [event async for event in session]
    assert [final.cause for final in finals(events)] == ["finalize", "finalize", "finalize", "end"]
    nothing, first, again, last = (normalised(final.text) for final in finals(events))
    assert nothing == again == ""
    assert "library" in first
    assert "window" in last


async def test_as_many_words_as_were_asked_for_make_a_final(server):
    events = await hear(server, speech("en-11s-b", 1.0), max_words=5, words=True)
    assert score([clip("en-11s-b").text], [text(events)]).wer < 0.1
    full = [final for final in finals(events) if final.cause == "max_words"]
    assert len(full) >= 4
    assert all(len(final.words) == len(final.text.split()) == 5 for final in full)
    assert all(len(final.words) < 5 for final in finals(events) if final.cause != "max_words")


@pytest.mark.parametrize("name", ["en-silence-3s", "noise-3s", "tone-3s"])
async def test_what_is_no_speech_gives_an_empty_final_for_the_end_and_nothing_else(server, name):
    events = await hear(server, clip(name).samples())
    assert [type(event) for event in events if not isinstance(event, SpeechStarted | SpeechEnded)] == [
        Final,
        StreamDone,
    ]
    assert finals(events)[0].text == ""


async def test_nothing_at_all_ends_well(server):
    assert [type(event) for event in await hear(server, silence(0))] == [Final, StreamDone]


async def test_each_utterance_finds_its_language_and_the_checkpoint_for_it(server):
    events = await hear(server, speech("es-11s-a", 1.5, "en-11s-b", 1.5), language="multi-indic")
    spoken = [final for final in finals(events) if final.text]
    assert (spoken[0].language, spoken[0].checkpoint) == ("es", "spanish")
    assert (spoken[-1].language, spoken[-1].checkpoint) == ("en", "many")
    assert score([clip("es-11s-a").text + " " + clip("en-11s-b").text], [text(events)]).wer < 0.15


def measured(server, name):
    """A gauge, summed over the checkpoints."""
    metrics = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics", trust_env=False).text
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name + "{"))


async def test_a_client_that_vanishes_in_the_middle_frees_its_place_and_its_slot(server):
    async with server.client.stream(request()) as session:
        await push(session, clip("en-11s-b").samples(), end=False)
        async for event in session:
            if isinstance(event, Partial):
                assert measured(server, "asr_active_streams") == 1
                break
    async with asyncio.timeout(30):
        while measured(server, "asr_active_streams") or measured(server, "asr_windows_running"):
            await asyncio.sleep(0.05)
    await server.idle()


async def test_streams_past_the_places_are_refused_and_a_place_is_free_again_at_once(server):
    places = server.health().json()["checkpoints"][0]["concurrency"]
    async with asyncio.timeout(60):
        held = [server.client.stream(request()) for _ in range(places)]
        for stream in held:
            await stream.__aenter__()
        with pytest.raises(Refused) as refused:
            await hear(server, silence(0))
        assert (refused.value.code, refused.value.status) == ("OVERLOADED", 503)
        await held.pop().__aexit__(None, None, None)
        while measured(server, "asr_active_streams") == places:
            await asyncio.sleep(0.05)
        assert [type(event) for event in await hear(server, silence(0))] == [Final, StreamDone]
        for stream in held:
            await stream.__aexit__(None, None, None)
    await server.idle()


async def test_a_client_that_stalls_is_closed(server):
    async with server.client.stream(request()) as session:
        await push(session, silence(1.0), end=False)
        events = [event async for event in session]
    assert events == [Failed(code="IDLE", message="the client sent nothing for 3 s")]


@pytest.mark.parametrize("second", ["nonsense", b"\0" * 65_537, "{}"])
async def test_what_is_no_audio_ends_the_stream(server, second):
    async with connect(f"ws://127.0.0.1:{server.port}/v1/stream", proxy=None) as socket:
        await socket.send(request().model_dump_json())
        assert json.loads(await socket.recv())["type"] == "accepted"
        await socket.send(second)
        assert json.loads(await socket.recv())["code"] == "BAD_AUDIO"
    await server.idle()


async def test_a_server_that_drains_says_the_last_of_its_streams_and_takes_no_new_ones(tmp_path, checkpoint):
    server = Server(tmp_path, url(checkpoint)).wait()
    try:
        async with server.client.stream(request()) as session:
            await push(session, clip("en-3s-a").samples(), end=False)
            events = [await anext(session)]
            while not isinstance(events[-1], Partial):
                events.append(await anext(session))
            server.process.send_signal(signal.SIGTERM)
            events += [event async for event in session]
        assert_in_order(events, clip("en-3s-a").samples())
        assert "library" in finals(events)[-1].text
        assert server.process.wait(30) == 0
    finally:
        server.stop()
