"""When each word was first shown, from what a system said of a talk and when it said it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from tests.speech import TimedWord, normalised


@dataclass(frozen=True)
class Shown:
    """A text of the utterance that is spoken, and the second of the talk at which it came; its last is `final`.

    `speech_end` is set on a final that silence ended: the second at which the last word before it was over.
    """

    at: float
    text: str
    final: bool = False
    speech_end: float | None = None


def text_of(shown: Sequence[Shown]) -> str:
    """Return the finals in a row."""
    return " ".join(each.text.strip() for each in shown if each.final and each.text.strip())


def word_delays(shown: Sequence[Shown], truth: Sequence[TimedWord]) -> list[float]:
    """Return, for each word that is in the finals and in `truth`, the seconds from its end to its first appearance.

    A word appears in the first text of its utterance that has it in the place where the final has it.
    """
    words, firsts = list[str](), list[float]()
    utterance: list[tuple[float, list[str]]] = []
    for each in shown:
        utterance.append((each.at, normalised(each.text).split()))
        if not each.final:
            continue
        for place, word in enumerate(utterance[-1][1]):
            words.append(word)
            firsts.append(next(at for at, said in utterance if said[place : place + 1] == [word]))
        utterance = []
    true = [normalised(word.word) for word in truth]
    blocks = SequenceMatcher(None, true, words, autojunk=False).get_matching_blocks()
    return [firsts[block.b + i] - truth[block.a + i].end for block in blocks for i in range(block.size)]


def final_delays(shown: Sequence[Shown], eou_s: float) -> list[float]:
    """Return the seconds from each endpoint, which is `eou_s` after the last word, to its final."""
    return [each.at - each.speech_end - eou_s for each in shown if each.final and each.speech_end is not None]
