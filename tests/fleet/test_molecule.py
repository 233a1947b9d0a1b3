"""Each role's molecule scenario, as `make molecule ROLE=…` runs it."""

import os
import signal
import subprocess

import pytest
from lab import machine
from lab.laboratory import ROOT

ROLES = sorted(file.parent.name for file in (ROOT / "molecule").glob("*/molecule.yml"))
TIMEOUT_S = 1800

pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)


@pytest.mark.parametrize("role", ROLES)
def test_role(role, lab_or_skip):
    with lab_or_skip():
        machine.check()
    log = ROOT / ".cache" / "molecule" / f"{role}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            ["molecule", "test", "--scenario-name", role],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(TIMEOUT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    said = log.read_text(errors="replace").splitlines()
    assert process.returncode == 0, "\n".join([*said[-80:], f"the whole log is {log}"])


def test_every_role_has_a_scenario():
    # replica is what site.yml does with the others, on a whole site: test_site.py.
    assert {folder.name for folder in (ROOT / "ansible" / "roles").iterdir()} == {*ROLES, "replica"}
