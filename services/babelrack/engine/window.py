"""What the engine is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from babelrack.engine.errors import EngineError
from babelrack.engine.features import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from babelrack.engine.keywords import Keywords

MAX_SECONDS = 30.0
Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """At most 30 s of speech, and what is wanted of it.

    Attributes:
        samples: int16 [samples] at 16 kHz mono.
        languages: codes; one is taken as given, of several one is detected.
        prompt: text that came before, or words to expect.
        temperature: of the first try; the tries after it may be hotter.
        timestamps: whether segments get times; without, the window is one segment and decodes faster.
        stream: whether the listener gets `Spoken` events.
        words: whether segments carry their words with times, which a translation has none of.
        keywords: phrases to expect, as `Engine.keywords` makes them of a list.
        live: whether somebody waits while speaking: it goes before all windows that are not.
        retry: whether what looks wrong is tried again; a text that will soon be decoded anew isn't worth it.
        prefix: text tokens that the text begins with; they are fed at once, and only what follows is decoded.
        prefix_logprobs: what is known of them, one for each; without, they count as certain.
        guess: text tokens that probably follow the prefix. Those that do cost no step of their own; the text is the
            same without them (speculative decoding, Leviathan et al. 2023, whose draft here is an earlier hypothesis).
    """

    samples: npt.NDArray[np.int16]
    languages: tuple[str, ...]
    task: Task = "transcribe"
    prompt: str | None = None
    temperature: float = 0.0
    timestamps: bool = True
    stream: bool = False
    words: bool = False
    keywords: Keywords | None = None
    live: bool = False
    retry: bool = True
    prefix: tuple[int, ...] = ()
    prefix_logprobs: tuple[float, ...] = ()
    guess: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.seconds > MAX_SECONDS:
            raise EngineError(f"a window is mono and at most {MAX_SECONDS:g} s; this has {self.samples.shape} samples")
        if not self.languages:
            raise EngineError("a window needs at least one language")
        if self.words and self.task == "translate":
            raise EngineError("a translation has no words with times; ask for them with the task transcribe")

        if self.prefix_logprobs and len(self.prefix_logprobs) != len(self.prefix):
            raise EngineError(f"{len(self.prefix)} prefix tokens have {len(self.prefix_logprobs)} log-probabilities")

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Admitted:
    """A live window has its slot, and its audio is on its way through the encoder; said at each try."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The language of a window that named several."""

    language: str
    probability: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """Text as it is decoded; it is never taken back."""

    text: str


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word with the punctuation that belongs to it and the space before it; times in seconds from the window's start.

    `probability` is the mean of those of its tokens. The times are of the word alone, without the punctuation.
    """

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class SpokenSegment:
    """A stretch of a window; times in seconds from the window's start. `words` only where they were asked for."""

    start: float
    end: float
    text: str
    tokens: list[int]
    words: list[SpokenWord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The end of a window.

    Attributes:
        logprobs: one for each text token, natural logarithm.
        avg_logprob: mean over all tokens that were sampled, timestamps and the end included.
        no_speech_prob: probability of the no-speech token at the start of transcript.
        temperature: that of the try that was kept.
        tries: how many it took.
        truncated_at: seconds from the window's start after which the vocabulary's positions ran out, else None.
    """

    language: str
    text: str
    segments: list[SpokenSegment]
    logprobs: list[float]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    tries: int
    truncated_at: float | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The engine failed on this window."""

    reason: str


Event = Admitted | Detected | Spoken | Transcribed | Lost
Listener = Callable[[Event], None]
