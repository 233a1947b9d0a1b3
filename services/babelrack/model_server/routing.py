"""Which checkpoint serves a language: a dedicated one, else a multilingual one that lists it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babelrack.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request starts: the checkpoint, and the languages among which it detects (one: it is given)."""

    checkpoint: str
    languages: tuple[str, ...]


class NotEnabled(Exception):
    """No loaded checkpoint covers the language."""


class Routing:
    """The rule, for the checkpoints of one deployment."""

    def __init__(self, checkpoints: Sequence[Checkpoint], aggregator: str) -> None:
        self._checkpoints = checkpoints
        self._aggregator = aggregator
        self.languages = tuple(dict.fromkeys(code for c in checkpoints for code in c.languages))

    def route(self, language: str) -> Route:
        """Where a request in `language`, a code or the deployment's aggregator, starts.

        Raises:
            NotEnabled: when no loaded checkpoint covers it.
        """
        if language == self._aggregator:
            return Route(self._detector(), self.languages)
        return Route(self.checkpoint(language), (language,))

    def checkpoint(self, language: str) -> str:
        """The name of the checkpoint that serves `language`."""
        covering = [c for c in self._checkpoints if language in c.languages]
        if not covering:
            raise NotEnabled(
                f"language {language!r} is not enabled here; this deployment serves {', '.join(self.languages)}, "
                f"or {self._aggregator} to detect one of them"
            )
        return min(covering, key=lambda c: c.role != "dedicated").name

    def _detector(self) -> str:
        """A multilingual checkpoint was trained to tell its languages apart; among equals, the one with the most."""
        return min(self._checkpoints, key=lambda c: (c.role != "multilingual", -len(c.languages))).name
