"""The speech fixtures: what is in them, how to load and compose them, how to score a transcript against their text."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import cycle, permutations
from pathlib import Path
from typing import Literal

import av
import jiwer
import numpy as np
import numpy.typing as npt

SPEECH = Path(__file__).parent / "fixtures" / "speech"
RATE = 16_000
Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; times in seconds."""

    speaker: str
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class TimedWord:
    """A word and when it is said; times in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """One fixture. `language` is None for what isn't speech; a `scored` one is read right by Whisper base.

    `words` are there where the voice told how long it says each.
    """

    file: str
    language: str | None
    text: str
    seconds: float
    scored: bool
    demo: bool
    turns: tuple[Turn, ...] = ()
    words: tuple[TimedWord, ...] = ()

    @property
    def path(self) -> Path:
        """Where the FLAC lies."""
        return SPEECH / self.file

    def samples(self) -> Samples:
        """Return the clip as int16, 16 kHz mono."""
        return decoded(self.path)


@dataclass(frozen=True)
class Recording:
    """A long recording composed of clips: int16 samples at 16 kHz, and what is said in them."""

    samples: Samples
    language: str
    text: str

    @property
    def seconds(self) -> float:
        """The recording's length."""
        return len(self.samples) / RATE


def clips(*, language: str | None = None, scored: bool | None = None, demo: bool | None = None) -> list[Clip]:
    """Return the fixtures in the order of the manifest, narrowed by what is given."""
    entries = json.loads((SPEECH / "manifest.json").read_text())
    found = [
        Clip(
            file=entry["file"],
            language=entry["language"],
            text=entry["text"],
            seconds=entry["seconds"],
            scored=entry["scored"],
            demo=entry["demo"],
            turns=tuple(Turn(**turn) for turn in entry.get("turns", ())),
            words=tuple(TimedWord(**word) for word in entry.get("words", ())),
        )
        for entry in entries
    ]
    return [
        clip
        for clip in found
        if (language is None or clip.language == language)
        and (scored is None or clip.scored == scored)
        and (demo is None or clip.demo == demo)
    ]


def clip(file: str) -> Clip:
    """Return the fixture of that file name, with or without `.flac`."""
    wanted = file.removesuffix(".flac")
    for each in clips():
        if each.file.removesuffix(".flac") == wanted:
            return each
    raise LookupError(f"no speech fixture is called '{file}'; they are listed in {SPEECH / 'manifest.json'}")


def decoded(path: Path) -> Samples:
    """Return the audio file at `path` as int16, 16 kHz mono."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def encoded(samples: Samples, path: Path, *, rate: int = RATE) -> Path:
    """Write int16 mono samples to `path` in the format of its suffix (wav, flac), and return it."""
    codec: Literal["pcm_s16le", "flac"] = "pcm_s16le" if path.suffix == ".wav" else "flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(samples), 4096):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 4096], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def silence(seconds: float) -> Samples:
    """Return digital silence."""
    return np.zeros(round(seconds * RATE), np.int16)


def recording(seconds: float, language: str = "en", *, pause_s: float = 0.8) -> Recording:
    """Compose at least `seconds` of speech: the scored clips of `language` over and over, a pause after each.

    The last clip is whole, so that the text is what is said; the recording is at most one clip longer than asked.
    """
    spoken: list[Samples] = []
    said: list[str] = []
    length = 0.0
    pause = silence(pause_s)
    for each in cycle(clips(language=language, scored=True)):
        if length >= seconds:
            break
        spoken += [each.samples(), pause]
        said.append(each.text)
        length += each.seconds + pause_s
    return Recording(np.concatenate(spoken), language, " ".join(said))


def boundary_errors(said: Sequence[TimedWord], heard: Sequence[TimedWord]) -> list[float]:
    """How far the boundaries of the words that were heard right are from where they are, in seconds, late ones above 0.

    Two for each word, its start and its end.
    """
    spelled = [[normalised(word.word) for word in words] for words in (said, heard)]
    errors: list[float] = []
    for block in SequenceMatcher(None, *spelled, autojunk=False).get_matching_blocks():
        for index in range(block.size):
            true, found = said[block.a + index], heard[block.b + index]
            errors += [found.start - true.start, found.end - true.end]
    return errors


def normalised(text: str) -> str:
    """Return `text` as it is scored: NFKC, lower case, letters, marks and digits only, one space between words."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split())


@dataclass(frozen=True)
class Score:
    """Word errors over one or more transcripts, and how many of those ran into a loop."""

    errors: int
    words: int
    loops: int

    @property
    def wer(self) -> float:
        """Word error rate, a share of 1."""
        return self.errors / self.words


def looped(reference: str, hypothesis: str) -> bool:
    """Say whether a transcript is so much longer than what was said that the decoder must have repeated itself."""
    return len(normalised(hypothesis).split()) > 1.5 * len(normalised(reference).split()) + 5


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Score transcripts against what was said, pair by pair; an empty reference can't be scored."""
    pairs: Iterable[tuple[str, str]] = zip(references, hypotheses, strict=True)
    errors = words = loops = 0
    for reference, hypothesis in pairs:
        alignment = jiwer.process_words(normalised(reference), normalised(hypothesis))
        errors += alignment.substitutions + alignment.deletions + alignment.insertions
        words += alignment.hits + alignment.substitutions + alignment.deletions
        loops += looped(reference, hypothesis)
    return Score(errors, words, loops)


@dataclass(frozen=True)
class DiarizationError:
    """What is wrong of a diarization, in seconds of `speech`: missed, heard where nobody speaks, of another speaker."""

    missed: float
    false_alarm: float
    confusion: float
    speech: float

    @property
    def rate(self) -> float:
        """Diarization error rate, a share of 1."""
        return (self.missed + self.false_alarm + self.confusion) / self.speech


def diarization_error(
    said: Sequence[Turn], heard: Sequence[tuple[float, float, int]], *, collar_s: float = 0.25
) -> DiarizationError:
    """Score turns that were heard (start, end, speaker) against those that were said, of which no two overlap.

    As NIST defines it (Fiscus et al., "The Rich Transcription 2006 Spring Meeting Recognition Evaluation") and
    pyannote.metrics computes it: speakers are mapped one to one so that most time agrees, and the collar around each
    boundary that was said isn't scored. In steps of 10 ms.
    """
    step = 0.01
    frames = int(max([turn.end for turn in said] + [end for _, end, _ in heard]) / step) + 1
    names = sorted({turn.speaker for turn in said})
    truth, found, scored = np.full(frames, -1), np.full(frames, -1), np.ones(frames, bool)
    for turn in said:
        truth[round(turn.start / step) : round(turn.end / step)] = names.index(turn.speaker)
    for start, end, speaker in heard:
        found[round(start / step) : round(end / step)] = speaker
    for edge in (edge for turn in said for edge in (turn.start, turn.end)):
        scored[max(0, round((edge - collar_s) / step)) : round((edge + collar_s) / step)] = False
    truth, found = truth[scored], found[scored]
    both = (truth >= 0) & (found >= 0)
    numbers = [*sorted({speaker for _, _, speaker in heard}), *(-2 - spare for spare in range(len(names)))]
    agree = max(
        sum(np.count_nonzero(both & (truth == name) & (found == number)) for name, number in enumerate(chosen))
        for chosen in permutations(numbers, len(names))
    )
    return DiarizationError(
        missed=step * np.count_nonzero((truth >= 0) & (found < 0)),
        false_alarm=step * np.count_nonzero((truth < 0) & (found >= 0)),
        confusion=step * (np.count_nonzero(both) - agree),
        speech=step * np.count_nonzero(truth >= 0),
    )
