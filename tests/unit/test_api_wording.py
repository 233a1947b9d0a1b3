"""The final form of words and utterances: they say what the text says, as the options want it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.api_server.speakers import attributed
from babelrack.api_server.wording import worded
from babelrack.pairing import Turn, Word

KEPT = {"format": True, "punctuate": True, "capitalize": True}


def said(*words, pause=0.1):
    """Words of 0.4 s one after another; a number among them is a pause."""
    found, now = [], 0.0
    for word in words:
        if isinstance(word, float):
            now += word - pause
            continue
        found.append(Word(word=word, start=round(now, 3), end=round(now + 0.4, 3), probability=0.9))
        now += 0.4 + pause
    return found


def wording(words, options=KEPT):
    """The words and what they say together, in their written form."""
    return worded("".join(word.word for word in words), words, "en", options)


def test_words_and_utterances_carry_times_and_confidence():
    formed = wording(said(" Hello", " there.", " Yes."))
    assert formed.text == "Hello there. Yes."
    assert [word.model_dump(exclude_unset=True) for word in formed.words] == [
        {"word": "Hello", "start": 0.0, "end": 0.4, "confidence": 0.9},
        {"word": "there.", "start": 0.5, "end": 0.9, "confidence": 0.9},
        {"word": "Yes.", "start": 1.0, "end": 1.4, "confidence": 0.9},
    ]
    assert [utterance.model_dump(exclude_unset=True) for utterance in formed.utterances] == [
        {"text": "Hello there.", "start": 0.0, "end": 0.9},
        {"text": "Yes.", "start": 1.0, "end": 1.4},
    ]


@pytest.mark.parametrize(
    ("words", "utterances"),
    [
        ([" so", " it", 0.79, " goes", 0.8, " on"], ["so it goes", "on"]),
        ([' "Go!"', " he", " said."], ['"Go!"', "he said."]),
        (["你", "好。", "再", "见"], ["你好。", "再见"]),
        ([" नमस्ते।", " कैसे", " हैं?"], ["नमस्ते।", "कैसे हैं?"]),
        ([], []),
    ],
)
def test_an_utterance_ends_with_its_sentence_or_at_a_pause(words, utterances):
    assert [utterance.text for utterance in wording(said(*words)).utterances] == utterances


def spoken_by(words, *speakers):
    return [
        word.model_copy(update={"speaker": speaker, "speaker_confidence": 0.5 + speaker / 10})
        for word, speaker in zip(words, speakers, strict=True)
    ]


def test_an_utterance_ends_where_the_speaker_changes_and_names_its_speaker():
    formed = wording(spoken_by(said(" Are", " you", " yes", " I", " am."), 0, 0, 1, 1, 1))
    assert [(each.text, each.speaker) for each in formed.utterances] == [("Are you", 0), ("yes I am.", 1)]
    assert [(word.speaker, word.speaker_confidence) for word in formed.words] == [(0, 0.5)] * 2 + [(1, 0.6)] * 3


def test_a_word_that_is_written_of_several_is_of_who_began_it_and_as_sure_as_the_least_sure():
    options = {**KEPT, "itn_normalize": True}
    formed = wording(spoken_by(said(" It", " costs", " twenty", " five", " dollars."), 0, 0, 2, 1, 1), options)
    assert [(word.word, word.speaker, word.speaker_confidence) for word in formed.words][-1] == ("$25.", 2, 0.6)


def test_a_word_is_of_the_turn_that_it_shares_most_time_with_else_of_the_nearest():
    turns = [
        Turn(start=1.0, end=2.0, speaker=0, confidence=0.9),
        Turn(start=2.0, end=3.0, speaker=1, confidence=0.8),
        Turn(start=5.0, end=6.0, speaker=0, confidence=0.7),
    ]
    spans = [(0.0, 0.2), (1.1, 1.9), (1.7, 2.2), (1.9, 2.4), (3.5, 3.7), (4.5, 4.6), (1.9, 4.0), (8.0, 9.0)]
    words = [Word(word=" a", start=start, end=end, probability=1.0) for start, end in spans]
    found = attributed(words, turns)
    assert [word.speaker for word in found] == [0, 0, 0, 1, 1, 0, 1, 0]
    assert found[3].speaker_confidence == 0.8
    assert [(word.speaker, word.speaker_confidence) for word in attributed(words[:1], [])] == [(0, 0.0)]


def test_a_word_that_was_only_punctuation_vanishes_and_sentences_still_part():
    formed = wording(said(" Well", " —?", " yes.", " OK"), {**KEPT, "punctuate": False})
    assert [word.word for word in formed.words] == ["Well", "—", "yes", "OK"]
    formed = wording(said(" Well", " ...", " yes.", " OK"), {**KEPT, "format": False})
    assert [word.word for word in formed.words] == ["well", "yes", "ok"]
    assert [utterance.text for utterance in formed.utterances] == ["well", "yes", "ok"]


@given(
    st.lists(
        st.text(st.sampled_from(" aBcД你ह।.,?!…"), min_size=1, max_size=6).map(lambda text: " " + text), max_size=12
    ),
    st.booleans(),
    st.booleans(),
)
def test_words_and_utterances_say_what_the_text_says(words, punctuate, capitalize):
    options = {"format": True, "punctuate": punctuate, "capitalize": capitalize}
    formed = wording(said(*words), options)
    spelled = ["".join(text.split()) for text in (
        formed.text,
        "".join(word.word for word in formed.words),
        "".join(utterance.text for utterance in formed.utterances),
    )]  # fmt: skip
    assert len(set(spelled)) == 1
    for before, after in itertools.pairwise(formed.utterances):
        assert before.end <= after.start


def test_what_is_redacted_is_one_word_that_lasts_as_long_as_what_was_said():
    words = said(" Call", " 650", " 253", " 4567", " now.", " It", " rings.")
    formed = wording(words, {**KEPT, "redact_pii": True})
    assert formed.text == "Call [PHONENUMBER_1] now. It rings."
    assert [word.word for word in formed.words] == ["Call", "[PHONENUMBER_1]", "now.", "It", "rings."]
    assert (formed.words[1].start, formed.words[1].end) == (words[1].start, words[3].end)
    assert [utterance.text for utterance in formed.utterances] == ["Call [PHONENUMBER_1] now.", "It rings."]
    assert "650" not in repr(formed)
