"""The paired model server as this API server knows it: polled, compared by name, and asked what it has loaded."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from babelrack.api_server.errors import LanguageNotEnabled, Unavailable
from babelrack.packs.languages import in_token_order, is_aggregator
from babelrack.pairing import ModelServerLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from babelrack.pairing import ModelClient, ModelHealth

_STEADY_SECONDS = 2.0
_ANXIOUS_SECONDS = 0.5
# A busy model server may miss one poll; requests notice for themselves when it is really gone.
_FORGIVEN_POLLS = 2
_ANSWER_SECONDS = 6.0

log = structlog.get_logger(__name__)


class Pair:
    """`fault` is None while requests may go to the model server, else the sentence that says why not.

    `on_change` is called with the model server's health after each good poll.
    """

    def __init__(
        self, client: ModelClient, deployment: str, aggregator: str, on_change: Callable[[ModelHealth], None]
    ) -> None:
        self.client = client
        self.health: ModelHealth | None = None
        self.fault: str | None = "the model server has not been asked yet"
        self._deployment = deployment
        self._aggregator = aggregator
        self._on_change = on_change
        self._missed = 0
        self._doubt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask once, then keep asking."""
        await self._poll()
        self._task = asyncio.create_task(self._keep_polling(), name="pair")

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def aggregator(self) -> str:
        """What a request without a language means; empty while that isn't known."""
        return self._aggregator or (self.health.aggregator if self.health else "")

    @property
    def languages(self) -> list[str]:
        """The codes that the loaded checkpoints cover, in the order of Whisper's tokens."""
        if self.health is None:
            return []
        return in_token_order(code for checkpoint in self.health.checkpoints for code in checkpoint.languages)

    @property
    def checkpoints(self) -> list[str]:
        """The loaded checkpoints' names."""
        return [] if self.health is None else [checkpoint.name for checkpoint in self.health.checkpoints]

    def has(self, feature: str) -> bool:
        """Whether the model server can do what not every one can."""
        return self.health is not None and feature in self.health.features

    def doubt(self) -> None:
        """A request has lost the model server: ask at once instead of at the next turn."""
        self._doubt.set()

    def require(self) -> None:
        """Raise Unavailable unless the model server is there, healthy and the right one."""
        if self.fault is not None:
            raise Unavailable(self.fault, code="MODEL_SERVER", retry_after=2)

    def language(self, wanted: str | None) -> str:
        """`wanted`, or the aggregator, when a loaded checkpoint covers it.

        Raises:
            LanguageNotEnabled: with the languages that are loaded.
        """
        language = wanted or self.aggregator
        if language == self.aggregator or language in self.languages:
            return language
        here = f"{', '.join(self.languages)}, or {self.aggregator} to detect among them"
        kind = "aggregator" if is_aggregator(language) else "language"
        raise LanguageNotEnabled(
            f"the {kind} {language!r} is not served by the pack {self._deployment}; it has {here}.",
            language,
            self.languages,
        )

    @property
    def mismatched(self) -> bool:
        """Whether the model server that answered last is another pack's."""
        return self.health is not None and self._mismatch(self.health) is not None

    async def _keep_polling(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STEADY_SECONDS if self.fault is None else _ANXIOUS_SECONDS):
                    await self._doubt.wait()
            if self._doubt.is_set():
                self._doubt.clear()
                self._missed = _FORGIVEN_POLLS
            await self._poll()

    async def _poll(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                health = await self.client.health()
        except (ModelServerLost, TimeoutError) as error:
            self._missed += 1
            if self._missed > _FORGIVEN_POLLS or self.health is None:
                self._set(str(error) or f"the model server at {self.client.base_url} does not answer in time")
            return
        except Exception:  # a fault here must never end the polling for good
            log.exception("health of the model server could not be read")
            self._set("the model server's health could not be read; see the API server's log")
            return
        self._missed = 0
        self.health = health
        self._on_change(health)
        self._set(self._verdict(health))

    def _verdict(self, health: ModelHealth) -> str | None:
        if mismatch := self._mismatch(health):
            return mismatch
        if health.status != "healthy":
            return f"the model server is {health.status}" + (f": {health.reason}" if health.reason else "")
        return None

    def _mismatch(self, health: ModelHealth) -> str | None:
        if health.deployment != self._deployment:
            return (
                f"wrong pair: this API server is {self._deployment}, the model server at {self.client.base_url} "
                f"is {health.deployment}; set DEPLOYMENT_NAME or ASR_BASE_URL so that they agree"
            )
        if self._aggregator and health.aggregator != self._aggregator:
            return (
                f"wrong pair: this API server's aggregator is {self._aggregator}, the model server's "
                f"{health.aggregator}; set AGGREGATOR so that they agree"
            )
        return None

    def _set(self, fault: str | None) -> None:
        if fault != self.fault:
            if fault is None:
                log.info("model server is ready", url=self.client.base_url, checkpoints=self.checkpoints)
            else:
                log.warning("model server can't be used", url=self.client.base_url, reason=fault)
        self.fault = fault
