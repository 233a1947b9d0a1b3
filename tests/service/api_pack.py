"""A plugin for pytest: one pack for all modules that name this one in `pytest_plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from api_rig import Rig, start_rig

from babelrack.credentials import write_private

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def pack(tmp_path_factory) -> Iterator[Rig]:
    """A whole pack, started once; a module that hurts it starts its own instead."""
    folder = tmp_path_factory.mktemp("pack")
    write_private(folder / "webhook.secret", "a secret of the tests\n")
    rig = start_rig(
        folder,
        URL_ALLOWED_NETWORKS="127.0.0.0/8",
        BODY_IDLE_SECONDS="3",
        WEBHOOK_SECRET_FILE=str(folder / "webhook.secret"),
    )
    yield rig
    rig.stop()
