"""Who speaks: features as the model learnt them, speakers without a given count, labels that stay."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.audio.voice_activity import SpeechProbability, VoiceActivity
from babelrack.model_server.voices import packed, unpacked
from babelrack.pairing import Voices
from babelrack.speakers import Diarization, Diarizer, Session
from babelrack.speakers.clustering import ClusteringPolicy, cluster, probabilities
from babelrack.speakers.embedding import mel_energies
from speech import RATE, Turn, clip, clips, diarization_error, recording, silence

SPEAKER_MODEL = Path(__file__).parents[2] / ".cache" / "speakers" / "ge2e-lstm"
CONVERSATIONS = [each.file for each in clips() if each.turns]
ONE_SPEAKER = [each.file for each in clips() if each.language and each.text and not each.turns]


@pytest.fixture(scope="module")
def diarizer():
    assert SPEAKER_MODEL.is_dir(), f"{SPEAKER_MODEL} is missing; run make setup"
    made = Diarizer.load(SPEAKER_MODEL)
    yield made
    made.close()


@pytest.fixture(scope="module")
def voice():
    return VoiceActivity.load()


def diarized(diarizer, voice, samples, piece=RATE):
    """The turns of a recording that comes in pieces."""
    speech, diarization = SpeechProbability(voice), Diarization(diarizer)
    for start in range(0, len(samples), piece):
        diarization.feed(samples[start : start + piece], speech.feed(samples[start : start + piece]))
    diarization.feed(silence(0), speech.flush())
    diarization.end()
    return diarization.turns()


def spoken(turns):
    return [(turn.start, turn.end, turn.speaker) for turn in turns]


# Features and embeddings


def test_the_energies_of_two_tones_are_librosas():
    seconds = np.arange(25_600) / RATE
    tones = 3000 * np.sin(2 * np.pi * 440 * seconds) + 1500 * np.sin(2 * np.pi * 2500 * seconds)
    energies = mel_energies(tones.astype(np.int16))
    assert energies.shape == (161, 40)
    # librosa 0.11.0: melspectrogram(y=tones / 32768, sr=16000, n_fft=400, hop_length=160, n_mels=40).T[50]
    assert energies[50, 4:7] == pytest.approx([0.182292, 1.37669, 0.1493], rel=1e-4)
    assert energies[50, 23:27] == pytest.approx([1.82435e-06, 0.0590467, 0.106647, 1.43881e-05], rel=1e-3)
    assert energies[50, 7:23].max() < 1e-7


def test_a_quiet_voice_is_the_same_voice(diarizer):
    window = clip("en-11s-a").samples()[RATE : RATE + 25_600]
    loud, quiet = diarizer.embed(np.stack([window // 12, window // 24])).result()
    assert loud @ quiet > 0.97
    assert np.linalg.norm(loud) == pytest.approx(1.0, abs=1e-5)


def test_what_shares_a_batch_changes_nothing(diarizer):
    samples = clip("en-28s").samples()
    windows = np.stack([samples[start : start + 25_600] for start in range(0, 40 * 8000, 8000)])
    together = diarizer.embed(windows).result()
    alone = np.concatenate([diarizer.embed(window[None]).result() for window in windows[:3]])
    assert together[:3] == pytest.approx(alone, abs=1e-5)


def test_embedding_takes_one_thread_and_leaves_other_threads_theirs(diarizer):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        diarizer.embed(np.zeros((2, 25_600), np.int16)).result()
        assert torch.get_num_threads() == 2
        assert diarizer._thread.submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)


# Clustering


def voices(seed, count, size=256):
    """Directions that have the cosine of different voices at most."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, size))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def windows(seed, centres, counts):
    """Windows around each centre, of length one, whose cosine among themselves is about 0.8."""
    rng = np.random.default_rng(seed)
    noise = [rng.normal(size=(count, centres.shape[1])) * 0.5 / np.sqrt(centres.shape[1]) for count in counts]
    made = np.concatenate([centre + each for centre, each in zip(centres, noise, strict=True)])
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def labels(embeddings):
    return np.argmax(probabilities(embeddings, cluster(embeddings)), axis=1)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(3, 40), min_size=1, max_size=5), seed=st.integers(0, 2**16))
def test_speakers_are_counted_by_themselves_in_the_order_in_which_they_are_heard(counts, seed):
    found = labels(windows(seed, voices(seed, len(counts)), counts))
    assert found.tolist() == [speaker for speaker, count in enumerate(counts) for _ in range(count)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_order_of_windows_changes_only_the_numbers(seed):
    made = windows(seed, voices(seed, 3), [9, 5, 14])
    order = np.random.default_rng(seed).permutation(len(made))
    plain, shuffled = labels(made), np.empty(len(made), int)
    shuffled[order] = labels(made[order])
    assert len(set(zip(plain.tolist(), shuffled.tolist(), strict=True))) == 3


def test_hours_of_windows_are_clustered_in_blocks_to_the_same_speakers():
    counts = [1200, 700, 300, 60]
    made = windows(1, voices(1, 4), counts)
    order = np.random.default_rng(2).permutation(len(made))
    found = np.empty(len(made), int)
    found[order] = labels(made[order])
    truth = np.repeat(range(4), counts)
    assert len(set(zip(truth.tolist(), found.tolist(), strict=True))) == 4


def test_no_more_speakers_than_the_policy_allows():
    made = windows(3, voices(3, 8), [4] * 8)
    assert len(cluster(made, ClusteringPolicy(most=5))) == 5
    assert len(cluster(np.zeros((0, 256), np.float32))) == 0


# Recordings


@pytest.mark.parametrize("file", CONVERSATIONS)
def test_under_15_percent_of_a_conversation_is_given_to_the_wrong_speaker(diarizer, voice, file):
    conversation = clip(file)
    turns = diarized(diarizer, voice, conversation.samples())
    assert diarization_error(conversation.turns, spoken(turns)).rate < 0.15
    assert {turn.speaker for turn in turns} == set(range(len({turn.speaker for turn in conversation.turns})))


@pytest.mark.parametrize("file", ONE_SPEAKER)
def test_one_speaker_stays_one(diarizer, voice, file):
    assert {turn.speaker for turn in diarized(diarizer, voice, clip(file).samples())} == {0}


@pytest.mark.parametrize("file", [each.file for each in clips() if not each.text])
def test_where_nobody_speaks_there_is_no_turn(diarizer, voice, file):
    assert diarized(diarizer, voice, clip(file).samples()) == []


def test_turns_are_in_order_inside_the_audio_and_how_it_comes_in_changes_nothing(diarizer, voice):
    samples = clip("en-three-speakers").samples()
    turns = diarized(diarizer, voice, samples)
    edges = [edge for turn in turns for edge in (turn.start, turn.end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] < edges[-1] <= len(samples) / RATE + 0.032
    assert all(0 <= turn.confidence <= 1 for turn in turns)
    assert spoken(diarized(diarizer, voice, samples, piece=7777)) == spoken(turns)


def test_a_long_recording_holds_little_audio_and_waits_for_its_embeddings(diarizer, voice):
    samples = recording(120).samples
    speech, diarization = SpeechProbability(voice), Diarization(diarizer)
    for start in range(0, len(samples), RATE):
        diarization.feed(samples[start : start + RATE], speech.feed(samples[start : start + RATE]))
        if (late := diarization.behind) is not None:
            late.result()
        assert len(diarization._segmenter._samples) < 32 * RATE
        assert len(diarization._running) <= 5


# Sessions


def heard_by(session, voice, samples, piece=RATE // 10):
    """Let a session hear samples at the pace of a stream; yields where it is after each piece."""
    speech = SpeechProbability(voice)
    for start in range(0, len(samples), piece):
        session.hear(samples[start : start + piece], speech.feed(samples[start : start + piece]))
        yield min(start + piece, len(samples))


def utterances(session, voice, turns, samples):
    """The labels of each turn, in spans of half a second, asked for as soon as the turn is over."""
    left = list(turns)
    for at in heard_by(session, voice, samples):
        while left and (at >= (left[0].end + 0.4) * RATE or at == len(samples)):
            turn = left.pop(0)
            spans = [(turn.start + step / 2, turn.start + step / 2 + 0.5) for step in range(int(turn.end - turn.start))]
            yield turn.speaker, session.assign(session.utterance(int((turn.end + 0.3) * RATE)), spans or [(0, 1)])


@pytest.mark.parametrize("file", CONVERSATIONS)
def test_a_session_knows_a_speaker_again(diarizer, voice, file):
    session, numbers = Session(diarizer), {}
    for speaker, labels in utterances(session, voice, clip(file).turns, clip(file).samples()):
        assert {label.speaker for label in labels} == {numbers.setdefault(speaker, len(numbers))}
        assert all(0 <= label.confidence <= 1 for label in labels)
    assert session.speakers == len(numbers) > 1


@pytest.mark.parametrize("file", CONVERSATIONS)
def test_a_session_that_goes_on_elsewhere_knows_the_speakers_of_before(diarizer, voice, file):
    turns = clip(file).turns
    numbers: dict[str, int] = {}
    for turn in turns:
        numbers.setdefault(turn.speaker, len(numbers))
    first, samples = Session(diarizer), clip(file).samples()
    for _ in utterances(first, voice, turns, samples):
        pass
    told = Voices.model_validate_json(packed(first).model_dump_json())
    second = Session(diarizer, known=unpacked(told, diarizer))
    # From the last speaker's turn on: alone it would be speaker 0.
    last = max(index for index, turn in enumerate(turns) if numbers[turn.speaker])
    skipped = int((turns[last].start - 0.2) * RATE)
    end = int((turns[last].end + 0.2) * RATE)
    *_, at = heard_by(second, voice, samples[skipped:end])
    labels = second.assign(second.utterance(at), [(0.5, 1.0)])
    assert [label.speaker for label in labels] == [numbers[turns[last].speaker]]
    assert second.speakers == len(numbers)


def test_voices_of_another_model_or_damaged_ones_are_not_taken(diarizer):
    size = diarizer.encoder.embedding_size

    def voices(means, *, model=diarizer.model, counts=(3.0,)):
        return Voices(model=model, means=b64encode(means.astype("<f2").tobytes()).decode(), counts=counts)

    good = np.full((1, size), 0.9 / size**0.5)
    known = unpacked(voices(good), diarizer)
    assert (known.means.shape, known.counts.tolist()) == ((1, size), [3.0])
    assert unpacked(None, diarizer) is None
    assert unpacked(voices(good, model="another"), diarizer) is None
    assert unpacked(voices(good, counts=(3.0, 1.0)), diarizer) is None
    assert unpacked(voices(good[:, 1:]), diarizer) is None
    assert unpacked(voices(good * np.nan), diarizer) is None
    assert unpacked(voices(good * 0), diarizer) is None
    assert unpacked(voices(good * 2), diarizer) is None
    assert unpacked(voices(good).model_copy(update={"means": "no base64!"}), diarizer) is None


def test_nobody_is_told_of_before_somebody_was_heard(diarizer):
    assert packed(Session(diarizer)) is None


def test_two_speakers_in_one_utterance_are_parted(diarizer, voice):
    conversation, session = clip("en-two-speakers"), Session(diarizer)
    spans = [(turn.start, turn.end) for turn in conversation.turns]
    *_, end = heard_by(session, voice, conversation.samples())
    assert [label.speaker for label in session.assign(session.utterance(end), spans)] == [0, 1, 0, 1, 0]


def test_an_utterance_that_is_cut_within_speech_leaves_the_rest_to_the_next(diarizer, voice):
    session = Session(diarizer)
    for at in heard_by(session, voice, clip("en-28s").samples()):
        if at % (3 * RATE) == 0:
            heard = session.utterance(at)
            assert all(each.first < at for each in heard)
            assert {label.speaker for label in session.assign(heard, [(at / RATE - 3, at / RATE)])} == {0}
    assert session.speakers == 1


def test_a_session_stays_as_small_as_its_speakers_are_few(diarizer, voice):
    session = Session(diarizer, ClusteringPolicy(most=2))
    for at in heard_by(session, voice, np.tile(clip("en-three-speakers").samples(), 6), piece=2 * RATE):
        session.assign(session.utterance(at), [(0.0, 1.0)])
        assert len(session._heard) == 0
    assert session.speakers == 2
    assert session._sums.shape == (2, 256)


def test_where_no_voice_was_heard_a_word_is_of_who_spoke_last_and_nobody_is_sure(diarizer):
    session = Session(diarizer)
    assert [(label.speaker, label.confidence) for label in session.assign([], [(0.0, 0.1)])] == [(0, 0.0)]
    assert session.assign(session.utterance(0), []) == []


def test_live_sessions_go_before_files(diarizer):
    windows, order = np.zeros((8, 25_600), np.int16), []
    waiting = [diarizer.embed(windows) for _ in range(4)] + [diarizer.embed(windows[:1], live=True)]
    for number, future in enumerate(waiting):
        future.add_done_callback(lambda _, number=number: order.append(number))
    for future in waiting:
        future.result()
    assert order.index(4) < order.index(3)


# Scoring


def test_the_error_rate_is_of_speech_with_the_best_mapping_and_without_the_collars():
    said = [Turn("a", 0, 10, ""), Turn("b", 10, 20, "")]
    assert diarization_error(said, [(0, 10, 7), (10, 20, 3)]).rate == 0
    assert diarization_error(said, [(0, 10.2, 7), (10.2, 20.2, 3)]).rate == 0
    assert diarization_error(said, [(0, 20, 0)], collar_s=0).rate == pytest.approx(0.5)
    missed = diarization_error(said, [(0, 10, 0), (10, 15, 1), (22, 23, 1)], collar_s=0)
    assert (missed.missed, missed.false_alarm, missed.confusion) == pytest.approx((5, 1, 0))
    assert diarization_error(said, []).rate == 1
