"""Words and their times, without a model: how text is cut, and what dynamic time warping finds."""

import itertools
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.engine import alignment
from babelrack.engine.words import characters, spelled, timed


def cut(*pieces):
    return ["".join(character.text for character in word) for word in spelled(pieces)]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([" We", " walked", ",", " and", " they", " didn", "'t", "."], ["We", "walked,", "and", "they", "didn't."]),
        ([' "', "Hello", '",', " she", " said", "..."], ['"Hello",', "she", "said..."]),
        ([" well", "-", "known", " (", "s", "ic", ")", " 3", ".", "5", " %"], ["well-known", "(sic)", "3.5", "%"]),
        ([" wait", "…", "what", "—", "no"], ["wait…", "what—", "no"]),
        ([" ¿", "Qu", "é", " tal", "?", " -", " Bien", "."], ["¿Qué", "tal?", "- Bien."]),
        ([" «", " Bonjour", " »", " ?", " Oui", " !"], ["« Bonjour » ?", "Oui !"]),
        ([" R", "&", "D", " &", " co"], ["R&D", "&", "co"]),
        (
            ["图书", "馆", "今天", "晚上", "，", "开着", "。"],
            ["图", "书", "馆", "今", "天", "晚", "上，", "开", "着。"],
        ),
        (["我用", "i", "Phone", "15", "打", "「", "电话", "」"], ["我", "用", "iPhone15", "打", "「电", "话」"]),
        (["き", "ょう", "は", "ラ", "ーメ", "ン", "が"], ["き", "ょ", "う", "は", "ラー", "メ", "ン", "が"]),
        (["สว", "ั", "ส", "ดี", "น้ำ"], ["ส", "วั", "ส", "ดี", "น้ำ"]),
        ([" नमस्", "ते", " दुन", "िया", "।", " ठीक", " है", " ।"], ["नमस्ते", "दुनिया।", "ठीक", "है ।"]),
        ([" வண", "க்", "கம்", " உலக", "ம்"], ["வணக்கம்", "உலகம்"]),
        (["ខ្", "មែរ"], ["ខ្មែ", "រ"]),
        ([" 안녕", "하세요", " 세계"], ["안녕하세요", "세계"]),
        ([" ...", " ", "?"], []),
        ([], []),
    ],
)
def test_words_are_cut_as_their_script_has_them(pieces, words):
    assert [word.strip() for word in cut(*pieces)] == words
    assert not words or "".join(cut(*pieces)) == "".join(pieces)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=12))
def test_no_mark_is_cut_from_its_letter_and_nothing_spoken_is_lost(pieces):
    text = "".join(pieces)
    found = characters(pieces)
    assert "".join(character.text for character in found) == text
    assert all(unicodedata.category(character.text[0])[0] != "M" for character in found[1:])
    said = "".join(word for word in cut(*pieces))
    assert sorted(c for c in said if c.isalnum()) == sorted(c for c in text if c.isalnum())


@settings(max_examples=300, deadline=None)
@given(st.data(), st.lists(st.tuples(texts, st.integers(1, 3)), max_size=12), st.floats(0.1, 30))
def test_words_follow_each_other_inside_the_window(data, pieces, seconds):
    tokens = sum(count for _, count in pieces)
    times = sorted(data.draw(st.lists(st.floats(0, seconds), min_size=tokens + 1, max_size=tokens + 1)))
    words = [word for _, word in timed(pieces, times, [-0.5] * tokens, seconds)]
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= seconds for edge in edges)
    assert all(word.probability == pytest.approx(np.exp(-0.5)) for word in words)


def test_punctuation_has_no_part_in_the_time_of_its_word_and_characters_share_that_of_their_token():
    pieces = [(" Yes", 1), (",", 1), (" 今天", 2), ("。", 1)]
    words = timed(pieces, [0.0, 0.5, 1.5, 1.7, 2.5, 3.0], np.log([0.9, 0.1, 0.8, 0.6, 0.2]).tolist(), 3.0)
    assert [(first, word.text.strip(), word.start, word.end) for first, word in words] == [
        (0, "Yes,", 0.0, 0.5), (2, "今", 1.5, 2.0), (2, "天。", 2.0, 2.5)
    ]  # fmt: skip
    assert [word.probability for _, word in words] == pytest.approx([0.9, 0.7, 0.7])


def cheapest(costs):
    """The textbook's dynamic time warping: total cost, and where each row begins on a path of that cost."""
    rows, frames = costs.shape
    totals = np.full((rows + 1, frames + 1), np.inf)
    totals[0, 0] = 0
    for row, frame in itertools.product(range(rows), range(frames)):
        totals[row + 1, frame + 1] = costs[row, frame] + min(
            totals[row, frame], totals[row, frame + 1], totals[row + 1, frame]
        )
    return totals[rows, frames]


def cost_of(costs, starts):
    """The least cost of a path on which the rows begin there."""
    ends = [*starts[1:], costs.shape[1] - 1]
    total = 0.0
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        last = row == len(starts) - 1
        to_frame_before = costs[row, start:end].sum()
        # The next row begins at `end`: beside this row's last frame, or above it.
        shared = costs[row, start : end + 1].sum()
        total += shared if last or end == start else min(to_frame_before, shared)
    return total


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 12)), min_size=1, max_size=4), st.integers(0, 2**16))
def test_warping_finds_the_cheapest_path_of_each_window_whatever_shares_the_batch(sizes, seed):
    rows, frames = [size[0] for size in sizes], [size[1] for size in sizes]
    costs = np.random.default_rng(seed).normal(size=(len(sizes), max(rows), max(frames))).astype(np.float32)
    for window, starts in enumerate(alignment.warp(costs, rows, frames)):
        own = costs[window, : rows[window], : frames[window]].astype(np.float64)
        assert starts[0] == 0
        assert list(starts) == sorted(starts)
        assert len(starts) == rows[window]
        assert cost_of(own, starts) == pytest.approx(cheapest(own))
        assert list(
            alignment.warp(own[None].astype(np.float32), rows[window : window + 1], frames[window : window + 1])[0]
        ) == list(starts)


def test_the_median_filter_is_the_median():
    torch.manual_seed(0)
    values = torch.randn(3, 5, 40)
    torch.testing.assert_close(alignment.median_filter(values), values.unfold(-1, 7, 1).median(-1).values)


def test_what_follows_the_speech_does_not_depend_on_what_shares_the_batch():
    torch.manual_seed(0)
    rows, frames = [5, 9, 3], [40, 17, 2]
    scores = torch.randn(3, 4, 9, 40)
    together = alignment.followed(scores, rows, frames)
    for window in range(3):
        own = scores[window : window + 1, :, : rows[window], : frames[window]]
        alone = alignment.followed(own, rows[window : window + 1], frames[window : window + 1])
        torch.testing.assert_close(together[window, : rows[window], : frames[window]], alone[0])
