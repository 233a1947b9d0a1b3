"""Options: strict, refused by name where they come later, and described exactly as they are parsed."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.api_server import openapi
from babelrack.api_server.errors import BadRequest
from babelrack.api_server.options import LISTEN, OPENAI, PULSE, STT, TRANSLATIONS, features, parse_options, query_pairs
from babelrack.pairing import Request
from babelrack.pairing.messages import MAX_TEXT_BYTES

TABLES = {"pulse": PULSE, "stt": STT, "listen": LISTEN, "openai": OPENAI, "translations": TRANSLATIONS}
EVERY = [(table, name) for table, options in TABLES.items() for name in options]
NEEDED = {"pulse": [], "stt": [("model", "pulse")], "listen": [], "openai": [("model", "whisper-1")]}
NEEDED["translations"] = NEEDED["openai"]

plausible = st.one_of(
    st.text(max_size=50),
    st.sampled_from(["true", "false", "True", "1", "0", "", "hi", "en-US", "multi-indic", "pulse", "segment", "POST"]),
    st.integers(-10, 300_000).map(str),
    st.floats(-1, 2).map(str),
)


def as_schema_sees_it(schema, value):
    """The value that a query string's or a form's text stands for under `schema`, or None when it stands for none."""
    if schema["type"] not in ("integer", "number"):
        return value
    try:
        return int(value) if schema["type"] == "integer" else float(value)
    except ValueError:
        return None


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_the_documented_default_is_accepted(table, name):
    option = TABLES[table][name]
    if "default" in option.schema:
        assert option.parse(str(option.schema["default"])) == option.default


@given(st.sampled_from(EVERY), plausible)
def test_a_value_is_accepted_only_if_the_served_schema_accepts_it(where, value):
    table, name = where
    option = TABLES[table][name]
    schema = {key: part for key, part in option.schema.items() if key != "x-loaded"}
    seen = as_schema_sees_it(schema, value)
    refused = None
    try:
        option.parse(value)
    except BadRequest as error:
        refused = error
    if refused is None:
        jsonschema.validate(seen, schema)
    else:
        assert name in refused.message
        assert refused.param == name
        assert "\n" not in refused.message


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_every_value_of_a_served_enum_is_accepted(table, name):
    for value in TABLES[table][name].schema.get("enum", []):
        TABLES[table][name].parse(value)


@pytest.mark.parametrize("value", ["True", "TRUE", "1", "yes", "", " true", "truE"])
def test_booleans_are_exactly_true_and_false(value):
    with pytest.raises(BadRequest, match=r"^punctuate takes true or false, not "):
        parse_options(PULSE, [("punctuate", value)])


LATER = [
    ("openai", "keywords[]", "x"),
    ("openai", "include[]", "logprobs"),
]


@pytest.mark.parametrize(("table", "name", "value"), LATER)
def test_an_option_that_comes_later_is_refused_by_name(table, name, value):
    with pytest.raises(BadRequest, match="not available in this version") as refused:
        parse_options(TABLES[table], [*NEEDED[table], (name, value)])
    assert name in refused.value.message
    assert refused.value.code == "NOT_AVAILABLE"


def test_an_option_given_twice_is_refused_because_a_gateway_may_have_read_the_other_one():
    with pytest.raises(BadRequest, match="language is given twice"):
        parse_options(PULSE, query_pairs(b"language=hi&language=en"))


def test_a_missing_model_names_the_right_value():
    with pytest.raises(BadRequest, match=r"model is missing.*pulse"):
        parse_options(STT, [])
    with pytest.raises(BadRequest, match=r"model takes pulse, not 'nova'"):
        parse_options(STT, [("model", "nova")])


def test_unknown_names_are_ignored():
    assert parse_options(PULSE, [("utm_source", "x")]) == parse_options(PULSE, [])


@given(st.binary(max_size=300))
def test_no_query_string_gets_past_the_parser_as_anything_but_a_bad_request(query):
    try:
        parse_options(PULSE, query_pairs(query))
    except BadRequest as error:
        assert error.message.isprintable()  # noqa: PT017 - the outcome without an error is good as well


def test_a_query_string_with_thousands_of_parameters_is_refused():
    with pytest.raises(BadRequest, match="more than 64 parameters"):
        query_pairs(b"&".join(b"a=1" for _ in range(5000)))


KEYWORDS = [
    ("", ()),
    ("Blackwell", (("Blackwell", 1.0),)),
    ("Blackwell:1,Jensen Huang:2", (("Blackwell", 1.0), ("Jensen Huang", 2.0))),
    (" Blackwell : 2.5 , 北京:0,l'Oréal:10", (("Blackwell", 2.5), ("北京", 0.0), ("l'Oréal", 10.0))),
]


@pytest.mark.parametrize(("value", "phrases"), KEYWORDS)
def test_keywords_are_phrases_with_intensifiers(value, phrases):
    assert PULSE["keywords"].parse(value) == phrases


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a,,b", "has an empty phrase at ''"),
        ("a,", "has an empty phrase at ''"),
        (":2", "has an empty phrase at ':2'"),
        ("Re:Invent", "a number from 0 to 10 after a phrase's colon, not 'Invent'; a phrase itself has no colon"),
        ("a:-1", "not '-1'"),
        ("a:10.1", "not '10.1'"),
        ("a:1e1", "not '1e1'"),
        ("a:nan", "not 'nan'"),
        ("a:", "not ''"),
        ("a:1:2", "not '1:2'"),
        ("a\0b", "without control characters"),
        ("a\ud800", "without control characters"),
        ("b" * 101, "phrases of at most 100 characters, not 101"),
        (",".join("c" * 10_001), "at most 10,000 phrases, not 10,001"),
        (",".join(["d" * 100] * 2_622), "at most 256 KiB together"),
    ],
)
def test_each_fault_in_keywords_has_its_sentence(value, why):
    with pytest.raises(BadRequest) as refused:
        parse_options(PULSE, [("keywords", value)])
    assert refused.value.message.startswith("keywords ")
    assert why in refused.value.message
    assert refused.value.param == "keywords"


@given(st.lists(st.tuples(st.text(max_size=12), st.one_of(st.just(""), st.floats(-1, 12).map(str))), max_size=3))
def test_keywords_that_are_accepted_are_those_that_the_served_schema_accepts(entries):
    value = ",".join(f"{phrase}:{intensifier}" if intensifier else phrase for phrase, intensifier in entries)
    try:
        found = PULSE["keywords"].parse(value)
    except BadRequest:
        return
    jsonschema.validate(value, PULSE["keywords"].schema)
    assert Request(request_id="r", deployment="d", language="en", keywords=found).keywords == found


def test_the_most_keywords_fit_into_one_message_of_the_pairing():
    phrases = [(f"{n:05}" + "\\" * 20, 0.123456789) for n in range(10_000)]
    value = ",".join(f"{phrase}:{intensifier}" for phrase, intensifier in phrases)
    request = Request(request_id="r", deployment="d", language="en", keywords=PULSE["keywords"].parse(value))
    assert len(request.model_dump_json()) < MAX_TEXT_BYTES


def test_only_what_differs_from_its_default_is_counted_as_a_feature():
    assert features(PULSE, parse_options(PULSE, [])) == ()
    wanted = parse_options(PULSE, [("punctuate", "false"), ("capitalize", "true"), ("language", "hi")])
    assert features(PULSE, wanted) == ("punctuate",)
    wanted = parse_options(PULSE, [(name, "true") for name in ("redact_pci", "itn_normalize", "redact_pii")])
    assert features(PULSE, wanted) == ("itn_normalize", "redact_pii", "redact_pci")
    assert features(PULSE, parse_options(PULSE, [("word_timestamps", "true")])) == ("word_timestamps",)
    assert features(LISTEN, parse_options(LISTEN, [("timestamps", "true")])) == ("timestamps",)
    assert features(PULSE, parse_options(PULSE, [("keywords", "Velcoria:2")])) == ("keywords",)


@pytest.mark.parametrize("table", TABLES)
def test_the_served_parameters_are_the_parsed_ones(table):
    assert [parameter["name"] for parameter in openapi.query(TABLES[table])] == list(TABLES[table])


def test_the_served_document_names_what_is_loaded():
    node = {"schema": dict(PULSE["language"].schema)}
    loaded = openapi.finished({"x": node}, {"languages": ["hi", "multi-indic"]})["x"]["schema"]
    assert loaded == {"type": "string", "enum": ["hi", "multi-indic"]}
    unknown = openapi.finished({"x": node}, {"languages": []})["x"]["schema"]
    assert "pattern" in unknown
    assert "x-loaded" not in unknown
