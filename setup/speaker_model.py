"""The speaker model: fetched with its hash pinned, converted from a pickle to safetensors, put in place in one rename.

    python setup/speaker_model.py .cache/speakers

makes `ge2e-lstm/` with `config.json` and `model.safetensors`. With SPEAKER_MODEL=URL in the environment the model comes
from that URL instead (file:, https:, s3: or hf:).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import wheels
from safetensors.torch import save_file

from babelrack.checkpoints import CheckpointError
from babelrack.checkpoints.speaker_model import fetch_speaker_model

REQUIREMENTS = Path(__file__).with_name("speaker-model.txt")
MEMBER = "resemblyzer/pretrained.pt"
MEMBER_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
MODEL_SHA256 = "a5d4776b403b69593e4a10212aeacf7d35b56e9d0a2022058c6d4f888202e069"
CONFIG = {
    "model_type": "ge2e-lstm",
    "mel_channels": 40,
    "hidden_size": 256,
    "layers": 3,
    "embedding_size": 256,
    "window_frames": 160,
}


def main() -> int:
    """Make the model under the folder given; 0 when it is there afterwards."""
    home = Path(sys.argv[1]).resolve()
    home.mkdir(parents=True, exist_ok=True)
    target = home / "ge2e-lstm"
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=".setup-") as scratch:
            made = Path(scratch) / target.name
            url = os.environ.get("SPEAKER_MODEL")
            if url:
                shutil.copytree(fetch_speaker_model(url, home.parent / "models"), made)
            else:
                made.mkdir()
                _convert(_wheel(Path(scratch) / "wheels"), made)
            if target.exists():
                target.rename(Path(scratch) / "old")
            made.rename(target)
            target.chmod(0o755)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    return 0


def _wheel(folder: Path) -> Path:
    wheels.download(
        REQUIREMENTS,
        folder,
        "the speaker model's wheel could not be downloaded by pip; without an index here, set SPEAKER_MODEL to a "
        "URL of the converted model (file:, https:, s3: or hf:).",
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _convert(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        pickle = archive.read(MEMBER)
    _expect(MEMBER, pickle, MEMBER_SHA256)
    state = torch.load(io.BytesIO(pickle), map_location="cpu", weights_only=True)["model_state"]
    wanted = {name: tensor.contiguous() for name, tensor in state.items() if name.startswith(("lstm.", "linear."))}
    save_file(wanted, folder / "model.safetensors")
    _expect("model.safetensors", (folder / "model.safetensors").read_bytes(), MODEL_SHA256)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def _expect(what: str, content: bytes, sha256: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise CheckpointError(f"the speaker model's {what} has sha256 {actual}, not the pinned {sha256}.")


if __name__ == "__main__":
    sys.exit(main())
