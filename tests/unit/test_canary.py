"""`babelrack canary`: passes when the words come back, fails with a sentence when they don't."""

import contextlib
import http.server
import json
import threading

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from babelrack.cli import app
from babelrack.cli.canary import word_errors, words

TEXT = "The library is open until late tonight."
some_words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8)


@given(some_words.filter(bool), some_words)
def test_errors_are_counted_as_the_usual_tool_counts_them(expected, heard):
    assert word_errors(expected, heard) == round(jiwer.wer(" ".join(expected), " ".join(heard)) * len(expected))


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("en", "It's OPEN, until late!", "its open until late"),
        ("es", "¿Está abierta?", "está  abierta"),
        ("hi", "नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("hi", "क्\u200dष", "क्ष"),
        ("ja", "今日は、良い天気。", "今日は 良い天気"),
        ("de", "Straße", "STRASSE"),
    ],
)
def test_spelling_that_sounds_alike_is_no_error(language, one, other):
    assert words(one, language) == words(other, language) != []


@pytest.mark.parametrize(
    ("language", "one", "other"), [("hi", "दिन", "दन"), ("es", "año", "ano"), ("zh", "今天", "今日")]
)
def test_another_letter_or_vowel_is_an_error(language, one, other):
    assert words(one, language) != words(other, language)


class ApiServer(http.server.ThreadingHTTPServer):
    """Answers as an API server does; the real one is asked by the roll on the lab's hosts."""

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, self.headers.get("authorization"), body))
        answers = self.server.answers
        status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def answering(*answers):
    server = ApiServer(*answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "en.flac"
    path.write_bytes(b"fLaC")
    return path


def canary(url, clip, *options):
    arguments = ["canary", url, "--audio", str(clip), "--language", "en", "--text", TEXT, *options]
    return CliRunner().invoke(app, arguments)


def test_the_right_words_pass_and_the_server_got_clip_language_and_key(clip, tmp_path, monkeypatch):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "license_key").write_text("the-key\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with answering((200, {"transcription": "the library is open until late, tonight"})) as server:
        result = canary(server.url, clip)
    assert result.exit_code == 0, result.output
    assert "0 of 7 words wrong" in result.output
    assert server.requests == [("/waves/v1/pulse/get_text?language=en", "Bearer the-key", b"fLaC")]


def test_too_many_wrong_words_fail_with_what_was_heard(clip):
    with answering((200, {"transcription": "The lottery was open"})) as server:
        result = canary(server.url, clip, "--max-word-error-rate", "0.5")
    assert result.exit_code == 1
    assert "5 of 7 words wrong, and at most 50% may be" in result.output
    assert "'The lottery was open' instead of" in result.output


def test_the_bound_itself_still_passes(clip):
    with answering((200, {"transcription": "Library is open until late tonight"})) as server:
        assert canary(server.url, clip, "--max-word-error-rate", str(1 / 7)).exit_code == 0
        assert canary(server.url, clip, "--max-word-error-rate", "0.14").exit_code == 1


def test_an_error_is_passed_on_as_the_server_says_it(clip):
    with answering((400, {"message": "the language 'en' is not served by the pack future"})) as server:
        result = canary(server.url, clip)
    assert result.exit_code == 1
    assert "400 the language 'en' is not served by the pack future" in result.output


def test_a_busy_server_is_asked_again(clip):
    with answering((503, {"message": "full"}), (200, {"transcription": TEXT})) as server:
        assert canary(server.url, clip).exit_code == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "gpu-07:7100"])
def test_a_server_that_is_not_there_is_one_sentence(clip, url):
    result = canary(url, clip)
    assert result.exit_code == 1
    assert url in result.output
    assert len(result.output.splitlines()) == 1


def test_a_text_without_words_is_refused(clip):
    result = CliRunner().invoke(app, ["canary", "http://x", "--audio", str(clip), "--language", "en", "--text", "…"])
    assert result.exit_code == 2
