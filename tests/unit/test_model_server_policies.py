"""The model server's policies, without an engine: places, routes, and how windows become an answer."""

import asyncio
import contextlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.audio.windows import Window as Cut
from babelrack.checkpoints import Checkpoint
from babelrack.engine import Detected, Lost, Spoken, SpokenSegment, SpokenWord, Transcribed
from babelrack.model_server import transcription
from babelrack.model_server.admission import Admission, Overloaded
from babelrack.model_server.decoding import EngineFailed
from babelrack.model_server.routing import NotEnabled, Routing
from babelrack.model_server.transcription import Transcription
from babelrack.pairing import Delta, Done, LanguageDetected, Request, Segment


@settings(max_examples=60, deadline=None)
@given(concurrency=st.integers(1, 4), queue=st.integers(0, 4), seed=st.integers(0, 2**16))
def test_places_are_never_exceeded_never_lost_and_given_in_order(concurrency, queue, seed):
    async def scenario():
        chance = random.Random(seed)
        admission = Admission(concurrency, queue)
        inside, order = 0, []

        async def client(number):
            nonlocal inside
            try:
                with admission.place() as turn:
                    await turn()
                    order.append(number)
                    inside += 1
                    assert inside <= concurrency
                    try:
                        await asyncio.sleep(chance.random() / 1000)
                    finally:
                        inside -= 1
            except Overloaded:
                assert admission.active == concurrency
                assert admission.queued == queue

        tasks = []
        for number in range(40):
            tasks.append(asyncio.create_task(client(number)))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                chance.choice(tasks).cancel()
            assert admission.queued <= queue
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert admission.active == admission.queued == inside == 0
        assert concurrency > 1 or order == sorted(order), "first come, first served"

    asyncio.run(scenario())


def checkpoint(name, role, *languages):
    return Checkpoint(Path("/nowhere"), name, role, languages, None)


def test_a_dedicated_checkpoint_goes_before_a_multilingual_one():
    routing = Routing(
        [checkpoint("many", "multilingual", "hi", "ta"), checkpoint("hindi", "dedicated", "hi")], "multi-x"
    )
    assert routing.checkpoint("hi") == "hindi"
    assert routing.checkpoint("ta") == "many"


def test_an_aggregator_detects_among_the_packs_languages_with_a_multilingual_checkpoint():
    dedicated, multilingual = checkpoint("hindi", "dedicated", "hi"), checkpoint("many", "multilingual", "en", "ta")
    routing = Routing([dedicated, multilingual], "multi-x")
    route = routing.route("multi-x")
    assert route.checkpoint == "many"
    assert set(route.languages) == {"hi", "en", "ta"}
    assert routing.route("hi").languages == ("hi",)


def test_a_language_that_nothing_covers_is_refused_with_what_is_there():
    routing = Routing([checkpoint("many", "multilingual", "hi", "ta")], "multi-x")
    for language in ("fr", "multi-y", ""):
        with pytest.raises(NotEnabled, match="serves hi, ta, or multi-x"):
            routing.route(language)


def transcribed(text="", *, language="en", segments=None, truncated_at=None):
    segments = [SpokenSegment(0.0, 1.0, text, [1])] if segments is None and text else segments or []
    return Transcribed(language, text, segments, [-0.1] * len(segments), -0.1, 0.0, 1.0, 0.0, 1, truncated_at)


@dataclass(eq=False)
class Submitted:
    checkpoint: str
    window: object
    listener: object
    cancelled: bool = False


class ScriptedEngine:
    """Answers each window by a function, late and out of order."""

    def __init__(self, answer):
        self.answer = answer
        self.submitted = []

    def submit(self, name, window, listener):
        work = Submitted(name, window, listener)
        self.submitted.append(work)
        asyncio.get_running_loop().call_later(
            random.random() / 200, lambda: [listener(event) for event in self.answer(work) if not work.cancelled]
        )
        return work

    def cancel(self, work):
        work.cancelled = True


class ScriptedCutter:
    """One window a push, a second each; its samples say which."""

    def __init__(self, _):
        self.count = 0

    @property
    def duration_s(self):
        return float(self.count)

    def push(self, _):
        self.count += 1
        return [Cut(self.count - 1, float(self.count - 1), np.full(16_000, self.count - 1, np.int16), True)]

    def flush(self):
        return []


async def run(monkeypatch, engine, windows, language="en", routing=None, **options):
    monkeypatch.setattr(transcription, "WindowCutter", ScriptedCutter)
    monkeypatch.setattr(transcription, "SpeechProbability", lambda voice: voice)
    routing = routing or Routing([checkpoint("many", "multilingual", "en", "hi", "zh")], "multi-x")
    events = []

    async def audio():
        for _ in range(windows):
            yield b""

    async def send(event):
        events.append(event)

    request = Request(request_id="r", deployment="x", language=language, **options)
    await Transcription(request, routing.route(language), routing, engine, None, send).run(audio())
    return events


def index(work):
    return int(work.window.samples[0])


async def test_windows_that_end_out_of_order_are_told_in_order(monkeypatch):
    engine = ScriptedEngine(lambda work: [transcribed(f" w{index(work)}")])
    events = await run(monkeypatch, engine, 50)
    segments = [event for event in events if isinstance(event, Segment)]
    assert [segment.text for segment in segments] == [f"w{i}" for i in range(50)]
    assert [segment.id for segment in segments] == list(range(50))
    assert [segment.start for segment in segments] == list(range(50))
    assert events[-1].text == " ".join(f"w{i}" for i in range(50))
    assert (events[-1].windows, events[-1].duration) == (50, 50.0)


async def test_a_long_file_has_a_bounded_number_of_windows_in_flight(monkeypatch):
    high = 0

    def answer(work):
        nonlocal high
        high = max(high, len(engine.submitted) - done[0])
        done[0] += 1
        return [transcribed(" w")]

    done = [0]
    engine = ScriptedEngine(answer)
    await run(monkeypatch, engine, 200)
    assert high <= 16


async def test_scripts_without_spaces_are_joined_without(monkeypatch):
    engine = ScriptedEngine(lambda _: [transcribed("你好", language="zh")])
    events = await run(monkeypatch, engine, 3, language="zh")
    assert events[-1].text == "你好你好你好"


async def test_the_language_is_detected_once_and_its_dedicated_checkpoint_takes_over(monkeypatch):
    routing = Routing(
        [checkpoint("many", "multilingual", "en", "hi"), checkpoint("hindi", "dedicated", "hi")], "multi-x"
    )

    def answer(work):
        if len(work.window.languages) > 1:
            return [Detected("hi", 0.9), transcribed(" never", language="hi")]
        return [transcribed(f" {work.checkpoint}", language="hi")]

    engine = ScriptedEngine(answer)
    events = await run(monkeypatch, engine, 3, language="multi-x", routing=routing)
    assert events[0] == LanguageDetected(language="hi", checkpoint="hindi", probability=0.9)
    assert events[-1].text == "hindi hindi hindi"
    assert [len(work.window.languages) for work in engine.submitted] == [2, 1, 1, 1]
    assert engine.submitted[0].cancelled


async def test_deltas_concatenate_to_the_transcript(monkeypatch):
    engine = ScriptedEngine(lambda work: [Spoken(" a"), Spoken(" b"), Spoken(""), transcribed(" a b")])
    events = await run(monkeypatch, engine, 4, stream=True)
    deltas = "".join(event.text for event in events if isinstance(event, Delta))
    assert deltas == events[-1].text == "a b a b a b a b"


async def test_what_the_decoder_had_no_room_for_is_decoded_again_from_where_it_stopped(monkeypatch):
    monkeypatch.setattr(transcription, "_LEAST_REST_SECONDS", 0.0)
    calls = []

    def halve(work):
        calls.append(len(work.window.samples))
        if len(calls) == 1:
            segments = [SpokenSegment(0.0, 0.5, " first", [1]), SpokenSegment(0.5, 1.0, " cut", [2])]
            return [transcribed(" first cut", segments=segments, truncated_at=0.5)]
        return [transcribed(" rest", segments=[SpokenSegment(0.0, 0.5, " rest", [3])])]

    events = await run(monkeypatch, ScriptedEngine(halve), 1)
    assert calls == [16_000, 8_000]
    assert events[-1].text == "first rest"
    assert [(e.start, e.end) for e in events if isinstance(e, Segment)] == [(0.0, 0.5), (0.5, 1.0)]


async def test_words_have_the_times_of_the_file_also_where_a_window_was_decoded_in_parts(monkeypatch):
    monkeypatch.setattr(transcription, "_LEAST_REST_SECONDS", 0.0)

    def halve(work):
        assert work.window.words
        if len(work.window.samples) == 16_000 and index(work) == 1:
            words = [SpokenWord(" first", 0.1, 0.3, 0.9), SpokenWord(" half,", 0.35, 0.6, 0.8)]
            segments = [SpokenSegment(0.0, 0.5, " first half,", [1], words), SpokenSegment(0.5, 1.0, " cut", [2])]
            return [transcribed(" first half, cut", segments=segments, truncated_at=0.5)]
        rest = [SpokenWord("rest", 0.2, 0.4, 0.7)]
        return [transcribed("rest", segments=[SpokenSegment(0.0, 0.5, "rest", [3], rest)])]

    events = await run(monkeypatch, ScriptedEngine(halve), 2, words=True)
    words = [word for event in events if isinstance(event, Segment) for word in event.words]
    assert [(word.word, word.start, word.end, word.probability) for word in words] == [
        (" rest", 0.2, 0.4, 0.7),
        (" first", 1.1, 1.3, 0.9),
        (" half,", 1.35, 1.5, 0.8),
        (" rest", 1.7, 1.9, 0.7),
    ]
    assert "".join(word.word for word in words).strip() == events[-1].text


async def test_a_translation_is_not_asked_for_words(monkeypatch):
    engine = ScriptedEngine(lambda _: [transcribed(" w")])
    await run(monkeypatch, engine, 1, words=True, task="translate")
    assert not engine.submitted[0].window.words


async def test_without_timestamps_a_truncated_window_is_decoded_again_with_them(monkeypatch):
    def answer(work):
        return [transcribed(" whole")] if work.window.timestamps else [transcribed(" cut", truncated_at=0.0)]

    events = await run(monkeypatch, ScriptedEngine(answer), 1, timestamps=False)
    assert events[-1].text == "whole"


async def test_a_lost_window_fails_its_request_and_frees_the_others(monkeypatch):
    engine = ScriptedEngine(lambda work: [Lost("broken")] if index(work) == 5 else [transcribed(" w")])
    with pytest.raises(EngineFailed, match="broken"):
        await run(monkeypatch, engine, 30)
    assert all(work.cancelled for work in engine.submitted if index(work) >= 5)


async def test_silence_is_an_empty_answer(monkeypatch):
    events = await run(monkeypatch, ScriptedEngine(None), 0)
    assert isinstance(events[-1], Done)
    assert events[-1].text == ""
