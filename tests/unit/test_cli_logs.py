"""Logs: JSON lines, never a secret."""

import io
import json
import logging
import sys

import pytest
import structlog

from babelrack.logs import configure_logging


@pytest.fixture
def lines(monkeypatch):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    configure_logging("api_server")
    yield lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level


def test_every_line_is_json_with_service_level_and_time(lines):
    structlog.get_logger().info("started", port=7100)
    logging.getLogger("uvicorn.error").warning("a %s", "library")
    started, library = lines()
    assert (started["event"], started["port"], started["level"]) == ("started", 7100, "info")
    assert (library["event"], library["level"]) == ("a library", "warning")
    assert {started["service"], library["service"]} == {"api_server"}
    assert started["timestamp"].endswith("Z")


def test_secrets_are_not_logged_by_name_nor_inside_text(lines):
    log = structlog.get_logger()
    log.info("a", license_key="sesame", api_key="sesame", nested={"password": "sesame"}, keys=3)
    log.info("Authorization: Bearer sesame-sesame", url="redis://:sesame@127.0.0.1:6379/0")
    try:
        int("Token sesame-sesame")
    except ValueError:
        log.exception("failed")
    written = lines()
    assert "sesame" not in json.dumps(written)
    assert written[0]["keys"] == 3


def test_a_request_line_is_not_logged_because_it_carries_the_query(lines):
    logging.getLogger("uvicorn.access").info("GET /?keywords=Blackwell")
    logging.getLogger("httpx").info("HTTP Request: GET")
    assert lines() == []


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="log level 'loud' is not one of debug, info"):
        configure_logging("api_server", "loud")
