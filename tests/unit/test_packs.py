"""A pack file is refused with every fault at once, or becomes exactly the checkpoints that it names."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.checkpoints.reference import parse_model_url
from babelrack.packs import languages
from babelrack.packs.document import MAX_BYTES
from babelrack.packs.faults import PackError
from babelrack.packs.pack import CONCURRENCY, Checkpoint, Pack, json_schema, load_pack, parse_pack, url_fault

PROJECT = Path(__file__).parents[2]
REFERENCE = {
    "indic": "hi en bn ta te",
    "western_sea": "mr gu kn id ms th",
    "future": "ar es pt fr de",
}
GOOD = {
    "name": "indic",
    "aggregator": "multi-indic",
    "checkpoints": [
        {
            "name": "indic-hi",
            "url": "hf:owner/hindi@main",
            "sha256": "ab" * 32,
            "languages": ["hi"],
            "role": "dedicated",
        },
        {"name": "indic-multi", "url": "file:///srv/base", "languages": ["hi", "en", "bn"], "role": "multilingual"},
    ],
}


def changed(path: str, value: object) -> dict:
    """GOOD with one value replaced, at a dotted path; `KeyError` for a path that GOOD's parent doesn't have."""
    pack = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place = pack
    for part in parents:
        place = place[part]
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return pack


def faults_of(pack: object) -> list[str]:
    with pytest.raises(PackError) as caught:
        parse_pack(yaml.safe_dump(pack).encode())
    return [str(fault) for fault in caught.value.faults]


def refusal(read: Callable[[], object]) -> list[str]:
    """The faults that reading raises; none when it works; anything but a PackError goes through."""
    try:
        read()
    except PackError as error:
        return list(map(str, error.faults))
    return []


def multilingual(name: str, *codes: str) -> dict:
    return {"name": name, "url": "file:///srv/x", "languages": list(codes), "role": "multilingual"}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("checkpoints", [], "checkpoints is empty; list at least 1"),
        ("checkpoints", [multilingual(f"c{n}", "en") for n in range(4)], "checkpoints lists 4; keep at most 3"),
        ("checkpoints.1.languages", [], "checkpoints[1].languages is empty; list at least 1"),
        ("checkpoints.0.languages", [], "checkpoints[0].languages is empty; list at least 1"),
        ("checkpoints.1.languages.1", "xx", "checkpoints[1].languages[1] is wrong: 'xx' is not a language code"),
        ("checkpoints.1.languages.1", "hindi", "write 'hi' (Hindi)"),
        ("checkpoints.1.languages.1", False, "the boolean false: YAML reads an unquoted no"),
        ("checkpoints.1.languages.1", "hi", "checkpoints[1].languages[1] lists 'hi' a second time"),
        ("checkpoints.0.sha256", "ab", "checkpoints[0].sha256 is 'ab'; write the 64 hexadecimal digits"),
        ("checkpoints.0.sha256", "zz" * 32, "write the 64 hexadecimal digits"),
        ("checkpoints.0.sha256", "ab" * 32 + "\n", "write the 64 hexadecimal digits"),
        ("checkpoints.0.sha256", int("12" * 32), "YAML reads as a number; put it in quotes"),
        ("checkpoints.0.url", "ftp://host/x", "write one that starts with file:, http:, https:, s3:, hf:"),
        ("checkpoints.0.url", "/srv/base", "has no scheme that can be fetched"),
        ("checkpoints.0.url", "file:base", "write file:///absolute/path, or give a relative one in the site"),
        ("checkpoints.0.url", "https://me:secret@host/x", "carries a user name or a password"),
        ("checkpoints.0.url", "https://host/x#name=y", "leave out the part from '#' on"),
        ("checkpoints.0.url", "https:///x", "write https://host/path"),
        ("checkpoints.0.url", "https://host:99999/x", "is not a URL"),
        ("checkpoints.0.url", "s3://bucket", "write s3://bucket/key"),
        ("checkpoints.0.url", "hf:repository", "write hf:owner/repository"),
        ("checkpoints.0.url", "https://host/a b", "percent-encode it"),
        ("checkpoints.0.url", "file:///srv/%00", "write file:///absolute/path"),
        ("checkpoints.0.url", "file:///srv/a?b", "with a '?' in a name as %3F"),
        ("checkpoints.0.url", "file://srv/base", "write file:///absolute/path"),
        ("checkpoints.0.url", "hf:owner/repository?x=1", "write hf:owner/repository"),
        ("checkpoints.0.url", "hf:owner/repository@../x", "write hf:owner/repository"),
        ("checkpoints.1.name", "indic-hi", "checkpoints[1].name is 'indic-hi' like checkpoints[0]"),
        ("checkpoints.1.role", "both", "checkpoints[1].role is 'both'; write 'dedicated' or 'multilingual'"),
        ("aggregator", "indic", "aggregator is wrong: 'indic' is not an aggregator; write 'multi-'"),
        ("aggregator", "multi-" + "x" * 40, "at most 32 characters"),
        ("name", "Indic", "name is 'Indic'; write a lower-case letter"),
        ("name", "x" * 32, "at most 30 lower-case letters"),
        ("name", None, "name is empty; write text"),
        ("replicas", 0, "replicas is 0; write 1 or more"),
        ("replicas", "2", "replicas is '2'; write a whole number"),
        ("ports", {"api": 70000}, "ports.api is 70000; write 65535 or less"),
        ("ports", {"api": 0}, "ports.api is 0; write 1 or more"),
        ("ports", {"model": 7100}, "ports.model is 7100 like ports.api; give each its own port"),
        ("ports", {"apo": 7100}, "ports.apo is not a field here; did you mean 'api'?"),
        ("ports", [7100], "ports is a list; write a mapping of fields"),
        ("replcas", 2, "replcas is not a field here; did you mean 'replicas'?"),
        ("zzzz", 2, "zzzz is not a field here; the fields here are name, aggregator, checkpoints"),
        ("checkpoints.0.langauges", ["hi"], "checkpoints[0].langauges is not a field here; did you mean 'languages'?"),
        ("engine", "triton", "engine is 'triton'; write 'babelrack'"),
        ("host", {"ram_gib": 1.5}, "host.ram_gib is 1.5; write a whole number"),
    ],
)
def test_a_wrong_field_is_named_with_its_fix(path: str, value: object, sentence: str) -> None:
    faults = faults_of(changed(path, value))
    assert any(sentence in fault for fault in faults), faults


def test_a_language_has_one_dedicated_checkpoint() -> None:
    pack = changed("checkpoints.2", {"name": "other", "url": "hf:a/b", "languages": ["en", "hi"], "role": "dedicated"})
    assert faults_of(pack) == [
        (
            "checkpoints[2].languages[1] is 'hi', which checkpoints[0].languages[0] is dedicated to already; "
            "leave the language with one of the dedicated checkpoints"
        )
    ]


def test_one_reading_reports_every_fault_of_a_file(tmp_path: Path) -> None:
    pack = changed("checkpoints.0.sha256", "ab")
    pack |= {"name": "other", "replicas": 0, "ports": {"model": 9090}, "colour": "red"}
    pack["checkpoints"][1] |= {"name": "indic-hi", "languages": ["hi", "xx"]}
    file = tmp_path / "indic.yaml"
    file.write_text(yaml.safe_dump(pack))
    with pytest.raises(PackError) as caught:
        load_pack(file)
    assert all(fault.file == str(file) for fault in caught.value.faults)
    assert {fault.field for fault in caught.value.faults} == {
        "name",
        "replicas",
        "colour",
        "ports.metrics",
        "checkpoints[0].sha256",
        "checkpoints[1].name",
        "checkpoints[1].languages[1]",
    }
    assert all(line.startswith(f"{file}: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: a\nname: b\nname: c", "line 3 writes 'name' a second time"),
        (b"ports: {api: 1, api: 2}", "writes 'api' a second time"),
        (b"a: &x [1]\nb: *x", "an alias is not allowed"),
        (b"!!python/object/apply:os.system [ls]", "not plain data"),
        (b"a: 2020-99-99", "not plain data"),
        (b"[" * 5000, "nested deeper"),
        (b"a: " + b"9" * 5000, "can't be read"),
        (b"a" * (MAX_BYTES + 1), "larger than 64 KiB"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a: 1\n---\nb: 2", "not plain YAML"),
        (b"{{a: 1}: 2}", "not plain YAML"),
        (b"", "holds no mapping"),
        (b"- a", "holds no mapping"),
    ],
)
def test_what_is_not_a_plain_document_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(PackError) as caught:
        parse_pack(content)
    assert sentence in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path / "x.yaml", "does not exist; check its path"), (tmp_path, "can't be read")):
        with pytest.raises(PackError, match=sentence) as caught:
            load_pack(path)
        assert str(path) in str(caught.value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["hi", "multi-x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["name", "aggregator", "checkpoints", "replicas", "host", "ports", "engine"]
CHECKPOINT_FIELDS = ["name", "url", "sha256", "languages", "role"]


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_raise_anything_but_a_pack_error(content: bytes) -> None:
    with pytest.raises(PackError):
        parse_pack(content)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), plain, max_size=8),
    st.lists(st.dictionaries(st.sampled_from(CHECKPOINT_FIELDS), plain, max_size=5) | plain, max_size=5),
)
def test_no_document_raises_anything_but_a_pack_error(pack: dict, checkpoints: list) -> None:
    for document in (pack, pack | {"checkpoints": checkpoints}, GOOD | pack):
        content = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
        sentences = refusal(lambda content=content: parse_pack(content))
        assert all("\n" not in sentence and len(sentence) < 1000 for sentence in sentences)


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"(hf|s3|file|https?):/{0,3}[!-~]{0,30}", fullmatch=True))
def test_a_url_is_refused_in_the_pack_file_or_taken_by_the_model_server(url: str) -> None:
    if url_fault(url) is None:
        checkpoint = {"name": "c", "url": url, "languages": ["hi"], "role": "dedicated"}
        (reference,) = parse_model_url(Pack(name="p", aggregator="multi-p", checkpoints=[checkpoint]).model_url())
        assert (reference.name, reference.role, reference.languages) == ("c", "dedicated", ("hi",))
        assert unquote(reference.url) == unquote(url)


codes = st.lists(st.sampled_from(list(languages.LANGUAGES)), min_size=1, max_size=8, unique=True)
segments = st.text("abcXYZ019-._~,;=+&%20'()!@", min_size=1, max_size=12).filter(lambda part: part.strip("."))
urls = st.one_of(
    st.lists(segments, min_size=1, max_size=3).map(lambda parts: "file:///" + "/".join(parts)),
    st.lists(segments, min_size=1, max_size=3).map(lambda parts: "https://host:8443/" + "/".join(parts)),
    segments.map(lambda part: f"https://host/a?signature={part}"),
    segments.map(lambda part: f"s3://bucket/{part}"),
    st.just("hf:owner/repo@" + "0a" * 20),
).filter(lambda url: url_fault(url) is None)
checkpoints = st.builds(
    Checkpoint,
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
    url=urls,
    sha256=st.none() | st.just("0f" * 32),
    languages=codes,
    role=st.just("multilingual"),
)


@settings(deadline=None)
@given(st.lists(checkpoints, min_size=1, max_size=3, unique_by=lambda checkpoint: checkpoint.name))
def test_model_url_carries_every_field_of_every_checkpoint(listed: list[Checkpoint]) -> None:
    pack = Pack(name="p", aggregator="multi-p", checkpoints=listed)
    parts = pack.model_url().split(",")
    assert len(parts) == len(listed)
    for part, checkpoint in zip(parts, listed, strict=True):
        url, _, fragment = part.partition("#")
        fields = {name: values[0] for name, values in parse_qs(fragment, strict_parsing=True).items()}
        assert unquote(url) == unquote(checkpoint.url)
        assert urlsplit(url).scheme == urlsplit(checkpoint.url).scheme
        assert fields.pop("sha256", None) == checkpoint.sha256
        reference = parse_model_url(part)[0]
        assert (reference.name, reference.languages, reference.sha256) == (
            checkpoint.name,
            checkpoint.languages,
            checkpoint.sha256,
        )
        assert fields == {
            "name": checkpoint.name,
            "role": "multilingual",
            "languages": " ".join(checkpoint.languages),
        }


def test_model_url_is_written_as_the_model_server_expects() -> None:
    assert parse_pack(yaml.safe_dump(GOOD).encode()).model_url() == (
        f"hf:owner/hindi@main#name=indic-hi&role=dedicated&languages=hi&sha256={'ab' * 32},"
        "file:///srv/base#name=indic-multi&role=multilingual&languages=hi+en+bn"
    )


def test_a_dedicated_checkpoint_comes_first_then_a_multilingual_one_that_lists_the_language() -> None:
    pack = parse_pack(yaml.safe_dump(GOOD).encode())
    assert [checkpoint and checkpoint.name for checkpoint in map(pack.checkpoint_for, ("hi", "en", "fr"))] == [
        "indic-hi",
        "indic-multi",
        None,
    ]
    assert pack.languages == ("hi", "en", "bn")


@pytest.mark.parametrize(("count", "each"), [(1, 128), (2, 64), (3, 48)])
def test_the_budget_is_split_between_checkpoints(count: int, each: int) -> None:
    listed = [multilingual(f"c{n}", "en") for n in range(count)]
    assert Pack(name="p", aggregator="multi-p", checkpoints=listed).concurrency == each == CONCURRENCY[count]


def test_three_checkpoints_for_one_family_are_advised_against_and_two_families_are_not() -> None:
    def advice(*groups: str) -> list[str]:
        listed = [multilingual(f"c{n}", *group.split()) for n, group in enumerate(groups)]
        return Pack(name="p", aggregator="multi-p", checkpoints=listed).advice()

    assert "one language family only (romance)" in advice("es", "pt gl", "fr it")[0]
    assert advice("es", "pt", "fr de") == []
    assert advice("es", "pt fr") == []


def test_a_checkpoint_that_may_change_unnoticed_is_mentioned() -> None:
    pack = parse_pack(yaml.safe_dump(changed("checkpoints.1.url", "hf:owner/base")).encode())
    assert pack.advice() == [
        "checkpoint indic-multi has neither a sha256 nor a commit in its URL, so what it loads may change"
    ]


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_packs_are_right_and_serve_their_languages(name: str) -> None:
    pack = load_pack(PROJECT / "packs" / f"{name}.yaml")
    assert list(pack.languages) == REFERENCE[name].split()
    assert pack.advice() == []


def test_the_published_schema_is_current() -> None:
    assert (PROJECT / "packs" / "pack.schema.json").read_text() == json_schema(), (
        "packs/pack.schema.json is old; run `babelrack packs schema > packs/pack.schema.json`"
    )


def test_the_schema_explains_every_field_and_agrees_with_the_reader() -> None:
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in REFERENCE:
        validator.validate(yaml.safe_load((PROJECT / "packs" / f"{name}.yaml").read_text()))
    validator.validate(GOOD)
    for path, value in (("name", "Indic"), ("checkpoints", []), ("checkpoints.0.languages", ["xx"]), ("x", 1)):
        assert not validator.is_valid(changed(path, value)), path
    models = [schema, *schema["$defs"].values()]
    unexplained = [
        field for model in models for field, about in model["properties"].items() if not about.get("description")
    ]
    assert unexplained == []


def test_whisper_languages_are_all_there_and_each_has_one_family() -> None:
    assert len(languages.LANGUAGES) == 100
    assert list(languages.LANGUAGES)[:2] == ["en", "zh"]
    assert list(languages.LANGUAGES)[-1] == "yue"
    assert len(set(languages.LANGUAGES.values())) == 100
    listed = [code for group in languages._FAMILIES.values() for code in group.split()]  # noqa: SLF001, RUF100
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(languages.LANGUAGES)
    assert languages.family("hi") == languages.family("ta") != languages.family("en")
    assert languages.family("ja") == "ja"


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("HI", "'hi'"),
        ("Hindi", "'hi'"),
        ("pt-BR", "'pt'"),
        ("spannish", "'es'"),
        ("x" * 999, "such as"),
        ("", "such as"),
    ],
)
def test_an_unknown_language_is_answered_with_what_was_probably_meant(code: str, fix: str) -> None:
    sentence = languages.unknown_language(code)
    assert fix in sentence
    assert len(sentence) < 160
    assert not languages.is_language(code)


@pytest.mark.parametrize(
    ("code", "good"),
    [
        ("multi-indic", True),
        ("multi-western-sea", True),
        ("multi-" + "x" * 26, True),
        ("multi-" + "x" * 27, False),
        ("multi-", False),
        ("multi--x", False),
        ("multi-A", False),
        ("multi-x\n", False),
        ("indic", False),
    ],
)
def test_an_aggregator_is_multi_and_a_name(code: str, good: bool) -> None:
    assert languages.is_aggregator(code) is good


def test_the_languages_need_nothing_heavy() -> None:
    script = "import sys, babelrack.packs.languages; sys.exit(bool({'torch', 'pydantic', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
