"""The wire contract of live sessions, message by message, over real sockets and a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sqlite3
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from api_rig import speech
from live_rig import SECOND, LiveRig, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from babelrack.audio.decode import decode_file
from babelrack.pairing import Refusal

ROOT = Path(__file__).parents[2]
CONNECTS = 10_000


@pytest.fixture(scope="module")
def live_rig(tmp_path_factory):
    rig = LiveRig(tmp_path_factory.mktemp("live"), {"LIVE_IDLE_SECONDS": "4"})
    yield rig
    rig.stop()


@pytest.fixture
def rig(live_rig):
    live_rig.reset()
    return live_rig


async def refused(url, **headers) -> tuple[int, dict]:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(url, additional_headers=headers, proxy=None):
            pass
    response = refusal.value.response
    assert response.headers["x-request-id"]
    return response.status_code, json.loads(response.body)


async def test_partials_finals_and_the_last_word_are_as_the_wire_has_them(rig):
    async with rig.session("/waves/v1/stt/live", model="pulse") as live:
        await live.send(SECOND)
        partial = await live.hear()
        session = partial["session_id"]
        assert live.connection.response.headers["x-session-id"] == session
        same = {"type": "transcription", "status": "success", "session_id": session, "is_last": False}
        same |= {"language": "en", "languages": ["en"], "words": [], "utterances": []}
        text = {"transcript": "word1", "transcription": "word1"}
        assert partial == same | text | {"is_final": False, "from_finalize": False}
        await live.tell("finalize")
        assert await live.hear() == same | text | {"is_final": True, "from_finalize": True}
        await live.send(SECOND)
        assert (await live.hear())["transcript"] == "word2"
        (last,) = await live.close()
        text = {"transcript": "word2", "transcription": "word2"}
        assert last == same | text | {"is_final": True, "from_finalize": False, "is_last": True}
        assert (live.code, live.reason) == (1000, "")


@pytest.mark.parametrize("path", ["/waves/v1/pulse/get_text", "/v1/listen", "/v1/listen/stream"])
@pytest.mark.parametrize("closing", ["close_stream", "end", "CloseStream"])
async def test_every_path_serves_sessions_and_takes_every_client_s_closing(rig, path, closing):
    async with rig.session(path) as live:
        await live.send(SECOND)
        await live.hear()
        await live.tell(closing)
        events = await live.rest()
        assert [(event["transcript"], event["is_last"]) for event in events] == [("word1", True)]
        assert live.code == 1000


async def test_a_session_in_which_nothing_is_said_has_one_last_empty_word(rig):
    async with rig.session() as live:
        await live.tell("finalize")
        assert (await live.hear())["from_finalize"]
        assert [(event["transcript"], event["is_last"]) for event in await live.close()] == [("", True)]


@pytest.mark.parametrize(
    ("path", "options", "status", "said"),
    [
        ("/waves/v1/stt/live", {}, 400, "the right value is pulse"),
        ("/waves/v1/stt/live", {"model": "pulse-pro"}, 400, "pulse"),
        ("/waves/v1/pulse/get_text", {"encoding": "mp3"}, 400, "encoding takes linear16"),
        ("/waves/v1/pulse/get_text", {"sample_rate": "11025"}, 400, "8000, 16000, 22050, 24000, 44100 or 48000"),
        ("/waves/v1/pulse/get_text", {"eou_timeout_ms": "99"}, 400, "100 to 10000"),
        ("/waves/v1/pulse/get_text", {"max_words": "0"}, 400, "max_words"),
        ("/waves/v1/pulse/get_text", {"vad_events": "yes"}, 400, "true or false"),
        ("/waves/v1/pulse/get_text", {"external_session_id": "a b"}, 400, "A-Z a-z 0-9"),
        ("/waves/v1/pulse/get_text", {"external_session_id": "a" * 129}, 400, "128"),
        ("/waves/v1/pulse/get_text", {"language": "fr"}, 400, "is not served by the pack"),
        ("/waves/v1/pulse/get_text", {"session_id": "../x"}, 400, "session_id"),
        ("/waves/v1/nothing", {}, 404, "no WebSocket"),
    ],
)
async def test_what_is_wrong_with_a_handshake_is_told_before_the_upgrade(rig, path, options, status, said):
    found, body = await refused(rig.url(path, **options), Authorization=f"Token {rig.keys['key']}")
    assert found == status
    assert body["status"] == "error"
    assert said in body["message"]


async def test_a_handshake_needs_a_key_and_a_browser_s_way_to_send_one_is_taken(rig):
    assert await refused(rig.url()) == (401, {"message": "Unauthorized: No tokens provided"})
    assert await refused(rig.url(), Authorization="Bearer nobody") == (401, {"error": "unauthorized"})
    async with connect(rig.url(), subprotocols=["token", rig.keys["key"]], proxy=None) as connection:
        assert connection.subprotocol == "token"
    with pytest.raises(InvalidStatus):
        async with connect(rig.url(), subprotocols=["token", "nobody"], proxy=None):
            pass


async def test_a_handshake_as_long_as_ten_thousand_keywords_fits(rig):
    async with rig.session(unknown="x" * 60_000) as live:
        assert (await live.close())[-1]["is_last"]


async def test_options_reach_the_model_server(rig):
    options = {"endpointing": "false", "eou_timeout_ms": "500", "max_words": "7", "word_timestamps": "true"}
    async with rig.session(**options):
        request = (await rig.talk()).request
    assert (request.endpointing, request.eou_timeout_ms, request.max_words) == (False, 500, 7)
    assert (request.bounded, request.words, request.start_s) == (True, True, 0)
    rig.reset()
    async with rig.session(finalize_on_words="false", max_words="7"):
        request = (await rig.talk()).request
    assert (request.max_words, request.bounded, request.words) == (None, False, False)


def encoded(encoding: str, rate: int) -> bytes:
    """A clip as a client would send it."""
    codec = {"linear16": "pcm_s16le", "linear32": "pcm_s32le", "alaw": "pcm_alaw", "mulaw": "pcm_mulaw"}
    form, codec = {"opus": ("webm", "libopus"), "ogg_opus": ("ogg", "libopus")}.get(
        encoding, ({"linear16": "s16le", "linear32": "s32le"}.get(encoding, encoding), codec.get(encoding))
    )
    file = io.BytesIO()
    with av.open(io.BytesIO(speech("en-3s-a"))) as source, av.open(file, "w", format=form) as target:
        stream = target.add_stream(codec, rate=rate, layout="mono")
        into = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate)
        fifo = av.AudioFifo()
        for frame in source.decode(audio=0):
            for each in into.resample(frame):
                fifo.write(each)
        for each in into.resample(None):
            fifo.write(each)
        while piece := fifo.read(rate // 50, partial=True):
            piece.pts = None
            target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    return file.getvalue()


def opus_packets(layout: str, milliseconds: int) -> list[bytes]:
    """The same clip as the packets that a WebRTC client has."""
    with av.open(io.BytesIO(speech("en-3s-a"))) as source:
        encoder = av.CodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.layout, encoder.format = 48_000, layout, "s16"
        encoder.options = {"frame_duration": str(milliseconds)}
        into = av.AudioResampler(format="s16", layout=layout, rate=48_000, frame_size=48 * milliseconds)
        frames = [each for frame in source.decode(audio=0) for each in into.resample(frame)] + into.resample(None)
        return [bytes(packet) for frame in [*frames, None] for packet in encoder.encode(frame)]


RATES = [("linear16", rate) for rate in (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)]


@pytest.mark.parametrize(
    ("encoding", "rate"),
    [*RATES, ("linear32", 24_000), ("alaw", 8_000), ("mulaw", 8_000), ("opus", 48_000), ("ogg_opus", 48_000)],
)
async def test_every_encoding_and_rate_arrives_as_what_was_said(rig, encoding, rate):
    audio = encoded(encoding, rate)
    async with rig.session(encoding=encoding, sample_rate=rate) as live:
        for start in range(0, len(audio), 999):
            await live.send(audio[start : start + 999])
        await live.close()
    assert_is_what_was_said(bytes(rig.model.talks[0].audio))


@pytest.mark.parametrize(("layout", "milliseconds"), [("mono", 20), ("stereo", 20), ("mono", 60), ("mono", 5)])
async def test_bare_opus_packets_are_heard_as_they_come(rig, layout, milliseconds):
    packets = opus_packets(layout, milliseconds)
    async with rig.session(encoding="opus") as live:
        talk = await rig.talk()
        for packet in packets[: len(packets) // 2]:
            await live.send(packet)
        await eventually(lambda: talk.seconds > 1.2)
        await live.send(b"")
        for packet in packets[len(packets) // 2 :]:
            await live.send(packet)
        await live.close()
    assert live.code == 1000
    # The encoder here drops what doesn't fill a packet.
    assert_is_what_was_said(bytes(talk.audio), 0.03 + milliseconds / 1000)


def assert_is_what_was_said(pcm: bytes, missing_s: float = 0.03) -> None:
    heard = np.frombuffer(pcm, "<i2").astype(float)
    said = decode_file(ROOT / "tests/fixtures/speech/en-3s-a.flac").astype(float)
    assert abs(len(heard) - len(said)) < 16_000 * missing_s
    # A codec may begin some samples early or late; what is said must be there all the same.
    windows = [np.corrcoef(heard[400 + lag : 32_000 + lag], said[400:32_000])[0, 1] for lag in range(-400, 400)]
    assert max(windows) > 0.9


async def test_audio_in_a_container_is_heard_while_it_is_spoken_and_before_a_finalize(rig):
    audio = encoded("opus", 48_000)
    async with rig.session(encoding="opus") as live:
        talk = await rig.talk()
        await live.send(audio[: len(audio) // 2])
        await eventually(lambda: talk.seconds > 0.8)
        await live.send(audio[len(audio) // 2 :])
        await live.tell("finalize")
        await live.until(lambda event: event["from_finalize"])
        assert talk.seconds > 2.4
        await live.close()


async def test_nothing_of_an_entity_is_shown_before_it_is_redacted_and_its_token_is_stable(rig):
    async def script(talk):
        said = " My number is 987 654 3210 and the name is Jane."
        for end in range(1, len(said) + 1):
            await talk.partial(said[:end])
        await talk.final(said)
        await talk.final(" Call 212 555 0147, or 9876543210.")
        await talk.until(lambda: talk.ended)
        await talk.final("", "end")

    rig.model.script = script
    async with rig.session(redact_pii="true", full_transcript="true") as live:
        events = await live.close()
    partials = [event["transcript"] for event in events if not event["is_final"]]
    assert partials
    for event in events:
        said = json.dumps(event | {"session_id": ""})
        assert not any(digit in said for digit in ("98", "654", "321", "555", "0147")), event
    assert any("[PHONENUMBER_1]" in partial for partial in partials)
    assert live.finals == [
        "My number is [PHONENUMBER_1] and the name is Jane.",
        "Call [PHONENUMBER_2], or [PHONENUMBER_1].",
        "",
    ]
    assert [event["warnings"] for event in events if "warnings" in event] == [
        ["redact_pii doesn't find names and postal addresses; they are in the text as they were said."]
    ]


@pytest.mark.parametrize("cause", ["endpoint", "max_words", "length"])
async def test_an_entity_that_is_said_across_two_finals_is_redacted_as_one(rig, cause):
    async def script(talk):
        await talk.final(" The card is 4111 1111", cause, end=1.0)
        await talk.partial(" 1111 1111 thanks")
        await talk.final(" 1111 1111 thanks a lot.", "endpoint", start=2.0, end=3.0)
        await talk.until(lambda: talk.ended)
        await talk.final("", "end")

    rig.model.script = script
    async with rig.session(redact_pci="true", word_timestamps="true") as live:
        events = await live.close()
    assert "1111" not in json.dumps(events)
    said = [text for text in live.finals if text]
    assert " ".join(said) == "The card is [CARDNUMBER_1] thanks a lot."
    words = [word for event in events for word in event["words"]]
    assert [word["word"] for word in words] == ["The", "card", "is", "[CARDNUMBER_1]", "thanks", "a", "lot."]
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)


async def test_digits_that_wait_for_more_are_said_when_nothing_more_comes(rig):
    async def script(talk):
        await talk.final(" It costs 4111 11", "endpoint", end=1.0)
        await talk.until(lambda: talk.ended)
        await talk.final("", "end")

    rig.model.script = script
    async with rig.session(redact_pci="true") as live:
        await live.until(lambda event: event["transcript"].endswith("11"))
        assert " ".join(live.finals) == "It costs 4111 11"
        await live.close()


async def test_the_full_transcript_is_the_finals_one_after_the_other(rig):
    async with rig.session(full_transcript="true", word_timestamps="true", sentence_timestamps="true") as live:
        for _ in range(3):
            await live.send(SECOND)
            await live.until(lambda event: not event["is_final"])
            await live.tell("finalize")
            final = await live.until(lambda event: event["is_final"])
            assert final["full_transcript"] == " ".join(live.finals)
            assert [word["word"] for word in final["words"]] == final["transcript"].split()
            assert [each["text"] for each in final["utterances"]] == [final["transcript"]]
        (last,) = await live.close()
        assert last["full_transcript"] == "word1 word2 word3"
    starts = [word["start"] for event in live.events for word in event["words"]]
    assert starts == sorted(starts)


async def test_numerals_are_for_finals(rig):
    async def script(talk):
        await talk.partial(" It is twenty five")
        await talk.final(" It is twenty five dollars.")
        await talk.until(lambda: talk.ended)
        await talk.final("", "end")

    rig.model.script = script
    async with rig.session(itn_normalize="true") as live:
        await live.close()
    assert [event["transcript"] for event in live.events] == ["It is twenty five", "It is $25.", ""]


@pytest.mark.parametrize("option", ["vad_events", "vad"])
async def test_speech_is_told_of_when_it_was_asked_for(rig, option):
    async def script(talk):
        await talk.started(1.84)
        await talk.partial(" yes")
        await talk.stopped(4.52)
        await talk.final(" Yes.")
        await talk.until(lambda: talk.ended)
        await talk.final("", "end")

    rig.model.script = script
    async with rig.session(**{option: "true"}) as live:
        events = await live.close()
    session = events[0]["session_id"]
    assert events[0] == {"type": "speech_started", "session_id": session, "timestamp": 1.84}
    assert events[2] == {"type": "speech_ended", "session_id": session, "timestamp": 4.52}
    async with rig.session() as live:
        assert {event["type"] for event in await live.close()} == {"transcription"}


async def test_a_key_s_and_the_server_s_and_the_model_server_s_limits_close_with_1008(rig):
    async with rig.session(key="one"), rig.session(key="one") as second:
        (error,) = await second.rest()
        assert (error["type"], error["status"]) == ("error", "error")
        assert second.code == 1008
        assert "may run 1 requests at once" in second.reason
    async with rig.session(key="one") as again:
        assert (await again.close())[-1]["is_last"]
    rig.model.refusal = Refusal(status=503, code="OVERLOADED", message="all is taken; try again", retry_after=2)
    async with rig.session() as live:
        await live.rest()
        assert (live.code, live.reason) == (1008, "all is taken; try again")
    rig.model.refusal = None
    sessions = [rig.session() for _ in range(8)]
    for session in sessions:
        await session.__aenter__()
    async with rig.session() as live:
        await live.rest()
        assert live.code == 1008
        assert "8 live sessions" in live.reason
    for session in sessions:
        await session.__aexit__(None, None, None)


async def test_a_key_over_its_minute_is_refused_before_the_upgrade(rig):
    async with rig.session(key="slow"):
        pass
    status, body = await refused(rig.url(), Authorization=f"Bearer {rig.keys['slow']}")
    assert status == 429
    assert body["error_code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("hello", "a text message is JSON"),
        ("[" * 3000, "a text message is JSON"),
        ('{"type": "sing"}', "finalize or close_stream"),
        ('{"type": ["finalize"]}', "finalize or close_stream"),
        ("42", "finalize or close_stream"),
        ("x" * 5000, "at most 4096 characters"),
        ("", "a text message is JSON"),
    ],
)
async def test_junk_is_answered_with_a_sentence_and_a_close(rig, frame, said):
    async with rig.session() as live:
        await live.connection.send(frame)
        (error,) = await live.rest()
        assert error["type"] == "error"
        assert said in error["message"]
        assert live.code == 1007
    assert "Traceback" not in rig.api.log


async def test_what_is_no_opus_and_what_is_too_large_ends_the_session(rig):
    async with rig.session(encoding="ogg_opus") as live:
        await live.send(os.urandom(4000))
        await live.tell("close_stream")
        (error,) = await live.rest()
        assert error["error_code"] == "UNDECODABLE"
        assert live.code == 1007
    async with rig.session(encoding="opus") as live:
        await live.send(opus_packets("mono", 20)[0])
        await live.send(os.urandom(100_000))
        (error,) = await live.rest()
        assert "no Opus packet" in error["message"]
        assert live.code == 1007
    async with rig.session() as live:
        await live.send(bytes(1024 * 1024 + 1))
        await live.rest()
        assert live.code == 1009
    assert "Traceback" not in rig.api.log


async def test_a_client_that_says_nothing_gets_its_last_transcript_and_a_reason(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        *_, last, error = await live.rest()
        assert (last["transcript"], last["is_final"], last["is_last"]) == ("word1", True, False)
        assert error["error_code"] == "IDLE"
        assert live.code == 1008
        assert "nothing was sent for 4 seconds" in live.reason


async def test_more_audio_than_a_session_may_have_ends_it_with_its_last_transcript(rig):
    server = rig.replica(MAX_LIVE_SECONDS="120")
    async with rig.session(encoding="mulaw", sample_rate=8000, at=server) as live:
        for _ in range(3):
            await live.send(bytes(50 * 8000))
        *_, last, error = await live.rest()
        assert last["transcript"].endswith("word150")
        assert error["error_code"] == "TOO_LONG"
        assert live.code == 1008
    server.kill()


async def test_a_lost_model_server_is_told_and_another_replica_is_named_as_the_way_on(rig):
    async def script(talk):
        await talk.heard(1)
        await talk.partial(" word")
        await talk._connection.close(1011)
        raise ConnectionError

    rig.model.script = script
    async with rig.session() as live:
        await live.send(SECOND)
        _, error = await live.rest()
        assert error["error_code"] == "MODEL_SERVER"
        assert "session_id" in error["message"]
        assert live.code == 1012


def open_things(process) -> tuple[int, int]:
    """Open descriptors and children of a process, its decoders' zygote's included."""
    pid = process.pid
    children = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            children += 1 + len(Path(f"/proc/{child}/task/{child}/children").read_text().split())
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), children


@pytest.mark.timeout(900)
async def test_vanishing_clients_leave_nothing_behind(rig):
    async def vanish(number: int) -> None:
        encoding = "ogg_opus" if number % 10 == 0 else "linear16"
        try:
            async with rig.session(encoding=encoding) as live:
                await live.send(encoded_opus if encoding == "ogg_opus" else SECOND)
                if number % 3:
                    live.connection.transport.abort()
        except (ConnectionClosed, InvalidStatus):
            pass

    encoded_opus = encoded("ogg_opus", 48_000)
    await vanish(0)
    await eventually(lambda: rig.model.open == 0)
    await asyncio.sleep(1)
    before = open_things(rig.api.process)
    for start in range(0, CONNECTS, 6):
        await asyncio.gather(*(vanish(start + number) for number in range(6)))
    await eventually(lambda: rig.model.open == 0)
    # Clients of Redis and of the licence proxy keep some connections, however many sessions there were.
    most = (before[0] + 16, before[1])
    await eventually(lambda: all(now <= bound for now, bound in zip(open_things(rig.api.process), most, strict=True)))
    metrics = httpx.get(f"{rig.api.url}/metrics", trust_env=False).text
    assert "api_live_sessions 0.0" in metrics
    assert "Traceback" not in rig.api.log


async def test_a_client_that_sends_faster_than_it_is_served_waits_and_its_going_is_noticed_then_too(rig):
    async def deaf(talk):
        talk.deaf = True
        await talk.until(lambda: talk.gone)

    rig.model.script = deaf
    async with rig.session() as live:
        talk = await rig.talk()
        sent = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while sent < 1500:
                    await live.send(SECOND)
                    sent += 1
        assert sent < 1500
        live.connection.transport.abort()
    await eventually(lambda: "api_live_sessions 0.0" in httpx.get(f"{rig.api.url}/metrics", trust_env=False).text)
    talk.deaf = False
    await eventually(lambda: talk.gone)


async def test_a_long_session_is_counted_as_it_goes_and_is_one_request(rig):
    server = rig.replica(LIVE_USAGE_SECONDS="1")
    async with rig.session(at=server, external_session_id="long-1") as live:
        await live.send(SECOND * 2)

        def counted():
            with sqlite3.connect(rig.proxy.database) as database:
                rows = database.execute("SELECT body FROM records").fetchall()
            return [row for (body,) in rows if (row := json.loads(body))["external_session_id"] == "long-1"]

        await eventually(counted)
        server.kill()  # what was counted stays
    assert [(row["audio_seconds"], row["requests"], row["status"]) for row in counted()] == [(2.0, 1, 200)]


async def test_usage_is_counted_once_with_the_client_s_own_id_and_that_is_never_echoed(rig):
    async with rig.session(external_session_id="call-42.a_b", key="other", full_transcript="true") as live:
        await live.send(SECOND * 3)
        await live.close()
        assert "call-42" not in json.dumps(live.events)

    def counted():
        with sqlite3.connect(rig.proxy.database) as database:
            rows = database.execute("SELECT body FROM records").fetchall()
        return [row for (body,) in rows if (row := json.loads(body))["external_session_id"] == "call-42.a_b"]

    await eventually(counted)
    (record,) = counted()
    assert (record["audio_seconds"], record["requests"], record["status"], record["key"]) == (3.0, 1, 200, "other")
    assert record["checkpoint"] == "indic-multi"
    assert set(record["features"]) == {"live", "full_transcript"}


async def test_the_log_has_neither_text_nor_query_nor_key(rig):
    async with rig.session(external_session_id="secret-id") as live:
        await live.send(SECOND)
        await live.close()
        session = live.events[0]["session_id"]
    log = rig.api.log
    assert "word1" not in log
    assert "secret-id" not in log
    assert rig.keys["key"] not in log
    assert "language=en" not in log
    assert session not in log
    assert '"endpoint": "/waves/v1/pulse/get_text", "status": 101' in log


async def test_a_server_that_stops_gives_every_session_its_last_transcript(rig):
    server = rig.replica()
    async with rig.session(at=server) as live, rig.session(at=server) as quiet:
        await live.send(SECOND)
        await live.hear()
        server.process.send_signal(signal.SIGTERM)
        (last,) = await live.rest()
        assert (last["transcript"], last["is_final"], last["is_last"]) == ("word1", True, False)
        assert (live.code, live.reason) == (1012, "this server is shutting down; connect again with session_id")
        await quiet.rest()
        assert quiet.code == 1012
    assert await asyncio.to_thread(server.process.wait, 60) == 0
