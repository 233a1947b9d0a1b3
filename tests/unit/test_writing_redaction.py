"""What is redacted is gone from text and words, however it was said, keeps its token, and is never let out early."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.in_ import aadhaar

from babelrack.writing import Form, Numbering, Word, write

BOTH = Form(pii=True, pci=True)

FOUND = [
    ("en", "my card is 4111 1111 1111 1111.", "my card is [CARDNUMBER_1]."),
    ("en", "it is 4111-1111-1111-1111 or 4111, 1111, 1111, 1111", "it is [CARDNUMBER_1] or [CARDNUMBER_1]"),
    ("en", "four triple one double one double one one one one one one one one one ok", "[CARDNUMBER_1] ok"),
    ("en", "forty one eleven eleven eleven eleven eleven eleven eleven ok", "[CARDNUMBER_1] ok"),
    # A digit that the recogniser got wrong breaks the checksum, but the number was announced.
    ("en", "card number 4111 1111 1111 1112, please", "card number [CARDNUMBER_1], please"),
    ("en", "expires 12/27, and the CVV is 123.", "expires [CARDEXPIRY_1], and the CVV is [CARDCVV_1]."),
    ("en", "expires December twenty twenty seven", "expires [CARDEXPIRY_1]"),
    ("en", "security code one two three", "security code [CARDCVV_1]"),
    ("en", "the CVV is, on line 12, 4111", "the CVV is, on line 12, [CARDCVV_1]"),
    ("en", "4111111111111111 12/27 123 ok", "[CARDNUMBER_1] [CARDEXPIRY_1] [CARDCVV_1] ok"),
    ("en", "write to jane dot doe at example dot com please", "write to [EMAIL_1] please"),
    ("en", "write to Jane.Doe@example.com.", "write to [EMAIL_1]."),
    ("en", "it's j a n e at the rate example dot co dot in ok", "it's [EMAIL_1] ok"),
    ("en", "call +49 1511 2345678 or plus four nine one five one one two three four five six seven eight",
     "call [PHONENUMBER_1] or [PHONENUMBER_1]"),
    ("en", "five five five, one two three, four five six seven", "[PHONENUMBER_1]"),
    ("en", "my number is 555 0199", "my number is [PHONENUMBER_1]"),
    ("en", "IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [ACCOUNTNUMBER_1], thanks"),
    ("en", "G B two nine N W B K six zero one six one three three one nine two six eight one nine",
     "[ACCOUNTNUMBER_1]"),
    ("en", "account number 12345678", "account number [ACCOUNTNUMBER_1]"),
    ("en", "my PAN is ABCPE1234F.", "my PAN is [PAN_1]."),
    ("en", "a b c p e one two three four f", "[PAN_1]"),
    ("hi", "मेरा आधार २३४१ २३४१ २३४६ है", "मेरा आधार [AADHAAR_1] है"),
    ("hi", "मेरा नंबर नौ आठ सात छह पाँच चार तीन दो एक शून्य है", "मेरा नंबर [PHONENUMBER_1] है"),
    ("hi", "नंबर डबल नौ सात छह पाँच चार तीन दो एक शून्य है", "नंबर [PHONENUMBER_1] है"),
    ("hi", "जेन डॉट डो एट एक्ज़ाम्पल डॉट कॉम पर", "[EMAIL_1] पर"),
    ("bn", "নম্বর নয় আট সাত ছয় পাঁচ চার তিন দুই এক শূন্য", "নম্বর [PHONENUMBER_1]"),
    ("ta", "எண் ஒன்பது எட்டு ஏழு ஆறு ஐந்து நான்கு மூன்று இரண்டு ஒன்று பூஜ்ஜியம்", "எண் [PHONENUMBER_1]"),
    ("te", "నంబర్ తొమ్మిది ఎనిమిది ఏడు ఆరు ఐదు నాలుగు మూడు రెండు ఒకటి సున్నా", "నంబర్ [PHONENUMBER_1]"),
    ("fr", "le zéro six douze trente-quatre cinquante-six soixante-dix-huit merci", "le [PHONENUMBER_1] merci"),
    ("fr", "jeanne point dupont arobase exemple point fr merci", "[EMAIL_1] merci"),
    ("de", "null eins fünf eins zwei drei vier fünf sechs sieben acht bitte", "[PHONENUMBER_1] bitte"),
    ("es", "mi correo es jane arroba ejemplo punto com", "mi correo es [EMAIL_1]"),
    ("es", "seis uno dos tres cuatro cinco seis siete ocho vale", "[PHONENUMBER_1] vale"),
    ("en", "...o'neil@example.com", "...[EMAIL_1]"),
    ("zh", "我的电话是一三八一二三四五六七八，谢谢", "我的电话是[PHONENUMBER_1]，谢谢"),
    ("zh", "我的邮箱是jane@example.com谢谢", "我的邮箱是[EMAIL_1]谢谢"),
    ("ja", "私の電話番号は〇九〇一二三四五六七八です", "私の電話番号は[PHONENUMBER_1]です"),
    ("ru", "номер восемь девять один два три четыре пять шесть семь восемь девять", "номер [PHONENUMBER_1]"),
    ("ar", "رقمي صفر خمسة خمسة واحد اثنين ثلاثة أربعة خمسة ستة سبعة", "رقمي [PHONENUMBER_1]"),
    ("pt", "minha conta é meia um dois três quatro cinco seis", "minha conta é [ACCOUNTNUMBER_1]"),
    ("sv", "ring 070 123 45 67 tack", "ring [PHONENUMBER_1] tack"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "said", "redacted"), FOUND)
def test_an_entity_is_found_however_it_is_said(language, said, redacted):
    assert write(said, language=language, form=BOTH).text == redacted


@pytest.mark.parametrize(("language", "said", "redacted"), FOUND)
def test_redacting_again_changes_nothing(language, said, redacted):
    assert write(redacted, language=language, form=BOTH).text == redacted


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "from 2019 to 2020, 25 people, 1,000 cows, at 5:30 on 12/05/2025"),
        ("en", "in nineteen ninety nine I had twenty five cows and $1,500.50"),
        ("en", "it's at www.example.com, order 123456 for twelve hundred thirty people"),
        ("en", "meet me at noon. The dot is at the end."),
        ("de", "am 12.05.2025 um 17 Uhr"),
        ("da", "den 12.05.2025"),
        ("hi", "एक दो तीन"),
        ("zh", "一个人两只猫"),
    ],
)
def test_ordinary_numbers_stay(language, said):
    assert write(said, language=language, form=BOTH).text == said


def test_only_what_was_asked_for_is_redacted():
    said = "call 555 123 4567, card 4111 1111 1111 1111, account 12345678"
    pii = write(said, language="en", form=Form(pii=True)).text
    assert pii == "call [PHONENUMBER_1], card 4111 1111 1111 1111, account [ACCOUNTNUMBER_1]"
    pci = write(said, language="en", form=Form(pci=True)).text
    assert pci == "call 555 123 4567, card [CARDNUMBER_1], account [ACCOUNTNUMBER_1]"


def test_an_entity_keeps_its_token_in_a_session_however_it_is_spelled():
    numbering = Numbering()

    def says(text: str) -> str:
        return write(text, language="en", form=BOTH, numbering=numbering).text

    assert says("call 020 7946 0018 please") == "call [PHONENUMBER_1] please"
    assert says("or 555 123 4567 please") == "or [PHONENUMBER_2] please"
    assert says("plus four four two zero seven nine four six zero zero one eight") == "[PHONENUMBER_1]"
    assert says("Jane@Example.com and jane at example dot com") == "[EMAIL_1] and [EMAIL_1]"
    assert "7946" not in repr(numbering)


def test_tokens_survive_the_other_options():
    form = Form(punctuate=False, capitalize=False, numerals=True, pii=True, pci=True)
    written = write("CALL 555 123 4567, PLEASE. Twenty-five TIMES!", language="en", form=form)
    assert written.text == "call [PHONENUMBER_1] please 25 times"


def test_what_is_not_found_is_said():
    (names,) = write("hello", language="hi", form=Form(pii=True)).warnings
    assert "names and postal addresses" in names
    assert write("hello", language="en", form=Form(pci=True)).warnings == ()
    (digits,) = write("hej", language="sv", form=Form(pci=True)).warnings
    assert digits.startswith("redaction reads numerals only in language sv")


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HINDI = ["शून्य", "एक", "दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ", "नौ"]


def said_digits(digits: str, how: str) -> str:
    """`digits` in one of the ways in which a recogniser writes what it hears."""
    if how == "words":
        return " ".join(NAMES[int(digit)] for digit in digits)
    if how == "hindi":
        return " ".join(HINDI[int(digit)] for digit in digits)
    if how == "mixed":
        return " ".join(NAMES[int(digit)] if index % 3 else digit for index, digit in enumerate(digits))
    if how == "groups":
        return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
    return how.join(digits)


WAYS = st.sampled_from(["words", "hindi", "mixed", "groups", "", " ", "-", ", "])
CARDS = st.text("0123456789", min_size=14, max_size=14).map(
    lambda tail: (card := f"4{tail}") + luhn.calc_check_digit(card)
)
PHONES = st.text("123456789", min_size=10, max_size=10)
AADHAARS = st.text("23456789", min_size=11, max_size=11).map(
    lambda head: head + aadhaar.verhoeff.calc_check_digit(head)
)
IDENTITIES = st.one_of(CARDS, PHONES, AADHAARS)
CHATTER = ["so", "I", "think", "that", "is", "the", "one", "you", "please", "and", "thank", "friend", "at"]
BEFORE = st.lists(st.sampled_from(CHATTER), max_size=6).map(" ".join)


@st.composite
def secrets(draw):
    """(the spoken form of an entity, the language): what must not be seen."""
    if draw(st.booleans()):
        how = draw(WAYS)
        return said_digits(draw(IDENTITIES), how), "hi" if how == "hindi" else "en"
    names = draw(st.lists(st.sampled_from(["jane", "doe", "smith", "kumar", "xu"]), min_size=1, max_size=3))
    dot, at = draw(st.sampled_from([(".", "@"), (" dot ", " at "), (".", " at "), (" dot ", " at the rate ")]))
    return dot.join(names) + at + dot.join(["example", draw(st.sampled_from(["com", "org", "in"]))]), "en"


@st.composite
def conversations(draw):
    secret, language = draw(secrets())
    before, after = draw(BEFORE), draw(st.lists(st.sampled_from(CHATTER), max_size=6).map(" ".join))
    assume(not re.search(r"(^| )(one|I|at)$", before))
    assume(not re.match(r"(one|I)( |$)", after))
    return f"{before} ".lstrip(), secret, f" {after}".rstrip(), language


def words_of(text: str) -> list[Word]:
    return [Word(word, float(index), index + 0.5, 0.5) for index, word in enumerate(text.split())]


@given(conversations())
def test_nothing_of_an_entity_is_left_in_text_or_words_and_all_else_is(conversation):
    before, secret, after, language = conversation
    text = before + secret + after
    written = write(text, words_of(text), language=language, form=BOTH)
    assert re.fullmatch(rf"{re.escape(before)}\[[A-Z]+_1\]{re.escape(after)}", written.text), written.text
    assert " ".join(word.text for word in written.words) == written.text
    token = written.words[len(before.split())]
    assert token.start == len(before.split())
    assert token.end == len((before + secret).split()) - 0.5


@given(conversations(), st.booleans())
@settings(deadline=None)
def test_a_partial_never_lets_out_what_a_later_text_redacts(conversation, commits):
    before, secret, after, language = conversation
    text = before + secret + after
    numbering = Numbering()
    final = write(text, language=language, form=BOTH).text
    for end in range(len(text) + 1):
        partial = write(
            text[:end],
            words_of(text[:end]),
            language=language,
            form=BOTH,
            numbering=numbering if commits else None,
            partial=True,
        )
        # What was shown once is never taken back, so it has no character of the entity but in its token.
        assert final.startswith(partial.text), (text[:end], partial.text)
        assert " ".join(word.text for word in partial.words) == partial.text


@pytest.mark.parametrize(("language", "said", "redacted"), FOUND)
def test_a_partial_of_each_way_to_say_an_entity_lets_nothing_out(language, said, redacted):
    for end in range(len(said) + 1):
        assert redacted.startswith(write(said[:end], language=language, form=BOTH, partial=True).text), said[:end]


@given(st.lists(st.sampled_from(["so", "we", "think", "that", "is", "fine", "thank", "you"]), min_size=3, max_size=20))
def test_a_partial_of_ordinary_words_is_late_by_at_most_three(said):
    partial = write(" ".join(said), language="en", form=BOTH, partial=True).text
    assert partial.split() in (said[:-2], said[:-3])


def test_a_partial_that_redacts_nothing_is_whole():
    assert write("call five five five", language="en", form=Form(), partial=True).text == "call five five five"


@given(st.text(max_size=80), st.sampled_from(["en", "hi", "zh", "de", "xx"]), st.booleans())
def test_any_text_can_be_redacted(text, language, partial):
    write(text, language=language, form=BOTH, partial=partial)
