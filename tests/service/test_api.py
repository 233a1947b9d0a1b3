"""The API as its users meet it: a real model server, a real checkpoint, real speech."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import httpx
import jiwer
import numpy as np
import openai
import pytest
from api_rig import AGGREGATOR, DEPLOYMENT, SPEECH, eventually, said, speech, words

from babelrack.audio.decode import decode_file
from speech import TimedWord, boundary_errors, encoded, silence
from speech import clip as speech_clip

pytest_plugins = ["api_pack"]

CLIP = "en-3s-a"
PULSE_PATHS = [
    ("/waves/v1/pulse/get_text", {}),
    ("/waves/v1/stt/", {"model": "pulse"}),
    ("/waves/v1/stt", {"model": "pulse"}),
]


def right(text: str, clip: str = CLIP) -> bool:
    return jiwer.wer(" ".join(words(said(clip))), " ".join(words(text))) <= 0.2


@pytest.fixture(scope="module")
def client(pack):
    with pack.client() as client:
        yield client


@pytest.fixture(scope="module")
def official(pack):
    with openai.OpenAI(base_url=f"{pack.api.url}/v1", api_key=pack.key, max_retries=0) as client:
        yield client


class Store(BaseHTTPRequestHandler):
    """A web server that has the clips, and every way to mislead a fetcher."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        kind, _, rest = path.strip("/").partition("/")
        match kind:
            case "clips":
                self.answer(200, speech(rest.removesuffix(".flac")))
            case "hops":
                self.redirect(f"/hops/{int(rest) - 1}" if int(rest) else f"/clips/{CLIP}.flac")
            case "to":
                self.redirect(unquote(query))
            case "gzip":
                self.answer(200, b"x", content_encoding="gzip")
            case "large":
                self.answer(200, b"x", length=250_000_001)
            case "endless":
                self.endless()
            case "short":
                self.answer(200, speech(CLIP)[:1000], length=100_000)
            case _:
                self.answer(404, b"")

    def answer(self, status, content, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def redirect(self, location):
        self.answer(302, b"", location=location)

    def endless(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(65_536))

    def log_message(self, *_arguments): ...


@pytest.fixture(scope="module")
def store():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("path", "query"), PULSE_PATHS)
def test_both_pulse_paths_answer_with_the_transcript_in_the_documented_shape(client, path, query):
    audio = speech(CLIP)
    answer = client.post(
        path, params={**query, "language": "en"}, content=audio, headers={"Content-Type": "audio/flac"}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert right(body.pop("transcription"))
    metadata = body.pop("metadata")
    assert body == {
        "status": "success",
        "words": [],
        "utterances": [],
        "language": "en",
        "request_id": answer.headers["x-request-id"],
    }
    assert metadata.keys() == {"duration", "fileSize", "processing_time_ms", "rtfx", "num_chunks"}
    assert metadata["duration"] == pytest.approx(2.686, abs=0.05)
    assert metadata["fileSize"] == len(audio)
    assert metadata["num_chunks"] == 1
    assert metadata["processing_time_ms"] > 0
    assert answer.headers["x-checkpoint"] == "indic-multi"


def near(found: list[dict], clip: str) -> bool:
    """Whether words that were heard right begin and end where they are said."""
    heard = [TimedWord(word["word"], word["start"], word["end"]) for word in found]
    errors = boundary_errors(speech_clip(clip).words, heard)
    return len(errors) > 1.6 * len(heard) and float(np.median(np.abs(errors))) < 0.08


@pytest.mark.parametrize(("path", "query"), PULSE_PATHS)
def test_word_timestamps_fill_words_and_utterances(client, path, query):
    query = {**query, "language": "en", "word_timestamps": "true"}
    body = client.post(path, params=query, content=speech("en-words")).json()
    assert near(body["words"], "en-words")
    assert all(word.keys() == {"word", "start", "end", "confidence"} for word in body["words"])
    assert all(0 < word["confidence"] <= 1 for word in body["words"])
    assert all(word["end"] <= body["metadata"]["duration"] for word in body["words"])
    assert " ".join(word["word"] for word in body["words"]) == body["transcription"]
    assert " ".join(utterance["text"] for utterance in body["utterances"]) == body["transcription"]
    assert len(body["utterances"]) == 2
    assert body["utterances"][0]["start"] == body["words"][0]["start"]
    assert body["utterances"][-1]["end"] == body["words"][-1]["end"]


def test_words_are_in_the_form_that_the_options_want(client):
    query = {"language": "en", "word_timestamps": "true", "format": "false"}
    body = client.post("/waves/v1/pulse/get_text", params=query, content=speech("en-words")).json()
    assert " ".join(word["word"] for word in body["words"]) == body["transcription"]
    assert body["transcription"] == body["transcription"].lower()
    assert not set(body["transcription"]) & set(".,?!")
    assert len(body["utterances"]) == 2


def test_words_of_a_long_file_have_the_times_of_the_file(client, tmp_path):
    pause = silence(3.0)
    parts = [part for _ in range(4) for part in (speech_clip("en-words").samples(), pause)]
    file = encoded(np.concatenate(parts), tmp_path / "long.flac")
    query = {"language": "en", "word_timestamps": "true"}
    body = client.post("/waves/v1/pulse/get_text", params=query, content=file.read_bytes()).json()
    assert body["metadata"]["num_chunks"] > 1
    edges = [edge for word in body["words"] for edge in (word["start"], word["end"])]
    assert edges == sorted(edges)
    each = speech_clip("en-words").seconds + 3.0
    for number in range(4):
        begin = number * each
        words = [word for word in body["words"] if begin <= word["start"] < begin + each]
        words = [{**word, "start": word["start"] - begin, "end": word["end"] - begin} for word in words]
        assert near(words, "en-words")


@pytest.mark.parametrize("query", [{}, {"language": AGGREGATOR}])
def test_without_a_language_the_pack_detects_among_its_own(client, query):
    body = client.post("/waves/v1/pulse/get_text", params=query, content=speech("en-11s-a")).json()
    assert body["language"] == "en"
    assert right(body["transcription"], "en-11s-a")


def test_a_language_is_answered_in_its_own_script(client):
    body = client.post("/waves/v1/pulse/get_text", params={"language": "ta"}, content=speech("ta-5s")).json()
    assert body["language"] == "ta"
    assert any("\u0b80" <= character <= "\u0bff" for character in body["transcription"])


@pytest.mark.parametrize(
    "form",
    [
        {"files": {"file": ("a.flac", speech(CLIP), "audio/flac")}},
        {"files": {"recording": ("a.flac", speech(CLIP))}},
        {"files": {"audio": (None, speech(CLIP), "audio/flac")}},
    ],
)
def test_a_form_with_one_audio_part_is_read_whatever_its_name(client, form):
    body = client.post("/waves/v1/pulse/get_text", params={"language": "en"}, **form).json()
    assert right(body["transcription"])


def test_an_option_in_the_form_is_refused_where_options_are_query_parameters(client):
    answer = client.post("/waves/v1/pulse/get_text", files={"file": ("a", speech(CLIP))}, data={"language": "hi"})
    assert answer.status_code == 400
    assert "language is a query parameter" in answer.json()["message"]


KEYWORDS = "Blackwell,Velcoria:2,Jensen Huang:2"


@pytest.mark.parametrize("path", ["/waves/v1/pulse/get_text", "/waves/v1/stt/?model=pulse", "/v1/listen"])
def test_a_name_that_is_missed_is_found_when_it_is_a_keyword(client, path):
    def ask(*, query=None, **how):
        answer = client.post(path, params=httpx.URL(path).params.merge({"language": "en", **(query or {})}), **how)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body.get("transcription", body.get("text"))

    form = {"files": {"audio": ("a.flac", speech("en-name"))}}
    assert "Velcoria" not in ask(content=speech("en-name"))
    assert "Velcoria" in ask(content=speech("en-name"), query={"keywords": KEYWORDS})
    many = ",".join([*(f"unsaid {n}" for n in range(9_999)), "Velcoria:3"])
    assert "Velcoria" in ask(**form, data={"keywords": many})
    answer = client.post(path, params={"keywords": KEYWORDS, "model": "pulse"}, **form, data={"keywords": KEYWORDS})
    assert answer.status_code == 400
    assert "keywords is given twice" in answer.json()["message"]


def test_format_punctuate_and_capitalize_are_applied(client):
    def ask(**query):
        answer = client.post("/waves/v1/pulse/get_text", params={"language": "en", **query}, content=speech(CLIP))
        return answer.json()["transcription"]

    written = ask()
    assert written.endswith(".")
    assert written[0].isupper()
    assert ask(punctuate="false") == written.rstrip(".")
    assert ask(capitalize="false") == written.lower()
    assert ask(format="false", punctuate="true") == written.lower().rstrip(".")


@pytest.mark.parametrize(("encoding", "dtype", "scale"), [("linear16", "<i2", 1), ("linear32", "<i4", 65_536)])
def test_headerless_audio_is_read_as_its_encoding_says(client, encoding, dtype, scale):
    bare = (decode_file(SPEECH / f"{CLIP}.flac").astype(np.int64) * scale).astype(dtype).tobytes()
    query = {"language": "en", "encoding": encoding, "sample_rate": 16_000}
    body = client.post("/waves/v1/pulse/get_text", params=query, content=bare).json()
    assert right(body["transcription"])
    assert body["metadata"]["duration"] == pytest.approx(2.686, abs=0.05)


def test_a_request_id_is_honoured_when_it_is_valid(client):
    path, query, audio = "/waves/v1/pulse/get_text", {"language": "en"}, speech(CLIP)
    given = client.post(path, params=query, content=audio, headers={"X-Request-Id": "call-42.a_b"})
    assert given.headers["x-request-id"] == given.json()["request_id"] == "call-42.a_b"
    invalid = client.post(path, params=query, content=audio, headers={"X-Request-Id": "a b"})
    assert invalid.headers["x-request-id"] not in ("a b", "call-42.a_b")


@pytest.mark.parametrize("path", ["/waves/v1/pulse/get_text", "/waves/v1/stt/?model=pulse", "/v1/listen"])
def test_a_url_is_fetched_and_its_file_named(client, store, path):
    answer = client.post(path, json={"url": f"{store}/clips/{CLIP}.flac?signature=x"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    if path != "/v1/listen":
        assert body["metadata"]["filename"] == f"{CLIP}.flac"
        assert body["metadata"]["fileSize"] == len(speech(CLIP))


def test_five_redirects_are_followed_and_six_are_not(client, store):
    ask = partial(client.post, "/waves/v1/pulse/get_text")
    assert ask(json={"url": f"{store}/hops/4"}).status_code == 200
    refused = ask(json={"url": f"{store}/hops/5"})
    assert refused.status_code == 400
    assert "more than 5 times" in refused.json()["message"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/to?http://169.254.169.254/latest/meta-data", "may not fetch from"),
        ("/to?http://10.0.0.1/", "may not fetch from"),
        ("/to?http://[::1]/", "may not fetch from"),
        ("/to?file:///etc/passwd", "not http"),
        ("/to?", "without a location"),
        ("/nothing", "answered 404"),
        ("/gzip", "compressed"),
        ("/large", "larger than 250 MB"),
        ("/endless", "larger than 250 MB"),
        ("/short", "broke off"),
    ],
)
def test_a_url_that_misleads_is_a_400_with_a_sentence(client, store, path, why):
    answer = client.post("/waves/v1/pulse/get_text", json={"url": f"{store}{path}"})
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["message"]
    assert answer.json()["status"] == "error"


def test_a_url_that_is_too_large_is_a_413_on_the_unified_path(client, store):
    assert client.post("/waves/v1/stt/?model=pulse", json={"url": f"{store}/large"}).status_code == 413


@pytest.mark.parametrize(
    "how",
    [
        {"files": {"audio": ("a.flac", speech(CLIP))}, "data": {"language": "en", "punctuate": "false"}},
        {"content": speech(CLIP), "params": {"language": "en", "punctuate": "false"}},
        {"files": {"audio": ("a.flac", speech(CLIP))}, "params": {"language": "en"}, "data": {"punctuate": "false"}},
    ],
)
def test_listen_reads_its_options_from_the_form_or_the_query(client, how):
    answer = client.post("/v1/listen", **how)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"request_id", "text", "confidence", "duration", "language", "words"}
    assert right(body["text"])
    assert not set(body["text"]) & set(".,?!")
    assert 0.3 < body["confidence"] <= 1
    assert body["duration"] == pytest.approx(2.686, abs=0.05)
    assert body["words"] == []


def test_listen_has_words_with_timestamps(client):
    answer = client.post("/v1/listen", params={"language": "en", "timestamps": "true"}, content=speech("en-words"))
    assert near(answer.json()["words"], "en-words")


def test_listen_reads_its_options_beside_a_url(client, store):
    body = client.post(
        "/v1/listen", json={"url": f"{store}/clips/{CLIP}.flac", "language": "en", "capitalize": False}
    ).json()
    assert right(body["text"])
    assert body["text"] == body["text"].lower()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"params": {"timestamps": "yes"}, "content": b"x"}, "timestamps takes true or false"),
        ({"files": {"audio": ("a", b"x")}, "data": {"diarize": "yes"}}, "diarize takes true or false"),
        ({"files": {"audio": ("a", b"x")}, "params": {"language": "hi"}, "data": {"language": "en"}}, "given twice"),
    ],
)
def test_listen_refuses_what_it_can_not_do(client, how, why):
    answer = client.post("/v1/listen", **how)
    assert answer.status_code == 400
    assert why in answer.json()["message"]


class TestOpenAI:
    def ask(self, official, clip=CLIP, **options):
        options = {"model": "whisper-1", "language": "en", **options}
        return official.audio.transcriptions.create(file=(f"{clip}.flac", speech(clip)), **options)

    @pytest.mark.parametrize("model", ["whisper-1", "pulse", "indic-multi", DEPLOYMENT])
    def test_json_under_every_model_name(self, official, model):
        answer = self.ask(official, model=model)
        assert right(answer.text)
        assert answer.usage.seconds == pytest.approx(2.686, abs=0.05)

    def test_text(self, official):
        answer = self.ask(official, response_format="text")
        assert isinstance(answer, str)
        assert right(answer)

    def test_verbose_json_has_segments_with_times(self, official):
        answer = self.ask(official, "en-11s-a", response_format="verbose_json", timestamp_granularities=["segment"])
        assert answer.language == "english"
        assert right(answer.text, "en-11s-a")
        assert right(" ".join(segment.text for segment in answer.segments), "en-11s-a")
        assert all(0 <= one.start < one.end <= answer.duration + 0.1 for one in answer.segments)
        assert all(one.avg_logprob < 0 and one.tokens for one in answer.segments)

    def test_verbose_json_has_words_with_times_where_they_are_asked_for(self, official):
        options = {"response_format": "verbose_json"}
        answer = self.ask(official, "en-words", timestamp_granularities=["word"], **options)
        assert near([word.model_dump() for word in answer.words], "en-words")
        assert answer.segments is None
        both = self.ask(official, "en-words", timestamp_granularities=["word", "segment"], **options)
        assert len(both.words) == len(answer.words)
        assert both.segments
        neither = self.ask(official, "en-words", **options)
        assert neither.words is None
        assert neither.segments

    def test_srt_and_vtt_by_words(self, official):
        for response_format in ("srt", "vtt"):
            options = {"response_format": response_format, "timestamp_granularities": ["word"]}
            cues = self.ask(official, **options).removeprefix("WEBVTT\n\n").strip().split("\n\n")
            assert [cue.splitlines()[-1] for cue in cues] == said(CLIP).split()

    def test_srt_and_vtt(self, official):
        srt = self.ask(official, response_format="srt")
        assert srt.startswith("1\n00:00:0")
        assert " --> 00:00:0" in srt
        vtt = self.ask(official, response_format="vtt")
        assert vtt.startswith("WEBVTT\n\n00:00:0")

    def test_stream_hands_out_the_transcript_as_it_comes(self, official):
        events = list(self.ask(official, "en-11s-a", stream=True))
        assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
        assert events[-1].type == "transcript.text.done"
        assert right(events[-1].text, "en-11s-a")
        assert words("".join(event.delta for event in events[:-1])) == words(events[-1].text)
        assert len(events) > 5

    def test_prompt_and_temperature_are_taken(self, official):
        assert right(self.ask(official, prompt="At the library.", temperature=0).text)

    def test_translations(self, official):
        answer = official.audio.translations.create(
            file=("a.flac", speech(CLIP)), model="whisper-1", response_format="verbose_json"
        )
        assert answer.language == "english"
        assert answer.text

    def test_a_translation_has_no_words(self, official):
        extra = {"timestamp_granularities[]": "word"}
        with pytest.raises(openai.BadRequestError, match="takes segment, not 'word'"):
            official.audio.translations.create(
                file=("a.flac", speech(CLIP)), model="whisper-1", response_format="verbose_json", extra_body=extra
            )

    def test_models(self, official):
        assert [model.id for model in official.models.list()] == ["indic-multi", DEPLOYMENT]
        assert official.models.retrieve("whisper-1").id == "whisper-1"
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5'"):
            official.models.retrieve("gpt-5")

    @pytest.mark.parametrize(
        ("options", "param", "why"),
        [
            ({"model": "gpt-5"}, "model", "model takes indic-multi"),
            (
                {"timestamp_granularities": ["word"]},
                "timestamp_granularities[]",
                "needs the response_format verbose_json",
            ),
            ({"timestamp_granularities": ["phoneme"]}, "timestamp_granularities[]", "takes word or segment"),
            ({"response_format": "diarized_json"}, "response_format", "takes json, text"),
            ({"temperature": 1.5}, "temperature", "from 0 to 1"),
            ({"include": ["logprobs"]}, "include[]", "not available"),
            ({"stream": True, "response_format": "srt"}, "stream", "json or text"),
            ({"language": "fr"}, "language", "not served by the pack"),
        ],
    )
    def test_a_bad_option_is_a_400_in_openais_shape(self, official, options, param, why):
        with pytest.raises(openai.BadRequestError, match=why) as refused:
            self.ask(official, **options)
        assert refused.value.param == param
        assert refused.value.type == "invalid_request_error"

    def test_a_bad_key_is_an_authentication_error(self, pack):
        with openai.OpenAI(base_url=f"{pack.api.url}/v1", api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                self.ask(stranger)
            with pytest.raises(openai.AuthenticationError):
                stranger.models.list()

    def test_what_is_not_audio_is_a_bad_request_also_when_streamed(self, official):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="not audio"):
                official.audio.transcriptions.create(file=("a.wav", b"x" * 999), model="whisper-1", stream=stream)

    def test_another_part_than_file_is_refused_by_name(self, client):
        answer = client.post("/v1/audio/transcriptions", files={"audio": ("a", speech(CLIP))}, data={"model": "pulse"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "file"


def curl(*arguments) -> str:
    run = subprocess.run(
        ["curl", "--silent", "--show-error", "--noproxy", "*", *arguments], capture_output=True, check=True
    )
    return run.stdout.decode()


def test_curl_as_in_the_documentation(pack, tmp_path):
    clip = tmp_path / "clip.flac"
    clip.write_bytes(speech(CLIP))
    key = ["-H", f"Authorization: Bearer {pack.key}"]
    api = pack.api.url
    raw = curl(
        *key,
        "-H",
        "Content-Type: audio/flac",
        "--data-binary",
        f"@{clip}",
        f"{api}/waves/v1/pulse/get_text?language=en",
    )
    assert right(json.loads(raw)["transcription"])
    token = ["-H", f"Authorization: Token {pack.key}"]
    form = curl(*token, "-F", f"file=@{clip}", f"{api}/waves/v1/stt/?model=pulse&language=en")
    assert right(json.loads(form)["transcription"])
    chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Content-Type: application/octet-stream"]
    piped = curl(*key, *chunked, "--data-binary", f"@{clip}", f"{api}/v1/listen?language=en")
    assert right(json.loads(piped)["text"])
    fields = ["-F", f"file=@{clip}", "-F", "model=whisper-1", "-F", "language=en", "-F", "response_format=text"]
    assert right(curl(*key, *fields, f"{api}/v1/audio/transcriptions"))
    assert json.loads(curl(f"{api}/health")) == {"status": "healthy"}


def test_a_form_from_curl_without_a_content_type_is_told_what_to_send(pack, tmp_path):
    clip = tmp_path / "clip.flac"
    clip.write_bytes(speech(CLIP))
    answer = curl("-H", f"Authorization: Bearer {pack.key}", "--data-binary", f"@{clip}", f"{pack.api.url}/v1/listen")
    assert "application/x-www-form-urlencoded is not a body" in json.loads(answer)["message"]


@pytest.mark.parametrize("path", ["/waves/v1/pulse/get_text", "/waves/v1/stt/?model=pulse", "/v1/listen"])
def test_keys_are_asked_for_in_the_wire_references_words(pack, path):
    with pack.client(headers={}) as stranger:
        none = stranger.post(path, content=speech(CLIP))
        assert none.status_code == 401
        assert none.json() == {"message": "Unauthorized: No tokens provided"}
        for wrong in ("Bearer wrong", "Token wrong", f"Basic {pack.key}", "Bearer", pack.key, "Bearer " + "x" * 5000):
            bad = stranger.post(path, content=speech(CLIP), headers={"Authorization": wrong})
            assert bad.status_code == 401
            assert bad.json() == {"error": "unauthorized"}
        for good in (f"Token {pack.key}", f"bearer {pack.key}", f"Bearer {pack.proxy.issuer.license_key}"):
            assert stranger.post(path, content=b"x", headers={"Authorization": good}).status_code == 400


def test_a_language_without_a_checkpoint_lists_what_is_loaded(client):
    answer = client.post("/waves/v1/pulse/get_text", params={"language": "fr"}, content=b"never read")
    assert answer.status_code == 400
    body = answer.json()
    assert body["status"] == "error"
    assert body["error_code"] == "LANGUAGE_NOT_ENABLED"
    assert body["language"] == "fr"
    assert set(body["languages"]) == {"hi", "en", "bn", "ta", "te"}


@pytest.mark.parametrize("model", [None, "nova-2"])
def test_the_unified_path_needs_its_model(client, model):
    answer = client.post("/waves/v1/stt/", params={"model": model} if model else {}, content=speech(CLIP))
    assert answer.status_code == 400
    assert "pulse" in answer.json()["message"]


def test_a_key_over_its_concurrency_is_told_when_to_come_back(pack):
    with pack.client(headers={"Authorization": f"Bearer {pack.limited}"}) as limited, ThreadPoolExecutor(4) as many:
        ask = partial(limited.post, "/waves/v1/pulse/get_text", params={"language": "en"}, content=speech("en-11s-a"))
        answers = [each.result() for each in [many.submit(ask) for _ in range(4)]]
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert set(statuses) <= {200, 429}
        over = [answer for answer in answers if answer.status_code == 429]
        assert over
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in over)
        assert "one-at-a-time" in over[0].json()["message"]
        assert ask().status_code == 200


def test_verbose_health_shows_the_parts(pack):
    status, body = pack.api.health()
    assert status == 200
    assert body["status"] == "healthy"
    assert body["deployment"] == DEPLOYMENT
    assert body["license"] == "valid"
    assert body["redis"] == "local"
    assert body["model_server"]["checkpoints"][0]["name"] == "indic-multi"


@pytest.mark.parametrize("query", ["verbose=yes", "verbose=true&verbose=true"])
def test_health_refuses_a_bad_option(client, query):
    assert client.get(f"/health?{query}").status_code == 400


def test_metrics_count_requests_and_audio(pack, client):
    def samples() -> dict[str, float]:
        lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    counted = 'api_requests_total{endpoint="/v1/listen",status="200"}'
    heard = 'api_audio_seconds_total{checkpoint="indic-multi",language="en"}'
    before = samples()
    client.post("/v1/listen", params={"language": "en"}, content=speech(CLIP)).raise_for_status()
    after = samples()
    assert after[counted] == before.get(counted, 0) + 1
    assert after[heard] - before.get(heard, 0) == pytest.approx(2.686, abs=0.05)
    assert after["api_slots"] == 128
    assert after["api_in_flight_requests"] == after["api_active_requests"] == after["api_queued_requests"] == 0
    assert "api_request_seconds_bucket" in client.get("/metrics").text
    assert "/v1/nothing" not in str(samples())


def test_usage_reaches_the_licence_proxy_without_audio_or_text(pack, client):
    marked = {"language": "en", "punctuate": "false", "word_timestamps": "true"}
    client.post("/waves/v1/pulse/get_text", params=marked, content=speech(CLIP)).raise_for_status()

    def records() -> list[dict]:
        query = f"file:{pack.proxy.database}?mode=ro"
        with sqlite3.connect(query, uri=True) as database:
            return [json.loads(body) for (body,) in database.execute("SELECT body FROM records")]

    def found() -> list[dict]:
        return [
            record
            for record in records()
            if record["features"] == ["punctuate", "word_timestamps"] and record["status"] == 200
        ]

    eventually(lambda: bool(found()), lambda: records()[-3:])
    record = found()[-1]
    assert record["deployment"] == DEPLOYMENT
    assert record["checkpoint"] == "indic-multi"
    assert record["language"] == "en"
    assert record["key"] == "tests"
    assert record["audio_seconds"] == pytest.approx(2.686, abs=0.05)
    assert "library" not in json.dumps(record)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/listen", 405), ("PUT", "/health", 405)]
)
def test_what_is_not_there_is_said_in_json(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["status"] == "error"


def test_no_log_line_has_audio_text_or_keys(pack, client):
    client.post("/v1/listen", params={"language": "en"}, content=speech(CLIP)).raise_for_status()
    log = pack.api.log
    assert '"event": "request"' in log
    for secret in (pack.key, pack.limited, pack.proxy.issuer.license_key, "library is open"):
        assert secret not in log
    assert "Traceback" not in log
