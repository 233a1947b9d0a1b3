"""Keywords without a model: what the tree helps, where, and what it costs."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.engine import EngineError, Keywords
from babelrack.engine.tokens import Vocabulary

SPACED, BARE = 0, 1


@pytest.fixture(scope="module")
def vocabulary(checkpoint):
    return Vocabulary(checkpoint)


def tokens_of(vocabulary, text):
    return vocabulary.encode_each([text])[0]


def helped(keywords, state):
    """What each token is helped by in `state`, as the sampler reads it."""
    most = {}
    for node in state:
        tokens, bonuses = keywords.boosted(node)
        for token, bonus in zip(tokens.tolist(), bonuses.tolist(), strict=True):
            most[token] = max(bonus, most.get(token, 0.0))
    return most


def paths(keywords, node):
    """Every path from `node` to a node below it, with the help of its last token."""
    tokens, bonuses = keywords.boosted(node)
    for token, bonus in zip(tokens.tolist(), bonuses.tolist(), strict=True):
        yield (token,), bonus
        child = keywords._child(node, token)
        if child is not None:
            yield from (((token, *path), worth) for path, worth in paths(keywords, child))


phrases = st.lists(
    st.tuples(
        st.one_of(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12),
            st.sampled_from(["Jensen Huang", "Jensen", "Huang He", "new york", "I'm", "北京", "ทักษิณ", "T-Mobile"]),
        ),
        st.floats(0.1, 10),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(phrases, st.sampled_from([" ", "Well, I saw ", "«"]))
def test_a_phrase_that_is_said_is_helped_at_each_of_its_tokens_in_all_its_spellings(vocabulary, asked, before):
    keywords = Keywords(asked, vocabulary)
    for phrase, _ in asked:
        given = " ".join(phrase.split())
        for text in {given, given[:1].upper() + given[1:]} - {""}:
            state = keywords.after(tokens_of(vocabulary, before.rstrip(" ")))
            for token in tokens_of(vocabulary, f" {text}" if before.endswith(" ") else text):
                assert helped(keywords, state)[token] > 0
                state = keywords.after([token], state)


@pytest.mark.parametrize("phrase", ["Jensen Huang", "Velcoria", "new york", "ทักษิณ"])
def test_a_phrase_is_helped_more_the_further_it_has_come_and_the_more_the_higher_its_intensifier(vocabulary, phrase):
    state, said = (SPACED, BARE), tokens_of(vocabulary, f" {phrase}")
    once, four = Keywords([(phrase, 1.0)], vocabulary), Keywords([(phrase, 4.0)], vocabulary)
    worth = []
    for token in said:
        worth.append(helped(once, state)[token])
        assert helped(four, state)[token] == pytest.approx(2 * worth[-1])
        state = once.after([token], state)
    assert worth == sorted(worth)
    assert worth[-1] > worth[0]


def test_the_start_of_a_phrase_is_helped_less_where_there_are_thousands(vocabulary):
    many = [("Velcoria", 1.0)] + [(f"word {n}", 1.0) for n in range(9_999)]
    first = tokens_of(vocabulary, " Velcoria")[0]
    alone, among = (helped(Keywords(asked, vocabulary), (SPACED,))[first] for asked in (many[:1], many))
    assert among < alone / 2


@settings(max_examples=60, deadline=None)
@given(st.data(), phrases)
def test_the_state_is_that_of_a_search_through_everything_that_was_said(vocabulary, data, asked):
    keywords = Keywords(asked, vocabulary)
    trees = {root: dict(paths(keywords, root)) for root in (SPACED, BARE)}
    spelled = [list(path) for tree in trees.values() for path in tree]
    some = st.one_of(st.sampled_from(spelled), st.lists(st.sampled_from([11, 12, 257, 3842, 50_364, 50_500])))
    said = list(itertools.chain.from_iterable(data.draw(st.lists(some, max_size=6))))
    expected = {}
    for begin in range(len(said) + 1):
        parted = begin == 0 or said[begin - 1] >= vocabulary.end_of_text
        roots = (SPACED, BARE) if parted or said[begin - 1] in vocabulary.ends_before_word else (SPACED,)
        for path, worth in itertools.chain.from_iterable(trees[root].items() for root in roots):
            if list(path[:-1]) == said[begin:]:
                expected[path[-1]] = max(worth, expected.get(path[-1], 0.0))
    assert helped(keywords, keywords.after(said)) == expected


def test_a_phrase_that_is_left_half_way_leaves_no_help_behind(vocabulary):
    keywords = Keywords([("Jensen Huang", 3), ("Velcoria", 2)], vocabulary)
    elsewhere = keywords.after(tokens_of(vocabulary, " the weather"))
    for phrase in (" Jensen Huang", " Velcoria"):
        *most, _ = tokens_of(vocabulary, phrase)
        assert len(keywords.after(most)) > len(elsewhere)
        assert keywords.after([*most, *tokens_of(vocabulary, " weather")]) == elsewhere
        assert keywords.after(tokens_of(vocabulary, f"{phrase} weather")) == elsewhere
    after_a_time = keywords.after([*tokens_of(vocabulary, " Jensen"), vocabulary.first_timestamp + 50])
    assert after_a_time == keywords.after([])


BEFORE_BELL = [(" door", False), (" church", False), ("", True), (' "', True), (" twenty-", True), ("我", True)]


def test_a_phrase_begins_at_the_start_of_a_word_only_unless_its_script_has_no_spaces(vocabulary):
    keywords = Keywords([("bell", 1), ("北京", 1)], vocabulary)
    bare, beijing = tokens_of(vocabulary, "bell")[0], tokens_of(vocabulary, "北京")[0]
    for before, may_begin in [
        (" door", False),
        (" church", False),
        ("", True),
        (' "', True),
        (" twenty-", True),
        ("我", True),
    ]:
        state = keywords.after(tokens_of(vocabulary, before))
        assert (bare in helped(keywords, state)) == may_begin, before
        assert beijing in helped(keywords, state), before


def test_times_and_the_end_of_text_are_never_helped(vocabulary):
    keywords = Keywords([("<|endoftext|>", 10), ("<|0.00|> now", 10), ("<|en|>", 10)], vocabulary)
    assert all(
        token < vocabulary.end_of_text for root in (SPACED, BARE) for path, _ in paths(keywords, root) for token in path
    )


def test_an_intensifier_of_nothing_helps_nothing_and_the_highest_of_two_counts(vocabulary):
    assert helped(Keywords([("Velcoria", 0.0)], vocabulary), (SPACED, BARE)) == {}
    once, twice = ([("Velcoria", 3.0), ("x", 1.0)], [("Velcoria", 1.0), ("Velcoria", 3.0)])
    assert max(helped(Keywords(twice, vocabulary), (SPACED,)).values()) == max(
        helped(Keywords(once, vocabulary), (SPACED,)).values()
    )


def test_ten_thousand_phrases_cost_a_step_a_few_thousand_additions_and_a_node_a_token(vocabulary):
    syllables = ["".join(part) for part in itertools.product("bklmnrst", "aeiou")][::2]
    names = ["".join(part) for part in itertools.islice(itertools.product(syllables, repeat=4), 0, 160_000, 16)]
    keywords = Keywords([(name, 1.0) for name in names], vocabulary)
    spelled = vocabulary.encode_each(
        [text for name in names for text in (name, f" {name}", name.title(), f" {name.title()}")]
    )
    assert len(names) == 10_000
    assert keywords.nodes <= 2 + sum(map(len, spelled))
    for name in names[::100]:
        tokens = tokens_of(vocabulary, f" {name.title()}")
        for end in range(len(tokens)):
            state = keywords.after(tokens[:end])
            assert len(state) <= 2 + end
            assert sum(len(keywords.boosted(node)[0]) for node in state) <= 4_000


def test_more_than_ten_thousand_phrases_are_refused(vocabulary):
    with pytest.raises(EngineError, match="at most 10,000 keywords, not 10,001"):
        Keywords([("a", 1.0)] * 10_001, vocabulary)


def test_the_tree_lies_where_the_engine_computes(vocabulary):
    keywords = Keywords([("Velcoria", 1.0)], vocabulary, "meta")
    assert {part.device for part in keywords.boosted(SPACED)} == {torch.device("meta")}
