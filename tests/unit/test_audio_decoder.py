"""Any audio file becomes 16 kHz mono PCM of the right length and content; anything else becomes one sentence."""

import io
import os
import struct
import tempfile
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.audio.containers import HEAD_BYTES, Declared, demuxer_of, id3_bytes
from babelrack.audio.decoder import Decoder, Resampler
from babelrack.audio.errors import CODES, AudioError
from babelrack.audio.limits import DecodeLimits

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def tone(rate, seconds, frequency=440.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def encode(codec, container, rate=16_000, channels=1, seconds=2.0, signal=None, **options):
    """Encode a tone, or `signal`, with libav: the bytes of a file."""
    file = io.BytesIO()
    layout = options.pop("layout", None) or LAYOUTS[channels]
    signal = tone(rate, seconds) if signal is None else signal
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, options={k: str(v) for k, v in options.items()})
        stream.codec_context.open()
        into = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        step = stream.codec_context.frame_size or 1024
        for start in range(0, len(signal), step):
            block = np.tile(signal[start : start + step, None], (1, channels)).astype("f4")
            frame = av.AudioFrame(format="flt", layout=layout, samples=len(block))
            frame.planes[0].update(np.ascontiguousarray(block))
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for ready in into.resample(frame):
                ready.pts = start
                output.mux(stream.encode(ready))
        output.mux(stream.encode(None))
    return file.getvalue()


def wav(samples, rate=16_000, channels=1, form=1, bits=16, data_bytes=None, extensible=False):
    """Write a RIFF file by hand, so that its header can lie."""
    data = np.asarray(samples).tobytes()
    width = bits // 8
    fmt = struct.pack("<HHIIHH", form, channels, rate, (rate * channels * width) & 0xFFFFFFFF, channels * width, bits)
    if extensible:
        guid = struct.pack("<H", form) + bytes.fromhex("000000001000800000aa00389b71")
        fmt = struct.pack("<H", 0xFFFE) + fmt[2:] + struct.pack("<HHI", 22, bits, (1 << min(channels, 18)) - 1) + guid
    size = len(data) if data_bytes is None else data_bytes
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(chunks), 0xFFFFFFFF)) + chunks


def decode(content, declared=None, limits=None):
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        pieces = list(Decoder(file.fileno(), declared or Declared(), limits or DecodeLimits()))
    assert all(len(piece) <= 65_536 for piece in pieces)
    return np.frombuffer(b"".join(pieces), "<i2")


def refusal(content, declared=None, limits=None):
    with pytest.raises(AudioError) as caught:
        decode(content, declared, limits)
    assert caught.value.code in CODES
    assert caught.value.message[-1] == "."
    assert "\n" not in caught.value.message
    return caught.value


def peak_frequency(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * 16_000 / len(samples)


def assert_is_the_tone(samples, seconds=2.0, priming=0.0, frequency=440.0):
    assert -0.01 <= len(samples) / 16_000 - seconds <= 0.01 + priming
    middle = samples[4_000:-4_000].astype(float) / 32_768
    assert abs(peak_frequency(middle) - frequency) < 2
    assert 0.28 < np.sqrt(np.mean(middle**2)) < 0.37


LOSSLESS_OR_EXACT = [
    *[("pcm_s16le", "wav", rate, 1) for rate in (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000)],
    *[("pcm_s16le", "wav", 44_100, channels) for channels in (2, 6, 8)],
    *[(codec, "wav", 22_050, 2) for codec in ("pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le")],
    *[(codec, "wav", 8_000, 1) for codec in ("pcm_alaw", "pcm_mulaw")],
    *[("flac", "flac", rate, channels) for rate, channels in ((16_000, 1), (44_100, 2), (96_000, 8))],
    ("libmp3lame", "mp3", 44_100, 2),
    ("libmp3lame", "mp3", 8_000, 1),
    ("libopus", "ogg", 48_000, 1),
    ("libopus", "webm", 48_000, 2),
    ("libopus", "matroska", 48_000, 8),
    ("alac", "ipod", 44_100, 2),
    ("flac", "ogg", 44_100, 1),
    ("pcm_s16be", "aiff", 44_100, 2),
    ("pcm_s16le", "caf", 22_050, 1),
    ("pcm_s16be", "au", 44_100, 1),
]
WITH_PRIMING = [
    ("aac", "ipod", 44_100, 2),
    ("aac", "mp4", 48_000, 8),
    ("aac", "adts", 44_100, 1),
    ("libopencore_amrnb", "amr", 8_000, 1),
    ("adpcm_ms", "wav", 22_050, 2),
    ("libmp3lame", "wav", 44_100, 1),
    ("mp2", "mp2", 44_100, 1),
]


@pytest.mark.parametrize(("codec", "container", "rate", "channels"), LOSSLESS_OR_EXACT)
def test_a_file_comes_out_as_long_as_it_is(codec, container, rate, channels):
    assert_is_the_tone(decode(encode(codec, container, rate, channels)))


@pytest.mark.parametrize(("codec", "container", "rate", "channels"), WITH_PRIMING)
def test_codecs_that_pad_add_no_more_than_their_padding(codec, container, rate, channels):
    assert_is_the_tone(decode(encode(codec, container, rate, channels)), priming=0.09)


def test_vorbis_is_read():
    signal = np.repeat(tone(44_100, 2.0)[None], 2, axis=0)
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as output:
        stream = output.add_stream("vorbis", rate=44_100, layout="stereo", options={"strict": "-2"})
        stream.codec_context.open(strict=False)
        for start in range(0, signal.shape[1], 64):
            block = np.ascontiguousarray(signal[:, start : start + 64], dtype="f4")
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, start, Fraction(1, 44_100)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert_is_the_tone(decode(file.getvalue()), priming=0.09)


@settings(max_examples=25, deadline=None)
@given(rate=st.integers(1_000, 768_000), channels=st.integers(1, 64), extensible=st.booleans())
def test_any_rate_and_channel_count_gives_the_right_length(rate, channels, extensible):
    count = min(rate // 4, 400_000 // channels)
    samples = np.repeat((tone(rate, 1, 100.0)[:count] * 32_767).astype("<i2")[:, None], channels, axis=1)
    heard = decode(wav(samples, rate, channels, extensible=extensible))
    assert abs(len(heard) - count * 16_000 / rate) <= 1


def test_16_khz_mono_16_bit_passes_unchanged():
    samples = np.random.default_rng(1).integers(-32_768, 32_768, 50_001).astype("<i2")
    assert np.array_equal(decode(wav(samples)), samples)
    assert np.array_equal(decode(samples.tobytes(), Declared("linear16")), samples)


def test_channels_are_averaged_and_never_clip():
    left, right = np.full(16_000, 30_000, "<i2"), np.full(16_000, 10_000, "<i2")
    assert np.all(decode(wav(np.stack([left, right], axis=1), channels=2)) == 20_000)
    full = np.full((16_000, 2), 1.0, "<f4")
    assert np.all(decode(wav(full, channels=2, form=3, bits=32)) == 32_767)
    loud = np.full((16_000, 1), 7.0, "<f4")
    assert np.all(decode(wav(loud, form=3, bits=32)) == 32_767)


def test_not_a_number_is_silence():
    samples = np.array([np.nan, np.inf, -np.inf, 0.25] * 4_000, "<f4")
    assert set(decode(wav(samples, form=3, bits=32)).tolist()) == {0, 32_767, -32_768, 8_192}


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_speech_frequencies_within_a_16_bit_samples_noise(rate):
    """A sweep over 100 Hz to 80 % of the narrower band, against the same sweep computed at 16 kHz."""
    seconds, top = 4.0, 0.8 * min(rate, 16_000) / 2

    def sweep(at):
        time = np.arange(int(at * seconds)) / at
        return 0.5 * np.sin(2 * np.pi * (100 * time + (top - 100) / (2 * seconds) * time**2))

    resampler = Resampler(rate)
    source = sweep(rate).astype(np.float32)
    parts = [resampler.push(source[start : start + 4_097]) for start in range(0, len(source), 4_097)]
    heard = np.concatenate([*parts, resampler.flush()]) / 32_768
    wanted = sweep(16_000)
    assert abs(len(heard) - len(wanted)) <= 1
    error = (heard[: len(wanted)] - wanted[: len(heard)])[1_600:-1_600]
    assert 10 * np.log10(np.mean(wanted**2) / np.mean(error**2)) > 80


def test_resampling_lets_nothing_fold_back_into_speech():
    resampler = Resampler(48_000)
    above = tone(48_000, 2.0, 11_000.0).astype(np.float32)
    heard = np.concatenate([resampler.push(above), resampler.flush()])[1_600:-1_600] / 32_768
    assert np.sqrt(np.mean(heard**2)) < 1e-4


@pytest.mark.parametrize(
    ("encoding", "codec", "container", "rate", "channels"),
    [
        ("linear16", "pcm_s16le", "s16le", 8_000, 1),
        ("linear16", "pcm_s16le", "s16le", 44_100, 2),
        ("linear32", "pcm_s32le", "s32le", 48_000, 1),
        ("alaw", "pcm_alaw", "alaw", 8_000, 1),
        ("mulaw", "pcm_mulaw", "mulaw", 8_000, 2),
    ],
)
def test_headerless_samples_are_read_as_declared(encoding, codec, container, rate, channels):
    content = encode(codec, container, rate, channels)
    assert_is_the_tone(decode(content, Declared(encoding, rate, channels)))


def test_headerless_samples_in_twenty_channels_are_read():
    samples = np.repeat((tone(16_000, 2.0) * 32_767).astype("<i2")[:, None], 20, axis=1)
    assert_is_the_tone(decode(samples.tobytes(), Declared("linear16", 16_000, 20)))


def test_a_wav_file_sent_as_linear16_is_read_as_the_wav_file_it_is():
    assert_is_the_tone(decode(encode("pcm_s16le", "wav", 44_100, 2), Declared("linear16", 16_000, 1)))


def test_opus_means_opus_in_a_container():
    ogg, webm = encode("libopus", "ogg", 48_000), encode("libopus", "webm", 48_000)
    for encoding, content in (("opus", ogg), ("opus", webm), ("ogg_opus", ogg)):
        assert_is_the_tone(decode(content, Declared(encoding)))
    assert "Ogg" in refusal(webm, Declared("ogg_opus")).message
    assert "Ogg" in refusal(b"\x78\x01" * 500, Declared("opus")).message


@pytest.mark.parametrize(
    ("encoding", "rate", "channels"),
    [("mp5", 16_000, 1), ("", 16_000, 1), ("linear16", 7_999, 1), ("alaw", 192_001, 1), ("mulaw", 8_000, 0)],
)
def test_an_impossible_declaration_is_refused_before_anything_is_read(encoding, rate, channels):
    with pytest.raises(AudioError) as caught:
        Declared.checked(encoding, rate, channels)
    assert caught.value.code == "UNKNOWN_ENCODING"


def test_video_is_passed_over_and_its_sound_is_heard():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        picture = output.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        sound = output.add_stream("aac", rate=16_000, layout="mono")
        for number in range(50):
            output.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8))))
        signal = tone(16_000, 2.0).astype("f4")
        for start in range(0, len(signal), 1_024):
            block = av.AudioFrame.from_ndarray(signal[None, start : start + 1_024], format="fltp", layout="mono")
            block.sample_rate, block.pts = 16_000, start
            output.mux(sound.encode(block))
        output.mux(picture.encode(None))
        output.mux(sound.encode(None))
    assert_is_the_tone(decode(file.getvalue()), priming=0.13)


def test_a_film_without_sound_is_no_audio():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        picture = output.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        for number in range(10):
            output.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8))))
        output.mux(picture.encode(None))
    assert refusal(file.getvalue()).code == "NOT_AUDIO"


def test_an_mp3_behind_a_large_picture_tag_is_read():
    picture = os.urandom(300_000)
    frame = b"APIC" + struct.pack(">I", len(picture) + 14)[:4] + b"\0\0" + b"\0image/jpeg\0\x03\0" + picture
    size = len(frame)
    tag = b"ID3\x03\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + frame
    assert id3_bytes(tag[:HEAD_BYTES]) == len(tag)
    assert_is_the_tone(decode(tag + encode("libmp3lame", "mp3", 44_100, 1)))


def test_an_mp3_that_begins_in_the_middle_of_a_frame_is_read():
    content = encode("libmp3lame", "mp3", 44_100, 1, seconds=4.0)
    assert_is_the_tone(decode(content[len(content) // 2 + 77 :]), priming=0.2, seconds=2.0)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '{path}'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{path}</BaseURL></MPD>",
        b"[playlist]\nFile1={path}\n",
        b"ID3\x03\0\0\0\0\0\0#EXTM3U\n#EXTINF:10,\n{path}\n",
    ],
)
def test_a_playlist_opens_nothing(content, tmp_path, monkeypatch):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encode("pcm_s16le", "wav"))
    reached = []
    monkeypatch.setattr("babelrack.audio.decoder._refuse_to_open", lambda *given: reached.append(given))
    with pytest.raises(AudioError) as caught:
        decode(content.replace(b"{path}", str(secret).encode()))
    assert caught.value.code in {"NOT_AUDIO", "UNDECODABLE"}
    assert not reached


def test_an_empty_upload_and_a_header_without_samples_are_empty():
    assert refusal(b"").code == "EMPTY"
    assert refusal(wav([])).code == "EMPTY"
    assert refusal(encode("flac", "flac", seconds=0.0)).code in {"EMPTY", "UNDECODABLE"}


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=4_000))
def test_random_bytes_are_refused_or_decoded_and_never_anything_else(content):
    try:
        decode(content)
    except AudioError as refused:
        assert refused.code in CODES  # noqa: PT017 - either ending is right


@pytest.mark.parametrize("seed", range(12))
def test_a_large_random_file_is_not_audio(seed):
    assert refusal(np.random.default_rng(seed).bytes(300_000)).code in {"NOT_AUDIO", "UNDECODABLE"}


@pytest.mark.parametrize(
    "head",
    [b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3", b"caff", b"#!AMR\n", b".snd", b"\xff\xfb\x90\x64",
     b"\xff\xf1\x50\x80", b"\0\0\0\x20ftypM4A ", b"FORM\0\0\0\0AIFF", b"ID3\x04\0\0\0\0\0\x05"],
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2])
def test_a_right_signature_before_random_bytes_is_refused(head, seed):
    if head == b".snd":
        head += struct.pack(">IIIII", 24, 0xFFFFFFFF, 99, 16_000, 1)
    assert refusal(head + np.random.default_rng(seed).bytes(60_000)).code in {"UNDECODABLE", "NOT_AUDIO", "EMPTY"}


CONTAINERS = [
    ("pcm_s16le", "wav", 16_000),
    ("flac", "flac", 44_100),
    ("libmp3lame", "mp3", 44_100),
    ("libopus", "ogg", 48_000),
    ("libopus", "webm", 48_000),
    ("aac", "adts", 44_100),
    ("pcm_s16be", "aiff", 44_100),
]


@pytest.mark.parametrize(("codec", "container", "rate"), CONTAINERS)
def test_a_truncated_file_gives_what_is_there(codec, container, rate):
    content = encode(codec, container, rate, seconds=4.0)
    heard = decode(content[: len(content) * 6 // 10])
    assert 1.5 < len(heard) / 16_000 < 2.7
    assert abs(peak_frequency(heard[4_000:20_000].astype(float)) - 440) < 2


def test_an_m4a_without_its_index_is_undecodable():
    content = encode("aac", "ipod", 44_100, seconds=4.0)
    assert refusal(content[: len(content) // 2]).code == "UNDECODABLE"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_heard_in_part_or_refused(data):
    codec, container, rate = data.draw(st.sampled_from([*CONTAINERS, ("aac", "ipod", 44_100)]))
    content = bytearray(_short(codec, container, rate))
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=64))
        content[start : start + len(patch)] = patch
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        heard = decode(bytes(content), limits=DecodeLimits(max_seconds=120))
    except AudioError as refused:
        assert refused.code in CODES  # noqa: PT017 - either ending is right
    else:
        assert len(heard) > 0


_MADE = {}


def _short(codec, container, rate):
    return _MADE.setdefault((codec, container), encode(codec, container, rate, seconds=0.7))


def test_damage_in_the_middle_is_skipped_up_to_a_share():
    noise = np.random.default_rng(0).standard_normal(44_100 * 8) * 0.1
    content = bytearray(encode("flac", "flac", 44_100, signal=noise))
    middle = len(content) // 2
    content[middle : middle + 3_000] = bytes(3_000)
    assert 7.5 < len(decode(bytes(content))) / 16_000 <= 8.01
    packets = bytearray(encode("aac", "ipod", 44_100, signal=noise))
    body = packets.index(b"mdat") + 4_000
    packets[body : body + len(packets) * 6 // 10] = np.random.default_rng(3).bytes(len(packets) * 6 // 10)
    assert refusal(bytes(packets)).code == "UNDECODABLE"


@pytest.mark.parametrize("claim", [0, 0xFFFFFFFF, 0x7FFFFFFF, 1_000_000])
def test_a_wav_whose_data_size_lies_is_read_to_its_end(claim):
    samples = (tone(16_000, 2.0) * 32_767).astype("<i2")
    assert_is_the_tone(decode(wav(samples, data_bytes=claim)))


@pytest.mark.parametrize(
    ("rate", "channels"), [(0, 1), (16_000, 0), (655_350, 255), (16_000, 255), (999, 1), (0xFFFFFFFF, 1)]
)
def test_a_header_that_claims_absurd_numbers_is_refused(rate, channels):
    assert refusal(wav(np.zeros(30_000, "<i2"), rate, channels)).code == "UNDECODABLE"


def flac_of_silence(seconds, rate=16_000):
    """A constant-subframe FLAC: hours of silence in kilobytes. One encoded frame of 65,535 samples, renumbered."""
    block = 65_535
    count = int(seconds * rate) // block + 1
    info = struct.pack(">HH", block, block) + bytes(6)
    packed = rate << 44 | 0 << 41 | 15 << 36 | 0
    header = b"fLaC" + b"\x80\0\0\x22" + info + packed.to_bytes(8, "big") + bytes(16)
    return header + b"".join(_silent_frame(number, block) for number in range(count))


def _silent_frame(number, block):
    coded = bytes([number]) if number < 0x80 else bytes([0xC0 | number >> 6, 0x80 | number & 0x3F])
    head = b"\xff\xf8\x70\x08" + coded + struct.pack(">H", block - 1)
    head += bytes([_crc(head, 8, 0x07)])
    body = head + b"\x00\x00\x00"
    return body + _crc(body, 16, 0x8005).to_bytes(2, "big")


def _crc(data, bits, polynomial):
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value


def test_a_bomb_of_silence_stops_at_the_limit_of_seconds():
    bomb = flac_of_silence(1_200)
    assert len(bomb) < 20_000
    assert len(decode(bomb)) / 16_000 > 1_199
    refused = refusal(bomb, limits=DecodeLimits(max_seconds=600))
    assert refused.code == "TOO_LONG"
    assert "0:10:00" in refused.message


@pytest.mark.parametrize(("codec", "container"), [("flac", "flac"), ("libopus", "ogg"), ("aac", "ipod")])
def test_a_header_that_states_too_many_seconds_is_refused_before_a_sample_is_decoded(codec, container):
    content = encode(codec, container, 48_000, seconds=4.0)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(AudioError) as caught:
            Decoder(file.fileno(), Declared(), DecodeLimits(max_seconds=3.0))
    assert caught.value.code == "TOO_LONG"


def test_a_header_that_states_too_few_seconds_does_not_lift_the_limit():
    content = bytearray(encode("flac", "flac", 16_000, seconds=4.0))
    content[21:26] = content[21] & 0xF0, 0, 0, 0x3E, 0x80
    assert refusal(bytes(content), limits=DecodeLimits(max_seconds=3.0)).code == "TOO_LONG"


def test_five_hours_are_refused_from_the_file_alone(tmp_path):
    path = tmp_path / "five-hours.wav"
    path.write_bytes(wav([], data_bytes=5 * 3600 * 32_000))
    os.truncate(path, path.stat().st_size + 5 * 3600 * 32_000)
    with path.open("rb") as file, pytest.raises(AudioError) as caught:
        Decoder(file.fileno(), Declared(), DecodeLimits())
    assert caught.value.code == "TOO_LONG"
    assert "5:00:00" in caught.value.message
    assert "4:00:00" in caught.value.message


def test_a_pipe_is_read_too():
    content = encode("flac", "flac", 44_100)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        with os.fdopen(write, "wb") as sink:
            assert len(content) < 65_536 * 4
            sink.write(content[:60_000])
        heard = np.frombuffer(b"".join(Decoder(source.fileno(), Declared(), DecodeLimits())), "<i2")
    assert len(heard) / 16_000 > 0.5


def test_the_senders_file_position_stays_where_it_is():
    with tempfile.TemporaryFile() as file:
        file.write(encode("pcm_s16le", "wav"))
        file.flush()
        file.seek(7)
        list(Decoder(file.fileno(), Declared(), DecodeLimits()))
        assert file.tell() == 7


@given(st.binary(max_size=HEAD_BYTES))
def test_any_beginning_has_a_demuxer_or_none(head):
    assert demuxer_of(head) in {None, "wav", "aiff", "flac", "ogg", "matroska", "caf", "amr", "au", "mov", "mp3", "aac"}
    assert id3_bytes(head) >= 0
