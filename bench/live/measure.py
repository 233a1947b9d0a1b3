"""The measurements."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, quantiles

import httpx
from tests import speech

from bench.live import client
from bench.live.speech import Talk, talks
from bench.live.timeline import Shown, final_delays, text_of, word_delays
from bench.load import wav
from bench.machine import Machine, machine
from bench.memory import resident
from bench.process import Process
from bench.rack import Rack

STREAMS = (1, 2, 4, 8, 16)
PEER = "faster-whisper"
_APART_S = 0.31
_SUSTAINED_WORD_S, _SUSTAINED_FINAL_S = 1.5, 1.0
_HOUR_PAUSE_S = 0.3
_PARTS = 6


@dataclass(frozen=True)
class Pace:
    """So many streams at once: seconds from the end of a word to its appearance, from an endpoint to its final.

    `behind_s` is how long after the end of its audio the slowest stream had its last text.
    """

    streams: int
    words: int
    word_s: float
    word_p90_s: float
    final_s: float
    final_p90_s: float
    behind_s: float
    wer: float

    @property
    def sustained(self) -> bool:
        """Whether words and finals come as soon as they should."""
        return self.word_s < _SUSTAINED_WORD_S and self.final_s < _SUSTAINED_FINAL_S and self.behind_s < 5.0


@dataclass(frozen=True)
class Hour:
    """One session without a pause that ends an utterance, sent as fast as it is read.

    `cpu` has, for each part of it, the seconds of CPU that all servers took for a second of audio; `resident` their
    memory in bytes after the first part and at the end.
    """

    minutes: float
    cpu: list[float]
    resident: tuple[int, int]

    @property
    def drift(self) -> float:
        """The largest difference of a part from the mean, a share of 1."""
        return max(abs(each / mean(self.cpu) - 1) for each in self.cpu)


@dataclass
class Live:
    """What was measured on one machine, and when."""

    date: str
    machine: Machine
    threads: int
    versions: dict[str, str]
    quick: bool
    paces: list[Pace] = field(default_factory=list)
    peer: list[Pace] = field(default_factory=list)
    file_wer: float = 0.0
    hour: Hour | None = None


def begin(threads: int, *, quick: bool) -> Live:
    """Return what `measure` fills."""
    packages = ("babelrack", "torch", "faster-whisper")
    versions = {package: metadata.version(package) for package in packages}
    return Live(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), machine(), threads, versions, quick)


def measure(live: Live, say: Callable[[str], None]) -> None:
    """Measure streams through nginx, API server and model server, then one long session, then the peer."""
    quick, threads = live.quick, live.threads
    counts = STREAMS[:2] if quick else STREAMS
    said = talks(max(counts), quick=quick)
    with Rack("alone", threads) as rack:
        say("live: the same audio as files")
        files = {talk: _as_file(rack, talk) for talk in said}
        different = said[: len({talk.language for talk in said})]
        live.file_wer = speech.score([talk.text for talk in different], [files[talk][0] for talk in different]).wer
        asyncio.run(_together(rack, said[:1]))  # what is set up lazily is set up
        for count in counts:
            say(f"live: {count} at once")
            shown = asyncio.run(_together(rack, said[:count]))
            live.paces.append(_pace(said[:count], shown, files))
        live.hour = asyncio.run(_hour(rack, say, minutes=4 if quick else 60))
    with Process(PEER, threads, say) as process:
        for count in counts:
            say(f"{process.title}, decoding again and again: {count} at once")
            answer = process.ask("live.redecode", streams=count, quick=quick)
            shown = [[Shown(**each) for each in one] for one in answer]
            live.peer.append(_pace(said[:count], shown, files))
            if live.peer[-1].behind_s > 30:
                break


def _as_file(rack: Rack, talk: Talk) -> tuple[str, list[speech.TimedWord]]:
    answer = httpx.post(
        f"{rack.gateway}/waves/v1/pulse/get_text",
        params={"language": talk.language, "word_timestamps": "true"},
        headers={"Authorization": f"Bearer {rack.key}", "Content-Type": "audio/wav"},
        content=wav(talk.samples),
        timeout=600,
        trust_env=False,
    )
    body = answer.raise_for_status().json()
    words = [speech.TimedWord(word["word"], word["start"], word["end"]) for word in body["words"]]
    return body["transcription"], words


async def _together(rack: Rack, said: Sequence[Talk]) -> list[list[Shown]]:
    streams = (
        client.spoken(rack.gateway, rack.key, talk, delay_s=number * _APART_S) for number, talk in enumerate(said)
    )
    return await asyncio.gather(*streams)


def _pace(
    said: Sequence[Talk],
    shown: Sequence[Sequence[Shown]],
    files: dict[Talk, tuple[str, list[speech.TimedWord]]],
) -> Pace:
    pairs = list(zip(said, shown, strict=True))
    words = [delay for talk, one in pairs for delay in word_delays(one, files[talk][1])]
    finals = [delay for one in shown for delay in final_delays(one, client.EOU_S)]
    return Pace(
        streams=len(said),
        words=len(words),
        word_s=median(words),
        word_p90_s=quantiles(words, n=10)[-1],
        final_s=median(finals),
        final_p90_s=quantiles(finals, n=10)[-1] if len(finals) > 1 else finals[0],
        behind_s=max(one[-1].at - talk.seconds for talk, one in pairs),
        wer=speech.score([talk.text for talk in said], [text_of(one) for one in shown]).wer,
    )


async def _hour(rack: Rack, say: Callable[[str], None], *, minutes: float) -> Hour:
    say(f"live: one session of {minutes:g} minutes, as fast as it is read")
    recording = speech.recording(minutes * 60, "en", pause_s=_HOUR_PAUSE_S)
    processes = rack.processes()
    part_s = recording.seconds / _PARTS
    marks = [(0.0, _cpu_seconds(processes), resident(processes))]

    def heard(end: float, _text: str) -> None:
        if end - marks[-1][0] >= part_s or end > recording.seconds - 30:
            marks.append((end, _cpu_seconds(processes), resident(processes)))

    begun = time.perf_counter()
    await client.pushed(rack.gateway, rack.key, recording.language, recording.samples, heard)
    say(f"live: {recording.seconds / (time.perf_counter() - begun):.1f} audio seconds a second")
    marks = marks[: _PARTS + 1]
    cpu = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(marks)]
    return Hour(minutes, cpu, (marks[1][2], marks[-1][2]))


def _cpu_seconds(processes: Sequence[int]) -> float:
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
