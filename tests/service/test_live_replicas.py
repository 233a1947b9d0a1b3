"""Live sessions and the pack's Redis: watched from any replica, going on at another one, and well without it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager

import httpx
import pytest
import redis
from license_rig import PATIENCE
from live_rig import SECOND, LiveRig, eventually
from redis_rig import PASSWORD
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from babelrack.pairing import Voices


@pytest.fixture(scope="module")
def live_rig(tmp_path_factory):
    rig = LiveRig(tmp_path_factory.mktemp("r"))
    rig.other = rig.replica()
    yield rig
    rig.stop()


@pytest.fixture
def rig(live_rig):
    live_rig.reset()
    return live_rig


def headers(rig, key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {rig.keys[key]}"}


def what_redis_has(rig, session_id: str) -> dict[str, bytes]:
    with redis.Redis(unix_socket_path=str(rig.redis.socket), password=PASSWORD) as client:
        names = [name for name in client.keys("*") if session_id.encode() in name]
        return {
            name.decode(): b"".join(client.lrange(name, 0, -1)) if client.type(name) == b"list" else client.get(name)
            for name in names
        }


def health(server) -> dict:
    return httpx.get(f"{server.url}/health", trust_env=False, timeout=PATIENCE).json()


async def told(rig, session_id: str, text: str) -> None:
    """Wait until Redis knows of it."""
    await eventually(lambda: any(text.encode() in value for value in what_redis_has(rig, session_id).values()))


async def refused(rig, key: str, **options) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(rig.url(at=rig.other, **options), additional_headers=headers(rig, key), proxy=None):
            pass
    return refusal.value.response.status_code


async def test_an_operator_watches_a_session_from_another_replica_and_nobody_else_does(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        session = (await live.hear())["session_id"]
        await told(rig, session, "word1")
        address = f"{rig.other.url}/waves/v1/stt/live/{session}"
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            assert (await client.get(address)).status_code == 401
            answer = await client.get(address, headers=headers(rig, "key"))
            assert (answer.status_code, answer.json()["status"]) == (403, "error")
            missing = await client.get(address[:-4] + "0000", headers=headers(rig, "operator"))
            assert missing.status_code == 404
            async with client.stream("GET", address, headers=headers(rig, "operator")) as watch:
                assert watch.headers["content-type"].startswith("text/event-stream")
                lines = watch.aiter_lines()
                assert await anext(lines) == ": watching"
                await live.tell("finalize")
                final = await live.until(lambda event: event["is_final"])
                await live.send(SECOND)
                partial = await live.hear()
                (last,) = await live.close()
                seen = [line async for line in lines if line.startswith(("data", "event"))]
    assert [json.loads(line[6:]) for line in seen[:-2]] == [final, partial, last]
    assert seen[-2:] == ["event: end", "data: {}"]


async def test_the_speakers_of_a_session_go_on_with_it_and_their_voices_are_told_to_no_client(rig):
    voices = Voices(model="m", means="AAAA", counts=(2.0,))

    async def diarizing(talk):
        await talk.heard(1)
        await talk.final(" one", end=1.0, voices=voices)
        await talk.until(lambda: talk.ended)

    rig.model.script = diarizing
    options = {"diarize": "true", "word_timestamps": "true"}
    async with rig.session(**options) as live:
        await live.send(SECOND)
        final = await live.hear()
        assert "voices" not in final
        assert (await rig.talk()).request.voices is None
        await told(rig, final["session_id"], "AAAA")
        live.connection.transport.abort()
    async with rig.session(at=rig.other, session_id=final["session_id"], received=1) as again:
        await again.hear()
        talk = await rig.talk(1)
        assert (talk.request.diarize, talk.request.voices) == (True, voices)


async def test_a_session_whose_replica_is_killed_goes_on_at_another(rig):
    dying = rig.replica()
    async with rig.session(at=dying, full_transcript="true", word_timestamps="true") as live:
        for _ in range(2):
            await live.send(SECOND)
            await live.hear()
            await live.tell("finalize")
            await live.hear()
        await live.send(SECOND)
        partial = await live.hear()
        session = partial["session_id"]
        await told(rig, session, "word3")
        dying.kill()
        await live.rest()
        assert live.code == 1006
    # The client has missed the last final and what came after it.
    options = {"session_id": session, "received": 3}
    async with rig.session(at=rig.other, **options) as again:
        resumed, *missed = [await again.hear() for _ in range(3)]
        assert resumed == {"type": "session_resumed", "session_id": session, "audio_from": 2.0, "received": 3}
        assert missed == live.events[3:]
        talk = await rig.talk(-1)
        await eventually(lambda: len(rig.model.talks) == 2)
        talk = rig.model.talks[-1]
        assert talk.request.start_s == 2.0
        assert talk.request.words
        await again.send(SECOND * 2)
        (last,) = (await again.close())[-1:]
    assert last["full_transcript"] == "word1 word2 word1 word2"
    assert last["is_last"]
    assert last["words"][0]["start"] >= 2.0
    await eventually(lambda: not what_redis_has(rig, session))


LIVE = """
import sys
from pathlib import Path
from babelrack.cli import live
from babelrack.client import TranscriptionError
live._BREAK_S = float(sys.argv[3])
try:
    live.transcribe(live.Source(live.STDIN), sys.argv[1], Path(sys.argv[2]).read_text(), "en", as_json=True)
except TranscriptionError as error:
    sys.exit(str(error))
"""


@asynccontextmanager
async def speaking(rig, server, tmp_path, break_s: float = 30.0):
    """`transcribe --live` that has said two seconds and seen both words; what it saw last comes with it."""
    key = tmp_path / "key"
    key.write_text(rig.keys["key"])
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIVE, server.url, key, str(break_s), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        client.stdin.write(SECOND * 2)
        async with asyncio.timeout(PATIENCE):
            while "word2" not in (event := json.loads(await client.stdout.readline()))["transcript"]:
                pass
        await told(rig, event["session_id"], "word2")
        yield client, event
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()


@pytest.mark.parametrize(("how", "final_s"), [(signal.SIGKILL, 0.0), (signal.SIGTERM, 2.0)], ids=["killed", "stopped"])
async def test_the_command_goes_on_by_itself_and_no_sample_is_lost_or_said_twice(rig, how, final_s, tmp_path):
    server = rig.replica()
    async with speaking(rig, server, tmp_path) as (client, event):
        await asyncio.to_thread(server.stop, how)
        client.stdin.write(SECOND * 2)
        client.stdin.close()
        assert b"goes on" in await client.stderr.readline()
        await asyncio.to_thread(server.start)
        out, complaint = await asyncio.wait_for(client.communicate(), PATIENCE)
    assert (client.returncode, complaint) == (0, b"")
    first, again = rig.model.talks
    assert (first.seconds, again.request.start_s, again.seconds) == (2.0, final_s, 4.0 - final_s)
    *_, last = map(json.loads, out.splitlines())
    assert last["is_last"]
    assert last["session_id"] == event["session_id"]


async def test_the_command_says_in_one_sentence_that_nobody_takes_its_session_on(rig, tmp_path):
    server = rig.replica()
    async with speaking(rig, server, tmp_path, break_s=1.5) as (client, _):
        await asyncio.to_thread(server.kill)
        _, complaint = await asyncio.wait_for(client.communicate(), PATIENCE)
    assert client.returncode == 1
    note, sentence = complaint.decode().splitlines()
    assert "goes on" in note
    assert sentence.startswith("The connection was lost, and the session didn't go on: The connection to")


async def test_a_session_is_told_apart_by_its_key_and_is_forgotten_when_it_is_closed(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        session = (await live.hear())["session_id"]
        await told(rig, session, "word1")
        assert await refused(rig, "other", session_id=session) == 404
        assert await refused(rig, "key", session_id="0" * 32) == 404
        await live.close()
    await eventually(lambda: not what_redis_has(rig, session))
    assert await refused(rig, "key", session_id=session) == 404


async def test_a_session_that_goes_on_elsewhere_is_let_go_by_the_replica_that_had_it(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        session = (await live.hear())["session_id"]
        await told(rig, session, "word1")
        async with rig.session(at=rig.other, session_id=session, received=1, audio_from=0.5) as again:
            assert (await again.hear())["audio_from"] == 0.5
            await live.send(SECOND)
            *_, error = await live.rest()
            assert error["error_code"] == "TAKEN"
            assert live.code != 1000
            assert (await again.close())[-1]["is_last"]


async def test_numbers_of_entities_go_on_and_redis_never_has_what_was_redacted(rig):
    async def first(talk):
        await talk.final(" Call 212 555 0147 now.")
        await talk.partial(" My card is 4111 11")
        await talk.until(lambda: False)

    async def second(talk):
        await talk.until(lambda: talk.ended)
        await talk.final(" Call 415 555 0199, or 2125550147.", "end")

    rig.model.script = first
    async with rig.session(redact_pii="true", redact_pci="true") as live:
        await live.send(SECOND)
        assert (await live.hear())["transcript"] == "Call [PHONENUMBER_1] now."
        session = live.events[0]["session_id"]
        await told(rig, session, "PHONENUMBER_1")
        kept = b"".join(what_redis_has(rig, session).values())
        assert b"555" not in kept
        assert b"4111" not in kept
        live.connection.transport.abort()
    rig.model.script = second
    async with rig.session(at=rig.other, session_id=session, received=1) as again:
        await again.hear()
        *_, last = await again.close()
    assert last["transcript"] == "Call [PHONENUMBER_2], or [PHONENUMBER_1]."
    assert "warnings" not in last


async def test_what_is_kept_ends_by_itself(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        session = (await live.hear())["session_id"]
        await told(rig, session, "word1")
        with redis.Redis(unix_socket_path=str(rig.redis.socket), password=PASSWORD) as client:
            for name in what_redis_has(rig, session):
                assert 0 < client.pttl(name) <= 30_000
        await live.close()


async def test_a_session_outlives_redis_and_can_be_resumed_again_when_it_is_back(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        session = (await live.hear())["session_id"]
        await told(rig, session, "word1")
        rig.redis.kill()
        await live.tell("finalize")
        assert (await live.hear())["from_finalize"]
        await eventually(lambda: "can't be watched" in health(rig.api).get("reason", ""))
        assert health(rig.api)["status"] == "degraded"
        assert await refused(rig, "key", session_id=session) == 503
        answer = httpx.get(
            f"{rig.api.url}/waves/v1/stt/live/{session}", headers=headers(rig, "operator"), trust_env=False
        )
        assert answer.status_code == 503
        rig.redis.start()
        await eventually(lambda: health(rig.api)["status"] == "healthy")
        await eventually(lambda: health(rig.other)["status"] == "healthy")
        await told(rig, session, "word1")
        live.connection.transport.abort()
    async with rig.session(at=rig.other, session_id=session, received=1) as again:
        assert (await again.hear())["audio_from"] == 1.0
        assert (await again.hear())["from_finalize"]
        assert (await again.close())[-1]["is_last"]


async def test_a_redis_that_hangs_holds_no_partial_up(rig):
    async with rig.session() as live:
        await live.send(SECOND)
        await live.hear()
        rig.redis.signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            for _ in range(20):
                await live.send(SECOND)
                await live.hear()
            slowest = time.monotonic() - begun
            (last,) = await live.close()
        finally:
            rig.redis.signal(signal.SIGCONT)
    assert last["is_last"]
    assert slowest < PATIENCE
    await eventually(lambda: health(rig.api)["status"] == "healthy")
