"""The client reads its routes or says why not, before any request is made."""

import json
from pathlib import Path

import pytest

from babelrack.client import Client, TranscriptionError, read_routes
from babelrack.packs.routes import Routes

ROUTES = Routes(
    {"hi": "indic", "es": "future"}, {"multi-indic": "indic"}, {"indic": ("http://a:1",), "future": ("http://b:1",)}
)


def test_routes_come_from_a_map_a_file_or_themselves(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_text(ROUTES.to_json())
    for source in (ROUTES, ROUTES.to_dict(), file, str(file)):
        assert read_routes(source) == ROUTES


def test_a_plain_map_of_language_and_url_is_enough() -> None:
    routes = read_routes({"hi": "http://a:1/", "es": ["http://b:1", "http://c:1"], "multi-indic": "http://a:1/"})
    assert routes.urls("hi") == routes.urls("multi-indic") == ("http://a:1",)
    assert routes.urls("es") == ("http://b:1", "http://c:1")
    assert routes.aggregators == {"multi-indic": "http://a:1"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not json", "are not JSON"),
        (b"[" * 100_000, "are not JSON"),
        (b"\xff", "are not JSON"),
        (b"[]", "write the JSON that `babelrack routes` prints"),
        (b"{}", "write the JSON that `babelrack routes` prints"),
        (b'{"hi": "ftp://x"}', "hi has 'ftp://x'; write a base URL"),
        (b'{"hi": "http://me:secret@x"}', "write a base URL"),
        (b'{"hi": 5}', "hi is 5; write a base URL or a list of them"),
        (b'{"languages": {"hi": "x"}, "packs": {}}', "languages.hi is 'x'; write a pack that `packs` lists"),
        (b'{"languages": [], "packs": {}}', "languages is a list; write a mapping"),
        (b" " * (2**20 + 1), "are larger than"),
    ],
)
def test_routes_that_can_not_be_used_are_refused_with_the_file_s_name(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "routes.json"
    file.write_bytes(content)
    with pytest.raises(TranscriptionError) as caught:
        Client(file)
    assert sentence in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.status is None


def test_a_missing_file_of_routes_is_named() -> None:
    with pytest.raises(TranscriptionError, match=r"/nowhere/routes\.json can't be read: No such file"):
        Client("/nowhere/routes.json")


@pytest.mark.parametrize(("language", "sentence"), [("fr", "no pack serves 'fr'"), (None, "no language was given")])
def test_a_language_that_is_not_routed_is_refused_before_the_audio_is_touched(
    language: str | None, sentence: str
) -> None:
    with Client(ROUTES) as client, pytest.raises(TranscriptionError, match=sentence):
        client.transcribe("/nowhere/audio.wav", language=language)


def test_the_key_is_in_no_representation() -> None:
    with Client(json.loads(ROUTES.to_json()), api_key="very-secret") as client:
        assert "very-secret" not in repr(client) + repr(vars(client)) + str(client.routes)
