"""What tests of all rooms share."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
# Several processes of torch share few cores: threads that spin while they wait would cost the others a third.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The demo's checkpoint, Whisper base, as set-up made it."""
    path = ROOT / ".cache" / "checkpoints" / "whisper-base"
    assert path.is_dir(), f"{path} is missing; run make setup"
    return path
