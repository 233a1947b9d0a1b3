"""A window on its way through the engine: what it has said, what it says next, what is tried when that looks wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babelrack.engine import quality, words
from babelrack.engine.errors import EngineError
from babelrack.engine.tokens import TIMESTAMP_SECONDS, TextStream, Vocabulary
from babelrack.engine.window import (
    MAX_SECONDS,
    Detected,
    Listener,
    Lost,
    Spoken,
    SpokenSegment,
    SpokenWord,
    Transcribed,
    Window,
)

if TYPE_CHECKING:
    from babelrack.engine.keywords import State

_SHORT_SECONDS = 7.0
_MARGIN_SECONDS = 1.0
_SHORTEST_SECONDS = 5.0
_BUCKET_SECONDS = 1.0
_LOOP_CHECK_TOKENS = 8
_LAST_SECONDS = 0.5
_MAX_PROMPT_TOKENS = 223
# The start of transcript, language, task and timing, and the end; the prompt has a start of its own.
_OPENING_TOKENS = 5
_LEAST_NEW_TOKENS = 64
_MOST_GUESSED = 32


def encoder_seconds(seconds: float) -> float:
    """The length at which a window is encoded: its own, a margin of silence, rounded up to a bucket.

    Without the margin a third of the windows never end; below 5 s it is not enough. At 8 s fewer short windows loop,
    and more are misheard.
    """
    length = math.ceil((seconds + _MARGIN_SECONDS) / _BUCKET_SECONDS) * _BUCKET_SECONDS
    return min(MAX_SECONDS, max(_SHORTEST_SECONDS, length))


@dataclass(slots=True)
class Draft:
    """What one try has said so far; `logprobs` has one for each token."""

    temperature: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end_logprob: float = 0.0
    whole: bool = True

    @property
    def avg_logprob(self) -> float:
        """Mean over the tokens and the end."""
        return (sum(self.logprobs) + self.end_logprob) / (len(self.logprobs) + 1)


class Sequence:
    """The decoding state of one window; the scheduler places it, the runner reads it, the engine moves it on.

    Attributes:
        slot: its place in key-value memory while it runs.
        encoding: whether the encoder is at work on it, and writes into that slot.
        encoded: seconds at which the audio in that slot was encoded, 0 before.
        position: tokens in the cache.
        feed: tokens that the next step puts there.
        guess: tokens that it puts there behind them, of which those that turn out right stay.
        follows: how many of them were right so far, and so are followed by a state that is there already; else 0.
        start_row: index in `feed` of the start of transcript, whose logits tell language and silence, or None.
        draft: what the try that runs has said.
        phrases: the state of the window's keywords after that.
        aligning: whether its text is final, and only the times of its words are missing.
    """

    def __init__(self, window: Window, vocabulary: Vocabulary, listener: Listener, text_positions: int) -> None:
        self.window = window
        self.listener = listener
        self.cancelled = False
        self.slot: int | None = None
        self.encoding = False
        self.encoded = 0.0
        self.aligning = False
        self.language = window.languages[0] if len(window.languages) == 1 else None
        self._vocabulary = vocabulary
        # A prompt is cut from its beginning where the text that it stands before needs the room.
        room = min(_MAX_PROMPT_TOKENS, text_positions - len(window.prefix) - _LEAST_NEW_TOKENS - _OPENING_TOKENS)
        if room < 0:
            raise EngineError(f"a prefix of {len(window.prefix)} tokens leaves no room for what follows it")
        prompt = vocabulary.encode_prompt(window.prompt)[-room:] if window.prompt and room else []
        self._prompt = [vocabulary.start_of_previous, *prompt] if prompt else []
        self._limit = quality.token_limit(window.seconds, text_positions - len(self._prompt) - _OPENING_TOKENS)
        own_length = encoder_seconds(window.seconds)
        self._own_seconds = own_length
        tries = quality.tries(window.temperature, fits=own_length < MAX_SECONDS)
        self._tries = tries if window.retry else tries[:1]
        self._tried = 0
        self._best: Draft | None = None
        self._stream = TextStream(vocabulary) if window.stream else None
        self._spoken = 0
        self.no_speech_prob = 0.0
        self.draft = self._primed()
        self._given = len(self.draft.tokens)
        self.phrases: State = ()
        self.guess: tuple[int, ...] = ()
        self.follows = 0
        self.position = 0
        self.feed: list[int] = []
        self.start_row: int | None = None
        self._begin()

    @property
    def seconds(self) -> float:
        """The length at which this try wants its audio encoded."""
        return MAX_SECONDS if self._tries[self._tried].padded else self._own_seconds

    @property
    def timed(self) -> bool:
        """Whether the decode says times: where asked for, and in short windows, which they keep from looping.

        Of clips of 3 s, a fifth loop without times at the length that they are encoded at; with times none does. One
        that is primed has no times in its prefix, and after the first it may say that all over again.
        """
        return self.window.timestamps or (self.window.seconds < _SHORT_SECONDS and not self.window.prefix)

    @property
    def needs_audio(self) -> bool:
        """Whether the audio must be encoded before the next decode step."""
        return self.encoded != self.seconds

    @property
    def detects(self) -> bool:
        """Whether the next step detects the language instead of decoding a token."""
        return self.language is None

    def detected(self, language: str, probability: float) -> None:
        """Go on in `language`."""
        self.language = language
        self.listener(Detected(language, probability))
        self.feed = [*self._opening(language), *self.draft.tokens]

    def said(self, token: int, logprob: float) -> bool:
        """Take the next token; returns whether this try has ended."""
        draft = self.draft
        if token == self._vocabulary.end_of_text:
            draft.end_logprob = logprob
            return True
        draft.tokens.append(token)
        draft.logprobs.append(logprob)
        if self.window.keywords is not None:
            self.phrases = self.window.keywords.after([token], self.phrases)
        self._go_on(token)
        if len(draft.tokens) >= self._limit:
            draft.whole = False
            return True
        if self.window.live and self._closes(draft.tokens):
            return True
        if len(draft.tokens) % _LOOP_CHECK_TOKENS == 0 and self._loop_start() is not None:
            return True
        # What may be the start of a loop is not said aloud before it turns out not to be one.
        if self._stream is not None and self._loop_start(_LOOP_CHECK_TOKENS) is None:
            self._speak(last=False)
        return False

    def _go_on(self, token: int) -> None:
        """Feed `token` next, unless it was guessed and is in the cache already."""
        if self.guess and self.guess[0] == token:
            self.guess = self.guess[1:]
            self.follows += 1
            self.position += 1
        else:
            self.guess, self.follows, self.feed = (), 0, [token]

    def _closes(self, tokens: list[int]) -> bool:
        """Whether a segment ends where the window does, and nothing is left to be said."""
        vocabulary = self._vocabulary
        if not vocabulary.is_timestamp(tokens[-1]) or len(tokens) < 2 or vocabulary.is_timestamp(tokens[-2]):
            return False
        return vocabulary.seconds(tokens[-1]) >= self.window.seconds - _LAST_SECONDS

    def concluded(self) -> bool:
        """Judge the try that ended; False when another try is begun.

        Otherwise the text is final, and the listener has its answer, unless `aligning` says what it waits for.
        """
        draft = self.draft
        loop = self._loop_start()
        if loop is not None:
            # What it said once may be kept when no other try does better.
            keep = max(loop, self._spoken, self._given)
            del draft.tokens[keep:], draft.logprobs[keep:]
            verdict: quality.Verdict = "loop"
        elif not draft.whole:
            verdict = "endless"
        else:
            text = self._vocabulary.text(draft.tokens)
            written_in = "en" if self.window.task == "translate" else self.language or ""
            verdict = quality.judge(text, written_in, draft.avg_logprob, self.no_speech_prob)
            if self._best is not None and text == self._vocabulary.text(self._best.tokens):
                verdict = "good"  # two tries that agree are believed: some people do repeat themselves
        best = self._best
        better = best is None or (
            verdict != "loop" and (draft.whole, draft.avg_logprob) > (best.whole, best.avg_logprob)
        )
        if better or verdict == "good" or self._spoken:
            self._best = draft
        last_try = self._tried + 1 == len(self._tries) or (verdict == "endless" and self._tries[self._tried].padded)
        if verdict == "good" or last_try:
            self._settle(self._best or draft)
            return True
        self._tried += 1
        self._begin()
        return False

    def fail(self, reason: str) -> None:
        """Tell the listener that there will be no answer."""
        self.listener(Lost(reason))

    def _begin(self) -> None:
        """Start the current try from an empty cache; what was already spoken to the listener stays said."""
        kept = max(self._spoken, self._given)
        previous = self.draft
        self.draft = Draft(
            temperature=self._tries[self._tried].temperature,
            tokens=previous.tokens[:kept],
            logprobs=previous.logprobs[:kept],
        )
        self._refeed()

    def _refeed(self) -> None:
        """Fill an empty cache with all that the draft has."""
        if self.window.keywords is not None:
            self.phrases = self.window.keywords.after(self.draft.tokens)
        self.position = 0
        self.guess, self.follows = (), 0
        self.feed = [*self._prompt, self._vocabulary.start_of_transcript]
        self.start_row = len(self._prompt)
        if self.language is not None:
            self.feed += [*self._opening(self.language), *self.draft.tokens]
            # What an earlier hypothesis says holds no times, and what was drawn by lot is not what is likeliest.
            if len(self.draft.tokens) == self._given and not self.timed and self.draft.temperature == 0:
                self.guess = self.window.guess[:_MOST_GUESSED]

    def _primed(self) -> Draft:
        """A draft that begins with the window's prefix; where the decode says times, these come first."""
        window = self.window
        draft = Draft(temperature=window.temperature, tokens=list(window.prefix))
        draft.logprobs = list(window.prefix_logprobs) or [0.0] * len(window.prefix)
        if window.prefix and self.timed:
            draft.tokens.insert(0, self._vocabulary.first_timestamp)
            draft.logprobs.insert(0, 0.0)
        return draft

    def preempt(self) -> None:
        """Give up the slot's contents: audio and text are computed again later, and what was said stays said."""
        self.encoded = 0.0
        self._refeed()

    def _opening(self, language: str) -> list[int]:
        vocabulary = self._vocabulary
        timing = [] if self.timed else [vocabulary.no_timestamps]
        return [vocabulary.languages[language], vocabulary.tasks[self.window.task], *timing]

    def _loop_start(self, shortest: int = quality.SHORTEST_LOOP) -> int | None:
        """Index into the draft's tokens where a loop begins; timestamps differ each time round and don't count."""
        texts = [i for i, token in enumerate(self.draft.tokens) if not self._vocabulary.is_timestamp(token)]
        start = quality.loop_start([self.draft.tokens[i] for i in texts], shortest)
        return None if start is None else texts[start]

    def _speak(self, *, last: bool) -> None:
        assert self._stream is not None  # noqa: S101
        text = self._stream.push(self.draft.tokens[self._spoken :], last=last)
        self._spoken = len(self.draft.tokens)
        if text:
            self.listener(Spoken(text))

    @property
    def text_tokens(self) -> list[int]:
        """The draft's tokens without its timestamps."""
        return [token for token in self.draft.tokens if token < self._vocabulary.end_of_text]

    @property
    def spelled(self) -> list[int]:
        """The final text as a decode without times says it, from its start to its end: what is aligned."""
        assert self.language is not None  # noqa: S101
        vocabulary = self._vocabulary
        language, task = vocabulary.languages[self.language], vocabulary.tasks[self.window.task]
        opening = [vocabulary.start_of_transcript, language, task, vocabulary.no_timestamps]
        return [*opening, *self.text_tokens, vocabulary.end_of_text]

    def aligned(self, times: list[float]) -> None:
        """Answer: `times` has the seconds at which each of `text_tokens` begins, and the last ends."""
        pieces = self._vocabulary.pieces(self.text_tokens)
        spoken = words.timed(pieces, times, self._text_logprobs, self.window.seconds)
        self._answer(words.settled(spoken, self.window.samples))

    @property
    def _text_logprobs(self) -> list[float]:
        draft = self.draft
        both = zip(draft.tokens, draft.logprobs, strict=True)
        return [logprob for token, logprob in both if token < self._vocabulary.end_of_text]

    def _settle(self, draft: Draft) -> None:
        """Make `draft` the final text."""
        self.draft = draft
        if self._stream is not None:
            self._speak(last=True)
        elif quality.is_silence(draft.avg_logprob, self.no_speech_prob):
            del draft.tokens[self._given :], draft.logprobs[self._given :]
        self.aligning = self.window.words and bool(self.text_tokens)
        if not self.aligning:
            self._answer([])

    def _answer(self, spoken: list[tuple[int, SpokenWord]]) -> None:
        assert self.language is not None  # noqa: S101
        draft = self.draft
        segments, rest = self._segments(draft, spoken)
        text = self._vocabulary.text(draft.tokens)
        self.listener(
            Transcribed(
                language=self.language,
                text=text,
                segments=segments,
                logprobs=self._text_logprobs,
                avg_logprob=draft.avg_logprob,
                no_speech_prob=self.no_speech_prob,
                compression_ratio=quality.compression_ratio(text),
                temperature=draft.temperature,
                tries=self._tried + 1,
                truncated_at=None if draft.whole else rest,
            )
        )

    def _segments(self, draft: Draft, spoken: list[tuple[int, SpokenWord]]) -> tuple[list[SpokenSegment], float]:
        """The draft cut at its timestamps, each with its words, and the time at which the last closed segment ends."""
        vocabulary = self._vocabulary
        segments: list[SpokenSegment] = []
        start, tokens, closed, count = 0.0, list[int](), 0.0, 0

        def close(end: float) -> None:
            nonlocal start, tokens, count
            if tokens:
                end = min(max(end, start + TIMESTAMP_SECONDS), self.window.seconds)
                said = [word for first, word in spoken if count <= first < count + len(tokens)]
                segments.append(SpokenSegment(min(start, end), end, vocabulary.text(tokens), tokens, said))
                count += len(tokens)
            start, tokens = end, []

        for token in draft.tokens:
            if not vocabulary.is_timestamp(token):
                tokens.append(token)
            elif tokens:
                closed = min(vocabulary.seconds(token), self.window.seconds)
                close(closed)
            else:
                start = min(vocabulary.seconds(token), self.window.seconds)
        close(self.window.seconds)
        return segments, closed
