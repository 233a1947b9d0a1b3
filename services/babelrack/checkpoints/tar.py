"""A strict, streaming reader of tar: regular files and folders, and an error for everything else.

The standard library's reader takes whole headers into memory whatever size they claim, and knows links, devices and
sparse files, which a checkpoint has no use for. Here a header is at most 64 KiB and the format is POSIX ustar with pax
`path` and `size`, and GNU long names: what `tar`, Python and Go write. See POSIX.1-2017, `pax`, "ustar Interchange
Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from babelrack.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512
_CHUNK = 1 << 20
_LARGEST_EXTENSION = 64 << 10
_FILE, _DIRECTORY = (b"0", b"\0"), b"5"
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"K": "a link with a long target",
}


class Source(Protocol):
    """What tar is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


@dataclass(slots=True)
class Member:
    """One file or folder; `chunks` gives a file's bytes, once and before the next member is taken."""

    name: str
    size: int
    is_directory: bool
    _reader: _Reader

    def chunks(self) -> Iterator[bytes]:
        """The bytes that were not taken yet."""
        while chunk := self._reader.take_data():
            yield chunk


class _Reader:
    def __init__(self, source: Source, archive: str) -> None:
        self._source = source
        self._archive = archive
        self._left = 0
        self._padding = 0

    def exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._source.read(size)
            if not part:
                raise CheckpointError(f"{self._archive}: ends in the middle; fetch or pack it again")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def begin_data(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK

    def take_data(self) -> bytes:
        if not self._left:
            return b""
        chunk = self.exactly(min(self._left, _CHUNK))
        self._left -= len(chunk)
        return chunk

    def end_data(self) -> None:
        while self.take_data():
            pass
        self.exactly(self._padding)
        self._padding = 0


def members(source: Source, archive: str) -> Iterator[Member]:
    """The members of the tar in `source`, in order; `archive` names it in messages.

    Raises:
        CheckpointError: for a member that is neither file nor folder, a bad header, or an end before the end mark.
    """
    reader = _Reader(source, archive)
    longer_name: str | None = None
    longer_size: int | None = None
    while (header := reader.exactly(_BLOCK)) != bytes(_BLOCK):
        name, size, kind = _parse(header, archive)
        if kind in {b"x", b"g", b"L"}:
            if size > _LARGEST_EXTENSION:
                raise CheckpointError(f"{archive}: a header of {size} bytes is refused; no checkpoint needs one")
            reader.begin_data(size)
            data = b"".join(iter(reader.take_data, b""))
            reader.end_data()
            if kind == b"L":
                longer_name = _text(data.partition(b"\0")[0], archive)
            elif kind == b"x":
                records = _pax_records(data, archive)
                longer_name = records.get("path", longer_name)
                longer_size = _pax_size(records, archive)
            continue
        name = name if longer_name is None else longer_name
        size = size if longer_size is None else longer_size
        longer_name = longer_size = None
        is_directory = kind == _DIRECTORY or (kind == b"\0" and name.endswith("/"))
        if kind not in _FILE and not is_directory:
            what = _REFUSED.get(kind, "of an unknown kind")
            raise CheckpointError(
                f"{archive}: {name!r} is {what}, which a checkpoint may not hold; pack plain files only"
            )
        if is_directory and size:
            raise CheckpointError(f"{archive}: folder {name!r} claims to hold {size} bytes; pack it again")
        reader.begin_data(size)
        yield Member(name, size, is_directory, reader)
        reader.end_data()


def _parse(header: bytes, archive: str) -> tuple[str, int, bytes]:
    expected = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    if _number(header[148:156], archive) != expected:
        raise CheckpointError(f"{archive}: not a tar archive, or a damaged one; pack it again")
    name = _text(header[:100].partition(b"\0")[0], archive)
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
        name = f"{_text(prefix, archive)}/{name}"
    return name, _number(header[124:136], archive), header[156:157]


def _number(field: bytes, archive: str) -> int:
    if field[0] == 0x80:  # GNU's and star's way to write a size of 8 GiB or more
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits and not (digits.isdigit() and b"8" not in digits and b"9" not in digits):
        raise CheckpointError(f"{archive}: not a tar archive, or a damaged one; pack it again")
    return int(digits or b"0", 8)


def _pax_records(data: bytes, archive: str) -> dict[str, str]:
    records = {}
    while data:
        digits, space, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        record = data[len(digits) + 1 : length]
        if not space or length > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise CheckpointError(f"{archive}: damaged pax header; pack it again")
        key, _, value = record[:-1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise CheckpointError(f"{archive}: sparse files are refused; pack it without --sparse")
        if key in {b"path", b"size"}:
            records[key.decode()] = _text(value, archive)
        data = data[length:]
    return records


def _pax_size(records: dict[str, str], archive: str) -> int | None:
    text = records.get("size")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise CheckpointError(f"{archive}: damaged pax header; pack it again")
    return int(text)


def _text(name: bytes, archive: str) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise CheckpointError(f"{archive}: a member's name is not UTF-8; rename it and pack again") from None
