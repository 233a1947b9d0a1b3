"""One window on the engine: detection, the checkpoint that serves what was detected, and the answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from babelrack.engine import Admitted, Detected, Engine, Event, Lost, Spoken, Transcribed, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from babelrack.model_server.keywords import KeywordTrees
    from babelrack.model_server.routing import Routing

_SCRIPTS_WITHOUT_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})


class EngineFailed(Exception):
    """The engine lost a window of this request."""


@dataclass(frozen=True, slots=True)
class Found:
    """The language that was detected, how likely it is among the allowed, and the checkpoint that serves it."""

    language: str
    probability: float
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The answer to a window, and the checkpoint that gave it."""

    checkpoint: str
    answer: Transcribed


async def decode(
    engine: Engine,
    routing: Routing,
    checkpoint: str,
    window: Window,
    hear: Callable[[Admitted | Found | Spoken], None],
    keywords: KeywordTrees,
) -> Decoded:
    """Decode `window`, with another checkpoint where the detected language has it.

    Cancelling takes it out of the batch. `hear` is told when a live window is admitted, of the language as soon as it
    is detected, and of text where the window streams.

    Raises:
        EngineFailed: when the window is lost.
    """
    window = replace(window, keywords=await keywords.of(checkpoint))
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def listen(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    sequence = engine.submit(checkpoint, window, listen)
    try:
        while True:
            match await events.get():
                case Detected(language, probability):
                    serving = routing.checkpoint(language)
                    hear(Found(language, probability, serving))
                    if serving != checkpoint:
                        engine.cancel(sequence)
                        window = replace(window, languages=(language,))
                        return await decode(engine, routing, serving, window, hear, keywords)
                case Admitted() | Spoken() as news:
                    hear(news)
                case Transcribed() as answer:
                    return Decoded(checkpoint, answer)
                case Lost(reason):
                    raise EngineFailed(reason)
    finally:
        engine.cancel(sequence)


def separator(language: str | None) -> str:
    """What stands between two texts in `language`."""
    return "" if language in _SCRIPTS_WITHOUT_SPACES else " "
