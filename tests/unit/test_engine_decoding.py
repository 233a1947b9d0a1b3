"""Rules of decoding: timestamps, loops, tries."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.engine import quality
from babelrack.engine.sampling import allowed_next
from babelrack.engine.sequence import encoder_seconds

VOCABULARY = SimpleNamespace(first_timestamp=1000, max_initial_timestamp=50, is_timestamp=lambda token: token >= 1000)


@settings(max_examples=300, deadline=None)
@given(seconds=st.floats(0.1, 30.0), choices=st.lists(st.integers(0, 10_000), max_size=60))
def test_timestamps_come_in_pairs_never_go_back_and_stay_in_the_window(seconds, choices):
    tokens = []
    for choice in choices:
        allowed = allowed_next(tokens, VOCABULARY, seconds)
        times = range(allowed.first, allowed.last)
        assert allowed.text or times, "something may always follow"
        if times and (choice % 2 or not allowed.text):
            tokens.append(1000 + times[choice % len(times)])
        else:
            tokens.append(choice % 1000)
    times = [token - 1000 for token in tokens if token >= 1000]
    assert times == sorted(times)
    if tokens:
        assert tokens[0] >= 1000
        assert times[0] <= 50
    text = "".join("t" if token >= 1000 else "w" for token in tokens)
    assert "tttt" not in text
    # One closes the segment before and one opens the next; a third has nothing to say.
    assert "ttt" not in text
    assert all(time <= max(times[0] + len(times), int(seconds / 0.02) + len(times)) for time in times)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(5, 30), st.lists(st.integers(51, 99)))
def test_a_repeated_phrase_is_a_loop_and_is_cut_where_it_starts_again(phrase, times, before):
    tokens = [*before, *phrase * times]
    start = quality.loop_start(tokens)
    if len(phrase) * (times - 1) < max(quality.SHORTEST_LOOP, 3 * len(phrase)):
        return
    assert start is not None
    assert len(before) < start <= len(before) + len(phrase)


@given(st.lists(st.integers(0, 5000), max_size=200, unique=True))
def test_text_that_never_repeats_is_no_loop(tokens):
    assert quality.loop_start(tokens) is None


def test_a_short_refrain_is_no_loop():
    refrain = [1, 2, 3, 4, 5]
    assert quality.loop_start([9, 8, 7, *refrain, *refrain, *refrain]) is None


def test_first_the_own_length_then_padded_then_hotter():
    assert [(t.padded, t.temperature) for t in quality.tries(0.0, fits=True)] == [
        (False, 0.0), (True, 0.0), (True, 0.4), (True, 0.8)
    ]  # fmt: skip
    assert quality.tries(0.5, fits=False)[0] == quality.Try(padded=True, temperature=0.5)
    assert all(t.temperature > 0.5 for t in quality.tries(0.5, fits=False)[1:])


@pytest.mark.parametrize(
    ("seconds", "encoded"), [(0.2, 5.0), (3.0, 5.0), (7.5, 9.0), (10.5, 12.0), (11.0, 12.0), (28.5, 30.0), (30.0, 30.0)]
)
def test_a_window_is_encoded_at_its_own_length_with_a_margin(seconds, encoded):
    assert encoder_seconds(seconds) == encoded


@pytest.mark.parametrize(
    ("text", "language", "right"),
    [
        ("Inru malai varai nulagam", "ta", False),
        ("இன்று மாலை", "ta", True),
        ("OK, நன்றி.", "ta", True),
        ("आज शाम तक", "hi", True),
        ("aaj shaam tak", "hi", False),
        ("আজ", "hi", False),
        ("今日は", "ja", True),
        ("你好", "zh", True),
        ("nǐ hǎo", "zh", False),
        ("hasta tarde", "es", True),
        ("4711 …", "ta", True),
        ("", "ta", True),
    ],
)
def test_text_in_another_script_than_the_language_s_is_not_believed(text, language, right):
    assert quality.in_script(text, language) is right
    assert quality.judge(text, language, -0.3, 0.0) == ("good" if right else "unlikely")
