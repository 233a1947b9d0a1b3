"""Bare Opus packets in Ogg: what goes in comes out of another program's demuxer, and what is no packet is told."""

import io

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.audio.errors import AudioError
from babelrack.audio.ogg import OggOpus, is_contained, packet_samples

# A first byte whose two last bits don't say that a count follows.
ONE_OR_TWO_FRAMES = st.integers(0, 255).filter(lambda byte: byte & 3 != 3)
PACKET = st.builds(lambda first, rest: bytes([first]) + rest, ONE_OR_TWO_FRAMES, st.binary(max_size=1300))


@given(st.lists(PACKET, min_size=1, max_size=20))
def test_another_demuxer_finds_the_same_packets_at_their_times(packets):
    ogg = OggOpus()
    stream = b"".join(map(ogg.page, packets))
    with av.open(io.BytesIO(stream), format="ogg", container_options={"probesize": "32"}) as container:
        assert container.streams.audio[0].codec_context.name == "opus"
        found = [packet for packet in container.demux() if packet.size]
    assert [bytes(packet) for packet in found] == packets
    begins = [sum(map(packet_samples, packets[:index])) for index in range(len(packets))]
    times = [packet.pts for packet in found]
    assert [time - times[0] for time in times] == begins


@pytest.mark.parametrize(
    ("first", "samples"),
    [(0x00, 480), (0x18, 2880), (0x60, 480), (0x68, 960), (0x80, 120), (0xF8, 960), (0xF9, 1920), (0x19, 5760)],
)
def test_the_first_byte_says_how_long_a_packet_is(first, samples):
    assert packet_samples(bytes([first, 1])) == samples


def test_a_count_of_frames_is_read():
    assert packet_samples(bytes([0xFB, 3])) == 3 * 960


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x03", b"\xfb\x00", b"\x1b\x03", b"\x00" * 61_201],
    ids=["empty", "no-count", "no-frame", "over-120-ms", "too-many-bytes"],
)
def test_what_is_no_packet_is_told(packet):
    with pytest.raises(AudioError, match="is no Opus packet") as told:
        OggOpus().page(packet)
    assert told.value.code == "UNDECODABLE"


@pytest.mark.parametrize("begin", [b"O", b"OggS\x00\x02", b"\x1aE", b"\x1aE\xdf\xa3\x01", b"\x00\x00\x00\x1cftypiso5"])
def test_a_container_is_told_by_how_it_begins(begin):
    assert is_contained(begin)


@pytest.mark.parametrize("begin", [b"\xfc", b"\xf8\xff\xfe", b"\x78\x01\x02\x03\x04\x05"])
def test_a_packet_is_no_container(begin):
    assert not is_contained(begin)
