"""Babelrack's engine in this process, without servers: windows submitted in a closed loop."""

import os
import queue
import time
from collections.abc import Sequence

from tests.speech import TimedWord

from babelrack.engine import Engine, EngineError, EngineOptions, Event, Keywords, Lost, Transcribed, Window
from babelrack.engine.sequence import Sequence as Sequenced
from bench.checkpoints import WHISPER_BASE
from bench.workload import Request

CHECKPOINT = "base"


class BabelrackEngine:
    """One engine with one checkpoint; a window is submitted for each that ends."""

    def __init__(self, threads: int, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._engine = Engine({CHECKPOINT: WHISPER_BASE}, EngineOptions(threads=threads))
        self._engine.start()

    def transcribe(self, requests: Sequence[Request], at_once: int) -> list[str]:
        return [answer.text for answer in self._answers(requests, at_once, words=False)]

    def words(self, requests: Sequence[Request], at_once: int) -> list[list[TimedWord]]:
        return [
            [TimedWord(word.text, word.start, word.end) for segment in answer.segments for word in segment.words]
            for answer in self._answers(requests, at_once, words=True)
        ]

    def keywords(self, phrases: Sequence[tuple[str, float]]) -> Keywords:
        """Make phrases with their intensifiers ready to be listened for."""
        return self._engine.keywords(CHECKPOINT, phrases)

    def step_seconds(self, requests: Sequence[Request], at_once: int, keywords: Keywords | None) -> float:
        """Return the mean seconds of a token's decode step, encoding aside."""
        runner = self._engine._lanes[CHECKPOINT].runner
        decode, steps, seconds = runner.decode, 0, 0.0

        def timed(sequences: Sequence[Sequenced]) -> list[tuple[int, float] | None]:
            nonlocal steps, seconds
            begun = time.perf_counter()
            picked = decode(sequences)
            seconds += time.perf_counter() - begun
            steps += len(sequences)
            return picked

        runner.decode = timed  # type: ignore[method-assign]
        try:
            self._answers(requests, at_once, words=False, keywords=keywords)
        finally:
            runner.decode = decode  # type: ignore[method-assign]
        return seconds / steps

    def _answers(
        self, requests: Sequence[Request], at_once: int, *, words: bool, keywords: Keywords | None = None
    ) -> list[Transcribed]:
        answers: dict[int, Transcribed] = {}
        ended: queue.SimpleQueue[tuple[int, Transcribed | Lost]] = queue.SimpleQueue()
        waiting = iter(range(len(requests)))

        def submit(index: int) -> None:
            def listen(event: Event) -> None:
                if isinstance(event, Transcribed | Lost):
                    ended.put((index, event))

            request = requests[index]
            window = Window(
                request.samples,
                (request.language,),
                timestamps=self._timestamps,
                words=words,
                keywords=keywords,
            )
            self._engine.submit(CHECKPOINT, window, listen)

        for _, index in zip(range(at_once), waiting, strict=False):
            submit(index)
        for _ in requests:
            index, event = ended.get()
            if isinstance(event, Lost):
                raise EngineError(f"the engine lost request {index}: {event.reason}")
            answers[index] = event
            for follower in waiting:
                submit(follower)
                break
        return [answers[index] for index in range(len(requests))]

    def processes(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._engine.stop()


def load(threads: int, *, timestamps: bool = False) -> BabelrackEngine:
    """Load the checkpoint; peers give no times either unless they are asked, so neither does this."""
    return BabelrackEngine(threads, timestamps)
