"""What can go wrong with a request, and the two shapes in which an answer says so.

Every failure is an `ApiError` with a status and one sentence. Pulse and on-prem paths answer
`{"status": "error", "message", ...}`, OpenAI paths answer `{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict


class ApiError(Exception):
    """A request that gets no transcript. `headers` go on the answer, `details` into the body of Pulse's shape."""

    status: ClassVar[int] = 500
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param
        self.retry_after = retry_after
        self.details = details or {}

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, where a retry can help."""
        return {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}


class BadRequest(ApiError):
    """400: the request is wrong; sending it again can't help."""

    status = 400


class NoKey(ApiError):
    """401: no `Authorization` header."""

    status = 401
    code = "missing_key"

    def __init__(self) -> None:
        super().__init__("Unauthorized: No tokens provided")


class BadKey(ApiError):
    """401: the key is not known."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("unauthorized")


class Forbidden(ApiError):
    """403: a key that is known, and may not do this."""

    status = 403


class NotFound(ApiError):
    """404."""

    status = 404


class MethodNotAllowed(ApiError):
    """405."""

    status = 405


class BodyStalled(ApiError):
    """408: the body stopped coming."""

    status = 408


class BodyTooLarge(ApiError):
    """413; a 400 on `/waves/v1/pulse/get_text`, as the wire reference has it."""

    status = 413
    code = "BODY_TOO_LARGE"


class UnsupportedBody(ApiError):
    """415: a content type or coding that this path does not read."""

    status = 415


class OverLimit(ApiError):
    """429: the key's rate or concurrency is used up."""

    status = 429
    code = "rate_limit_exceeded"


class Unavailable(ApiError):
    """503: not now, and not because of the request."""

    status = 503


class InternalFault(ApiError):
    """500: the fault is ours, and the log has it."""

    status = 500
    code = "INTERNAL"


class ClientGone(Exception):
    """The client closed the connection; whatever ran for it is cancelled and nothing is sent."""


class LanguageNotEnabled(BadRequest):
    """400 with the languages that are there."""

    code = "LANGUAGE_NOT_ENABLED"

    def __init__(self, message: str, language: str, languages: list[str]) -> None:
        super().__init__(message, param="language", details={"language": language, "languages": languages})


class PulseError(BaseModel):
    """An error body of the Pulse and on-prem paths."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["error"]
    message: str
    errors: list[str] | None = None
    error_code: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    request_id: str | None = None


class NoKeyBody(BaseModel):
    """401 without a key."""

    model_config = ConfigDict(extra="forbid")

    message: Literal["Unauthorized: No tokens provided"]


class BadKeyBody(BaseModel):
    """401 with a key that isn't known."""

    model_config = ConfigDict(extra="forbid")

    error: Literal["unauthorized"]


class OpenAIErrorDetail(BaseModel):
    """What is inside `error`."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error body of the OpenAI paths."""

    model_config = ConfigDict(extra="forbid")

    error: OpenAIErrorDetail


def pulse_body(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    """The error as the Pulse and on-prem paths say it."""
    match error:
        case NoKey():
            return {"message": error.message}
        case BadKey():
            return {"error": error.message}
    body: dict[str, Any] = {"status": "error", "message": error.message, "errors": [error.message]}
    if error.code is not None:
        body["error_code"] = error.code
    body.update(error.details)
    if request_id is not None:
        body["request_id"] = request_id
    return body


def openai_body(error: ApiError) -> dict[str, Any]:
    """The error as the OpenAI paths say it."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
