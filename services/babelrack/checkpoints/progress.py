"""How far a fetch is, told to whoever waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Phase = Literal["waiting", "downloading", "verifying", "unpacking", "ready"]


@dataclass(frozen=True, slots=True)
class Step:
    """`done` of `total` bytes (None when the source doesn't say) of one phase of one checkpoint."""

    checkpoint: str
    phase: Phase
    done: int = 0
    total: int | None = None


class Progress(Protocol):
    """Called with each `Step`, from the threads that fetch, several a second: be quick and thread-safe."""

    def __call__(self, step: Step, /) -> None: ...


def silent(step: Step, /) -> None:
    """Tell nobody."""
