"""What `babelrack new pack` writes: a pack file, and the pack's Terraform root, which is the same for every pack."""

from importlib.resources import files
from typing import Final

import yaml

_PACK: Final = "PACK_NAME"
ROOT_FILES: Final = ("main.tf", "variables.tf", "versions.tf", "outputs.tf")


def root_files(pack: str) -> dict[str, str]:
    """The files of a pack's Terraform root, by name."""
    return {name: _text(name).replace(_PACK, pack) for name in ROOT_FILES}


def pack_file(pack: str, languages: list[str]) -> str:
    """A pack file with one multilingual checkpoint."""
    dashed = pack.replace("_", "-")
    return (
        _text("pack.yaml")
        .replace(_PACK, pack)
        .replace("DASHED_NAME", dashed)
        .replace("LANGUAGES", yaml.safe_dump(languages, default_flow_style=True, width=10_000).strip())
    )


def _text(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")
