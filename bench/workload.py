"""What is transcribed: requests of about one length, every scored fixture, one long recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice, zip_longest

import numpy as np
from tests import speech

LENGTHS = (3, 11, 28)
AT_ONCE = (1, 4, 16, 48)
WINDOW_S = 30.0
_PAUSE_S = 0.5
# How many different clips there are of each length.
DIFFERENT = 10


@dataclass(frozen=True, eq=False)
class Request:
    """What a client sends: int16 samples at 16 kHz, the language, and what is said."""

    samples: speech.Samples
    language: str
    text: str

    @property
    def seconds(self) -> float:
        """The audio's length."""
        return len(self.samples) / speech.RATE

    def floats(self) -> np.ndarray:
        """Return the samples as float32 in [-1, 1), as peers want them."""
        return self.samples.astype(np.float32) / 32768


def requests(length: int, count: int) -> list[Request]:
    """Return that many clips of about `length` seconds: all different ones in turn, languages mixed."""
    return list(islice(cycle(_of_length(length)), count))


def seconds(of: Sequence[Request]) -> float:
    """Return how much audio there is in requests."""
    return sum(request.seconds for request in of)


def batches(of: Sequence[Request], size: int) -> list[Sequence[Request]]:
    """Return requests in batches, for systems that take them so; the last batch is what is left."""
    return [of[start : start + size] for start in range(0, len(of), size)]


def scored(*, quick: bool = False) -> list[Request]:
    """Return every scored fixture (one a language when `quick`), one language after another."""
    clips = speech.clips(scored=True)
    if quick:
        clips = list({clip.language: clip for clip in reversed(clips)}.values())
    return sorted((_request(clip) for clip in clips), key=lambda request: request.language)


def timed() -> list[tuple[Request, tuple[speech.TimedWord, ...]]]:
    """Return the fixtures whose words have known times, and those."""
    return [(_request(clip), clip.words) for clip in speech.clips() if clip.words]


def recording(minutes: float) -> Request:
    """Return one English recording of that length."""
    composed = speech.recording(minutes * 60, "en")
    return Request(composed.samples, composed.language, composed.text)


@cache
def _of_length(length: int) -> tuple[Request, ...]:
    """Return the different clips of about a length: those called so, and for the longest also some put together."""
    by_language = []
    for language in sorted({clip.language or "" for clip in speech.clips(scored=True)}):
        clips = {
            clip.file.removesuffix(".flac"): _request(clip) for clip in speech.clips(language=language, scored=True)
        }
        named = [request for name, request in clips.items() if name.split("-")[1] == f"{length}s"]
        if length == max(LENGTHS):
            named.append(_joined([clips[f"{language}-{part}"] for part in ("11s-b", "3s-a", "11s-a")]))
        by_language.append(named)
    return tuple(request for turn in zip_longest(*by_language) for request in turn if request is not None)


def _request(clip: speech.Clip) -> Request:
    return Request(clip.samples(), clip.language or "", clip.text)


def _joined(parts: list[Request]) -> Request:
    pieces = [piece for part in parts for piece in (part.samples, speech.silence(_PAUSE_S))][:-1]
    joined = Request(np.concatenate(pieces), parts[0].language, " ".join(part.text for part in parts))
    if joined.seconds > WINDOW_S:
        raise ValueError(f"the clips put together for {joined.language} last {joined.seconds:.1f} s, over {WINDOW_S} s")
    return joined
