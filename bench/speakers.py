"""Speakers: how much of each conversation goes to the wrong one, and what that costs beside transcription.

    python -m bench.speakers [--keep]

shows it; `--keep` writes it into `docs/performance.md`. Costs are CPU seconds of the whole process in one run, so that
what else runs on the machine changes them little.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from tests import speech

from babelrack.audio.voice_activity import SpeechProbability, VoiceActivity
from babelrack.speakers import Diarization, Diarizer, Turn
from bench import workload
from bench.checkpoints import ROOT
from bench.report import DOCUMENT, Table, put_between
from bench.systems import babelrack_engine

SPEAKER_MODEL = ROOT / ".cache" / "speakers" / "ge2e-lstm"
BEGIN, END = "<!-- bench speakers: begin -->", "<!-- bench speakers: end -->"
_AT_ONCE = 8
_LENGTH = 11
_CLIPS = 8
_TURNS = 2


@dataclass(frozen=True)
class Conversation:
    """A fixture with several voices: how many there are, how many were found, and what was wrong."""

    file: str
    speakers: int
    found: int
    error: speech.DiarizationError


@dataclass(frozen=True)
class Speakers:
    """What was measured; `cost` is the CPU time of diarization as a share of transcription's, `alone` how many clips
    of one speaker stayed one, of `clips`."""

    conversations: list[Conversation]
    alone: int
    clips: int
    cost: float


class _Diarized:
    """Diarizes recordings; voice activity isn't counted, because transcription needs it anyway."""

    def __init__(self) -> None:
        self._diarizer = Diarizer.load(SPEAKER_MODEL)
        self._voice = VoiceActivity.load()

    def turns(self, samples: speech.Samples) -> list[Turn]:
        return self.given(samples, self.heard(samples))

    def heard(self, samples: speech.Samples) -> list[np.ndarray]:
        """The speech probabilities of the recording."""
        source = SpeechProbability(self._voice)
        return [source.feed(samples), source.flush()]

    def given(self, samples: speech.Samples, heard: list[np.ndarray]) -> list[Turn]:
        diarization = Diarization(self._diarizer)
        diarization.feed(samples, heard[0])
        diarization.feed(speech.silence(0), heard[1])
        diarization.end()
        return diarization.turns()


def measure(say: Callable[[str], None]) -> Speakers:
    """Diarize the fixtures, then time diarization and transcription of the same clips in turns."""
    diarized = _Diarized()
    say("speakers: conversations")
    conversations = []
    for clip in speech.clips():
        if clip.turns:
            turns = diarized.turns(clip.samples())
            error = speech.diarization_error(clip.turns, [(turn.start, turn.end, turn.speaker) for turn in turns])
            voices = len({turn.speaker for turn in clip.turns})
            conversations.append(Conversation(clip.file, voices, len({turn.speaker for turn in turns}), error))
    singles = [clip for clip in speech.clips() if clip.text and not clip.turns]
    alone = sum(len({turn.speaker for turn in diarized.turns(clip.samples())}) == 1 for clip in singles)
    say("speakers: cost")
    requests = workload.requests(_LENGTH, _CLIPS)
    heard = [diarized.heard(request.samples) for request in requests]
    engine = babelrack_engine.load(threads=1)
    try:
        engine.transcribe(requests[:4], _AT_ONCE)
        shares = []
        for _ in range(_TURNS):
            transcription = _cpu(lambda: engine.transcribe(requests, _AT_ONCE))
            shares.append(
                _cpu(lambda: [diarized.given(each.samples, h) for each, h in zip(requests, heard, strict=True)])
                / transcription
            )
    finally:
        engine.close()
    return Speakers(conversations, alone, len(singles), median(shares))


def _cpu(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def table(speakers: Speakers) -> Table:
    """The measurements as a table."""
    columns = ("Recording", "Speakers", "Found", "Missed, %", "False alarm, %", "Confusion, %", "Error rate, %")
    rows = []
    for each in speakers.conversations:
        error = each.error
        shares = (error.missed / error.speech, error.false_alarm / error.speech, error.confusion / error.speech)
        numbers = [f"{100 * share:.1f}" for share in (*shares, error.rate)]
        rows.append((each.file, str(each.speakers), str(each.found), *numbers))
    return Table("Speakers: diarization error rate", columns, rows)


def sentence(speakers: Speakers) -> str:
    """What the table doesn't show."""
    return (
        f"Of {speakers.clips} clips of one speaker {speakers.alone} stayed one. Diarization takes "
        f"{100 * speakers.cost:.0f} % of the CPU time that transcription of the same clips takes."
    )


def main(
    keep: Annotated[bool, typer.Option("--keep", help="Write it into docs/performance.md.")] = False,
) -> None:
    """Measure who is taken for whom, and what it costs."""
    console = Console(stderr=True)
    speakers = measure(lambda text: console.print(f"[dim]{text}[/]", highlight=False))
    Console().print(table(speakers).rich(), sentence(speakers))
    if keep:
        put_between(DOCUMENT, BEGIN, END, f"{table(speakers).markdown()}\n\n{sentence(speakers)}")


if __name__ == "__main__":
    typer.run(main)
