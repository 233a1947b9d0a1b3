"""What a server may do while its licence proxy says yes, says no, or says nothing."""

import asyncio
import json
import signal
import time
from datetime import timedelta

import pytest
from license_rig import PATIENCE, Issuer, Proxy, free_port, question

from babelrack.licensing import GateSettings, LicenseGate


class Wall:
    """A wall clock that somebody sets."""

    offset = 0.0

    def __call__(self):
        return time.time() + self.offset


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path)


@pytest.fixture
def proxy(issuer, tmp_path):
    proxy = Proxy(issuer, tmp_path / "proxy")
    yield proxy
    proxy.kill()


@pytest.fixture
async def gate(proxy, tmp_path):
    gates = []

    async def start(name="one", wall=time.time, **options):
        settings = {
            "proxy_url": proxy.url,
            "license_key": proxy.issuer.license_key,
            "deployment": "indic",
            "role": "api",
            "version": "0",
            "state_folder": tmp_path / name,
            "interval": 0.2,
            "first_retry": 0.05,
            "longest_retry": 0.2,
            "timeout": 5.0,
        }
        gate = LicenseGate(GateSettings(**(settings | options)), wall=wall)
        gates.append(gate)
        await gate.start()
        return gate

    yield start
    for started in gates:
        await started.stop()


async def becomes(gate, state):
    async with asyncio.timeout(PATIENCE):
        while gate.state != state:
            await asyncio.sleep(0.02)


def cache_of(tmp_path, name="one"):
    return tmp_path / name / "license-api.json"


async def test_a_licensed_server_is_valid_for_its_languages_and_no_others(proxy, gate):
    proxy.issuer.write(languages=["hi", "en"])
    proxy.start()
    one = await gate()
    await becomes(one, "valid")
    assert one.reason is None
    assert one.allows("hi")
    assert not one.allows("mr")
    assert one.allows("multi-indic")
    assert one.validation.customer == "Test & Söhne"


async def test_a_first_start_without_the_proxy_is_refused_until_it_answers(proxy, gate):
    one = await gate()
    assert one.state == "refused"
    assert "never validated" in one.reason
    assert not one.allows("hi")
    proxy.start()
    await becomes(one, "valid")
    assert one.allows("hi")


async def test_requests_go_on_while_the_proxy_is_away_and_end_with_the_grace(proxy, gate):
    proxy.start()
    one = await gate(grace=6.0)
    await becomes(one, "valid")
    proxy.kill()
    await becomes(one, "degraded")
    assert one.allows("hi")
    assert proxy.url in one.reason
    await becomes(one, "refused")
    assert "past its grace" in one.reason
    assert not one.allows("hi")
    proxy.start()
    await becomes(one, "valid")


async def test_a_restart_while_the_proxy_is_away_goes_on_from_the_cache(proxy, gate, tmp_path):
    proxy.start()
    one = await gate()
    await becomes(one, "valid")
    await one.stop()
    assert cache_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert proxy.issuer.license_key not in cache_of(tmp_path).read_text()
    proxy.kill()
    again = await gate()
    assert again.state == "degraded"
    assert again.allows("hi")


async def test_a_clock_set_back_does_not_prolong_the_grace(proxy, gate):
    proxy.start()
    wall = Wall()
    one = await gate(wall=wall, grace=3600.0)
    await becomes(one, "valid")
    proxy.kill()
    await becomes(one, "degraded")
    wall.offset = 3000.0  # most of the grace goes by
    seen = one._clock.now()
    async with asyncio.timeout(PATIENCE):
        while json.loads(one._cache._path.read_text())["newest_seen"] < seen:
            await asyncio.sleep(0.02)
    await one.stop()
    wall.offset = -10 * 86400.0
    again = await gate(wall=wall, grace=3600.0)
    assert again.state == "degraded"
    assert again._grace_left() < 600
    wall.offset = 3700.0
    await becomes(again, "refused")
    wall.offset = -10 * 86400.0  # set back within the run: what has been seen stays seen
    await asyncio.sleep(0.5)
    assert again.state == "refused"


async def test_a_clock_that_was_wrong_for_a_while_is_forgiven_by_the_next_good_answer(proxy, gate):
    proxy.start()
    wall = Wall()
    wall.offset = 10 * 86400.0
    one = await gate(wall=wall)
    await becomes(one, "valid")
    wall.offset = 0.0
    stale = one.validation
    async with asyncio.timeout(PATIENCE):
        while one.validation is stale:
            await asyncio.sleep(0.02)
    assert abs(one._clock.now() - time.time()) < 60
    proxy.kill()
    await becomes(one, "degraded")
    assert one._grace_left() > 86400 - 120


async def test_an_expired_licence_is_refused_at_once_and_the_cache_is_dropped(proxy, gate, tmp_path):
    proxy.start()
    one = await gate()
    await becomes(one, "valid")
    proxy.issuer.write(ends=timedelta(minutes=-5))
    await becomes(one, "refused")
    assert "expired on" in one.reason
    await one.stop()
    assert not cache_of(tmp_path).exists()
    proxy.kill()
    assert (await gate()).state == "refused"


async def test_a_renewal_is_picked_up_without_a_restart_of_anything(proxy, gate):
    proxy.issuer.write(ends=timedelta(minutes=-5))
    proxy.start()
    one = await gate()
    assert one.state == "refused"
    proxy.issuer.write()
    await becomes(one, "valid")


async def test_a_licence_that_runs_out_while_the_proxy_is_away_is_refused_before_the_grace_ends(proxy, gate):
    proxy.issuer.write(ends=timedelta(seconds=6))
    proxy.start()
    one = await gate()
    await becomes(one, "valid")
    proxy.kill()
    await becomes(one, "refused")
    assert "the licence expired on" in one.reason


async def test_a_grace_that_is_shorter_than_the_usual_interval_never_ends_while_the_proxy_answers(proxy, gate):
    proxy.start()
    one = await gate(grace=2.0, interval=300.0)
    await becomes(one, "valid")
    first = one.validation
    for _ in range(40):
        assert one.state == "valid"
        await asyncio.sleep(0.1)
    assert one.validation is not first


async def test_a_wrong_key_is_refused_with_the_proxys_sentence(proxy, gate):
    proxy.start()
    one = await gate(license_key="brl_wrong")
    assert one.state == "refused"
    assert "not known" in one.reason


async def test_the_cache_of_another_key_or_deployment_or_an_edited_one_is_not_believed(proxy, gate, tmp_path):
    proxy.start()
    one = await gate()
    await becomes(one, "valid")
    await one.stop()
    proxy.kill()
    for change in ({"license_key": "brl_other"}, {"deployment": "future"}):
        assert (await gate(**change)).state == "refused"
    cached = json.loads(cache_of(tmp_path).read_text())
    for forged in (
        json.dumps(cached | {"last_good": cached["last_good"] + 86400}),
        json.dumps(cached | {"mac": ""}),
        json.dumps(cached)[:-20],
        "",
    ):
        cache_of(tmp_path).write_text(forged)
        assert (await gate()).state == "refused"


async def test_seats_are_counted_and_come_back_when_a_server_stops(proxy, gate):
    proxy.issuer.write(seats=1)
    proxy.start()
    one = await gate("one")
    await becomes(one, "valid")
    two = await gate("two")
    assert two.state == "refused"
    assert "seats" in two.reason
    model = await gate("model", role="model")
    assert model.state == "valid"
    await one.stop()
    await becomes(two, "valid")


async def test_a_restarted_server_keeps_its_seat_even_after_kill_9(proxy, gate):
    proxy.issuer.write(seats=1)
    proxy.start()
    one = await gate("one")
    await becomes(one, "valid")
    one._task.cancel()  # gone without a word
    again = await gate("one")
    assert again.state == "valid"


async def test_losing_the_seat_only_degrades_a_server_that_held_one(proxy, gate):
    proxy.issuer.write(seats=1)
    proxy.start()
    one = await gate("one")
    await becomes(one, "valid")
    with proxy.client() as client:
        status = 409
        while status == 409:  # when the server was faster than the thief
            await asyncio.to_thread(client.post, "/v1/release", json={"instance": one._instance})
            status = (await asyncio.to_thread(client.post, "/v1/validate", json=question("thief"))).status_code
    await becomes(one, "degraded")
    assert one.allows("hi")
    assert "seats" in one.reason


async def test_a_proxy_that_hangs_delays_the_start_by_a_second_and_is_like_one_that_is_away(proxy, gate):
    proxy.start()
    one = await gate(timeout=0.5)
    await becomes(one, "valid")
    proxy.process.send_signal(signal.SIGSTOP)
    await becomes(one, "degraded")
    two = await asyncio.wait_for(gate("two", timeout=1000.0), PATIENCE)  # returns long before the proxy's time is up
    assert two.state == "refused"
    await two._client.aclose()
    proxy.process.send_signal(signal.SIGCONT)
    await becomes(one, "valid")


async def test_what_is_no_licence_proxy_is_neither_yes_nor_no(proxy, gate):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(responses[0])
        await writer.drain()
        writer.close()

    responses: list[bytes] = []
    port = free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with server:
        for response, reason in (
            (head + b"<html>hello</html>", "not a licence proxy"),
            (b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n", "404"),
            (head + b"x" * 3_000_000, "too long"),
            (b"garbage\r\n\r\n", "can't be reached"),
        ):
            responses[:] = [response]
            one = await gate("other", proxy_url=f"http://127.0.0.1:{port}")
            assert one.state == "refused"
            assert reason in one.reason, one.reason
            await one.stop()


async def test_a_gate_without_key_or_proxy_says_what_to_set(gate):
    assert "LICENSE_KEY_FILE" in (await gate(license_key=None)).reason
    assert "API_BASE_URL" in (await gate(proxy_url="")).reason
