"""Ogg around bare Opus packets (RFC 7845), so that they are decoded where every file is: in the confined child.

Browsers' WebCodecs, WebRTC gateways and telephony send a packet a message; nothing in the stream says that it is Opus.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from babelrack.audio.containers import CONTAINED_OPUS, demuxer_of
from babelrack.audio.errors import AudioError

_SHORTEST_MAGIC: Final = 4
_RATE: Final = 48_000
_LONGEST_SAMPLES: Final = _RATE * 120 // 1000
_LONGEST_BYTES: Final = 48 * 1275
_LOOKAHEAD: Final = 312  # libopus's own, which its packets don't tell
_SERIAL: Final = 1
_FIRST, _LATER = 2, 0
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_contained(begin: bytes) -> bool:
    """Whether a stream of Opus that begins like this has a container."""
    cut_off = len(begin) < _SHORTEST_MAGIC and begin in (b"OggS"[: len(begin)], b"\x1aE\xdf\xa3"[: len(begin)])
    return cut_off or demuxer_of(begin) in CONTAINED_OPUS["opus"]


class OggOpus:
    """A stream of packets becomes a stream of pages, one each; the headers come with the first."""

    def __init__(self) -> None:
        self._pages = 0
        self._samples = 0

    def page(self, packet: bytes) -> bytes:
        """Return what the stream has with this packet.

        Raises:
            AudioError: when it is none (`UNDECODABLE`).
        """
        samples = packet_samples(packet)
        begun = b"" if self._pages else self._headers(channels=2 if packet[0] & 4 else 1)
        self._samples += samples
        return begun + self._page(packet, self._samples)

    def _headers(self, channels: int) -> bytes:
        head = struct.pack("<8sBBHIhB", b"OpusHead", 1, channels, _LOOKAHEAD, _RATE, 0, 0)
        tags = struct.pack("<8sI9sI", b"OpusTags", 9, b"babelrack", 0)
        return self._page(head, 0) + self._page(tags, 0)

    def _page(self, packet: bytes, position: int) -> bytes:
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        kind = _LATER if self._pages else _FIRST
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, kind, position, _SERIAL, self._pages, 0, len(lacing))
        page = head + lacing + packet
        self._pages += 1
        return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


def packet_samples(packet: bytes) -> int:
    """Return how many samples at 48 kHz an Opus packet has (RFC 6716, section 3.1).

    Raises:
        AudioError: when it is none (`UNDECODABLE`).
    """
    if not packet or len(packet) > _LONGEST_BYTES or (packet[0] & 3 == 3 and len(packet) < 2):
        raise _no_packet(packet)
    mode = packet[0] >> 3
    if mode < 12:
        frame = (480, 960, 1920, 2880)[mode & 3]
    elif mode < 16:
        frame = (480, 960)[mode & 1]
    else:
        frame = (120, 240, 480, 960)[mode & 3]
    code = packet[0] & 3
    count = packet[1] & 0x3F if code == 3 else (1, 2, 2)[code]
    if not 0 < frame * count <= _LONGEST_SAMPLES:
        raise _no_packet(packet)
    return frame * count


def _no_packet(packet: bytes) -> AudioError:
    return AudioError(
        "UNDECODABLE",
        f"A frame of {len(packet)} bytes is no Opus packet, and the stream didn't begin as Ogg or WebM; "
        "send one packet a frame, or what a recorder writes.",
    )


def _checksum(page: bytes) -> int:
    """Ogg's CRC is zlib's with all bits the other way round, and neither begun nor ended with ones."""
    ones = 0xFFFF_FFFF
    crc = zlib.crc32(page.translate(_REVERSED), ones) ^ ones
    return int(f"{crc:032b}"[::-1], 2)
