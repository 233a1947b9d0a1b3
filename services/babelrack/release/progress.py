"""How far a build is, told to whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Phase = Literal["looking", "downloading", "building", "checking", "ready"]


@dataclass(frozen=True, slots=True)
class Step:
    """`wheels` are found so far; `subject` is the wheel or package that the phase is at."""

    phase: Phase
    subject: str
    wheels: int = 0


class Progress(Protocol):
    """Called with each `Step`, from the thread that builds."""

    def __call__(self, step: Step, /) -> None: ...


def silent(step: Step, /) -> None:
    """Tell nobody."""
