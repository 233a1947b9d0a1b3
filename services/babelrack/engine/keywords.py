"""Phrases that a request expects to hear, as a prefix tree over tokens whose paths are made likelier.

Shallow fusion with a phrase list: Zhao et al. 2019, "Shallow-Fusion End-to-End Contextual Biasing" (a phrase is helped
from its first tokens on, begins at a word boundary only, and gives back what it got when it is left half way), over a
prefix tree of subwords as in Le et al. 2021, "Deep Shallow Fusion for RNN-T Personalization".

The search is greedy, so what a path has got is the same for all that may come next, and giving it back when the path
is left comes to this: a token that goes on with a phrase is helped by all that its path is worth up to it, and any
other token by nothing. That is little at the start of a phrase, where thousands of phrases would be helped everywhere,
and more inside it, where only those are left that sound like what was said.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

import torch

from babelrack.engine.errors import EngineError
from babelrack.engine.words import WITHOUT_SPACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from babelrack.engine.tokens import Vocabulary

MOST_PHRASES = 10_000

# In natural logarithms, times the root of the intensifier: at the first token, for each one after it, and at most. With
# a fifth less, names that base nearly hears are missed in int8; with a sixth more, "mañana" becomes "Mañanita" at 3.
_FIRST = 2.2
_NEXT = 1.0
_MOST = 4.25

_SPACED, _BARE = 0, 1
State = tuple[int, ...]


class Keywords:
    """Phrases and their spellings for one vocabulary; made once for a request, and not changed afterwards.

    A state is the nodes that the last tokens of a text have reached, one for each phrase that may be under way, and
    always the root of the spellings with a space before them. The other root, of those without, is there only where a
    word may begin without a space.
    """

    def __init__(
        self, phrases: Sequence[tuple[str, float]], vocabulary: Vocabulary, device: torch.device | str = "cpu"
    ) -> None:
        """Make the tree of `phrases`, each with its intensifier: 0 is without effect, 1 is usual.

        Raises:
            EngineError: for more phrases than a request may have.
        """
        if len(phrases) > MOST_PHRASES:
            raise EngineError(f"a request has at most {MOST_PHRASES:,} keywords, not {len(phrases):,}")
        self.vocabulary = vocabulary
        children: list[dict[int, int]] = [{}, {}]
        worth = [0.0, 0.0]
        first = _FIRST / (1 + math.log10(max(1, len(phrases))))
        spelled = list(_spellings(phrases))
        encoded = vocabulary.encode_each([text for _, text, _ in spelled])
        for (root, _, intensifier), tokens in zip(spelled, encoded, strict=True):
            node = root
            for depth, token in enumerate(tokens):
                following = children[node].get(token)
                if following is None:
                    following = children[node][token] = len(children)
                    children.append({})
                    worth.append(0.0)
                node = following
                worth[node] = max(worth[node], math.sqrt(intensifier) * min(_MOST, first + _NEXT * depth))
        self.nodes = len(children)
        # One array of edges, those of a node side by side and by token: a tree of small dicts takes ten times as much.
        self._edges = array("i", [0])
        self._tokens = array("i")
        self._nodes = array("i")
        for each in children:
            for token in sorted(each):
                self._tokens.append(token)
                self._nodes.append(each[token])
            self._edges.append(len(self._tokens))
        self._token_ids = torch.tensor(self._tokens.tolist(), dtype=torch.int64, device=device)
        self._bonuses = torch.tensor([worth[node] for node in self._nodes], dtype=torch.float32, device=device)

    def after(self, tokens: Iterable[int], state: State = (_SPACED, _BARE)) -> State:
        """The state after `tokens` of a text, from its start or from `state`."""
        for token in tokens:
            state = self._step(state, token)
        return state

    def _step(self, state: State, token: int) -> State:
        if token >= self.vocabulary.end_of_text:
            return (_SPACED, _BARE)
        inside = [child for node in state if (child := self._child(node, token)) is not None]
        roots = (_SPACED, _BARE) if token in self.vocabulary.ends_before_word else (_SPACED,)
        return (*roots, *inside)

    def _child(self, node: int, token: int) -> int | None:
        begin, end = self._edges[node], self._edges[node + 1]
        edge = bisect_left(self._tokens, token, begin, end)
        # A path that is at its end helps nothing more, and is forgotten.
        if edge == end or self._tokens[edge] != token:
            return None
        child = self._nodes[edge]
        return child if self._edges[child] < self._edges[child + 1] else None

    def boosted(self, node: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that go on from `node` of a state, and what is added to their logits."""
        begin, end = self._edges[node], self._edges[node + 1]
        return self._token_ids[begin:end], self._bonuses[begin:end]


def _spellings(phrases: Iterable[tuple[str, float]]) -> Iterable[tuple[int, str, float]]:
    """The ways to write each phrase, with the root that its tokens go under and its intensifier.

    As it is given, and with a capital at its start; without any capital, with one at each word as well.
    """
    for phrase, intensifier in phrases:
        given = " ".join(phrase.split())
        if not given or intensifier <= 0:
            continue
        cased = {given, given[0].upper() + given[1:]}
        if given == given.lower():
            cased.add(" ".join(word[0].upper() + word[1:] for word in given.split()))
        for text in sorted(cased):
            yield _SPACED, f" {text}", intensifier
            yield _SPACED if WITHOUT_SPACES.match(text) else _BARE, text, intensifier
