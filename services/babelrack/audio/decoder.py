"""One upload into 16 kHz mono PCM, in this process: what the zygote's children run.

Demuxing and decoding are libav's, mixing is a plain average of the channels, resampling is soxr's (HQ: 16-bit audio
loses nothing audible, and lengths come out exact). Any number of seconds passes through in blocks of about one.
"""

import os
import stat
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from babelrack.audio import PCM_CHUNK_BYTES
from babelrack.audio.containers import (
    CODECS,
    CONTAINED_OPUS,
    HEAD_BYTES,
    HEADERLESS,
    READABLE,
    SYNC_ONLY,
    AudioInfo,
    Declared,
    demuxer_of,
    id3_bytes,
)
from babelrack.audio.errors import AudioError
from babelrack.audio.limits import DecodeLimits
from babelrack.audio.samples import Resampler

_UNTRUSTED_DURATION: Final = frozenset({"mp3", "aac", "amr"})
"""Demuxers that guess a duration from the first frames' bit rate when the file doesn't state one."""

_SAMPLE_BYTES: Final = {"pcm_alaw": 1, "pcm_mulaw": 1, "pcm_u8": 1, "pcm_s8": 1, "pcm_f64le": 8, "pcm_f64be": 8}


class Upload:
    """A file descriptor as libav wants to read it.

    A regular file is read at positions of our own, so that its descriptor's offset, which the sender shares, stays put.
    """

    def __init__(self, file_descriptor: int) -> None:
        self._fd = file_descriptor
        status = os.fstat(file_descriptor)
        self._regular = stat.S_ISREG(status.st_mode)
        self._position = 0
        self._looked_at = b""
        self.size = status.st_size if self._regular else None

    def head(self, at: int = 0) -> bytes:
        """Return the first bytes, or those at `at` in a regular file, without consuming them."""
        if self._regular:
            return os.pread(self._fd, HEAD_BYTES, at)
        while len(self._looked_at) < HEAD_BYTES and (piece := os.read(self._fd, HEAD_BYTES - len(self._looked_at))):
            self._looked_at += piece
        return self._looked_at if at == 0 else b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end."""
        if self._regular:
            data = os.pread(self._fd, size, self._position)
            self._position += len(data)
            return data
        if self._looked_at:
            data, self._looked_at = self._looked_at[:size], self._looked_at[size:]
            return data
        return os.read(self._fd, size)

    def seekable(self) -> bool:
        """Only a regular file can be read anywhere."""
        return self._regular

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position of the next read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._fd).st_size}[whence]
        self._position = max(0, base + offset)
        return self._position


class Decoder:
    """One upload, opened; iterate it once for its PCM in pieces of at most 64 KiB.

    Raises `AudioError` when it is opened or at any later piece.
    """

    def __init__(self, file_descriptor: int, declared: Declared, limits: DecodeLimits) -> None:
        self._limits = limits
        self._live = declared.live
        self._upload = Upload(file_descriptor)
        head = self._upload.head()
        if not head:
            raise AudioError("EMPTY", "The upload is empty; send the bytes of an audio file.")
        self._demuxer, self._options = self._choose(declared, head)
        self._container = self._open()
        self._stream = self._audio_stream()
        self.info = self._describe()
        self._refuse_by_claim()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pcm()
        except MemoryError:
            _out_of_memory(self._limits)
        finally:
            self._container.close()

    def _choose(self, declared: Declared, head: bytes) -> tuple[str, dict[str, str]]:
        found = demuxer_of(head)
        if skip := id3_bytes(head):
            found = demuxer_of(self._upload.head(skip))
            found = found if found in {"flac", "aac"} else "mp3"
        if declared.encoding in HEADERLESS:
            if found == "wav":  # a click and a wrong rate otherwise: no samples begin like this by chance
                return found, {}
            shape = {"sample_rate": str(declared.sample_rate), "ch_layout": f"{declared.channels}C"}
            return HEADERLESS[declared.encoding], shape
        if declared.encoding in CONTAINED_OPUS and found not in CONTAINED_OPUS[declared.encoding]:
            raise AudioError(
                "UNDECODABLE",
                f"The upload is no Ogg or WebM file, and bare Opus packets can't be told apart in a file; "
                f"wrap them in Ogg for encoding={declared.encoding}, or leave encoding out for another container.",
            )
        return found or SYNC_ONLY, {}

    def _open(self) -> InputContainer:
        whitelists = {
            "format_whitelist": self._demuxer,
            "codec_whitelist": ",".join(sorted(CODECS)),
            "protocol_whitelist": "",
        }
        if self._demuxer == "wav":
            # else megabytes of samples are searched for DTS and S/PDIF at 50 ms each, and packets are tiny
            whitelists |= {"probesize": "4096", "max_size": "65536"}
        if self._live:
            # else libavformat collects up to 5 MB, or as many seconds, before it hands on the first packet
            whitelists |= {"probesize": "32", "analyzeduration": "0"}
        forced = None if self._demuxer == SYNC_ONLY else self._demuxer
        try:
            return av.open(
                self._upload,
                mode="r",
                format=forced,
                container_options=whitelists | self._options,
                metadata_errors="replace",
                io_open=_refuse_to_open,
            )
        except MemoryError:
            _out_of_memory(self._limits)
        except (av.error.FFmpegError, PermissionError, ValueError, RuntimeError) as fault:
            if forced is None:
                raise AudioError(
                    "NOT_AUDIO", f"The upload is not audio that can be read here: send {READABLE}."
                ) from fault
            raise AudioError(
                "UNDECODABLE",
                f"The upload looks like {forced}, but its header is damaged or cut short.",
            ) from fault

    def _audio_stream(self) -> AudioStream:
        streams = self._container.streams.audio
        if not streams:
            raise AudioError("NOT_AUDIO", f"The upload is a {self._demuxer} file without any audio in it.")
        for stream in streams:
            if stream.codec_context is not None and stream.codec_context.name in CODECS:
                return stream
        codec = streams[0].codec_context.name if streams[0].codec_context is not None else "unknown"
        raise AudioError("UNDECODABLE", f"The upload holds {codec} audio, which is not supported: send {READABLE}.")

    def _describe(self) -> AudioInfo:
        stream, context = self._stream, self._stream.codec_context
        seconds = None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration is not None:
            seconds = self._container.duration / 1e6
        return AudioInfo(self._container.format.name, context.name, context.sample_rate, context.channels, seconds)

    def _refuse_by_claim(self) -> None:
        self._refuse_shape(self.info.sample_rate, self.info.channels)
        seconds = self.info.claimed_seconds
        if seconds is None or (self._demuxer in _UNTRUSTED_DURATION and not self._states_length()):
            return
        if self.info.codec.startswith("pcm_") and self._upload.size is not None:
            width = _SAMPLE_BYTES.get(self.info.codec) or int("".join(filter(str.isdigit, self.info.codec))) // 8
            seconds = min(seconds, self._upload.size / (width * self.info.channels * self.info.sample_rate))
        if seconds > self._limits.max_seconds:
            self._too_long(f"{_hours(seconds)} of audio")

    def _states_length(self) -> bool:
        """Tell whether an mp3 begins with the frame in which encoders state the number of frames."""
        start = id3_bytes(self._upload.head())
        if self._demuxer != "mp3" or not self._upload.seekable():
            return False
        before = self._upload.tell()
        self._upload.seek(start)
        first = self._upload.read(256)
        self._upload.seek(before)
        return b"Xing" in first or b"Info" in first

    def _refuse_shape(self, rate: int, channels: int) -> None:
        limits = self._limits
        if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
            raise AudioError(
                "UNDECODABLE",
                f"The upload claims {rate} samples a second; "
                f"{limits.min_sample_rate} to {limits.max_sample_rate} can be read.",
            )
        if not 1 <= channels <= limits.max_channels:
            raise AudioError(
                "UNDECODABLE", f"The upload claims {channels} channels; 1 to {limits.max_channels} can be read."
            )

    def _too_long(self, what: str) -> NoReturn:
        raise AudioError(
            "TOO_LONG", f"The upload is {what}; the longest allowed is {_hours(self._limits.max_seconds)}: split it."
        )

    def _pcm(self) -> Iterator[bytes]:
        produced = 0
        for samples in self._resampled():
            produced += len(samples)
            if produced > self._limits.max_output_samples:
                self._too_long(f"more than {_hours(self._limits.max_seconds)} of audio")
            data = samples.tobytes()
            for start in range(0, len(data), PCM_CHUNK_BYTES):
                yield data[start : start + PCM_CHUNK_BYTES]
        if produced == 0:
            raise AudioError("EMPTY", "The upload holds no audio: it is a header with nothing after it.")

    def _resampled(self) -> Iterator[NDArray[np.int16]]:
        resampler: Resampler | None = None
        for mono, rate in self._mono_blocks():
            if resampler is None or resampler.rate != rate:
                if resampler is not None:
                    yield resampler.flush()
                resampler = Resampler(rate)
            yield resampler.push(mono)
        if resampler is not None:
            yield resampler.flush()

    def _mono_blocks(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Gather frames, which may be as short as 3 ms, into blocks of a second: mixing costs by the call.

        What is live is not gathered.
        """
        pending: list[NDArray[Any]] = []
        held, shape = 0, (0, 0, "")
        for frame in self._frames():
            found = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
            if pending and found != shape:
                yield _mono(np.concatenate(pending, axis=1)), shape[0]
                pending, held = [], 0
            self._refuse_shape(frame.sample_rate, frame.layout.nb_channels)
            shape = found
            pending.append(_channels(frame))
            held += frame.samples
            if self._live or held >= frame.sample_rate:
                yield _mono(np.concatenate(pending, axis=1)), shape[0]
                pending, held = [], 0
        if pending:
            yield _mono(np.concatenate(pending, axis=1)), shape[0]

    def _frames(self) -> Iterator[AudioFrame]:
        packets = corrupt = frames = 0
        self._stream.codec_context.thread_count = 1
        demuxed = self._container.demux(self._stream)
        while True:
            try:
                packet = next(demuxed, None)
                if packet is None:
                    break
                packets += 1
                decoded = packet.decode()
            except MemoryError:
                raise
            except (av.error.FFmpegError, PermissionError, ValueError, RuntimeError):
                corrupt += 1
                if corrupt > 16 and corrupt > packets * self._limits.max_corrupt_share:
                    break
                continue
            for frame in decoded:
                if isinstance(frame, AudioFrame) and frame.samples:
                    frames += 1
                    yield frame
        if corrupt > max(1.0, packets * self._limits.max_corrupt_share) or (
            frames == 0 and self._promises_audio(packets)
        ):
            raise AudioError(
                "UNDECODABLE", f"The upload is damaged: {corrupt} of its first {packets} pieces can't be decoded."
            )

    def _promises_audio(self, packets: int) -> bool:
        return packets > 1 or bool(self.info.claimed_seconds)


def _channels(frame: AudioFrame) -> NDArray[Any]:
    """Return a frame's samples as they were coded, shape (channels, samples)."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels > 7:
        # PyAV counts planes by looking for the null after the last one; from eight planes on there is none
        frame = av.AudioResampler(format=frame.format.packed.name).resample(frame)[0]
    samples: NDArray[Any] = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, channels).T


def _mono(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Average the channels: float32 in [-1, 1], shape (samples,), from (channels, samples) of any coded kind."""
    kind, channels = samples.dtype, len(samples)
    mixed: NDArray[np.float32] = samples[0].astype(np.float32)
    for channel in samples[1:]:
        mixed += channel
    if kind.kind == "f":
        mixed *= 1.0 / channels
        return np.nan_to_num(mixed, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
    if kind == np.uint8:
        mixed -= 128.0 * channels
    mixed *= 1.0 / (channels * 2 ** (8 * kind.itemsize - 1))
    return mixed


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("an upload may not name other files or addresses")


def _out_of_memory(limits: DecodeLimits) -> NoReturn:
    raise AudioError(
        "UNDECODABLE",
        f"Decoding the upload takes more than {limits.max_memory_bytes >> 20} MiB: convert it to wav, flac or mp3.",
    )


def _hours(seconds: float) -> str:
    whole = int(min(seconds, 1e9))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"
