"""Making an archive of a checkpoint: the same files give the same bytes, wherever and whenever it is made."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import zstandard
from pydantic import ValidationError

from babelrack.checkpoints.digests import sha256_file, sync_folder
from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.layout import inspect
from babelrack.checkpoints.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from babelrack.checkpoints.manifest import Role

_LEVEL = 3
_MODE = 0o644


def pack(
    directory: Path,
    out: Path,
    *,
    name: str | None = None,
    role: Role | None = None,
    languages: tuple[str, ...] | None = None,
) -> str:
    """Write the checkpoint in `directory` to the .tar.zst `out`, with a manifest, and return the archive's SHA-256.

    What isn't given is taken from the directory's own manifest. Only a checkpoint's files go in; the directory is left
    as it is.

    Raises:
        CheckpointError: when the directory holds no checkpoint that can be loaded, or `out` can't be written.
    """
    if not out.name.endswith(".tar.zst"):
        raise CheckpointError(f"{out}: an archive's name must end in .tar.zst; rename it")
    layout = inspect(directory)
    given = {field: value for field, value in (("name", name), ("role", role), ("languages", languages)) if value}
    names = sorted(set(layout.files) - {MANIFEST})
    unknown = sorted(set(languages or ()) - layout.languages)
    if unknown:
        raise CheckpointError(
            f"{directory}: its tokenizer has no token for {', '.join(unknown)}; correct the languages"
        )
    manifest = _manifest({**Manifest.read(directory).model_dump(), **given, "files": None})
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        manifest = manifest.model_copy(update={"files": {file: sha256_file(directory / file) for file in names}})
        with temporary.open("xb") as raw:
            sink = _Hashing(raw)
            _write(sink, directory, names, manifest.to_json())
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or out}: {error.strerror or error}; check the path and the disk"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return sink.digest.hexdigest()


def _manifest(facts: dict[str, object]) -> Manifest:
    try:
        return Manifest.model_validate(facts)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise CheckpointError(f"{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}") from None


def _write(sink: _Hashing, directory: Path, names: list[str], manifest: bytes) -> None:
    members = {MANIFEST: len(manifest)} | {name: (directory / name).stat().st_size for name in names}
    # One thread: with more, where a frame is cut depends on timing.
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with (
        compressor.stream_writer(cast("IO[bytes]", sink), size=_tar_size(members), closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, size in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = size, _MODE
            if name == MANIFEST:
                archive.addfile(entry, io.BytesIO(manifest))
            else:
                with (directory / name).open("rb") as file:
                    archive.addfile(entry, file)


def _tar_size(members: dict[str, int]) -> int:
    """The tar's own size, for the zstd header, so that who unpacks it knows beforehand how much room it takes."""
    total = 0
    for name, size in members.items():
        entry = tarfile.TarInfo(name)
        entry.size = size
        header = entry.tobuf(tarfile.PAX_FORMAT)
        total += len(header) + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return -(-(total + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


class _Hashing(io.RawIOBase):
    """Writes through and hashes what goes by."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override] # bytes and memoryviews are what zstd writes
        self.digest.update(data)
        return self._file.write(data)
