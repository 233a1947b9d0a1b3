"""Tells a good decode from a loop or a guess, and says what to try next.

The thresholds and the rising temperatures are those of Radford et al. 2022, section 4.5, with fewer steps: a request in
the wrong language fails every try, and must not cost its neighbours more than a few. Encoding a window at its own
length instead of 30 s is not theirs: it is the first try, and what looks wrong is done again at full length.
"""

from __future__ import annotations

import unicodedata
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
NO_SPEECH_PROBABILITY = 0.6
_TEMPERATURES = (0.4, 0.8)
_LONGEST_PERIOD = 32
SHORTEST_LOOP = 24

# The scripts of languages that aren't written in Latin letters, as the names of their characters begin.
_SCRIPTS: Final[Mapping[str, tuple[str, ...]]] = {
    language: scripts
    for languages, scripts in (
        ("am", ("ETHIOPIC",)),
        ("ar fa ps sd ur", ("ARABIC",)),
        ("as bn", ("BENGALI",)),
        ("ba be bg kk mk mn ru tg tt uk", ("CYRILLIC",)),
        ("bo", ("TIBETAN",)),
        ("el", ("GREEK",)),
        ("gu", ("GUJARATI",)),
        ("he yi", ("HEBREW",)),
        ("hi mr ne sa", ("DEVANAGARI",)),
        ("hy", ("ARMENIAN",)),
        ("ja", ("HIRAGANA", "KATAKANA", "CJK")),
        ("ka", ("GEORGIAN",)),
        ("km", ("KHMER",)),
        ("kn", ("KANNADA",)),
        ("ko", ("HANGUL",)),
        ("lo", ("LAO",)),
        ("ml", ("MALAYALAM",)),
        ("my", ("MYANMAR",)),
        ("pa", ("GURMUKHI",)),
        ("si", ("SINHALA",)),
        ("ta", ("TAMIL",)),
        ("te", ("TELUGU",)),
        ("th", ("THAI",)),
        ("yue zh", ("CJK",)),
    )
    for language in languages.split()
}

Verdict = Literal["good", "loop", "unlikely", "endless"]


@dataclass(frozen=True, slots=True)
class Try:
    """One way to decode a window: encoded at its own length or padded to 30 s, at a temperature."""

    padded: bool
    temperature: float


def tries(temperature: float, *, fits: bool) -> list[Try]:
    """The tries in their order; `fits` says that the window is shorter than 30 s with its margin."""
    own_length = [Try(padded=False, temperature=temperature)] if fits else []
    hotter = [Try(padded=True, temperature=t) for t in _TEMPERATURES if t > temperature]
    return [*own_length, Try(padded=True, temperature=temperature), *hotter]


def token_limit(seconds: float, positions: int) -> int:
    """How many tokens speech of that length can hold; scripts that take three tokens a letter are allowed for."""
    return min(positions, int(32 + 32 * seconds))


def loop_start(tokens: Sequence[int], shortest: int = SHORTEST_LOOP) -> int | None:
    """Where the tail of `tokens` starts to repeat itself, for `shortest` tokens and 3 times; None when it doesn't."""
    count = len(tokens)
    for period in range(1, min(_LONGEST_PERIOD, count // 2) + 1):
        repeated = 0
        while repeated < count - period and tokens[count - 1 - repeated] == tokens[count - 1 - repeated - period]:
            repeated += 1
        if repeated >= max(shortest, 3 * period):
            return count - repeated
    return None


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of the text compressed: high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def in_script(text: str, language: str) -> bool:
    """Whether `text` has a letter of the language's own script, or no letter at all.

    At its own length a window of a language that the checkpoint knows little of may come out spelled in Latin letters.
    """
    scripts = _SCRIPTS.get(language)
    letters = [character for character in text if character.isalpha()]
    return scripts is None or not letters or any(unicodedata.name(letter, "").startswith(scripts) for letter in letters)


def judge(text: str, language: str, avg_logprob: float, no_speech_prob: float) -> Verdict:
    """Whether a decode that ended properly, of a text in `language`, is to be believed."""
    if compression_ratio(text) > MAX_COMPRESSION_RATIO:
        return "loop"
    if avg_logprob < MIN_AVG_LOGPROB and no_speech_prob <= NO_SPEECH_PROBABILITY:
        return "unlikely"
    return "good" if in_script(text, language) else "unlikely"


def is_silence(avg_logprob: float, no_speech_prob: float) -> bool:
    """Whether what was decoded is more likely nothing at all."""
    return no_speech_prob > NO_SPEECH_PROBABILITY and avg_logprob < MIN_AVG_LOGPROB
