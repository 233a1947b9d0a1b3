"""Who speaks, through every path that takes a file: real servers, the real speaker model, real conversations."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlencode

import httpx
import pytest
from api_rig import DEPLOYMENT, model_server, speech, start_rig, words
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from babelrack.pairing import Final, ModelClient, StreamRequest
from speech import RATE, clip

pytest_plugins = ["api_pack"]

PULSE = {"language": "en", "diarize": "true", "word_timestamps": "true"}
PATHS = [
    ("/waves/v1/pulse/get_text", PULSE),
    ("/waves/v1/stt/", PULSE | {"model": "pulse"}),
    ("/v1/listen", {"language": "en", "diarize": "true", "timestamps": "true"}),
]
FILES = ["en-two-speakers", "en-two-speakers-b", "en-three-speakers"]


@pytest.fixture(scope="module")
def client(pack):
    with pack.client() as client:
        yield client


def ask(client, path, params, file):
    answer = client.post(path, params=params, content=speech(file), headers={"content-type": "audio/flac"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def speakers_of(name):
    """The number of each turn's speaker, counted as they are heard first."""
    numbers = {}
    return [numbers.setdefault(turn.speaker, len(numbers)) for turn in clip(name).turns]


def right_words(name, said):
    """How many words have the speaker of the turn that they are said in, and how many there are."""
    turns = list(zip(clip(name).turns, speakers_of(name), strict=True))
    right = 0
    for word in said:
        middle = (word["start"] + word["end"]) / 2
        near = min(turns, key=lambda each: max(each[0].start - middle, middle - each[0].end, 0.0))
        right += near[1] == word["speaker"]
    return right, len(said)


@pytest.mark.parametrize(("path", "params"), PATHS)
def test_each_path_says_who_says_each_word(client, path, params):
    answer = ask(client, path, params, "en-two-speakers")
    right, all_ = right_words("en-two-speakers", answer["words"])
    assert all_ > 50
    assert right >= all_ - 2
    assert all(0.0 <= word["speaker_confidence"] <= 1.0 for word in answer["words"])


@pytest.mark.parametrize("file", FILES)
def test_utterances_are_of_one_speaker_each_and_have_all_words(client, file):
    answer = ask(client, *PATHS[0], file)
    assert {word["speaker"] for word in answer["words"]} == set(speakers_of(file))
    changes = [u["speaker"] for u in answer["utterances"]]
    assert [s for i, s in enumerate(changes) if not i or changes[i - 1] != s] == speakers_of(file)
    assert words(" ".join(u["text"] for u in answer["utterances"])) == words(answer["transcription"])
    for utterance in answer["utterances"]:
        inside = {w["speaker"] for w in answer["words"] if utterance["start"] <= w["start"] < utterance["end"]}
        assert inside == {utterance["speaker"]}


def test_one_speaker_stays_one(client):
    answer = ask(client, *PATHS[0], "en-28s")
    assert {word["speaker"] for word in answer["words"]} == {0}
    assert {utterance["speaker"] for utterance in answer["utterances"]} == {0}


def test_what_is_merged_by_its_written_form_keeps_its_speaker(client):
    path, params = PATHS[0]
    answer = ask(client, path, params | {"redact_pci": "true", "itn_normalize": "true"}, "en-numbers")
    assert any("[CARDNUMBER_1]" in word["word"] for word in answer["words"])
    assert {word["speaker"] for word in answer["words"]} == {0}


def test_without_diarize_nothing_names_a_speaker(client):
    answer = ask(client, PATHS[0][0], {"language": "en", "word_timestamps": "true"}, "en-two-speakers")
    assert answer["words"]
    assert not any("speaker" in each or "speaker_confidence" in each for each in answer["words"] + answer["utterances"])
    listened = ask(client, "/v1/listen", {"language": "en", "timestamps": "true"}, "en-3s-a")
    assert not any("speaker" in word for word in listened["words"])


def test_speakers_without_words_have_no_effect_and_the_answer_says_so(client):
    answer = ask(client, PATHS[0][0], {"language": "en", "diarize": "true"}, "en-3s-a")
    assert answer["words"] == answer["utterances"] == []
    assert [warning for warning in answer["warnings"] if "word_timestamps=true" in warning]


def test_silence_has_no_speakers(client):
    answer = ask(client, *PATHS[0], "en-silence-3s")
    assert answer["words"] == answer["utterances"] == []


async def live(rig, file, **params):
    """The finals of a conversation that is streamed about as fast as it can be read."""
    url = f"ws://127.0.0.1:{rig.api.port}/waves/v1/pulse/get_text?{urlencode({'language': 'en'} | params)}"
    pcm = clip(file).samples().tobytes()
    async with connect(url, additional_headers=rig.headers, proxy=None, open_timeout=60) as socket:

        async def send():
            for start in range(0, len(pcm), 16_000):
                await socket.send(pcm[start : start + 16_000])
            await socket.send('{"type": "close_stream"}')

        sending = asyncio.create_task(send())
        events = [json.loads(message) async for message in socket]
        await sending
    return [event for event in events if event.get("is_final")]


@pytest.mark.parametrize("file", ["en-two-speakers", "en-three-speakers"])
async def test_a_live_session_knows_its_speakers_again(pack, file):
    finals = await live(pack, file, diarize="true", word_timestamps="true", sentence_timestamps="true")
    words_said = [word for final in finals for word in final["words"]]
    assert len(finals) > 1
    right, all_ = right_words(file, words_said)
    assert right >= 0.85 * all_ > 30
    for final in finals:
        assert {u["speaker"] for u in final["utterances"]} == {word["speaker"] for word in final["words"]}


async def test_a_stream_that_goes_on_knows_the_speakers_of_before(pack):
    conversation = clip("en-two-speakers")
    samples, turns = conversation.samples(), conversation.turns
    client = ModelClient(pack.model.url, DEPLOYMENT)
    wanted = {"request_id": "t", "deployment": DEPLOYMENT, "language": "en", "words": True, "diarize": True}

    async def stream(samples, **more):
        async with client.stream(StreamRequest(**wanted, **more)) as session:
            pcm = samples.tobytes()
            for start in range(0, len(pcm), 16_000):
                await session.send(pcm[start : start + 16_000])
            await session.end()
            return [event async for event in session if isinstance(event, Final)]

    before = await stream(samples)
    # The second speaker alone, who would be the first without those of before.
    second = samples[int((turns[1].start - 0.2) * RATE) : int((turns[1].end + 0.2) * RATE)]
    alone = await stream(second)
    after = await stream(second, voices=before[-1].voices)
    await client.aclose()
    assert {word.speaker for final in alone for word in final.words} == {0}
    assert {word.speaker for final in after for word in final.words} == {1}
    assert len(before[-1].voices.counts) == len(after[-1].voices.counts) == 2


async def test_a_live_session_without_diarize_names_no_speaker(pack):
    finals = await live(pack, "en-3s-a", word_timestamps="true")
    assert not any("speaker" in word for final in finals for word in final["words"])


def test_a_deployment_without_a_speaker_model_says_which_setting_it_lacks(tmp_path):
    rig = start_rig(tmp_path, model=model_server(tmp_path / "model", SPEAKER_MODEL_URL=""))
    try:
        with rig.client() as client:
            for path, params in PATHS:
                answer = client.post(path, params=params, content=speech("en-3s-a"))
                assert answer.status_code == 400
                assert "speaker_model" in answer.text
                assert "SPEAKER_MODEL_URL" in answer.text
            assert ask(client, PATHS[0][0], {"language": "en", "diarize": "false"}, "en-3s-a")["transcription"]
        with pytest.raises(InvalidStatus) as refused:
            asyncio.run(live(rig, "en-3s-a", diarize="true", word_timestamps="true"))
        assert refused.value.response.status_code == 400
        assert httpx.get(f"{rig.model.url}/health", trust_env=False).json()["features"] == []
    finally:
        rig.stop()
