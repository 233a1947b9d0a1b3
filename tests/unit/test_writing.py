"""Text and words in their written form agree, whatever is asked for and in scripts with and without spaces."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.writing import Form, Word, write

FORMS = st.builds(
    Form,
    punctuate=st.booleans(),
    capitalize=st.booleans(),
    numerals=st.booleans(),
    pii=st.booleans(),
    pci=st.booleans(),
)
SAID = st.lists(
    st.sampled_from(
        ["Twenty", "five,", "Dollars", "5", "555-123-4567", "jane", "dot", "at", "example", "com.", "well-known", "...",
         "don't", "İstanbul", "ΟΔΟΣ", "4111", "1111", "one", "two", "double", "cvv", "percent", "¿Qué?"]
    ),
    max_size=14,
)  # fmt: skip


def timed(words: list[str]) -> list[Word]:
    return [Word(word, index, index + 0.75, 1 - index / 100) for index, word in enumerate(words)]


@given(SAID, FORMS, st.sampled_from(["en", "de", "es", "hi"]), st.booleans())
def test_the_words_of_a_spaced_script_are_the_text(said, form, language, partial):
    written = write(" ".join(said), timed(said), language=language, form=form, partial=partial)
    assert " ".join(word.text for word in written.words) == " ".join(written.text.split())
    assert written.text == write(" ".join(said), language=language, form=form, partial=partial).text


@given(SAID, FORMS)
def test_a_word_has_the_time_and_the_least_confidence_of_the_words_that_it_was_made_of(said, form):
    given = timed(said)
    written = write(" ".join(said), given, language="en", form=form)
    for word, origin in zip(written.words, written.origins, strict=True):
        made_of = given[origin.start : origin.stop]
        assert (word.start, word.end) == (made_of[0].start, made_of[-1].end)
        assert word.confidence == min(each.confidence for each in made_of)
    ends = [index for origin in written.origins for index in (origin.start, origin.stop)]
    assert ends == sorted(ends)


@given(SAID, FORMS)
def test_writing_again_what_was_written_changes_nothing(said, form):
    # Each stage by itself: without a comma `five, percent` is a percentage, and a `$` ends a run of digits.
    form = replace(form, punctuate=True, numerals=form.numerals and not form.redacts)
    once = write(" ".join(said), language="en", form=form).text
    assert write(once, language="en", form=form).text == once


@given(st.lists(st.sampled_from([*"我的电话是一三八一二三四五六七八。，？", "谢谢", "AI"]), max_size=30), FORMS)
def test_the_words_of_a_script_without_spaces_are_the_text(said, form):
    written = write("".join(said), timed(said), language="zh", form=form)
    assert "".join(word.text for word in written.words) == written.text


def test_a_number_of_two_words_becomes_one_word():
    (number, cows) = write(
        "twenty five cows", timed(["twenty", "five", "cows"]), language="en", form=Form(numerals=True)
    ).words
    assert number == Word("25", 0, 1.75, 0.99)
    assert cows == Word("cows", 2, 2.75, 0.98)


def test_a_word_that_was_only_a_mark_goes_with_it():
    written = write("Hello , World !", timed(["Hello", ",", "World", "!"]), language="en", form=Form(punctuate=False))
    assert [word.text for word in written.words] == ["Hello", "World"]
    assert written.origins == (range(1), range(2, 3))


def test_utterances_are_written_like_the_text_and_share_no_word():
    said = "call me. five five five one two three four five six seven. thanks".split()  # noqa: SIM905
    written = write(" ".join(said), timed(said), language="en", form=Form(pii=True, punctuate=False))
    assert written.passage(0, 2) == "call me"
    assert written.passage(2, 7) == "[PHONENUMBER_1]"
    assert written.passage(7, 12) == ""
    assert written.passage(12, 13) == "thanks"


def test_words_that_are_not_in_the_text_are_refused_without_being_shown():
    with pytest.raises(ValueError, match=r"^word 2 of 2 isn't in the text after the one before it\.$"):
        write("my 4111", timed(["my", "4242"]), language="en", form=Form())
