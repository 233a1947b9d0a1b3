"""Spoken numbers are written in numerals where a library covers the language, and stay words where none does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.writing import NUMERAL_LANGUAGES, Form, write

NUMERALS = Form(numerals=True)

SAID = {
    "en": [
        ("I have twenty-five cows, and one idea.", "I have 25 cows, and one idea."),
        ("It cost twenty five dollars and fifty cents.", "It cost $25.50."),
        ("Five dollars and five cents, or ten dollars and nothing.", "$5.05, or $10 and nothing."),
        ("two percent of five thousand rupees", "2% of ₹5000"),
        ("thirty per cent", "30%"),
        ("25 percent, $25, 25 euros", "25%, $25, €25"),
        ("on May twenty third nineteen eighty four", "on May 23rd 1984"),
        ("the twenty-third of May, two thousand five", "the 23rd of May, 2005"),
        ("since twenty twenty five", "since 2025"),
        ("nineteen eighty people", "19 80 people"),
        ("dial five five five oh one", "dial 555 oh one"),
        ("one of them came second", "one of them came second"),
        ("version three point one four", "version 3.14"),
        ("", ""),
    ],
    "de": [
        ("am dreiundzwanzigsten Mai neunzehnhundertneunundneunzig", "am 23. Mai 1999"),
        ("fünfundzwanzig Euro und drei Prozent", "25 € und 3 %"),
        ("ein Hund", "ein Hund"),
    ],
    "es": [
        ("el veintitrés de mayo de dos mil veinticinco", "el 23 de mayo de 2025"),
        ("treinta por ciento y veinticinco euros", "30 % y 25 €"),
    ],
    "fr": [
        ("vingt-cinq euros et trente pour cent", "25 € et 30 %"),
        ("zéro six douze trente-quatre cinquante-six soixante-dix-huit", "06 12 34 56 78"),
        ("un chien", "un chien"),
    ],
    "pt": [
        ("vinte e três de maio de dois mil e vinte e cinco", "23 de maio de 2025"),
        ("vinte e cinco reais, dez por cento", "R$ 25, 10%"),
    ],
    "it": [("ventitré maggio duemilaventicinque", "23 maggio 2025"), ("venticinque euro", "25 €")],
    "nl": [("drieëntwintig mei, vijfentwintig euro", "23 mei, € 25"), ("tien procent", "10%")],
    "da": [("treogtyve kroner og ti procent", "23 kr. og 10 %")],
}


def test_every_language_that_is_named_has_a_table_here():
    assert set(SAID) == set(NUMERAL_LANGUAGES)


@pytest.mark.parametrize(("language", "said", "written"), [(key, *row) for key, rows in SAID.items() for row in rows])
def test_spoken_numbers_are_written_in_numerals(language, said, written):
    assert write(said, language=language, form=NUMERALS).text == written


@pytest.mark.parametrize(("language", "said", "written"), [(key, *row) for key, rows in SAID.items() for row in rows])
def test_what_is_written_in_numerals_stays_as_it_is(language, said, written):
    assert write(written, language=language, form=NUMERALS).text == written


def test_a_language_without_a_library_keeps_its_text_and_says_so_once():
    written = write("मेरे पास पच्चीस गायें हैं", language="hi", form=NUMERALS)
    assert written.text == "मेरे पास पच्चीस गायें हैं"
    (warning,) = written.warnings
    assert "itn_normalize has no effect in language hi" in warning
    assert write("twenty five", language="en", form=NUMERALS).warnings == ()


NUMBERS = ["one", "two", "five", "twelve", "twenty", "ninety", "hundred", "thousand", "twenty-third", "25", "3.5", "$5"]
VOCABULARY = [*NUMBERS, "and", "point", "oh", "dollars", "cents", "percent", "in", "May", "cows", ","]


@given(st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join))
def test_writing_numerals_never_loses_a_word_that_is_no_number(text):
    written = write(text, language="en", form=NUMERALS).text
    assert written.split().count("cows") == text.split().count("cows")
    assert written.count(",") >= text.split().count(",")
    assert "twenty" not in written
    assert "ninety" not in written


@given(st.text(max_size=60), st.sampled_from([*NUMERAL_LANGUAGES, "hi", "zh", "xx"]))
def test_any_text_can_be_written(text, language):
    write(text, language=language, form=NUMERALS)
