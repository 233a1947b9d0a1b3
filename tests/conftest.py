"""What tests of all rooms share."""

import os
import signal
import sys
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
# Several processes of torch share few cores: threads that spin while they wait would cost the others a third.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what it runs in the background with Ctrl-C ignored, and so would what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What takes longest comes first (xdist's --no-loadscope-reorder): a site's life takes as long as all else together.
FIRST = (
    "test_site.py", "test_molecule.py", "test_terraform.py", "test_lab.py", "test_cli_fleet.py", "test_engine.py",
    "test_api_jobs.py", "test_license_usage.py",
)  # fmt: skip
# What has bounds that a busy machine could break comes last, when the site alone is still at it, and mostly waits.
LAST = (
    "test_rack_faults.py", "test_up_rack.py", "test_live.py", "test_api_faults.py", "test_model_server.py",
    "test_examples.py", "test_demo.py", "test_live_replicas.py", "test_api_hostile.py", "test_stream.py",
    "test_license_gate.py", "test_live_pack.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tests of a whole site are told."""
    parser.addoption("--keep-site", action="store_true", help="leave the site of test_site.py up, and find it again")
    parser.addoption("--figures", metavar="FILE", help="put what became of the requests into this document")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files as `FIRST` and `LAST` have them, and leave the order within a file."""
    order = {name: index - len(FIRST) for index, name in enumerate(FIRST)}
    order |= {name: index for index, name in enumerate(LAST, 1)}
    items.sort(key=lambda item: order.get(item.path.name, 0))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """With `--dist loadscope`: tests of a file on one worker, as they share servers or a lab; roles apart."""

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, _ = nodeid.partition("::")
            return nodeid if file.endswith("test_molecule.py") else file

    return Scheduling(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The demo's checkpoint, Whisper base, as set-up made it."""
    path = ROOT / ".cache" / "checkpoints" / "whisper-base"
    assert path.is_dir(), f"{path} is missing; run make setup"
    return path
