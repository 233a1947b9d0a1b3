"""The peer: a loop that decodes each utterance from its beginning again whenever there is enough new audio.

It is told where utterances begin and end, and pays for no voice activity, no network and no agreement.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.speech import RATE

from bench.live.client import EOU_S
from bench.live.speech import Talk, talks
from bench.live.timeline import Shown
from bench.systems import Transcriber
from bench.workload import Request

STEP_S = 0.5


def inside(transcriber: Transcriber, *, streams: int, quick: bool) -> list[list[dict[str, Any]]]:
    """Run the loop over talks at the pace of speech; returns for each talk what it showed."""
    said = talks(streams, quick=quick)
    return [[asdict(each) for each in shown] for shown in _loop(transcriber, said)]


def _loop(transcriber: Transcriber, said: Sequence[Talk]) -> list[list[Shown]]:
    begun = time.perf_counter()
    shown: list[list[Shown]] = [[] for _ in said]
    current = [0] * len(said)
    decoded = [0.0] * len(said)
    while any(index < len(talk.utterances) for index, talk in zip(current, said, strict=True)):
        now = time.perf_counter() - begun
        waiting = []
        for number, talk in enumerate(said):
            if current[number] == len(talk.utterances):
                continue
            start, end = talk.utterances[current[number]]
            over = now >= end + EOU_S
            new = min(now, end + EOU_S) - max(start, decoded[number])
            if over or new >= STEP_S:
                waiting.append((over, new, number))
        if not waiting:
            time.sleep(0.005)
            continue
        over, _, number = max(waiting)
        talk = said[number]
        start, end = talk.utterances[current[number]]
        until = min(now, end + EOU_S)
        samples = talk.samples[int(start * RATE) : int(until * RATE)]
        text = transcriber.transcribe([Request(samples, talk.language, "")], 1)[0]
        decoded[number] = until
        shown[number].append(Shown(time.perf_counter() - begun, text, over, end if over else None))
        current[number] += over
    return shown
