"""What kind of file an upload is, told by its first bytes, and which demuxers and codecs may touch it.

libavformat never guesses among all that it knows: playlists and index formats (HLS, DASH, concat, SDP) could make it
open other files or addresses. The demuxer is chosen here and is the only one allowed.
"""

from dataclasses import dataclass
from typing import Final, Self

from babelrack.audio.errors import AudioError

READABLE: Final = "wav, flac, mp3, ogg, opus, m4a, mp4, webm, mkv, aac, aiff, caf, au or amr"

HEAD_BYTES: Final = 16
"""How much of a file `demuxer_of` needs to see."""

HEADERLESS: Final = {"linear16": "s16le", "linear32": "s32le", "alaw": "alaw", "mulaw": "mulaw"}
"""Encoding name → libavformat's demuxer for the bare samples."""

CONTAINED_OPUS: Final = {"opus": frozenset({"ogg", "matroska", "mov"}), "ogg_opus": frozenset({"ogg"})}
"""Encoding name → demuxers whose files it can mean."""

SYNC_ONLY: Final = "mp3,aac"
"""Demuxers of streams without a file header, which may begin in the middle of a frame."""

CODECS: Final = frozenset(
    (
        *("aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "gsm", "gsm_ms", "opus", "vorbis"),
        *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float"),
        *("adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8"),
        *("pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le"),
        *("pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le"),
    )
)

_MAGIC: Final = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"caff", "caf"),
    (0, b"#!AMR", "amr"),
    (0, b".snd", "au"),
    (8, b"WAVE", "wav"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    *((4, box, "mov") for box in (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip")),
)
_CHUNKED: Final = {"wav": (b"RIFF", b"RIFX", b"RF64", b"BW64"), "aiff": (b"FORM",)}


@dataclass(frozen=True, slots=True)
class Declared:
    """What the request says: an encoding, or None for "see for yourself", and the shape of bare samples.

    What is `live` comes as it is spoken, and is handed on without waiting for more.
    """

    encoding: str | None = None
    sample_rate: int = 16_000
    channels: int = 1
    live: bool = False

    @classmethod
    def checked(cls, encoding: str | None, sample_rate: int, channels: int, *, live: bool = False) -> Self:
        """Raise `AudioError` with UNKNOWN_ENCODING for a name or numbers that can't be decoded."""
        known = [*HEADERLESS, *CONTAINED_OPUS]
        if encoding is not None and encoding not in known:
            raise AudioError(
                "UNKNOWN_ENCODING",
                f"Encoding {encoding[:40]!r} is unknown; use one of {', '.join(known)}, "
                f"or leave it out for {READABLE}.",
            )
        if encoding in HEADERLESS:
            if not 8_000 <= sample_rate <= 192_000:
                raise AudioError(
                    "UNKNOWN_ENCODING",
                    f"sample_rate {sample_rate} is outside of 8000 to 192000 Hz for {encoding} audio.",
                )
            if not 1 <= channels <= 64:
                raise AudioError("UNKNOWN_ENCODING", f"channels {channels} is outside of 1 to 64 for {encoding} audio.")
        return cls(encoding, sample_rate, channels, live)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the upload says it is. `claimed_seconds` is the header's word, not the decoded length."""

    container: str
    codec: str
    sample_rate: int
    channels: int
    claimed_seconds: float | None


def demuxer_of(head: bytes) -> str | None:
    """Name the demuxer for a file that begins with `head` (`HEAD_BYTES` of it), None where no signature fits."""
    for offset, signature, demuxer in _MAGIC:
        if head.startswith(signature, offset) and head.startswith(_CHUNKED.get(demuxer, b"")):
            return demuxer
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3"
    return None


def id3_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag that `head` begins with, 0 where there is none."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return size + 10 + (10 if head[5] & 0x10 else 0)
