"""Whisper's vocabulary: text, languages, tasks and timestamps."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cached_property
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from babelrack.engine.errors import EngineError
from babelrack.engine.words import WITHOUT_SPACES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TIMESTAMP_SECONDS = 0.02
_LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")


class Vocabulary:
    """The tokens of one checkpoint, from its `tokenizer.json` and `generation_config.json`."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        generation_path = directory / "generation_config.json"
        generation = json.loads(generation_path.read_text()) if generation_path.exists() else {}
        self.start_of_transcript = self._require("<|startoftranscript|>", directory)
        self.end_of_text = self._require("<|endoftext|>", directory)
        self.no_timestamps = self._require("<|notimestamps|>", directory)
        self.start_of_previous = self._require("<|startofprev|>", directory)
        self.tasks = {task: self._require(f"<|{task}|>", directory) for task in ("transcribe", "translate")}
        no_speech = self._tokenizer.token_to_id("<|nospeech|>")
        self.no_speech = no_speech if no_speech is not None else self._require("<|nocaptions|>", directory)
        self.first_timestamp = self.no_timestamps + 1
        self.languages = self._languages()
        self.suppressed = tuple(
            token for token in generation.get("suppress_tokens") or () if 0 <= token < self.first_timestamp
        )
        self.suppressed_at_begin = tuple(generation.get("begin_suppress_tokens") or ())
        self.max_initial_timestamp = int(generation.get("max_initial_timestamp_index", 50))

    def _require(self, token: str, directory: Path) -> int:
        token_id: int | None = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise EngineError(f"{directory}/tokenizer.json has no token {token}: it is not a Whisper tokenizer")
        return token_id

    def _languages(self) -> dict[str, int]:
        languages: dict[str, int] = {}
        for token_id in range(self.start_of_transcript + 1, self.first_timestamp):
            match = _LANGUAGE_TOKEN.fullmatch(self._tokenizer.id_to_token(token_id) or "")
            if match:
                languages[match[1]] = token_id
        return languages

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a prompt, as text that came before."""
        ids: list[int] = self._tokenizer.encode(" " + text.strip(), add_special_tokens=False).ids
        return [token for token in ids if token < self.end_of_text]

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each of `texts`, as they are written: a space at the start counts."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[token for token in each.ids if token < self.end_of_text] for each in encoded]

    @cached_property
    def ends_before_word(self) -> frozenset[int]:
        """The text tokens after which a word may begin without a space: a quote, a hyphen, a Chinese character."""
        texts = self._tokenizer.decode_batch([[token] for token in range(self.end_of_text)])
        return frozenset(token for token, text in enumerate(texts) if text and _parts_words(text[-1]))

    def is_timestamp(self, token: int) -> bool:
        """Whether `token` is one of `<|0.00|>` to `<|30.00|>`."""
        return token >= self.first_timestamp

    def seconds(self, timestamp: int) -> float:
        """The time that a timestamp token stands for, from the start of its window."""
        return (timestamp - self.first_timestamp) * TIMESTAMP_SECONDS

    def text(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; special tokens and timestamps have none."""
        decoded: str = self._tokenizer.decode([token for token in tokens if token < self.end_of_text])
        return decoded

    def pieces(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """Text tokens in pieces of whole characters: the text of each, and how many tokens it takes."""
        pieces: list[tuple[str, int]] = []
        begun = 0
        for end in range(1, len(tokens) + 1):
            text = self.text(tokens[begun:end])
            if end == len(tokens) or not text.endswith("\N{REPLACEMENT CHARACTER}"):
                pieces.append((text, end - begun))
                begun = end
        return pieces


def _parts_words(character: str) -> bool:
    marks = character != "\N{REPLACEMENT CHARACTER}" and unicodedata.category(character)[0] not in "LMN"
    return marks or bool(WITHOUT_SPACES.match(character))


class TextStream:
    """Turns tokens into text as they come, holding back bytes that are not a whole character yet."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens: list[int] = []
        self._given = 0

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """Add `tokens`; returns the text that is now certain. `last` gives out what was held back."""
        self._tokens += [token for token in tokens if token < self._vocabulary.end_of_text]
        text = self._vocabulary.text(self._tokens)
        if not last:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        new = text[self._given :]
        self._given = len(text)
        return new
