"""What a live session and its client say to each other, beside the audio, as JSON text frames."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from babelrack.api_server.errors import BadRequest
from babelrack.api_server.wording import Utterance, Word  # noqa: TC001 - pydantic reads the annotation

LARGEST_TEXT = 4096

# Clients of other services end a stream in words of their own.
_CLOSINGS = frozenset({"close_stream", "closestream", "end", "end_stream", "eos", "terminate"})
_FINALIZES = frozenset({"finalize"})
_KEEPALIVES = frozenset({"keepalive", "keep_alive"})

Control = Literal["finalize", "close_stream", "keep_alive"]


class Transcription(BaseModel):
    """What was said: a partial, which may change, or a final, which doesn't.

    `transcript` and `transcription` are the same text. `full_transcript` and `warnings` are there only where they were
    asked for, or are needed.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["transcription"] = "transcription"
    status: Literal["success"] = "success"
    session_id: str
    transcript: str
    transcription: str
    is_final: bool
    is_last: bool = False
    from_finalize: bool = False
    language: str
    languages: list[str]
    words: list[Word] = []
    utterances: list[Utterance] = []
    full_transcript: str | None = None
    warnings: list[str] | None = None


class SpeechEvent(BaseModel):
    """Somebody begins to speak, or nobody does any more; `timestamp` in seconds of the session's audio."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["speech_started", "speech_ended"]
    session_id: str
    timestamp: float


class SessionResumed(BaseModel):
    """The session goes on: send its audio from second `audio_from` on. `received` events count as arrived; what was
    missed follows."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["session_resumed"] = "session_resumed"
    session_id: str
    audio_from: float
    received: int


class SessionError(BaseModel):
    """Why the session ends before its client wants it to."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["error"] = "error"
    status: Literal["error"] = "error"
    message: str
    error_code: str | None = None
    session_id: str | None = None


Event = Transcription | SpeechEvent | SessionResumed | SessionError


def event_json(event: Event) -> str:
    """The event as it is sent."""
    return event.model_dump_json(exclude_none=True)


def control_of(text: str) -> Control:
    """What a client's text frame asks for.

    Raises:
        BadRequest: when it is no message that a client sends.
    """
    if len(text) > LARGEST_TEXT:
        raise BadRequest(f"a text message has at most {LARGEST_TEXT} characters; send audio as binary frames.")
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest(
            'a text message is JSON, {"type": "finalize"} or {"type": "close_stream"}; send audio as binary frames.'
        ) from None
    kind = message.get("type") if isinstance(message, dict) else None
    name = kind.lower() if isinstance(kind, str) else ""
    if name in _CLOSINGS:
        return "close_stream"
    if name in _FINALIZES:
        return "finalize"
    if name in _KEEPALIVES:
        return "keep_alive"
    raise BadRequest("a text message has a type of finalize or close_stream, and this one has another or none.")
