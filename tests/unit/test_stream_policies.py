"""Live streams without an engine: where utterances end, what of a text is certain, what is said of it."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.engine import SpokenWord
from babelrack.model_server.agreement import Piece, agreed, ends_word, text_of
from babelrack.model_server.endpointing import Closed, Cut, Endpointer, Opened, Paused, Resumed, Speech
from babelrack.model_server.utterance import Utterance

FRAME = 512
RATE = 16_000


def endpointer(**options):
    return Endpointer(**{"endpointing": True, "eou_timeout_ms": 800, "bounded": True} | options)


def frames(seconds, probability):
    return [probability] * round(seconds * RATE / FRAME)


def speech(*seconds):
    """Speech and silence in turn, beginning with silence."""
    return [p for index, each in enumerate(seconds) for p in frames(each, 0.95 if index % 2 else 0.02)]


def seconds(mark):
    return mark.at / RATE


def causes(marks):
    return [mark.cause for mark in marks if isinstance(mark, Cut)]


def test_an_utterance_begins_a_little_before_speech_and_ends_after_the_silence_that_was_asked_for():
    marks = endpointer(eou_timeout_ms=1000).feed(speech(2.0, 3.0, 2.0))
    kinds = [type(mark) for mark in marks]
    assert kinds == [Speech, Opened, Paused, Closed, Speech, Cut]
    started, opened, paused, closed, ended, cut = marks
    assert (started.begins, ended.begins) == (True, False)
    assert seconds(opened) == pytest.approx(1.7, abs=0.05)
    assert seconds(paused) == seconds(closed) == pytest.approx(5.3, abs=0.05)
    assert seconds(ended) == pytest.approx(5.0, abs=0.05)
    assert seconds(cut) == pytest.approx(6.0, abs=0.05)
    assert cut.cause == "endpoint"


def test_a_breath_ends_nothing_and_a_click_begins_nothing():
    marks = endpointer().feed([*speech(1.0, 2.0, 0.5, 2.0, 0.2), 0.1, 0.9, 0.1])
    assert [type(mark) for mark in marks] == [Speech, Opened, Paused, Resumed]
    assert endpointer().feed([0.1, 0.9, 0.1] * 50) == []


def test_without_endpointing_only_finalize_and_the_end_end_an_utterance_and_its_silence_is_left_out():
    listening = endpointer(endpointing=False)
    marks = listening.feed(speech(1.0, 2.0, 5.0, 2.0, 30.0))
    assert causes(marks) == []
    assert [type(mark) for mark in marks if not isinstance(mark, Speech)] == [Opened, Paused, Closed] * 2
    assert [mark.begins for mark in marks if isinstance(mark, Speech)] == [True, False] * 2
    assert listening.needed_from > 39 * RATE
    assert causes(listening.cut(40 * RATE, "finalize")) == ["finalize"]


def test_an_utterance_that_goes_on_ends_at_a_weak_moment_or_at_its_bound():
    breath = endpointer().feed(speech(0.0, 21.0, 0.25, 5.0))
    assert [seconds(mark) for mark in breath if isinstance(mark, Cut)] == [pytest.approx(21.2, abs=0.1)]
    without = endpointer().feed(speech(0.0, 60.0))
    assert [seconds(mark) for mark in without if isinstance(mark, Cut)] == [
        pytest.approx(27, abs=0.5), pytest.approx(54, abs=0.5)
    ]  # fmt: skip
    assert causes(endpointer(bounded=False).feed(speech(0.0, 600.0))) == []


def test_a_finalize_takes_up_what_is_too_short_to_begin_speech():
    listening = endpointer()
    assert listening.feed([*speech(1.0), 0.9]) == []
    at = 32 * FRAME
    assert [type(mark) for mark in listening.cut(at, "finalize")] == [Opened, Closed, Cut]
    assert [type(mark) for mark in listening.cut(at, "finalize")] == [Cut]


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.floats(0.03, 12.0), st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0])), max_size=30),
    cuts=st.integers(0, 3),
    endpointing=st.booleans(),
    bounded=st.booleans(),
    timeout=st.sampled_from([100, 800, 3000]),
    seed=st.integers(0, 999),
)
def test_marks_come_in_order_and_do_not_depend_on_how_the_audio_is_cut(runs, cuts, endpointing, bounded, timeout, seed):
    chance = random.Random(seed)
    heard = [p for length, probability in runs for p in frames(length, probability)]
    finalized = sorted(chance.sample(range(len(heard) + 1), min(cuts, len(heard))))
    options = {"endpointing": endpointing, "bounded": bounded, "eou_timeout_ms": timeout}

    def run(pieces):
        listening, marks = endpointer(**options), []
        for frame in range(len(heard) + 1):
            for _ in range(finalized.count(frame)):
                marks += listening.cut(frame * FRAME, "finalize")
            if frame == len(heard):
                break
            if pieces == 1:
                marks += listening.feed(heard[frame : frame + 1])
            elif frame == 0 or frame in finalized:
                later = [f for f in finalized if f > frame]
                marks += listening.feed(heard[frame : later[0] if later else None])
            assert pieces != 1 or listening.needed_from <= (frame + 1) * FRAME
        return [*marks, *listening.cut(len(heard) * FRAME, "end")]

    marks = run(1)
    assert marks == run(None)
    begins = [mark.begins for mark in marks if isinstance(mark, Speech)]
    assert begins == [True, False] * (len(begins) // 2)
    assert causes(marks).count("finalize") == len(finalized)
    assert causes(marks)[-1] == "end"
    opened = latest = 0
    stretches = "".join({Opened: "o", Paused: "p", Resumed: "r", Closed: "c", Cut: "|"}.get(type(m), "") for m in marks)
    for mark in marks:
        if isinstance(mark, Opened):
            assert mark.at >= latest, "no audio is heard twice"
            opened = mark.at
        if isinstance(mark, Closed):
            assert opened <= mark.at
            latest = mark.at
            if bounded:
                assert mark.at - opened <= 28 * RATE
    for part in stretches.split("|"):
        assert part.replace("pr", "").replace("p", "") in ("", *("oc" * n for n in range(1, 60)))


def spell(text):
    """Pieces of a text, as a vocabulary might cut it: up to three letters, or a mark."""
    pieces = re.findall(r" ?\w{1,3}|[^\w]", text)
    return [Piece(piece, (hash(piece) % 50_000,), (-0.1,)) for piece in pieces]


def stable_text(before, now, least=0, hold=0):
    pieces = spell(now)
    return text_of(pieces[: agreed(spell(before), pieces, least=least, hold=hold)])


def test_what_two_hypotheses_agree_on_is_certain_up_to_a_words_end():
    assert stable_text(" the library is open", " the library is often shut") == " the library is"
    assert stable_text(" the book", " the bookshop") == " the"
    assert stable_text(" the book.", " the book, and") == " the book"
    assert stable_text(" don't", " don't you", hold=1) == " don't"
    assert stable_text(" the library is open.", " the library is open.", hold=1) == " the library is"
    assert stable_text(" a b c", " a b c d", hold=2) == " a b"
    assert stable_text("", " the") == stable_text(" one", " two") == ""


def test_scripts_without_spaces_are_cut_between_characters_and_never_inside_one():
    assert stable_text("今日は図書", "今日は図画") == "今日は図" or stable_text("今日は図書", "今日は図画") == "今日は"
    thai = [Piece(c, (ord(c),), (0.0,)) for c in "กำลัง"]
    assert not ends_word(thai, 1)
    assert ends_word(thai, 2)
    hindi = [Piece(c, (ord(c),), (0.0,)) for c in " किताब"]
    assert [n for n in range(1, 6) if ends_word(hindi, n)] == [1]


words_ = st.text("abc", min_size=1, max_size=4)
texts = st.lists(words_, max_size=8).map(lambda found: "".join(" " + word for word in found))


def spoken(text, length):
    """Words of a text with times inside a window of `length` seconds."""
    found = text.split()
    each = length / max(1, len(found))
    return [SpokenWord(" " + word, i * each, (i + 0.8) * each, 0.9) for i, word in enumerate(found)]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(texts, st.sampled_from(["hear", "hear", "hear", "trim", "force", "commit"])), max_size=12),
    hold=st.integers(0, 2),
    most=st.sampled_from([None, 1, 3]),
)
def test_stable_text_is_never_taken_back_and_words_are_the_text_at_times_that_only_grow(steps, hold, most):
    utterance = Utterance("en", "base")
    start, now, said, latest = 0, 0.0, "", 0.0

    def check(utterance):
        text = utterance.text
        assert text.startswith(said)
        assert text == text.lstrip()
        assert "".join(word.text for word in utterance.words) == text
        edges = [latest, *(edge for word in utterance.words for edge in (word.start, word.end)), now]
        assert edges == sorted(edges)
        return text[: utterance.stable]

    for more, step in steps:
        now += 1.0
        text = text_of(utterance.prefix) + more
        utterance.hear(spell(text), spoken(text, now - start / RATE), start, hold=hold)
        if step == "force":
            utterance.settle_until(now - 0.5)
        elif step == "commit":
            utterance.settle()
        while most is not None and (split := utterance.split(most)) is not None:
            first, end = split
            assert len(first.words) == len(first.text.split()) == most
            check(first)
            said, latest, start = "", end, max(start, round(end * RATE))
        said = check(utterance)
        if step == "commit":
            utterance.commit()
            start = round(now * RATE)
        elif step == "trim" and (at := utterance.trim(0.0, now - 0.1)) is not None:
            assert start <= at <= now * RATE
            start = at
        said = check(utterance)


def test_the_prompt_is_the_end_of_what_was_said_from_a_words_beginning():
    utterance = Utterance("en", "base")
    assert utterance.prompt is None
    utterance.hear(spell(" word" * 100), [], 0)
    assert utterance.prompt is None
    utterance.commit()
    assert utterance.prompt == " ".join(["word"] * 40)


def test_texts_of_two_windows_are_joined_as_their_language_is_written():
    for language, expected in (("en", "one, two"), ("zh", "one,two")):
        utterance = Utterance(language, "base")
        for text in (" one", ",", " two"):
            utterance.hear(spell(text), [], 0)
            utterance.commit()
        assert utterance.text == expected
