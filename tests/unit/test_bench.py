"""The benchmark compares like with like, and what it writes is what it measured."""

from dataclasses import replace

import pytest
from bench import keywords, report, words, workload
from bench.accuracy import scored
from bench.goals import goals
from bench.isolation import Isolation
from bench.keywords import Keywords
from bench.live import speech as live_speech
from bench.live import timeline
from bench.load import wav
from bench.machine import machine
from bench.resources import Resources
from bench.results import Results
from bench.systems import REFERENCE, SYSTEMS
from bench.throughput import REPEATED, Cell, requests_of

import speech


def results(**measured):
    return Results("2026-01-01 00:00 UTC", machine(), threads=2, quick=False, **measured)


def cells(**rtfx):
    return [Cell(name.replace("_", "-"), 11, 16, 32, values) for name, values in rtfx.items()]


@pytest.mark.parametrize("length", workload.LENGTHS)
@pytest.mark.parametrize("at_once", workload.AT_ONCE)
def test_a_cell_has_ten_different_clips_of_its_length_in_five_languages(length, at_once):
    requests = workload.requests(length, requests_of(length, at_once))
    assert len(requests) >= at_once * (2 if (length, at_once) in REPEATED else 1)
    assert len({id(request) for request in requests}) == 10
    assert len({request.language for request in requests}) == 5
    assert all(0.75 * length <= request.seconds <= min(30, 1.4 * length) for request in requests)


def test_batches_lose_and_double_nothing():
    requests = workload.requests(3, 10)
    batches = workload.batches(requests, 4)
    assert [request for batch in batches for request in batch] == requests
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_an_uploaded_clip_is_the_clip(tmp_path):
    import numpy as np

    request = workload.scored(quick=True)[0]
    file = tmp_path / "clip.wav"
    file.write_bytes(wav(request.samples))
    assert np.array_equal(speech.decoded(file), request.samples)


def test_a_perfect_transcript_has_no_errors_and_a_looping_one_is_counted():
    requests = workload.scored(quick=True)
    texts = [request.text.upper() for request in requests]
    perfect = scored("engine", requests, texts)
    assert (perfect.wer, perfect.loops) == (0, 0)
    looping = scored("engine", requests, [texts[0] + " again" * 50, *texts[1:]])
    assert looping.loops == 1
    assert looping.by_language[requests[0].language] > 1
    assert looping.same_as(perfect) == len(texts) - 1


@pytest.mark.parametrize(("engine", "reached"), [(80.0, True), (70.0, False)])
def test_a_goal_is_reached_by_the_median_against_the_peer_of_the_same_run(engine, reached):
    measured = results(throughput=cells(engine=[1.0, engine, 900.0], vllm=[30.0]))
    (goal,) = goals(measured)
    assert goal.reached is reached
    assert f"{engine:.1f} / 30.0" in goal.measured


def test_a_goal_whose_peer_was_not_measured_is_not_claimed():
    assert goals(results(throughput=cells(engine=[80.0]))) == []


def test_times_of_words_are_judged_by_the_median_of_their_errors_and_by_what_they_cost():
    ours = words.scored("engine", [0.05, -0.05, 0.01, -0.3], rtfx=30.0, plain_rtfx=40.0)
    theirs = words.scored("faster-whisper", [0.2, -0.1, 0.1, 0.0], rtfx=5.0, plain_rtfx=10.0)
    assert ours.median_s == pytest.approx(0.05)
    assert ours.cost == pytest.approx(0.25)
    assert [goal.reached for goal in goals(results(words=[ours, theirs]))] == [True, True, True]
    assert [goal.reached for goal in goals(results(words=[replace(theirs, system="engine")]))] == [False, False]


@pytest.mark.parametrize(("step_s", "reached"), [(0.0104, True), (0.0106, False)])
def test_keywords_are_judged_by_what_they_add_to_a_decode_step(step_s, reached):
    (goal,) = goals(results(keywords=Keywords(10_000, 0.3, step_s, 0.01)))
    assert goal.reached is reached
    assert len({phrase for phrase, _ in keywords.phrases(10_000)}) == 10_000


def test_the_neighbours_latency_and_failures_decide_on_isolation():
    measured = results(isolation=Isolation(200, 60, alone_s=0.5, during_s=1.2, failures=1, busy={"200": 5, "503": 9}))
    assert [goal.reached for goal in goals(measured)] == [False, False]


def test_memory_is_judged_in_decimal_gigabytes():
    ready = [goal.reached for goal in goals(results(resources=Resources(3, 14.9, 1_999_000_000, 2_500_000_000)))]
    assert ready == [True, True]
    assert not goals(results(resources=Resources(3, 15.1, 2_001_000_000, 2_500_000_000)))[1].reached


def test_results_are_read_as_they_were_written(tmp_path):
    measured = results(
        throughput=cells(engine=[1.0, 2.0]),
        accuracy=[scored(REFERENCE, requests := workload.scored(quick=True), [request.text for request in requests])],
        words=[words.scored("engine", [0.1, -0.2, 0.3], 10.0, 12.0)],
        keywords=Keywords(10_000, 0.3, 0.01, 0.02),
        resources=Resources(3, 5.0, 10**9, 2 * 10**9),
        isolation=Isolation(200, 60, 0.5, 0.6, 0, {"200": 5}),
        versions={"torch": "2"},
        failed={"vllm": "it is not here"},
    )
    file = tmp_path / "results" / "latest.json"
    measured.write(file)
    assert Results.read(file) == measured


def test_tables_replace_only_what_is_between_the_markers(tmp_path, monkeypatch):
    document = tmp_path / "performance.md"
    monkeypatch.setattr(report, "DOCUMENT", document)
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(results(throughput=cells(engine=[80.0, 82.0, 81.0], vllm=[30.0]), failed={"http": "no nginx"}))
    written = document.read_text()
    assert written.startswith("before\n")
    assert written.endswith(f"{report.END}\nafter\n")
    assert "old" not in written
    assert written.count("### Clips of 11 s") == 1
    assert f"| {SYSTEMS['engine'].title} | 81.0 ± 1 % |" in written
    assert "no nginx" in written


def test_a_document_without_a_place_for_the_tables_is_left_alone(tmp_path, monkeypatch):
    document = tmp_path / "performance.md"
    monkeypatch.setattr(report, "DOCUMENT", document)
    document.write_text("no markers")
    with pytest.raises(ValueError, match="no place for the tables"):
        report.write(results())
    assert document.read_text() == "no markers"


def test_the_document_in_the_repository_has_a_place_for_the_tables():
    document = report.DOCUMENT.read_text()
    assert document.index(report.BEGIN) < document.index(report.END)


def test_a_live_word_is_shown_when_the_first_text_has_it_where_the_final_has_it():
    truth = [speech.TimedWord(word, end - 0.2, end) for word, end in (("one", 1.0), ("two", 2.0), ("three", 3.0))]
    shown = [
        timeline.Shown(1.5, "One"),
        timeline.Shown(2.5, "One too"),
        timeline.Shown(3.2, "One two"),
        timeline.Shown(3.9, "One, two, three.", final=True, speech_end=3.0),
    ]
    assert timeline.word_delays(shown, truth) == pytest.approx([0.5, 1.2, 0.9])
    assert timeline.final_delays(shown, 0.8) == pytest.approx([0.1])
    assert timeline.text_of([*shown, *shown]) == "One, two, three. One, two, three."


def test_live_talks_differ_and_say_where_their_utterances_are():
    talks = live_speech.talks(8, quick=False)
    assert len({talk.text for talk in talks}) == 8
    assert {talk.language for talk in talks} == {"en", "es", "id", "it", "pt"}
    for talk in talks:
        ends = [0.0, *(end for _, end in talk.utterances)]
        gaps = [start - end for (start, _), end in zip(talk.utterances, ends, strict=False)]
        assert gaps == pytest.approx([live_speech.PAUSE_S] * len(gaps))
        assert talk.seconds == pytest.approx(ends[-1] + live_speech.PAUSE_S)
