"""Live sessions without a server: options, messages, samples, the text side, and what is kept of it."""

from __future__ import annotations

import json
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.api_server.errors import (
    BadRequest,
    InternalFault,
    LanguageNotEnabled,
    OverLimit,
    Unavailable,
)
from babelrack.api_server.live.messages import control_of
from babelrack.api_server.live.session import Farewell
from babelrack.api_server.live.transcript import LiveTranscript
from babelrack.api_server.options import LIVE, LIVE_LISTEN, LIVE_STT, RESUMED, features, parse_options
from babelrack.api_server.transcription import subprotocol_of
from babelrack.audio.samples import SampleStream
from babelrack.pairing import Final, Partial, Voices, Word
from babelrack.writing import Form, Numbering, unfinished

SECRET = b"of the tests"
PII = Form(pii=True, pci=True)


def test_a_session_without_options_is_what_the_wire_reference_says():
    values = parse_options(LIVE, [])
    assert (values["encoding"], values["sample_rate"], values["eou_timeout_ms"]) == ("linear16", 16_000, 800)
    assert values["endpointing"]
    assert values["finalize_on_words"]
    assert values["max_words"] is None
    assert not any(values[name] for name in ("word_timestamps", "full_transcript", "vad_events", "vad", "redact_pii"))
    assert features(LIVE, values) == ()


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_every_rate_of_the_wire_reference_is_taken_and_no_other(rate):
    assert parse_options(LIVE, [("sample_rate", str(rate))])["sample_rate"] == rate
    with pytest.raises(BadRequest, match="sample_rate takes 8000, 16000"):
        parse_options(LIVE, [("sample_rate", str(rate + 1))])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eou_timeout_ms", "10001"),
        ("eou_timeout_ms", "-1"),
        ("max_words", "0"),
        ("encoding", "flac"),
        ("endpointing", "300"),
        ("external_session_id", ""),
        ("external_session_id", "a/b"),
        ("diarize", "yes"),
    ],
)
def test_a_bad_option_is_named(name, value):
    with pytest.raises(BadRequest, match=name):
        parse_options(LIVE, [(name, value)])


def test_the_tables_differ_in_what_their_paths_need():
    with pytest.raises(BadRequest, match="pulse"):
        parse_options(LIVE_STT, [])
    assert parse_options(LIVE_LISTEN, [("timestamps", "true")])["timestamps"]
    assert parse_options(RESUMED, [])["session_id"] is None
    with pytest.raises(BadRequest, match="session_id"):
        parse_options(RESUMED, [("session_id", "not-an-id")])


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ('{"type": "finalize"}', "finalize"),
        ('{"type": "Finalize", "x": 1}', "finalize"),
        ('{"type": "close_stream"}', "close_stream"),
        ('{"type": "CloseStream"}', "close_stream"),
        ('{"type": "end"}', "close_stream"),
        ('{"type": "KeepAlive"}', "keep_alive"),
    ],
)
def test_controls_are_known_in_every_client_s_words(text, control):
    assert control_of(text) == control


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_anything_else_is_a_sentence(text):
    with pytest.raises(BadRequest):
        control_of(text)


@given(
    encoding=st.sampled_from(["linear16", "linear32", "alaw", "mulaw"]),
    rate=st.sampled_from([8_000, 16_000, 22_050, 24_000, 44_100, 48_000]),
    cuts=st.lists(st.integers(0, 9_000), max_size=12),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_how_samples_are_cut_changes_nothing(encoding, rate, cuts, seed):
    data = np.random.default_rng(seed).bytes(9_001)
    whole = SampleStream(encoding, rate)
    expected = whole.push(data) + whole.flush()
    pieces = SampleStream(encoding, rate)
    bounds = [0, *sorted(cuts), len(data)]
    heard = b"".join(pieces.push(data[a:b]) for a, b in pairwise(bounds)) + pieces.flush()
    assert heard == expected
    width = {"linear16": 2, "linear32": 4}.get(encoding, 1)
    assert abs(len(expected) / 2 / 16_000 - len(data) // width / rate) <= 1 / 16_000


@pytest.mark.parametrize("law", ["alaw", "mulaw"])
def test_companded_samples_mean_what_g_711_says(law):
    codec = av.CodecContext.create(f"pcm_{law}", "r")
    codec.sample_rate, codec.layout = 16_000, "mono"
    (frame,) = codec.decode(av.Packet(bytes(range(256))))
    assert SampleStream(law, 16_000).push(bytes(range(256))) == frame.to_ndarray().astype("<i2").tobytes()


def transcript(state=None, **options) -> LiveTranscript:
    wanted = parse_options(LIVE, list(options.items()))
    return LiveTranscript("s", wanted, SECRET, state)


def partial(text: str, language: str = "en") -> Partial:
    return Partial(utterance=0, start=0, end=1, text=text, stable=0, language=language, checkpoint="c")


def final(text: str, cause: str = "endpoint", start: float = 0.0, end: float = 1.0, language: str = "en") -> Final:
    parts = [f" {part}" for part in text.split()]
    step = (end - start) / max(1, len(parts))
    words = [
        Word(word=part, start=start + i * step, end=start + (i + 1) * step, probability=0.9)
        for i, part in enumerate(parts)
    ]
    return Final(
        utterance=0,
        start=start,
        end=end,
        text="".join(parts),
        words=words,
        language=language,
        checkpoint="c",
        confidence=1,
        cause=cause,
    )


SAID = (
    "my number is 987 654 3210 four one one card 4111 1111 1111 1111 thanks call me at jane dot doe at example dot com",
    "twenty five dollars okay. and 12",
)
SENTENCES = st.lists(st.sampled_from(" ".join(SAID).split()), min_size=1, max_size=12).map(" ".join)


@given(st.lists(st.tuples(SENTENCES, st.sampled_from(["endpoint", "length", "max_words", "finalize"])), max_size=6))
@settings(max_examples=60, deadline=None)
def test_finals_are_the_full_transcript_whatever_waits_for_more(said):
    live = transcript(full_transcript="true", redact_pii="true", redact_pci="true", word_timestamps="true")
    events = []
    for number, (text, cause) in enumerate(said):
        events.append(live.final(final(text, cause, number, number + 1))[0])
    events.append(live.final(final("", "end", len(said), len(said)))[0])
    finals = [event.transcript for event in events if event is not None]
    assert events[-1].full_transcript == " ".join(text for text in finals if text)
    times = [time for event in events if event for word in event.words for time in (word.start, word.end)]
    assert times == sorted(times)
    spoken = [word.word for event in events if event for word in event.words]
    assert spoken == " ".join(finals).split()
    assert not live.carries


@given(SENTENCES)
@settings(max_examples=60, deadline=None)
def test_a_partial_is_a_beginning_of_its_final_and_shows_nothing_that_that_redacts(text):
    live = transcript(redact_pii="true", redact_pci="true")
    whole = transcript(redact_pii="true", redact_pci="true")
    said, _ = whole.final(final(text, "end"))
    assert said is not None
    for end in range(1, len(text) + 1):
        event = live.partial(partial(" " + text[:end]))
        assert event is None or said.transcript.startswith(event.transcript)


def test_a_partial_that_says_nothing_new_is_not_sent():
    live = transcript()
    assert live.partial(partial(" hello")) is not None
    assert live.partial(partial(" hello")) is None
    assert live.partial(partial(" hello there")) is not None


def test_a_partial_takes_no_number_away_from_a_final():
    live = transcript(redact_pii="true")
    live.partial(partial(" call 987 654 3210 or 987 654 3211 or 987 654 3212 now and then some"))
    event, _ = live.final(final("call 987 654 3219 now", "finalize"))
    assert event.transcript == "call [PHONENUMBER_1] now"


def test_scripts_without_spaces_are_joined_without_them():
    live = transcript(full_transcript="true")
    live.final(final("你好。", language="zh"))
    event, added = live.final(final("再见。", language="zh"))
    assert (event.full_transcript, added) == ("你好。再见。", "再见。")


def test_another_replica_goes_on_where_the_state_says():
    first = transcript(redact_pii="true", full_transcript="true", vad_events="true")
    _, text = first.final(final("call 987 654 3210 now", "finalize", 0, 3.5))
    state = json.loads(json.dumps(first.state))
    assert state["position"] == 3.5
    assert "987" not in json.dumps(state)
    second = transcript(state, redact_pii="true", full_transcript="true", vad_events="true")
    second.go_on(text)
    event, added = second.final(final("or 987 654 3210 later", "finalize", 4, 5))
    assert event.full_transcript == "call [PHONENUMBER_1] now or [PHONENUMBER_1] later"
    assert added == " or [PHONENUMBER_1] later"
    assert event.warnings is None


def test_the_speakers_that_are_known_are_part_of_the_state():
    first = transcript(diarize="true", word_timestamps="true")
    assert first.voices is None
    voices = Voices(model="m", means="AAAA", counts=(2.0,))
    first.final(final("hello").model_copy(update={"voices": voices}))
    first.final(final("nobody new"))
    state = json.loads(json.dumps(first.state))
    assert transcript(state).voices == voices
    assert transcript(state | {"voices": {"of": "another version"}}).voices is None


def test_what_waits_for_more_is_not_yet_behind_the_position():
    live = transcript(redact_pci="true")
    event, _ = live.final(final("The card is 4111 1111", "endpoint", 0, 2.1))
    assert event.transcript == "The card is"
    assert live.carries
    assert 0.5 < live.position < 2
    rest, _ = live.rest()
    assert rest.transcript == "4111 1111"
    assert live.position == 2.1


@pytest.mark.parametrize(
    ("text", "paused", "waits"),
    [
        (" The card is 4111 1111", True, "4111 1111"),
        (" My number is 987 654 3210.", True, ""),
        (" See you at five.", True, ""),
        (" I have two dogs.", True, ""),
        (" send it to jane dot", False, "jane dot"),
        (" and so on it goes", False, "it goes"),
    ],
)
def test_only_what_may_be_half_an_entity_waits(text, paused, waits):
    cut = unfinished(text, "en", PII, paused=paused)
    assert waits in text[cut:]
    assert bool(waits) == (cut < len(text))
    assert unfinished(text, "en", Form(), paused=paused) == len(text)


def test_a_numbering_goes_on_from_its_state_only_with_its_secret():
    one = Numbering(SECRET)
    assert [one.token("PAN", "a"), one.token("PAN", "b"), one.token("EMAIL", "a")] == [
        "[PAN_1]",
        "[PAN_2]",
        "[EMAIL_1]",
    ]
    again = Numbering.of(one.state, SECRET)
    assert (again.token("PAN", "b"), again.token("PAN", "c")) == ("[PAN_2]", "[PAN_3]")
    assert Numbering.of(one.state, b"another").token("PAN", "b") == "[PAN_3]"
    assert all(len(known) == 64 for _, known in one.state)


@pytest.mark.parametrize(
    ("error", "code", "resumable"),
    [
        (BadRequest("x"), 1007, False),
        (OverLimit("x"), 1008, False),
        (Unavailable("x", code="OVERLOADED"), 1008, False),
        (LanguageNotEnabled("x", "fr", []), 1008, False),
        (Unavailable("x", code="MODEL_SERVER"), 1012, True),
        (InternalFault("x"), 1011, True),
    ],
)
def test_every_end_has_its_code(error, code, resumable):
    farewell = Farewell.of(error)
    assert (farewell.code, farewell.resumable) == (code, resumable)


def test_only_a_browser_s_two_words_are_a_key():
    assert subprotocol_of({"sec-websocket-protocol": "token, brk_1"}) == "token"
    assert subprotocol_of({"sec-websocket-protocol": "graphql-ws"}) is None
    assert subprotocol_of({}) is None
