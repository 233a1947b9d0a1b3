"""Who says each word: a recording's turns, laid over its words."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babelrack.pairing import Turn, Word


def attributed(words: Sequence[Word], turns: Sequence[Turn]) -> list[Word]:
    """`words` with the speaker of the turn that each shares most time with, else of the nearest.

    `turns` are in order and don't overlap. Where there are none, no voice was found, and speaker 0 is a guess.
    """
    ends = [turn.end for turn in turns]
    found = []
    for word in words:
        speaker, confidence = 0, 0.0
        if turns:
            first = min(bisect_right(ends, word.start), len(turns) - 1)
            near = [max(first - 1, 0), first]
            while near[-1] + 1 < len(turns) and turns[near[-1] + 1].start < word.end:
                near.append(near[-1] + 1)
            # The overlap where there is one; below zero, how far away the turn is.
            turn = max(
                (turns[index] for index in near),
                key=lambda turn: min(turn.end, word.end) - max(turn.start, word.start),
            )
            speaker, confidence = turn.speaker, turn.confidence
        found.append(word.model_copy(update={"speaker": speaker, "speaker_confidence": confidence}))
    return found
