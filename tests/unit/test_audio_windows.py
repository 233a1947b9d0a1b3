"""A file becomes windows: in order, disjoint, short enough, without losing speech, however it is pushed."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.audio.voice_activity import FRAME_SAMPLES
from babelrack.audio.windows import WindowCutter, WindowPolicy

RATE = 16_000
POLICY = WindowPolicy()
FRAME_S = FRAME_SAMPLES / RATE


class Scripted:
    """Probabilities written into the audio: the first sample of a frame is its probability in ten-thousandths."""

    def __init__(self):
        self._held = np.zeros(0, np.int16)

    def feed(self, samples):
        self._held = np.concatenate((self._held, samples))
        count = len(self._held) // FRAME_SAMPLES
        found = self._held[: count * FRAME_SAMPLES : FRAME_SAMPLES].astype(np.float32) / 10_000
        self._held = self._held[count * FRAME_SAMPLES :]
        return found

    def flush(self):
        return self.feed(np.zeros(-len(self._held) % FRAME_SAMPLES, np.int16))


def script(probabilities, missing=0):
    """Write the audio whose frames have these probabilities; every sample also says where it is."""
    probabilities = np.asarray(probabilities, np.float64)
    samples = np.tile(np.arange(FRAME_SAMPLES, dtype=np.int16), (len(probabilities), 1))
    samples[:, 1] = np.arange(len(probabilities)) % 30_000
    samples[:, 0] = np.rint(probabilities * 10_000)
    samples = samples.reshape(-1)
    return samples[: len(samples) - missing]


def seconds(*runs):
    """Spell out ((seconds, probability), …) as one probability a frame."""
    return np.concatenate([np.full(round(length / FRAME_S), probability) for length, probability in runs])


def cut(samples, sizes=(65_536,)):
    cutter, pcm, windows, at, turn = WindowCutter(Scripted()), samples.astype("<i2").tobytes(), [], 0, 0
    while at < len(pcm):
        size = sizes[turn % len(sizes)]
        windows += cutter.push(pcm[at : at + size])
        at, turn = at + size, turn + 1
    windows += cutter.flush()
    assert cutter.duration_s == len(samples) / RATE
    return windows


def times(windows):
    return [(round(window.start_s, 1), round(window.end_s, 1)) for window in windows]


def assert_sound(samples, windows, longest=30.0):
    """Hold the promises that hold for every file."""
    covered = np.zeros(len(samples), bool)
    end = 0
    for number, window in enumerate(windows):
        first = round(window.start_s * RATE)
        assert window.index == number
        assert first >= end
        assert 0 < window.duration_s <= longest
        assert np.array_equal(window.samples, samples[first : first + len(window.samples)])
        end = first + len(window.samples)
        covered[first:end] = True
        inside = np.round(np.append(samples, np.zeros(-len(samples) % FRAME_SAMPLES))[::FRAME_SAMPLES] / 10_000, 4)
        assert window.speech == bool((inside[first // FRAME_SAMPLES : -(-end // FRAME_SAMPLES)] >= POLICY.sure).any())
    return covered


def assert_no_speech_is_lost(samples, covered):
    probabilities = samples[::FRAME_SAMPLES] / 10_000
    lost = [
        frame
        for frame in np.flatnonzero(probabilities >= POLICY.threshold)
        if not covered[frame * FRAME_SAMPLES : (frame + 1) * FRAME_SAMPLES].all()
    ]
    assert all(probabilities[frame] < POLICY.sure for frame in lost)
    close = int(POLICY.pause / FRAME_S)
    assert all(lost[i + 2] - lost[i] > close for i in range(len(lost) - 2))


runs = st.lists(
    st.tuples(st.floats(0.032, 40.0), st.sampled_from([0.0, 0.0, 0.05, 0.14, 0.2, 0.6, 0.99])), min_size=1, max_size=14
)


@settings(max_examples=80, deadline=None)
@given(
    runs=runs,
    missing=st.integers(0, FRAME_SAMPLES - 2),
    sizes=st.lists(st.integers(1, 400_000), min_size=1, max_size=5),
)
def test_no_speech_is_lost_or_doubled_and_chunking_changes_nothing(runs, missing, sizes):
    samples = script(seconds(*runs), missing)
    windows = cut(samples)
    assert_no_speech_is_lost(samples, assert_sound(samples, windows))
    if min(sizes) < 500:
        sizes = [size + 500 for size in sizes]  # a million pushes of one byte prove nothing more
    again = cut(samples, sizes)
    assert times(again) == times(windows)
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(again, windows, strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), quiet=st.floats(0.0, 1.0), length=st.integers(0, 4_000))
def test_erratic_probabilities_keep_the_promises_too(seed, quiet, length):
    rng = np.random.default_rng(seed)
    samples = script(np.where(rng.random(length) < quiet, rng.random(length) * 0.2, rng.random(length)))
    assert_no_speech_is_lost(samples, assert_sound(samples, cut(samples)))


def test_a_push_may_end_in_the_middle_of_a_sample():
    samples = script(seconds((1, 0.9), (3, 0.0), (1, 0.9)))
    assert times(cut(samples, [1_001])) == times(cut(samples))


def test_a_short_file_is_one_window_as_it_is():
    samples = script(seconds((0.9, 0.0), (5, 0.9), (10, 0.0), (5, 0.9), (0.9, 0.0)))
    (window,) = cut(samples)
    assert window.start_s == 0
    assert np.array_equal(window.samples, samples)
    assert window.speech


def test_long_silence_at_the_ends_of_a_short_file_is_left_out_and_times_stay_the_files():
    (window,) = cut(script(seconds((6.4, 0.0), (4.8, 0.9), (3.2, 0.0))))
    assert window.start_s == pytest.approx(6.1, abs=0.04)
    assert window.end_s == pytest.approx(6.4 + 4.8 + 0.3, abs=0.04)


@pytest.mark.parametrize("length", [0.1, 3.0, 29.9, 31.0, 95.0])
def test_silence_gives_no_window(length):
    assert cut(script(seconds((length, 0.1)))) == []


def test_no_audio_gives_no_window():
    assert cut(script([])) == []


@pytest.mark.parametrize("around", [2.0, 40.0])
def test_a_blip_is_noise_and_a_short_word_is_not(around):
    silence = (around, 0.0)
    assert cut(script(seconds(silence, (2 * FRAME_S, 0.3), silence))) == []
    assert len(cut(script(seconds(silence, (3 * FRAME_S, 0.3), silence)))) == 1
    (word,) = cut(script(seconds(silence, (FRAME_S, 0.8), silence)))
    assert word.speech


def test_doubtful_speech_is_a_window_that_says_so():
    (window,) = cut(script(seconds((2, 0.0), (4, 0.3), (2, 0.0))))
    assert not window.speech


def test_a_pause_worth_leaving_out_separates_windows():
    windows = cut(script(seconds((10, 0.9), (4, 0.0), (10, 0.9), (4, 0.0), (10, 0.9))))
    assert times(windows) == [(0.0, 10.3), (13.7, 24.3), (27.7, 38.0)]


def test_a_short_pause_stays_inside():
    (first, *_) = cut(script(seconds((8, 0.9), (1.5, 0.0), (8, 0.9), (4, 0.0), (20, 0.9))))
    assert first.end_s == pytest.approx(17.8, abs=0.1)


def test_a_window_too_short_to_stand_alone_waits_for_more():
    windows = cut(script(seconds((1, 0.9), (3, 0.0), (10, 0.9), (6, 0.0), (1, 0.9), (6, 0.0), (10, 0.9))))
    assert [window.start_s for window in windows] == pytest.approx([0.0, 19.7, 26.7], abs=0.1)


def test_a_long_window_is_cut_in_the_longest_pause_of_its_last_third():
    speech = seconds((7, 0.9), (1.2, 0.0), (6.3, 0.9), (0.4, 0.0), (1.6, 0.9), (0.8, 0.0), (40, 0.9))
    (first, second, *_) = cut(script(speech))
    assert first.end_s == pytest.approx(16.9, abs=0.1)
    assert second.start_s == pytest.approx(17.3 - 0.3, abs=0.1)


def test_an_early_pause_is_better_than_none():
    (first, *_) = cut(script(seconds((11, 0.9), (1, 0.0), (40, 0.9))))
    assert first.end_s == pytest.approx(11.5, abs=0.1)


def test_speech_without_a_pause_is_cut_where_it_is_weakest():
    probabilities = seconds((60, 0.9))
    probabilities[560] = 0.4
    (first, second, *_) = cut(script(probabilities))
    assert first.end_s == pytest.approx(560 * FRAME_S, abs=2 * FRAME_S)
    assert second.start_s == first.end_s
    samples = script(seconds((60, 0.9)))
    loud = samples.copy()
    loud[570 * FRAME_SAMPLES + 1 : 571 * FRAME_SAMPLES] = 0
    loud[571 * FRAME_SAMPLES + 1 : 572 * FRAME_SAMPLES] = 0
    assert cut(loud)[0].end_s == pytest.approx(571 * FRAME_S)


def test_thirty_seconds_of_speech_are_one_window_and_more_are_two():
    assert len(cut(script(np.full(937, 0.9)))) == 1
    assert len(cut(script(np.full(938, 0.9)))) == 2


def test_windows_come_while_the_file_is_still_coming_in():
    cutter, pcm = WindowCutter(Scripted()), script(seconds((120, 0.9))).astype("<i2").tobytes()
    early = [window for start in range(0, len(pcm), 65_536) for window in cutter.push(pcm[start : start + 65_536])]
    assert len(early) >= 3


def test_two_hours_pass_through_bounded_memory():
    rng = np.random.default_rng(5)
    minute = [script(np.where(rng.random(1_875) < 0.2, 0.0, 0.9)).astype("<i2").tobytes() for _ in range(4)]
    minute.append(script(np.zeros(1_875)).astype("<i2").tobytes())
    minute.append(script(np.full(1_875, 0.99)).astype("<i2").tobytes())
    cutter, count, total = WindowCutter(Scripted()), 0, 0.0
    tracemalloc.start()
    try:
        for number in range(120):
            pcm = minute[number % len(minute)]
            for start in range(0, len(pcm), 65_536):
                for window in cutter.push(pcm[start : start + 65_536]):
                    count, total = count + 1, total + window.duration_s
        total += sum(window.duration_s for window in cutter.flush())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * RATE * 2 * 3
    assert cutter.duration_s == 7_200
    assert 5_900 < total < 6_100
    assert count > 200
