"""The speech fixtures are what the manifest says, and scoring counts what it should."""

import itertools
import unicodedata

import numpy as np
import pytest

import speech

SCORED = {"en", "es", "it", "pt", "id"}
CLIPS = speech.clips()


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.file)
def test_a_clip_is_as_long_as_the_manifest_says_and_not_silent_unless_it_should_be(clip):
    samples = clip.samples()
    assert samples.dtype == np.int16
    assert samples.ndim == 1
    assert len(samples) / speech.RATE == pytest.approx(clip.seconds, abs=0.001)
    loudness = np.abs(samples.astype(int)).max()
    assert loudness == 0 if "silence" in clip.file else loudness > 100


def test_every_file_is_in_the_manifest_once_and_every_entry_has_a_file():
    files = [clip.file for clip in CLIPS]
    assert len(files) == len(set(files))
    assert {path.name for path in speech.SPEECH.glob("*.flac")} == set(files)


def test_fixtures_stay_small():
    assert sum(clip.path.stat().st_size for clip in CLIPS) < 7e6


def test_each_scored_language_has_short_middle_and_long_clips():
    assert {clip.language for clip in speech.clips(scored=True)} == SCORED
    for language in SCORED:
        seconds = sorted(clip.seconds for clip in speech.clips(language=language, scored=True))
        assert len(seconds) == 6
        short, middle, long = seconds[:2], seconds[2:4], seconds[4:]
        assert all(2 < each < 5 for each in short)
        assert all(9 < each < 14 for each in middle)
        assert all(17 < each < 30 for each in long)


def test_the_demo_speaks_five_languages_of_two_packs():
    languages = [clip.language for clip in speech.clips(demo=True)]
    assert len(set(languages)) == len(languages) == 5
    assert set(languages) & {"hi", "en", "bn", "ta", "te"}
    assert set(languages) & {"ar", "es", "pt", "fr", "de"}


def test_texts_are_in_the_script_of_their_language():
    script = {"hi": "DEVANAGARI", "mr": "DEVANAGARI", "bn": "BENGALI", "ta": "TAMIL", "te": "TELUGU", "kn": "KANNADA",
              "gu": "GUJARATI", "ar": "ARABIC", "ja": "HIRAGANA", "zh": "CJK"}  # fmt: skip
    for clip in CLIPS:
        if clip.language in script:
            letters = [c for c in clip.text if c.isalpha()]
            assert all(unicodedata.name(c).startswith(script[clip.language]) for c in letters), clip.file


def test_speakers_take_turns_inside_the_conversation():
    conversation = speech.clip("en-two-speakers")
    turns = conversation.turns
    assert [turn.speaker for turn in turns] == ["jf_alpha", "jm_kumo", "jf_alpha", "jm_kumo", "jf_alpha"]
    assert all(before.end < after.start for before, after in itertools.pairwise(turns))
    assert turns[0].start >= 0
    assert turns[-1].end <= conversation.seconds
    samples = np.abs(conversation.samples().astype(int))
    for turn in turns:
        assert samples[int(turn.start * speech.RATE) : int(turn.end * speech.RATE)].max() > 1000
    for before, after in itertools.pairwise(turns):
        assert samples[int((before.end + 0.1) * speech.RATE) : int((after.start - 0.1) * speech.RATE)].max() < 300


@pytest.mark.parametrize("clip", [clip for clip in CLIPS if clip.words], ids=lambda clip: clip.file)
def test_timed_words_are_those_of_the_text_where_something_is_heard(clip):
    assert [word.word for word in clip.words] == clip.text.split()
    edges = [edge for word in clip.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] < edges[-1] <= clip.seconds
    samples = np.abs(clip.samples().astype(int))
    for word in clip.words:
        assert samples[int(word.start * speech.RATE) : int(word.end * speech.RATE)].max() > 1000
    for before, after in itertools.pairwise(clip.words):
        if after.start - before.end > 0.1:
            pause = samples[int((before.end + 0.03) * speech.RATE) : int((after.start - 0.03) * speech.RATE)]
            assert np.sqrt(np.square(pause).mean()) < 300


def test_only_words_that_were_heard_right_have_boundary_errors():
    said = [speech.TimedWord("One,", 0.0, 0.5), speech.TimedWord("two", 0.6, 0.9), speech.TimedWord("three.", 1.0, 2.0)]
    heard = [speech.TimedWord("one", 0.1, 0.4), speech.TimedWord("too", 0.5, 1.5), speech.TimedWord("three", 1.0, 2.5)]
    assert speech.boundary_errors(said, heard) == pytest.approx([0.1, -0.1, 0.0, 0.5])


def test_a_recording_is_whole_clips_with_their_text_and_long_enough():
    recording = speech.recording(40, "es", pause_s=0.5)
    texts = [clip.text for clip in speech.clips(language="es", scored=True)]
    assert recording.text.startswith(" ".join(texts[:3]))
    assert 40 <= recording.seconds < 40 + 28
    first = speech.clips(language="es", scored=True)[0].samples()
    assert np.array_equal(recording.samples[: len(first)], first)
    assert not recording.samples[len(first) : len(first) + speech.RATE // 2].any()


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_is_encoded_decodes_to_the_same_samples(tmp_path, suffix):
    samples = speech.clip("en-3s-a").samples()
    assert np.array_equal(speech.decoded(speech.encoded(samples, tmp_path / f"clip{suffix}")), samples)


def test_a_name_that_is_no_fixture_says_where_they_are_listed():
    with pytest.raises(LookupError, match=r"'xx-3s'.*manifest\.json"):
        speech.clip("xx-3s")


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("Hello, World!", "hello world"),
        ("Ｆｕｌｌ　Ｗｉｄｔｈ", "full width"),
        ("  l'acqua\nsotto ", "l acqua sotto"),
        ("हिन्दी में।", "हिन्दी में"),
        ("café", "cafe\u0301"),
    ],
)
def test_case_punctuation_width_and_composition_are_no_errors(said, same):
    assert speech.normalised(said) == speech.normalised(same)


def test_a_score_counts_substitutions_deletions_and_insertions_over_all_pairs():
    score = speech.score(["one two three four", "five six"], ["one TWO tree", "five six seven."])
    assert (score.errors, score.words, score.loops) == (3, 6, 0)
    assert score.wer == 0.5


def test_an_empty_transcript_is_all_deletions():
    assert speech.score(["one two"], [""]).wer == 1.0


@pytest.mark.parametrize(("words", "loop"), [(8, False), (11, False), (12, True), (400, True)])
def test_a_loop_is_half_as_long_again_and_five_words(words, loop):
    assert speech.looped("one two three four", " ".join(["four"] * words)) is loop
