"""Imports go one way, as docs/architecture.md says."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "services" / "babelrack"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists())
# What every room may use: these import nothing of the others.
GROUND = {"credentials", "logs", "serving", "sqlite_file", "__init__"}
MAY_IMPORT = {
    "packs": set(),
    "checkpoints": set(),
    "audio": set(),
    "engine": set(),
    "speakers": set(),
    "pairing": set(),
    "licensing": set(),
    "keys": set(),
    "writing": set(),
    "license_proxy": {"licensing"},
    "model_server": {"engine", "checkpoints", "audio", "pairing", "licensing", "speakers"},
    "api_server": {"audio", "pairing", "licensing", "keys", "packs", "writing"},
    "local": {"packs", "licensing", "keys"},
    "provider": {"packs"},
    "release": set(),
    "fleet": {"packs", "licensing"},
    "cli": {
        "license_proxy",
        "packs",
        "checkpoints",
        "licensing",
        "keys",
        "local",
        "provider",
        "release",
        "fleet",
        "client",
        "audio",
    },
}
NEVER_TORCH = set(ROOMS) - {"engine", "model_server", "speakers"}


def imports(room):
    """(module, file) of every import in a room, also those inside functions."""
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name, path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                yield node.module, path
                if node.module == "babelrack":
                    yield from ((f"babelrack.{alias.name}", path) for alias in node.names)


def test_every_room_is_listed():
    assert set(MAY_IMPORT) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    allowed = MAY_IMPORT[room] | GROUND | {room}
    for module, path in imports(room):
        parts = module.split(".")
        if parts[0] == "babelrack" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, f"{path} imports {module}"


@pytest.mark.parametrize("room", sorted(NEVER_TORCH))
def test_only_the_model_servers_side_knows_torch(room):
    for module, path in imports(room):
        assert module.split(".")[0] not in ("torch", "silero_vad"), f"{path} imports {module}"


def test_only_the_model_servers_side_evaluates_voice_activity():
    for module, path in imports("api_server"):
        assert not module.startswith("babelrack.audio.voice_activity"), path
        assert not module.startswith("babelrack.audio.windows"), path
