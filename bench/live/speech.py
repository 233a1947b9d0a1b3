"""What is said into a live stream, and when."""

from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from tests import speech

PAUSE_S = 1.6
_LENGTHS = ("3s-a", "11s-a", "3s-b", "11s-b", "20s")


@dataclass(frozen=True, eq=False)
class Talk:
    """One speaker's audio: int16 samples at 16 kHz, and where each utterance begins and ends, in seconds."""

    language: str
    samples: speech.Samples
    text: str
    utterances: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """The audio's length."""
        return len(self.samples) / speech.RATE


def talks(count: int, *, quick: bool) -> list[Talk]:
    """Return that many talks of about a minute, languages in turn, each language's clips in another order each time."""
    languages = sorted({clip.language or "" for clip in speech.clips(scored=True)})
    return [
        _talk(language, n // len(languages), quick=quick) for n, language in enumerate(islice(cycle(languages), count))
    ]


def _talk(language: str, turn: int, *, quick: bool) -> Talk:
    names = _LENGTHS[:2] if quick else _LENGTHS
    names = names[turn % len(names) :] + names[: turn % len(names)]
    pause = speech.silence(PAUSE_S)
    pieces, said, utterances, at = [pause], list[str](), list[tuple[float, float]](), PAUSE_S
    for name in names:
        clip = speech.clip(f"{language}-{name}")
        samples = clip.samples()
        pieces += [samples, pause]
        said.append(clip.text)
        length = len(samples) / speech.RATE
        utterances.append((at, at + length))
        at += length + PAUSE_S
    return Talk(language, np.concatenate(pieces), " ".join(said), tuple(utterances))
