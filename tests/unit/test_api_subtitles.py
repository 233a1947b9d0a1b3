"""srt and vtt that players accept, whatever was said."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from babelrack.api_server.subtitles import srt, vtt


@dataclass(frozen=True)
class Said:
    start: float
    end: float
    text: str


times = st.floats(0, 400_000, allow_nan=False)
segments = st.lists(
    st.builds(Said, times, times, st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\n->&<")), max_size=40)),
    max_size=8,
)
SRT = re.compile(r"(\d+)\n(\d\d+:[0-5]\d:[0-5]\d,\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d,\d{3})\n(\S.*)\n\n")
VTT = re.compile(r"(\d\d+:[0-5]\d:[0-5]\d\.\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d\.\d{3})\n(\S.*)\n\n")


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def spoken(said: list[Said]) -> list[Said]:
    return [one for one in said if one.text.split()]


def test_srt_looks_as_players_know_it():
    text = srt([Said(0, 4.2, " Hello."), Said(3599.9996, 3601.5, "Over\nan hour --> later")])
    assert text == (
        "1\n00:00:00,000 --> 00:00:04,200\nHello.\n\n2\n01:00:00,000 --> 01:00:01,500\nOver an hour -> later\n\n"
    )


def test_vtt_looks_as_players_know_it():
    assert vtt([Said(0.5, 4.2, "Tom & <Jerry>")]) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:04.200\nTom &amp; &lt;Jerry&gt;\n\n"
    )


def test_nothing_said_is_an_empty_file_of_its_kind():
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


@given(segments)
def test_every_cue_of_an_srt_can_be_read_back(said):
    cues = SRT.findall(srt(said))
    assert "".join(f"{n}\n{a} --> {b}\n{t}\n\n" for n, a, b, t in cues) == srt(said)
    assert [int(number) for number, *_ in cues] == list(range(1, len(spoken(said)) + 1))
    for (_, start, end, text), one in zip(cues, spoken(said), strict=True):
        assert abs(seconds(start) - one.start) <= 0.0011
        assert seconds(end) >= seconds(start)
        assert "-->" not in text


@given(segments)
def test_every_cue_of_a_vtt_can_be_read_back(said):
    header, _, cues = vtt(said).partition("\n\n")
    assert header == "WEBVTT"
    assert len(VTT.findall(cues)) == len(spoken(said))
    assert cues.count("-->") == len(spoken(said))
    assert "<" not in cues
