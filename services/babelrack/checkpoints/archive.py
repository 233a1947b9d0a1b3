"""Unpacking an archive that may be hostile: only a checkpoint's files, only into the target, only so much."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

import zstandard

from babelrack.checkpoints import tar
from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.layout import is_checkpoint_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_CHUNK = 1 << 20
_LARGEST_ZSTD_WINDOW = 1 << 27
_LARGEST_ZIP_DIRECTORY = 4 << 20
_LONGEST_NAME = 512
_DEEPEST = 2
_FREE_EXPANSION = 64 << 20
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1
_ZSTD = b"\x28\xb5\x2f\xfd"


_DAMAGED = (
    zstandard.ZstdError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an archive may hold; `ratio` is unpacked bytes a packed byte, once more than 64 MiB came out."""

    unpacked_bytes: int = 32 << 30
    members: int = 4096
    ratio: int = 200


class Member(Protocol):
    """A file or folder of an archive, whatever the archive's format."""

    @property
    def name(self) -> str:
        """As the archive has it: not to be trusted."""

    @property
    def size(self) -> int:
        """Bytes, as the archive claims."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a folder."""

    def chunks(self) -> Iterable[bytes]:
        """The file's bytes."""


def unpack(
    archive: Path,
    target: Path,
    *,
    shown: str,
    bounds: Bounds = Bounds(),
    advance: Callable[[int], None] = lambda _done: None,
) -> Path:
    """Write the checkpoint files of `archive` (.tar.zst, .tar or .zip, told by content) into the empty folder `target`.

    Files that no checkpoint has, pickles among them, are passed over. Returns the folder that holds the files: `target`
    or the archive's single top-level folder in it. `advance` is told how many bytes are written so far.

    Raises:
        CheckpointError: for a path that leaves the archive, a link or device, a name twice, more than `bounds`, or a
            damaged archive; `shown` names it in the message.
        OSError: when the disk refuses.
    """
    most = min(bounds.unpacked_bytes, max(_FREE_EXPANSION, archive.stat().st_size * bounds.ratio))
    with archive.open("rb") as file, _opened(file, shown) as members:
        _Unpacking(target, shown, bounds.members, most, advance).run(members)
    return _checkpoint_folder(target, shown)


def unpacked_size(archive: Path) -> int | None:
    """About how many bytes the archive says it unpacks to; None when it doesn't say."""
    with archive.open("rb") as file:
        head = file.read(512)
        if head[:4] == _ZSTD:
            size = int(zstandard.frame_content_size(head))
            return size if size >= 0 else None
        if head[:2] != b"PK":
            return archive.stat().st_size
        try:
            with zipfile.ZipFile(_BoundedReads(file, str(archive))) as members:
                return sum(member.file_size for member in members.infolist())
        except (zipfile.BadZipFile, CheckpointError):
            return None  # unpacking says it better


def safe_parts(name: str) -> tuple[str, ...]:
    """The folders and the file that a member's name stands for.

    Raises:
        ValueError: when the name is absolute, climbs, or isn't one that every system reads the same way.
    """
    if not name or len(name.encode()) > _LONGEST_NAME:
        raise ValueError("has an empty or very long name")
    if any(character < " " or character in "\x7f\\" for character in name):
        raise ValueError("has a backslash or control character in its name")
    if name.startswith("/") or _DRIVE.match(name):
        raise ValueError("is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if ".." in parts:
        raise ValueError("climbs out of the archive")
    return parts


class _Unpacking:
    def __init__(self, target: Path, shown: str, members: int, most: int, advance: Callable[[int], None]) -> None:
        self._target = target
        self._shown = shown
        self._members = members
        self._most = most
        self._advance = advance
        self._claimed = 0
        self._written = 0
        self._seen: dict[tuple[str, ...], bool] = {}

    def run(self, members: Iterable[Member]) -> None:
        for count, member in enumerate(members, start=1):
            if count > self._members:
                raise CheckpointError(f"{self._shown}: more than {self._members} members, which no checkpoint has")
            self._claimed += member.size
            if self._claimed > self._most:
                raise CheckpointError(
                    f"{self._shown}: unpacks to more than {self._most:,} bytes; raise CHECKPOINT_LARGEST_UNPACKED if "
                    "it is a real checkpoint (a small archive that grows by more than 200 times is refused in any case)"
                )
            parts = self._place(member)
            if not member.is_directory and len(parts) <= _DEEPEST and is_checkpoint_file(parts[-1]):
                self._write(member, parts)

    def _place(self, member: Member) -> tuple[str, ...]:
        try:
            parts = safe_parts(member.name)
        except ValueError as error:
            raise CheckpointError(f"{self._shown}: {member.name[:200]!r} {error}; pack it again without that") from None
        if not parts:
            if member.is_directory:
                return parts
            raise CheckpointError(f"{self._shown}: {member.name[:200]!r} is no name of a file; pack it again")
        # Folders may repeat, as `tar` appends them; a file twice, or a file where a folder is, hides one from a reader.
        folded = tuple(part.casefold() for part in parts)
        clash = folded in self._seen and not (member.is_directory and self._seen[folded])
        for depth in range(1, len(folded)):
            clash = clash or not self._seen.setdefault(folded[:depth], True)
        if clash:
            raise CheckpointError(f"{self._shown}: {member.name[:200]!r} is there twice; pack it again")
        self._seen[folded] = member.is_directory
        return parts

    def _write(self, member: Member, parts: tuple[str, ...]) -> None:
        path = self._target.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self._written
        with path.open("xb", buffering=0) as out:
            for chunk in member.chunks():
                self._written += len(chunk)
                if self._written - before > member.size:
                    raise CheckpointError(f"{self._shown}: {member.name!r} is larger than it says; pack it again")
                out.write(chunk)
                self._advance(self._written)
        if self._written - before != member.size:
            raise CheckpointError(f"{self._shown}: {member.name!r} is shorter than it says; pack it again")


def _checkpoint_folder(target: Path, shown: str) -> Path:
    """Where config.json is: at the top or in the one folder there."""
    if (target / "config.json").exists():
        return target
    folders = [entry for entry in target.iterdir() if entry.is_dir()]
    files = [entry for entry in target.iterdir() if not entry.is_dir()]
    if len(folders) == 1 and not files:
        return folders[0]
    raise CheckpointError(
        f"{shown}: has no config.json at its top or in a single top-level folder; "
        "make the archive with `babelrack checkpoints pack`"
    )


@contextmanager
def _opened(file: BinaryIO, shown: str) -> Iterator[Iterable[Member]]:
    head = file.read(512)
    file.seek(0)
    try:
        if head[:4] == _ZSTD or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
            decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
            with decompressor.stream_reader(file, read_size=_CHUNK, read_across_frames=True, closefd=False) as stream:
                yield _tar_members(stream, shown)
        elif head[257:262] == b"ustar":
            yield _tar_members(file, shown)
        elif head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
            with zipfile.ZipFile(_BoundedReads(file, shown)) as archive:
                if _is_pickle(archive):
                    raise CheckpointError(
                        f"{shown}: is a pickle, as torch.save writes, which is never opened; convert it to safetensors"
                    )
                yield [_ZipMember(archive, info, shown) for info in archive.infolist()]
        else:
            raise CheckpointError(f"{shown}: {_what_it_is(head)}; make the archive with `babelrack checkpoints pack`")
    except _DAMAGED as error:
        raise CheckpointError(f"{shown}: damaged archive ({error}); fetch or pack it again") from error


def _is_pickle(archive: zipfile.ZipFile) -> bool:
    """Whether the zip is a PyTorch file: those are zips that hold one `…/data.pkl`."""
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def _what_it_is(head: bytes) -> str:
    if head[:2] == b"\x1f\x8b":
        return "is gzip, and .tar.zst, .tar and .zip are read"
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "is a pickle, which is never opened; convert it to safetensors"
    if head[:1] in {b"<", b"{"}:
        return "is a text or web page and not an archive"
    return "is neither .tar.zst nor .tar nor .zip"


def _tar_members(stream: tar.Source, shown: str) -> Iterator[Member]:
    yield from tar.members(stream, shown)
    # Behind the end mark is padding at most; reading it makes the decompressor check its own checksum.
    while padding := stream.read(_CHUNK):
        if padding.strip(b"\0"):
            raise CheckpointError(f"{shown}: has something behind its end; pack it again")


@dataclass(frozen=True, slots=True)
class _ZipMember:
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    shown: str

    @property
    def name(self) -> str:
        mode = self.info.external_attr >> 16
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise CheckpointError(
                f"{self.shown}: {self.info.filename[:200]!r} is a link or device, which a checkpoint may not hold; "
                "pack plain files only"
            )
        # zipfile cuts a name at NUL and turns a foreign separator round; look at what the archive really says.
        return self.info.orig_filename

    @property
    def size(self) -> int:
        return self.info.file_size

    @property
    def is_directory(self) -> bool:
        return self.info.is_dir()

    def chunks(self) -> Iterator[bytes]:
        if self.info.flag_bits & _ENCRYPTED:
            raise CheckpointError(f"{self.shown}: is encrypted; pack it without a password")
        if self.info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise CheckpointError(f"{self.shown}: only stored and deflated zip members are read; pack it again")
        with self.archive.open(self.info) as member:
            while chunk := member.read(_CHUNK):
                yield chunk


class _BoundedReads:
    """A file that refuses to be read in one gulp: zipfile takes a zip's whole directory, however long it says it is."""

    def __init__(self, file: BinaryIO, shown: str) -> None:
        self._file = file
        self._shown = shown
        self.tell = file.tell
        self.close = lambda: None

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0 and offset < 0:
            raise zipfile.BadZipFile("an offset before its begin")
        return self._file.seek(offset, whence)

    def read(self, size: int = -1, /) -> bytes:
        if size > _LARGEST_ZIP_DIRECTORY:
            raise CheckpointError(f"{self._shown}: its list of members is too long for a checkpoint")
        data = self._file.read(_LARGEST_ZIP_DIRECTORY + 1 if size < 0 else size)
        if len(data) > _LARGEST_ZIP_DIRECTORY:
            raise CheckpointError(f"{self._shown}: its list of members is too long for a checkpoint")
        return data
