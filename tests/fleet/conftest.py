"""What tests on lab hosts share."""

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from lab import Lab, LabClash, LabUnavailable  # noqa: E402
from lab.laboratory import labs  # noqa: E402

LabMaker = Callable[[str], Lab]


@pytest.fixture(scope="session")
def lab_or_skip() -> Callable[[], AbstractContextManager[None]]:
    """Within it, a test is skipped where hosts can't be made, or fails there if BABELRACK_REQUIRE_LAB=1."""

    @contextmanager
    def lab_or_skip() -> Iterator[None]:
        try:
            yield
        except LabUnavailable as error:
            if os.environ.get("BABELRACK_REQUIRE_LAB") == "1":
                raise
            pytest.skip(str(error))

    return lab_or_skip


@pytest.fixture(scope="session")
def make_lab(lab_or_skip: Callable[[], AbstractContextManager[None]]) -> Iterator[LabMaker]:
    """Makes labs, empty and for this test run alone; they are taken down at its end."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")

    def make(purpose: str) -> Lab:
        prefix = f"t{zlib.crc32(f'{ROOT} {purpose}'.encode()):08x}-{worker}"
        for left in labs():
            if left.startswith(f"{prefix}-"):
                Lab(left).down()
        for number in count():
            lab = Lab(f"{prefix}-{number}", say=print)
            try:
                with lab_or_skip():
                    lab.up(0)
            except LabClash:
                continue
            made.callback(lab.down)
            return lab
        raise AssertionError

    with ExitStack() as made:
        yield make


@pytest.fixture(scope="module")
def lab(make_lab: LabMaker, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of this module's own; it has no hosts until a test says `lab.up(n)`."""
    lab = make_lab(request.module.__name__)
    yield lab
    lab.down()
