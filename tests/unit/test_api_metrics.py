"""An API server's numbers say what its /health says."""

import httpx
import pytest
from test_api_flow import asked, model_health

from babelrack.api_server.admission import Admission
from babelrack.api_server.app import Secrets, create_app
from babelrack.api_server.health import Health
from babelrack.api_server.metrics import Metrics
from babelrack.api_server.settings import Settings


class Gate:
    """A licence gate that is in one state."""

    def __init__(self, state: str) -> None:
        self.state = state


async def numbers(*answers, status: str = "healthy", license_: str = "valid") -> dict[str, float]:
    metrics = Metrics(Admission(None, 60), "indic")
    metrics.watch(lambda: Health(status=status), await asked(*answers), Gate(license_))
    lines = (line.rpartition(" ") for line in metrics.exposition().decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@pytest.mark.parametrize(
    ("status", "healthy", "degraded"), [("healthy", 1, 0), ("degraded", 1, 1), ("unhealthy", 0, 0)]
)
async def test_health_is_a_number(status, healthy, degraded):
    shown = await numbers(model_health(), status=status)
    assert (shown["api_healthy"], shown["api_degraded"]) == (healthy, degraded)


@pytest.mark.parametrize(("deployment", "wrong"), [("indic", 0), ("future", 1)])
async def test_a_wrong_pair_is_a_number(deployment, wrong):
    assert (await numbers(model_health(deployment=deployment)))["api_wrong_pair"] == wrong


async def test_a_model_server_that_only_starts_is_no_wrong_pair():
    assert (await numbers(model_health(status="starting", reason="loading")))["api_wrong_pair"] == 0


@pytest.mark.parametrize("state", ["valid", "degraded", "refused"])
async def test_one_state_of_the_licence_is_1_and_the_others_0(state):
    shown = await numbers(model_health(), license_=state)
    assert [f'api_license{{state="{name}"}}' for name in ("valid", "degraded", "refused")] == [
        name for name in shown if name.startswith("api_license")
    ]
    assert [name for name, value in shown.items() if name.startswith("api_license") and value] == [
        f'api_license{{state="{state}"}}'
    ]


async def test_a_server_that_serves_nothing_yet_shows_its_numbers_all_the_same(tmp_path):
    app = create_app(Settings(deployment_name="indic", state_dir=tmp_path), Secrets())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        shown = (await client.get("/metrics")).text
        assert (await client.get("/health")).status_code == 503
    assert "api_healthy 0.0" in shown
    assert "api_wrong_pair 0.0" in shown
    assert 'api_license{state="refused"} 1.0' in shown
