"""Picks the next token of each window under Whisper's rules.

The rules for timestamps are those of Radford et al. 2022, sections 2.3 and 4.5, as the reference decoder states them:
they come in pairs around text, never go back, the first lies in the first second, and one is forced when all of them
together are likelier than any text.

Keywords change which text token is picked, and nothing else: not whether the next token is text, and not what is told
of its log-probability, which is that of the logits without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from babelrack.engine.tokens import TIMESTAMP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from babelrack.engine.keywords import Keywords
    from babelrack.engine.sequence import Sequence
    from babelrack.engine.tokens import Vocabulary


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may come next: text or not, and the timestamps [first, last), counted from 0.00."""

    text: bool
    first: int
    last: int


def allowed_next(tokens: Rows[int], vocabulary: Vocabulary, seconds: float) -> Allowed:
    """What may follow `tokens` in a window of that length that is decoded with timestamps."""
    end = int(seconds / TIMESTAMP_SECONDS) + 1
    if not tokens:
        return Allowed(text=False, first=0, last=min(end, vocabulary.max_initial_timestamp + 1))
    last_is_time = vocabulary.is_timestamp(tokens[-1])
    if last_is_time and (len(tokens) == 1 or vocabulary.is_timestamp(tokens[-2])):
        return Allowed(text=True, first=0, last=0)
    latest = next((token for token in reversed(tokens) if vocabulary.is_timestamp(token)), vocabulary.first_timestamp)
    index = latest - vocabulary.first_timestamp
    if last_is_time:
        return Allowed(text=False, first=index, last=max(end, index + 1))
    return Allowed(text=True, first=index + 1, last=max(end, index + 2))


class Sampler:
    """Samples from logits [rows, vocabulary]; greedy at temperature 0."""

    def __init__(self, vocabulary: Vocabulary, size: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        never = torch.zeros(size, device=device)
        never[list(vocabulary.suppressed)] = -torch.inf
        never[vocabulary.end_of_text + 1 : vocabulary.first_timestamp] = -torch.inf
        self._never = never
        self._generator = torch.Generator(device=device).manual_seed(0)

    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> list[tuple[int, float]]:
        """The next token of each row with its log-probability; `logits` are written over."""
        vocabulary, first = self._vocabulary, self._vocabulary.first_timestamp
        logits += self._never
        timed = [sequence.timed for sequence in sequences]
        for row, sequence in enumerate(sequences):
            tokens = sequence.draft.tokens
            if timed[row]:
                allowed = allowed_next(tokens, vocabulary, sequence.window.seconds)
                logits[row, first : first + allowed.first] = -torch.inf
                logits[row, first + allowed.last :] = -torch.inf
                if not allowed.text:
                    logits[row, : vocabulary.end_of_text if tokens else first] = -torch.inf
            else:
                logits[row, first:] = -torch.inf
                if not tokens:
                    logits[row, list(vocabulary.suppressed_at_begin)] = -torch.inf
        best, tokens_ = logits.max(1)
        total = torch.logsumexp(logits, 1)
        if any(timed):
            best_time, times = logits[:, first:].max(1)
            total_time = torch.logsumexp(logits[:, first:], 1)
            forced = total_time > logits[:, :first].amax(1)
            tokens_ = torch.where(forced, times + first, tokens_)
            best = torch.where(forced, best_time, best)
            total = torch.where(forced, total_time, total)
        boosted = self._boost(logits, tokens_, sequences)
        if boosted is not None:
            best = torch.where(boosted == tokens_, best, logits.gather(1, boosted[:, None])[:, 0])
            tokens_ = boosted
        picked = list(zip(tokens_.tolist(), (best - total).tolist(), strict=True))
        for row, sequence in enumerate(sequences):
            if sequence.draft.temperature > 0:
                picked[row] = self._draw(logits[row], sequence)
        return picked

    def _boost(self, logits: torch.Tensor, picked: torch.Tensor, sequences: Rows[Sequence]) -> torch.Tensor | None:
        """What is picked instead of the tokens `picked` [rows] where keywords help; None where there are none."""
        # The rows of a request are mostly at the same node, the root: they are looked at together.
        at_node: dict[tuple[Keywords, int], list[int]] = {}
        for row, sequence in enumerate(sequences):
            if sequence.window.keywords is not None:
                for node in sequence.phrases:
                    at_node.setdefault((sequence.window.keywords, node), []).append(row)
        if not at_node:
            return None
        best, chosen = logits.gather(1, picked[:, None])[:, 0], picked.clone()
        for (keywords, node), rows in at_node.items():
            tokens, bonuses = keywords.boosted(node)
            if not len(tokens):
                continue
            at = torch.tensor(rows, device=self._device)
            values, which = (logits[at[:, None], tokens] + bonuses).max(1)
            better = values > best[at]
            best[at] = torch.where(better, values, best[at])
            chosen[at] = torch.where(better, tokens[which], chosen[at])
        # Where a window would end or say a time, no phrase begins: at the end of speech all of them are as unlikely.
        return torch.where(picked < self._vocabulary.end_of_text, chosen, picked)

    def _draw(self, logits: torch.Tensor, sequence: Sequence) -> tuple[int, float]:
        boosted = logits
        if sequence.window.keywords is not None:
            most = torch.zeros_like(logits)
            for node in sequence.phrases:
                most.scatter_reduce_(0, *sequence.window.keywords.boosted(node), "amax")
            boosted = logits + most
        probabilities = torch.softmax(boosted / sequence.draft.temperature, 0)
        token = int(torch.multinomial(probabilities, 1, generator=self._generator))
        return token, float(torch.log_softmax(logits, 0)[token])

    def no_speech(self, logits: torch.Tensor) -> list[float]:
        """Probability of the no-speech token in logits [rows, vocabulary] of the start of transcript."""
        probabilities = torch.exp(logits[:, self._vocabulary.no_speech] - torch.logsumexp(logits, 1))
        return [float(p) for p in probabilities]

    def language(self, logits: torch.Tensor, languages: Rows[str]) -> tuple[str, float]:
        """The likeliest of `languages` and its share among them, from start-of-transcript `logits` [vocabulary]."""
        ids = torch.tensor([self._vocabulary.languages[language] for language in languages], device=self._device)
        shares = torch.softmax(logits[ids], 0)
        best = int(shares.argmax())
        return languages[best], float(shares[best])
