"""Punctuation and capitals taken out of a transcript, for `punctuate=false` and `capitalize=false`."""

from __future__ import annotations

import re

# Full stop, comma, question and exclamation mark of the scripts that a pack may hold. A hyphen or an apostrophe is
# part of a word, a colon and a semicolon are not in the wire reference's list.
_MARKS = (
    ".,?!¿¡…"  # Latin, Greek, Cyrillic
    "।॥॰"  # Devanagari, Bengali and their kin
    "،؟۔؛٫٬"  # Arabic, Urdu
    "。、，．？！｡､"  # CJK, full and half width
    "෴។៕၊။።፣፧፨։՞՜՝"  # Sinhala, Khmer, Burmese, Ethiopic, Armenian
)
_MARK = re.compile(f"[{re.escape(_MARKS)}]+")
_WITHIN_NUMBER = re.compile(rf"(?<=\d)[{re.escape(_MARKS)}]+(?=\d)")
_SPACES = re.compile(r"\s+")


def without_punctuation(text: str) -> str:
    """`text` without `. , ? !` and its script's own marks; the two sides of a decimal point stay two numbers."""
    return _SPACES.sub(" ", _MARK.sub("", _WITHIN_NUMBER.sub(" ", text))).strip()


def written(text: str, *, punctuate: bool, capitalize: bool) -> str:
    """`text` as the options want it; a transcript that keeps both is returned as it is."""
    if not punctuate:
        text = without_punctuation(text)
    return text if capitalize else text.lower()
