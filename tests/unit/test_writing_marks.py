"""punctuate=false and capitalize=false do what the wire reference says, in every script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.writing import Form, write


def written(text: str, **form) -> str:
    return write(text, language="en", form=Form(**form)).text


def without_punctuation(text: str) -> str:
    return written(text, punctuate=False)


MARKS = ".,?!।॥،؟۔。，？！¿¡…"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Hello, World. How are you? Fine!", "Hello World How are you Fine"),
        ("नमस्ते। आप कैसे हैं?", "नमस्ते आप कैसे हैं"),
        ("مرحبا، كيف حالك؟", "مرحبا كيف حالك"),
        ("¿Dónde está? ¡Aquí!", "Dónde está Aquí"),
        ("It's 3.14 or 1,000.", "It's 3 14 or 1 000"),
        ("well-known, isn't it...", "well-known isn't it"),
        ("...", ""),
    ],
)
def test_punctuation_of_each_script_goes_and_words_stay(text, bare):
    assert without_punctuation(text) == bare


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(MARKS)), max_size=80))
def test_no_mark_is_left_and_doing_it_again_changes_nothing(text):
    bare = without_punctuation(text)
    assert not set(bare) & set(MARKS)
    assert without_punctuation(bare) == bare


@given(st.text(max_size=80))
def test_a_transcript_that_keeps_both_is_untouched(text):
    assert written(text, punctuate=True, capitalize=True) == text


def test_capitalize_false_lowercases_everywhere_and_keeps_the_marks():
    assert written("Hello, World. ÄÖ", punctuate=True, capitalize=False) == "hello, world. äö"
