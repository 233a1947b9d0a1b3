"""The messages between an API server and its model server, as JSON text frames.

Audio travels beside them as binary frames: 16 kHz mono signed 16-bit little-endian PCM.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

SAMPLE_RATE = 16_000
MAX_FRAME_BYTES = 64 * 1024
MOST_KEYWORDS = 10_000
LONGEST_KEYWORD = 100
MOST_KEYWORD_BYTES = 256 * 1024  # of the phrases together, as UTF-8
MOST_VOICE_BYTES = 128 * 1024  # of a session's voices together, as base64
HIGHEST_INTENSIFIER = 10.0
# The largest text frame: a request with all keywords that it may have, each with its intensifier, all of it escaped,
# and voices.
MAX_TEXT_BYTES = 1024 * 1024 + MOST_VOICE_BYTES + 4096

Role = Literal["dedicated", "multilingual"]
ModelStatus = Literal["starting", "healthy", "draining", "unhealthy"]


class Message(BaseModel):
    """A message of the pairing protocol; unknown fields are ignored so that both ends can be upgraded apart."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CheckpointHealth(Message):
    """One loaded checkpoint and its load: `concurrency` slots, `active` requests in them, `queued` behind."""

    name: str
    role: Role
    languages: list[str]
    concurrency: int
    active: int
    queued: int


class ModelHealth(Message):
    """What `GET /health` of a model server answers; `features` are what not every model server has: `diarize`."""

    status: ModelStatus
    reason: str | None = None
    deployment: str
    aggregator: str
    engine: str
    device: str
    dtype: str
    version: str
    uptime_s: float
    license: str | None = None
    checkpoints: list[CheckpointHealth] = []
    features: list[str] = []


def _bounded_together(keywords: tuple[Keyword, ...]) -> tuple[Keyword, ...]:
    if sum(len(phrase.encode()) for phrase, _ in keywords) > MOST_KEYWORD_BYTES:
        raise ValueError(f"the keywords are larger than {MOST_KEYWORD_BYTES // 1024} KiB together")
    return keywords


Phrase = Annotated[str, Field(min_length=1, max_length=LONGEST_KEYWORD)]
Intensifier = Annotated[float, Field(ge=0.0, le=HIGHEST_INTENSIFIER)]
Keyword = tuple[Phrase, Intensifier]
Keywords = Annotated[tuple[Keyword, ...], Field(max_length=MOST_KEYWORDS), AfterValidator(_bounded_together)]


class Request(Message):
    """What is wanted of the audio that follows.

    Without `timestamps` a segment is a whole window, of up to 30 s, which decodes faster. With `stream`, text comes as
    it is decoded. With `words`, segments of a transcript carry their words; a translation has none. With `diarize`,
    turns come after the last segment. `keywords` are phrases to expect.
    """

    request_id: str = Field(max_length=128)
    deployment: str = Field(max_length=64)
    language: str = Field(max_length=32)
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str | None = Field(default=None, max_length=16_384)
    temperature: float = Field(default=0.0, ge=0.0, le=1.0)
    timestamps: bool = True
    stream: bool = False
    words: bool = False
    diarize: bool = False
    keywords: Keywords = ()


class Voices(Message):
    """The speakers of a live stream, for another that goes on where it was cut off.

    Attributes:
        model: the speaker model that they are of, the SHA-256 of its weights; another one's say nothing.
        means: the mean embedding of each, little-endian float16, one after the other, as base64.
        counts: how many windows of 1.6 s each is of.
    """

    model: str = Field(max_length=64)
    means: str = Field(max_length=MOST_VOICE_BYTES)
    counts: tuple[Annotated[float, Field(gt=0.0, le=1e6)], ...] = Field(max_length=64)


class StreamRequest(Message):
    """What is wanted of a live stream, whose audio follows as it is spoken.

    Attributes:
        endpointing: whether silence of `eou_timeout_ms` ends an utterance; without, only `finalize` and the end do.
        max_words: an utterance of as many stable words becomes final; None is no such bound.
        bounded: whether an utterance that goes on and on becomes final now and then; without, it goes on until it is
            ended, and only its text grows.
        words: whether a final carries its words with times.
        diarize: whether those words carry their speaker; a speaker's number stays as long as the stream lasts.
        keywords: phrases to expect, as for a `Request`.
        start_s: what the times of this stream begin with, for one that goes on where another was cut off.
        voices: whom that other one knew, from its last final; they keep their numbers.
    """

    request_id: str = Field(max_length=128)
    deployment: str = Field(max_length=64)
    language: str = Field(max_length=32)
    endpointing: bool = True
    eou_timeout_ms: int = Field(default=800, ge=100, le=10_000)
    max_words: int | None = Field(default=None, ge=1, le=10_000)
    bounded: bool = True
    words: bool = False
    diarize: bool = False
    keywords: Keywords = ()
    start_s: float = Field(default=0.0, ge=0.0)
    voices: Voices | None = None


class Accepted(Message):
    """The request has its place; audio may follow."""

    type: Literal["accepted"] = "accepted"
    checkpoint: str


class Refusal(Message):
    """The request was not taken, and the socket closes."""

    type: Literal["refused"] = "refused"
    status: Literal[400, 503]
    code: Literal["BAD_REQUEST", "LANGUAGE_NOT_ENABLED", "PAIRING", "OVERLOADED", "DRAINING", "STARTING", "UNHEALTHY"]
    message: str
    languages: list[str] = []
    retry_after: int | None = None


class LanguageDetected(Message):
    """Sent once, before the first segment; `probability` is 1 where the language was given."""

    type: Literal["language"] = "language"
    language: str
    checkpoint: str
    probability: float


class Delta(Message):
    """Text as it is decoded; the deltas of a request concatenate to its transcript."""

    type: Literal["delta"] = "delta"
    text: str


class Word(Message):
    """A word with its punctuation and the space before it; the words of a request concatenate to its transcript.

    Times in seconds from the start of the audio, `probability` from 0 to 1. `speaker`, counted from 0, and
    `speaker_confidence` from 0 to 1 are there where somebody has asked who speaks.
    """

    word: str
    start: float
    end: float
    probability: float
    speaker: int | None = None
    speaker_confidence: float | None = None


class Segment(Message):
    """A stretch of speech with its times in seconds from the start of the audio; `words` only where asked for."""

    type: Literal["segment"] = "segment"
    id: int
    start: float
    end: float
    text: str
    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    words: list[Word] = []


class Turn(Message):
    """From `start` to `end`, in seconds, that speaker is heard, counted from 0 in the order of their first words.

    Turns come in the order of time, after the last segment, because speakers are found over the whole audio.
    """

    type: Literal["turn"] = "turn"
    start: float
    end: float
    speaker: int
    confidence: float


class Done(Message):
    """The whole answer; `duration` is that of the audio in seconds, `confidence` the mean token probability."""

    type: Literal["done"] = "done"
    language: str
    checkpoint: str
    text: str
    duration: float
    windows: int
    confidence: float


class SpeechStarted(Message):
    """Somebody begins to speak, at `at` seconds of the stream."""

    type: Literal["speech_started"] = "speech_started"
    at: float


class SpeechEnded(Message):
    """Nobody speaks any more: the last speech before this endpoint ended at `at` seconds of the stream."""

    type: Literal["speech_ended"] = "speech_ended"
    at: float


class Partial(Message):
    """What the utterance that is being spoken says so far; never empty.

    The first `stable` characters of `text` begin every later partial of this utterance and its final. Times in seconds
    from the start of the stream.
    """

    type: Literal["partial"] = "partial"
    utterance: int
    start: float
    end: float
    text: str
    stable: int
    language: str
    checkpoint: str


class Final(Message):
    """The text of an utterance, which is never taken back.

    `cause` tells what ended it: silence, a `finalize`, as many words as were asked for, its length, or the end of the
    stream. Each `finalize` and the end are answered by one final, whose text is empty when nothing was said since the
    last. `words` concatenate to the text, and there are some only where asked for. `voices` are all speakers up to
    here, where speakers were asked for.
    """

    type: Literal["final"] = "final"
    utterance: int
    start: float
    end: float
    text: str
    words: list[Word] = []
    language: str
    checkpoint: str
    confidence: float
    cause: Literal["endpoint", "finalize", "max_words", "length", "end"]
    voices: Voices | None = None


class StreamDone(Message):
    """The stream has ended; `duration` is that of its audio in seconds, without `start_s`."""

    type: Literal["stream_done"] = "stream_done"
    duration: float


class Heartbeat(Message):
    """Sent each second that a request runs; it tells the sender whether the client is still there."""

    type: Literal["heartbeat"] = "heartbeat"


class Failed(Message):
    """The request ended without an answer."""

    type: Literal["error"] = "error"
    code: Literal["ENGINE", "IDLE", "BAD_AUDIO"]
    message: str


class EndOfAudio(Message):
    """The client has sent all of its audio."""

    type: Literal["end"]


class Finalize(Message):
    """The client wants the text of what it has sent so far to be final; the stream goes on."""

    type: Literal["finalize"] = "finalize"


ModelEvent = LanguageDetected | Delta | Segment | Turn | Done | Failed
StreamEvent = SpeechStarted | SpeechEnded | Partial | Final | StreamDone | Failed
_Any = (
    Accepted
    | Refusal
    | LanguageDetected
    | Delta
    | Segment
    | Turn
    | Done
    | SpeechStarted
    | SpeechEnded
    | Partial
    | Final
    | StreamDone
    | Heartbeat
    | Failed
)

server_message: TypeAdapter[_Any] = TypeAdapter(Annotated[_Any, Field(discriminator="type")])
