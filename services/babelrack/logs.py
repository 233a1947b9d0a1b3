"""One way to log for every server: JSON lines on stderr, human-readable on a terminal, never a secret."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
REDACTED = "[redacted]"

_SECRET_FIELD = re.compile(r"(^|_)(authorization|password|passwd|secret|token|license_key|api_key|client_key|key)$")
_BEARER = re.compile(r"\b(bearer|token)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@]*:[^\s/@]*@", re.IGNORECASE)
# uvicorn's access log and httpx's request log carry whole query strings, and a request a line drowns the rest.
# At debug, WebSocket libraries log the frames, and what is said is in them.
_QUIET = ("uvicorn.access", "uvicorn.websocket", "websockets", "httpx", "httpcore", "httpx2", "httpcore2")


def configure_logging(service: str, level: str = "info") -> None:
    """Send structlog's and the standard library's logs to stderr, each line with `service`, `level` and `timestamp`.

    Run uvicorn with `log_config=None`, or it installs handlers of its own.

    Raises:
        ValueError: when `level` is not one of `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}.")
    threshold = getattr(logging, level.upper())
    terminal = sys.stderr.isatty()

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
        name_service,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    # Plain, because a pretty traceback prints local variables, and a key may be one.
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.name = "babelrack"
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if other.name != handler.name), handler]
    root.setLevel(threshold)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the value of a field named like a secret, and credentials inside a string, by `REDACTED`."""
    return {field: _redacted(field, value) for field, value in event.items()}


def _redacted(field: str, value: object) -> object:
    if _SECRET_FIELD.search(field.lower()) and value is not None:
        return REDACTED
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\g<scheme>{REDACTED}@", _BEARER.sub(rf"\1 {REDACTED}", value))
    if isinstance(value, dict):
        return {name: _redacted(str(name), inner) for name, inner in value.items()}
    return value
