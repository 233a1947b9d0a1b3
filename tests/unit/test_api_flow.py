"""Small parts of the flow: errors' shapes, watching the client, draining, pairing, settings."""

from __future__ import annotations

import asyncio

import jsonschema
import pytest
from pydantic import ValidationError

from babelrack.api_server import errors
from babelrack.api_server.client_watch import ClientWatch
from babelrack.api_server.drain import Drain
from babelrack.api_server.edge import _request_id
from babelrack.api_server.errors import (
    BadKey,
    BadRequest,
    ClientGone,
    LanguageNotEnabled,
    NoKey,
    OverLimit,
    Unavailable,
    openai_body,
    pulse_body,
)
from babelrack.api_server.pair import Pair
from babelrack.api_server.settings import Settings
from babelrack.pairing import ModelHealth, ModelServerLost

EVERY_ERROR = [
    NoKey(),
    BadKey(),
    BadRequest("language takes a code.", param="language"),
    LanguageNotEnabled("no.", "fr", ["hi"]),
    OverLimit("slow down.", retry_after=0.2),
    Unavailable("not now.", code="OVERLOADED", retry_after=7.6),
    *(cls("what happened.") for cls in (errors.NotFound, errors.MethodNotAllowed, errors.BodyStalled)),
    *(cls("what happened.") for cls in (errors.BodyTooLarge, errors.UnsupportedBody, errors.InternalFault)),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_error_has_the_served_shape_of_both_dialects(error):
    shape = {NoKey: errors.NoKeyBody, BadKey: errors.BadKeyBody}.get(type(error), errors.PulseError)
    jsonschema.validate(pulse_body(error, "an-id" if shape is errors.PulseError else None), shape.model_json_schema())
    jsonschema.validate(openai_body(error), errors.OpenAIError.model_json_schema())


def test_the_wire_references_own_bodies_are_exact():
    assert pulse_body(NoKey()) == {"message": "Unauthorized: No tokens provided"}
    assert pulse_body(BadKey()) == {"error": "unauthorized"}
    language = pulse_body(LanguageNotEnabled("no.", "fr", ["hi", "en"]))
    assert language["error_code"] == "LANGUAGE_NOT_ENABLED"
    assert language["language"] == "fr"
    assert language["languages"] == ["hi", "en"]
    assert language["status"] == "error"


def test_retry_after_is_whole_seconds_and_never_zero():
    assert OverLimit("x", retry_after=0.2).headers == {"retry-after": "1"}
    assert Unavailable("x", retry_after=7.6).headers == {"retry-after": "8"}
    assert BadRequest("x").headers == {}


class Client:
    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def for_ever(*_arguments) -> None:
    await asyncio.Event().wait()


async def test_work_is_cancelled_when_its_client_goes_away():
    client = Client()
    with pytest.raises(ClientGone):
        async with ClientWatch(client.receive) as watch:
            await for_ever(watch.listen(), client.gone.set())
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # a cancellation that was left over would come out here


async def test_work_that_ends_by_itself_is_not_disturbed():
    client = Client()
    async with ClientWatch(client.receive) as watch:
        watch.listen()
        await asyncio.sleep(0)
    client.gone.set()
    await asyncio.sleep(0.01)


async def test_an_error_of_the_work_itself_comes_through():
    with pytest.raises(BadRequest):
        async with ClientWatch(Client().receive):
            raise BadRequest("x")


async def test_a_cancellation_from_outside_stays_one():
    async def work() -> None:
        async with ClientWatch(Client().receive):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_drain_ends_with_its_last_request():
    drain = Drain(seconds=60)
    assert not drain.over()
    with drain.counted():
        drain.begin()
        assert drain.draining
        assert not drain.over()
    assert drain.over()


async def test_what_still_runs_when_the_drain_is_over_is_told_so():
    drain = Drain(seconds=0)

    async def work() -> None:
        async with ClientWatch(Client().receive) as watch:
            with drain.watching(watch):
                drain.begin()
                assert drain.over()
                await asyncio.sleep(60)

    with drain.counted(), pytest.raises(Unavailable, match="shutting down"):
        await work()


def model_health(**changes) -> ModelHealth:
    checkpoint = {"name": "indic-multi", "role": "multilingual", "languages": ["hi", "en"], "concurrency": 128}
    return ModelHealth.model_validate(
        {
            "status": "healthy",
            "deployment": "indic",
            "aggregator": "multi-indic",
            "engine": "babelrack",
            "device": "cpu",
            "dtype": "float32",
            "version": "0",
            "uptime_s": 1,
            "checkpoints": [{**checkpoint, "active": 0, "queued": 0}],
            **changes,
        }
    )


class Answers:
    """A model server's end that says what the test wants."""

    base_url = "http://model"

    def __init__(self, *answers: ModelHealth | Exception) -> None:
        self.answers = list(answers)

    async def health(self) -> ModelHealth:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def asked(*answers: ModelHealth | Exception, aggregator: str = "", times: int = 1) -> Pair:
    pair = Pair(Answers(*answers), "indic", aggregator, lambda _health: None)
    for _ in range(times):
        await pair._poll()
    return pair


async def test_a_wrong_pair_is_never_used_and_the_reason_names_both():
    pair = await asked(model_health(deployment="future"))
    with pytest.raises(Unavailable, match=r"indic.*future"):
        pair.require()


async def test_another_aggregator_is_a_wrong_pair_too():
    pair = await asked(model_health(), aggregator="multi-eu")
    with pytest.raises(Unavailable, match=r"multi-eu.*multi-indic"):
        pair.require()


@pytest.mark.parametrize("status", ["starting", "draining", "unhealthy"])
async def test_a_model_server_that_is_not_healthy_is_not_used(status):
    pair = await asked(model_health(status=status, reason="because"))
    with pytest.raises(Unavailable, match=f"{status}: because") as refused:
        pair.require()
    assert "retry-after" in refused.value.headers


async def test_a_busy_model_server_may_miss_a_poll_but_not_for_long():
    lost = ModelServerLost("the model server does not answer")
    pair = await asked(model_health(), lost, times=3)
    pair.require()
    await pair._poll()
    with pytest.raises(Unavailable, match="does not answer"):
        pair.require()


async def test_a_language_is_what_is_loaded_or_the_packs_own_aggregator():
    pair = await asked(model_health())
    assert pair.language(None) == "multi-indic"
    assert pair.language("multi-indic") == "multi-indic"
    assert pair.language("hi") == "hi"
    for other in ("fr", "multi-eu", "xx"):
        with pytest.raises(LanguageNotEnabled) as refused:
            pair.language(other)
        assert refused.value.details == {"language": other, "languages": ["en", "hi"]}


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
def test_a_valid_request_id_is_kept(given):
    assert _request_id({"headers": [(b"x-request-id", given.encode())]}) == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\r\nb", "ü", "a/b"])
def test_an_invalid_request_id_is_replaced(given):
    made = _request_id({"headers": [(b"x-request-id", given.encode("latin-1"))]})
    assert made != given
    assert len(made) == 32


@pytest.fixture
def environment(monkeypatch):
    for name in list(Settings.model_fields):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DEPLOYMENT_NAME", "indic")
    return monkeypatch


@pytest.mark.parametrize("name", ["ASR_BASE_URL", "LIGHTNING_ASR_BASE_URL"])
def test_both_spellings_of_the_model_servers_url_are_read(environment, name):
    environment.setenv(name, "http://asr:2233")
    assert Settings().asr_base_url == "http://asr:2233"


def test_the_documented_defaults_hold(environment):
    settings = Settings()
    assert settings.port == 7100
    assert settings.asr_base_url == "http://127.0.0.1:2233"
    assert settings.max_queue is None
    assert settings.max_body_bytes == 250_000_000
    assert settings.url_allowed_networks == ()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("URL_ALLOWED_NETWORKS", "10.0.0.0/8, 10.0.0.1/8", "10.0.0.1/8.*not a network"),
        ("URL_ALLOWED_NETWORKS", "intranet", "not a network"),
        ("ASR_STREAMING_BASE_URL", "http://elsewhere:2233", "ASR_STREAMING_BASE_URL names another server"),
        ("ASR_BASE_URL", "unix:///run/asr", "pattern"),
        ("DEPLOYMENT_NAME", "in dic", "pattern"),
        ("MAX_QUEUE", "-1", "greater than or equal to 0"),
        ("API_SERVER_PORT", "70000", "65535"),
    ],
)
def test_a_setting_that_can_not_be_used_is_refused(environment, name, value, why):
    environment.setenv(name, value)
    with pytest.raises(ValidationError, match=why):
        Settings()


def test_redis_is_named_by_url_or_by_host(environment):
    assert Settings().effective_redis_url == ""
    environment.setenv("REDIS_HOST", "shared")
    assert Settings().effective_redis_url == "redis://shared:6379"
    environment.setenv("REDIS_URL", "redis://other:1/2")
    assert Settings().effective_redis_url == "redis://other:1/2"
