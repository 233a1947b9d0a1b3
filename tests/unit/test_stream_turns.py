"""Live streams take turns: a bounded number of windows waits in the engine, and nobody is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from babelrack.model_server.turns import Turns


def come(places):
    return [place.come.is_set() for place in places]


def test_who_waits_longest_comes_first_but_for_those_who_stopped_to_speak():
    turns = Turns(1)
    with turns.place(urgent=False) as first, turns.place(urgent=False) as second, turns.place(urgent=False) as third:
        assert come([first, second, third]) == [True, False, False]
        third.urgent = True
        first.over()
        assert come([second, third]) == [False, True]
        third.over()
        assert come([second]) == [True]


def test_a_place_that_is_left_gives_its_turn_to_another_once():
    turns = Turns(1)
    with turns.place(urgent=False) as first:
        with turns.place(urgent=False) as second:
            pass  # a stream whose client went away while it waited
        first.over()
        first.over()
        with turns.place(urgent=False) as third, turns.place(urgent=False) as fourth:
            assert come([second, third, fourth]) == [False, True, False]


@given(
    ahead=st.integers(1, 3),
    steps=st.lists(st.tuples(st.sampled_from(("join", "over", "hurry")), st.integers(0, 9)), max_size=60),
)
def test_no_more_than_may_are_ahead_and_all_come_in_the_end(ahead, steps):
    turns = Turns(ahead)
    contexts, places, ended = [], [], set()
    for step, number in steps:
        if step == "join":
            context = turns.place(urgent=number == 0)
            contexts.append(context)
            places.append(context.__enter__())
        elif places:
            place = places[number % len(places)]
            if step == "over" and place.come.is_set():
                place.over()
                ended.add(place)
            else:
                place.urgent = True
        assert sum(place.come.is_set() and place not in ended for place in places) <= ahead
    while waiting := [place for place in places if place not in ended]:
        ready = [place for place in waiting if place.come.is_set()]
        assert ready
        for place in ready:
            place.over()
            ended.add(place)
    for context in contexts:
        context.__exit__(None, None, None)
