"""A request's keywords, made ready once for each checkpoint that comes to serve it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babelrack.engine import Engine, Keywords


class KeywordTrees:
    """The phrases of one request or stream; its windows share one tree a checkpoint."""

    def __init__(self, engine: Engine, phrases: Sequence[tuple[str, float]]) -> None:
        self._engine = engine
        self._phrases = phrases
        self._trees: dict[str, Keywords] = {}
        self._making = asyncio.Lock()

    async def of(self, checkpoint: str) -> Keywords | None:
        """What a window on `checkpoint` takes as its keywords: None without any."""
        if not self._phrases:
            return None
        async with self._making:
            if checkpoint not in self._trees:
                made = await asyncio.to_thread(self._engine.keywords, checkpoint, self._phrases)
                self._trees[checkpoint] = made
        return self._trees[checkpoint]
