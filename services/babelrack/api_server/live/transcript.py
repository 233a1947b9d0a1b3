"""From what the model server says of a stream to the events that its client gets, and what has to be known to go on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from babelrack import writing
from babelrack.api_server.live.messages import SpeechEvent, Transcription
from babelrack.api_server.wording import form_of, worded
from babelrack.pairing import Voices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babelrack.pairing import Final, Partial, SpeechEnded, SpeechStarted, Word

# What waits for the rest of an entity is short; more than this is no entity.
_LONGEST_CARRIED = 400
_WITHIN_SPEECH = ("max_words", "length")


@dataclass
class _Carried:
    """The end of a final that may be half an entity: it is said with the text that follows."""

    text: str = ""
    words: list[Word] = field(default_factory=list)
    language: str = ""
    start: float = 0.0
    end: float = 0.0


class LiveTranscript:
    """The text side of a session. It never shows a text before its redaction, and takes no final back.

    `position` is the second of the audio up to which everything is said in finals.
    """

    def __init__(
        self, session_id: str, wanted: Mapping[str, Any], secret: bytes, state: dict[str, Any] | None = None
    ) -> None:
        state = state or {}
        self.session_id = session_id
        self.position = float(state.get("position", 0.0))
        self._wanted = wanted
        self._form = form_of(wanted)
        self._partial_form = replace(self._form, numerals=False)
        self._with_words = bool(wanted["word_timestamps"] or wanted.get("timestamps", False))
        self._with_utterances = bool(wanted["sentence_timestamps"])
        self._vad_events = wanted["vad_events"] or wanted["vad"]
        self._numbering = writing.Numbering.of([(kind, known) for kind, known in state.get("numbering", [])], secret)
        self._speaking = bool(state.get("speaking", False))
        self._warned = bool(state.get("warned", False))
        self._begun = bool(state.get("begun", False))
        self._known = state.get("voices")
        self._full = "" if wanted["full_transcript"] else None
        self._carried = _Carried()
        self._shown = ""

    @property
    def needs_words(self) -> bool:
        """Whether finals have to come with their words."""
        return self._with_words or self._with_utterances

    @property
    def state(self) -> dict[str, Any]:
        """What another replica needs to go on, as JSON has it."""
        return {
            "position": round(self.position, 3),
            "numbering": self._numbering.state,
            "speaking": self._speaking,
            "warned": self._warned,
            "begun": self._begun,
            "voices": self._known,
        }

    @property
    def voices(self) -> Voices | None:
        """The speakers that are known; None where another version has written what this one can't read."""
        try:
            return None if self._known is None else Voices.model_validate(self._known)
        except ValidationError:
            return None

    @property
    def carries(self) -> bool:
        """Whether the end of the last final waits for more."""
        return bool(self._carried.text)

    def go_on(self, full: str) -> None:
        """Begin with the full transcript of before."""
        if self._full is not None:
            self._full = full

    def speech(self, event: SpeechStarted | SpeechEnded) -> SpeechEvent | None:
        """Somebody begins or stops to speak; None when nobody wants to know, or it was said already."""
        started = event.type == "speech_started"
        known, self._speaking = self._speaking == started, started
        if known or not self._vad_events:
            return None
        return SpeechEvent(type=event.type, session_id=self.session_id, timestamp=round(event.at, 3))

    def partial(self, event: Partial) -> Transcription | None:
        """The event of a partial; None when there is nothing new to show of it."""
        written = writing.write(
            (self._carried.text + event.text).strip(),
            language=event.language,
            form=self._partial_form,
            numbering=self._numbering.copy(),
            partial=True,
        )
        if not written.text or written.text == self._shown:
            return None
        self._shown = written.text
        return self._event(written.text, event.language)

    def final(self, event: Final, *, last: bool = False) -> tuple[Transcription | None, str]:
        """The event of a final, and what it adds to the full transcript; None when there is nothing to say yet."""
        before, self._carried = self._carried, _Carried()
        self._shown = ""
        if event.voices is not None:
            self._known = event.voices.model_dump(mode="json")
        text, words = before.text + event.text, [*before.words, *event.words]
        start = before.start if before.text else event.start
        cut = len(text)
        if event.cause in ("endpoint", *_WITHIN_SPEECH):
            cut = writing.unfinished(text, event.language, self._form, paused=event.cause == "endpoint")
        if cut < len(text) <= cut + _LONGEST_CARRIED:
            at = start + (event.end - start) * cut / len(text)
            kept = _words_before(words, cut)
            self._carried = _Carried(text[cut:], words[kept:], event.language, at, event.end)
            text, words = text[:cut], words[:kept]
            self.position = max(self.position, at)
        else:
            self.position = max(self.position, event.end)
        asked_for = event.cause in ("finalize", "end")
        return self._said(
            text, words, event.language, always=asked_for, last=last, from_finalize=event.cause == "finalize"
        )

    def rest(self) -> tuple[Transcription | None, str]:
        """What was waiting for more, when nothing more comes."""
        carried, self._carried = self._carried, _Carried()
        self.position = max(self.position, carried.end)
        return self._said(carried.text, carried.words, carried.language, always=False)

    def _said(
        self,
        text: str,
        words: list[Word],
        language: str,
        *,
        always: bool,
        last: bool = False,
        from_finalize: bool = False,
    ) -> tuple[Transcription | None, str]:
        said = worded(text, words, language, self._wanted, self._numbering)
        if not said.text and not always:
            return None, ""
        added = ""
        if said.text:
            between = "" if not self._begun or language in writing.UNSPACED else " "
            self._begun = True
            if self._full is not None:
                added = between + said.text
                self._full += added
        event = self._event(said.text, language, final=True)
        event.is_last = last
        event.from_finalize = from_finalize
        if self._with_words:
            event.words = said.words
        if self._with_utterances:
            event.utterances = said.utterances
        if said.warnings and not self._warned:
            self._warned = True
            event.warnings = said.warnings
        return event, added

    def _event(self, text: str, language: str, *, final: bool = False) -> Transcription:
        full = self._full
        if full is not None and not final:
            full += ("" if not full or language in writing.UNSPACED else " ") + text
        return Transcription(
            session_id=self.session_id,
            transcript=text,
            transcription=text,
            is_final=final,
            language=language,
            languages=[language] if language else [],
            full_transcript=full,
        )


def _words_before(words: list[Word], cut: int) -> int:
    """How many of `words`, which concatenate to the text, begin before its character `cut`."""
    position = 0
    for index, word in enumerate(words):
        if position + len(word.word) - len(word.word.lstrip()) >= cut:
            return index
        position += len(word.word)
    return len(words)
