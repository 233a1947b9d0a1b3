"""Real speech with numbers in it comes back in the form that was asked for."""

from __future__ import annotations

import re

import httpx
import pytest
from api_rig import said, speech

pytest_plugins = ["api_pack"]

CLIP = "en-numbers"  # a price, a card number and a phone number
CARD, PHONE = "4539148803436467", "6502534567"
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def digits(text: str) -> str:
    return re.sub(r"\D", "", text)


@pytest.fixture(scope="module")
def ask(pack):
    with pack.client() as client:

        def ask(path: str = "/waves/v1/pulse/get_text", **options: str) -> dict:
            answer = client.post(path, params={"language": "en", **options}, content=speech(CLIP))
            assert answer.status_code == httpx.codes.OK, answer.text
            return answer.json()

        yield ask


@pytest.fixture(scope="module")
def plain(ask):
    """The answer without any of the options: the clip is heard well enough to tell what they do."""
    answer = ask()
    assert digits(answer["transcription"]) == f"25{CARD}{PHONE}"
    assert [str(NAMES.index(word)) for word in re.findall(r"\w+", said(CLIP)) if word in NAMES][1:] == [*CARD, *PHONE]
    return answer


def test_what_is_redacted_is_in_no_part_of_the_answer(ask, plain):
    both = ask("/waves/v1/stt/", model="pulse", redact_pii="true", redact_pci="true", punctuate="false")
    assert "[CARDNUMBER_1]" in both["transcription"]
    assert "[PHONENUMBER_1]" in both["transcription"]
    assert CARD[4:8] not in str(both)
    assert PHONE[-4:] not in both["transcription"]
    pci = ask(redact_pci="true", capitalize="false")["transcription"]
    assert "[CARDNUMBER_1]" in pci
    assert digits(pci.replace("[CARDNUMBER_1]", "")) == f"25{PHONE}"
    assert "the ticket" in pci


def test_warnings_are_there_only_when_there_is_something_to_warn_of(ask, plain):
    assert "warnings" not in plain
    assert "warnings" not in ask(redact_pci="true", itn_normalize="true")
    (names,) = ask(redact_pii="true")["warnings"]
    assert "names and postal addresses" in names
    (numerals,) = ask(itn_normalize="true", language="hi")["warnings"]
    assert "itn_normalize has no effect in language hi" in numerals
    assert "warnings" not in ask(itn_normalize="true", language="hi", format="false")
