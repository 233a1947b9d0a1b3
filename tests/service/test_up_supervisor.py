"""The supervisor, with real processes that do little."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babelrack.local.identity import ProcessIdentity, end_sessions
from babelrack.local.service import Role, Service
from babelrack.local.state import RackRecord, StateFolder
from babelrack.local.supervisor import Supervisor

pytestmark = pytest.mark.timeout(120)


async def well():
    return None


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def service(folder, name, script, *, role=Role.MODEL_SERVER, probe=well, **fields):
    return Service(
        name=name, role=role, command=("/bin/sh", "-c", script), environment={"PATH": os.environ["PATH"]}, probe=probe,
        ports=(), log=folder / f"{name}.log", **fields,
    )  # fmt: skip


class Rack:
    def __init__(self, folder, *services):
        state = StateFolder(folder)
        record = RackRecord(ProcessIdentity.of(os.getpid()), "", "", "", "", "")
        self.reports = []
        self.supervisor = Supervisor(services, record, state, self.reports.append)
        self.services = {service.name: service for service in self.supervisor.record.services}

    async def __aenter__(self):
        self.task = asyncio.create_task(self.supervisor.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        self.supervisor.stop()
        await self.task


async def test_a_child_that_is_killed_is_started_again_and_reported(tmp_path):
    async with Rack(
        tmp_path, service(tmp_path, "a", "exec sleep 1000"), service(tmp_path, "b", "exec sleep 1000")
    ) as rack:
        await until(lambda: all(each.condition == "healthy" for each in rack.services.values()))
        first, neighbour = rack.services["a"].process, rack.services["b"].process
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: rack.services["a"].restarts == 1 and rack.services["a"].condition == "healthy")
        assert rack.services["a"].process != first
        assert rack.services["b"].process == neighbour
        assert neighbour.alive()
    assert rack.reports[0] == "a was killed by SIGKILL; started again in 1 s."
    assert rack.reports[-1] == "a is well again."
    assert not neighbour.alive()


async def test_a_child_that_keeps_dying_is_failed_with_its_last_lines_while_the_rest_goes_on(tmp_path):
    broken = service(tmp_path, "broken", "echo the checkpoint is not there; exit 3")
    async with Rack(tmp_path, broken, service(tmp_path, "good", "exec sleep 1000")) as rack:
        await until(lambda: rack.services["broken"].condition == "failed")
        assert rack.services["broken"].last_lines == ["the checkpoint is not there"]
        assert rack.services["good"].condition == "healthy"
        assert rack.services["good"].restarts == 0
    assert "broken ended with exit code 3; started again in 4 s." in rack.reports
    assert "  broken: the checkpoint is not there" in rack.reports


async def test_a_program_that_is_not_there_breaks_only_itself(tmp_path):
    missing = Service("x", Role.GATEWAY, ("/no/such/program",), {}, well, (), tmp_path / "x.log")
    async with Rack(tmp_path, missing, service(tmp_path, "good", "exec sleep 1000")) as rack:
        await until(lambda: rack.services["x"].restarts >= 1 and rack.services["good"].condition == "healthy")
    assert rack.reports[0] == "x could not be started (No such file or directory); started again in 1 s."


async def test_what_a_dead_child_left_running_is_ended_with_it(tmp_path):
    async with Rack(tmp_path, service(tmp_path, "a", "sleep 1000 & exec sleep 1000")) as rack:
        await until(lambda: rack.services["a"].process and len(rack.services["a"].process.session()) == 2)
        first = rack.services["a"].process
        left = [each for each in first.session() if each != first]
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: rack.services["a"].restarts == 1)
        assert not any(each.alive() for each in left)


async def test_everything_ends_in_order_the_gateway_first_and_redis_last(tmp_path):
    services = [
        service(
            tmp_path,
            role,
            f"trap 'echo {role} >> {tmp_path}/order; exit' TERM; while :; do sleep 0.05; done",
            role=role,
        )
        for role in Role
    ]
    async with Rack(tmp_path, *services) as rack:
        await until(lambda: all(each.condition == "healthy" for each in rack.services.values()))
        await asyncio.sleep(0.2)  # the shells set their traps
    order = (tmp_path / "order").read_text().split()
    assert order == ["gateway", "api_server", "model_server", "license_proxy", "redis"]
    assert not (tmp_path / "rack.json").exists()


async def test_a_child_that_does_not_end_when_asked_is_killed_after_its_grace(tmp_path):
    stubborn = service(tmp_path, "a", "trap '' TERM; while :; do sleep 0.05; done", grace_seconds=0.3)
    async with Rack(tmp_path, stubborn) as rack:
        await until(lambda: rack.services["a"].condition == "healthy")
        process = rack.services["a"].process
    assert not process.alive()


async def test_asked_a_second_time_everything_ends_at_once(tmp_path):
    stubborn = service(tmp_path, "a", "trap '' TERM; while :; do sleep 0.05; done", grace_seconds=3600)
    async with Rack(tmp_path, stubborn) as rack:
        await until(lambda: rack.services["a"].condition == "healthy")
        rack.supervisor.stop()
        rack.supervisor.stop()
        async with asyncio.timeout(60):
            await rack.task


async def test_a_service_that_answers_no_more_is_unhealthy_and_is_left_running(tmp_path):
    said = [None]

    async def probe():
        return said[0]

    async with Rack(tmp_path, service(tmp_path, "a", "exec sleep 1000", probe=probe)) as rack:
        await until(lambda: rack.services["a"].condition == "healthy")
        said[0] = "the model server is of another deployment"
        await until(lambda: rack.services["a"].condition == "unhealthy")
        assert rack.services["a"].reason == "the model server is of another deployment"
        assert rack.services["a"].restarts == 0


LEADER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, os.path.dirname({tests!r}))
from test_up_supervisor import Rack, service
async def main():
    folder = Path({folder!r})
    a, b = service(folder, "a", "exec sleep 1000"), service(folder, "b", "sleep 1000 & exec sleep 1000")
    async with Rack(folder, a, b):
        await asyncio.sleep(1000)
asyncio.run(main())
"""


def test_children_die_with_a_supervisor_that_is_killed_and_what_they_leave_is_found(tmp_path):
    script = LEADER.format(tests=__file__, folder=str(tmp_path))
    leader = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    state = StateFolder(tmp_path)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            record = state.read_record()
            if record and record.healthy and len(record.services[1].process.session()) == 2:
                break
            time.sleep(0.05)
        leader.kill()
        leader.wait()
        while any(process.alive() for process in record.leaders()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(process.alive() for process in record.leaders())
        assert end_sessions(record.leaders(), grace_seconds=5) == 1
        assert [member for process in record.leaders() for member in process.session()] == []
    finally:
        leader.kill()
        leader.wait()
