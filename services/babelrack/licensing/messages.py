"""What a server and the licence proxy say to each other."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

__all__ = [
    "BATCH_RECORDS",
    "Receipt",
    "Rejection",
    "Release",
    "UsageRecord",
    "UsageSum",
    "ValidateRequest",
    "Validation",
]

BATCH_RECORDS = 500

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Label = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Moment = Annotated[
    AwareDatetime, PlainSerializer(lambda at: at.astimezone(UTC).isoformat(timespec="milliseconds"), when_used="json")
]


class ValidateRequest(BaseModel):
    """`POST /v1/validate`: who asks. `instance` stays the same across restarts, and only role `api` takes a seat."""

    model_config = ConfigDict(frozen=True)

    instance: Name
    deployment: Name
    role: Literal["api", "model"]
    version: Annotated[str, Field(max_length=64)] = ""


class Validation(BaseModel):
    """A good answer to `POST /v1/validate`. `languages` is null when all are licensed; `expires_at` is UTC."""

    model_config = ConfigDict(frozen=True)

    customer: str
    languages: list[str] | None
    expires_at: Moment
    seats: int
    seats_used: int


class Release(BaseModel):
    """`POST /v1/release`: this instance stops and gives its seat back."""

    model_config = ConfigDict(frozen=True)

    instance: Name


class UsageRecord(BaseModel):
    """One request as it is counted: never its audio or its text.

    `key` is the client key's name, `status` the HTTP status it was answered with, `audio_seconds` is kept to the
    millisecond so that sums are exact, `features` are names such as `stream` or `translate`. A live session's records
    have its client's own id for it, `external_session_id`, and are one request together.
    """

    model_config = ConfigDict(frozen=True)

    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    at: Moment = Field(default_factory=lambda: datetime.now(UTC))
    deployment: Name
    checkpoint: Label = ""
    language: Label = ""
    key: Label = ""
    audio_seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] = 0.0
    requests: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    status: Annotated[int, Field(ge=100, le=599)] = 200
    features: Annotated[list[Label], Field(max_length=32)] = []
    external_session_id: Label = ""

    def model_post_init(self, _context: Any, /) -> None:
        """Round the audio's length to whole milliseconds."""
        object.__setattr__(self, "audio_seconds", round(self.audio_seconds, 3))


class UsageSum(BaseModel):
    """A row of `GET /v1/usage`: `group` has the values of the dimensions that were asked for."""

    group: dict[str, str]
    requests: int
    audio_seconds: float


class Rejection(BaseModel):
    """A record of a batch that was not counted, and why. `id` is null when it had none."""

    index: int
    id: str | None
    reason: str


class Receipt(BaseModel):
    """The answer to `POST /v1/usage`, given after the commit."""

    batch_id: str
    accepted: int
    duplicates: int
    rejected: list[Rejection] = []
