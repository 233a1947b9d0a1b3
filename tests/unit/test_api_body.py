"""Bodies: whatever way they are cut into chunks they are the same, and what is too much or not right is refused."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from babelrack.api_server import spool as spool_module
from babelrack.api_server.body import BodyLimits, read_body
from babelrack.api_server.errors import (
    ApiError,
    BadRequest,
    BodyStalled,
    BodyTooLarge,
    ClientGone,
    Unavailable,
    UnsupportedBody,
)
from babelrack.api_server.spool import IN_MEMORY_BYTES, Spool

LIMITS = BodyLimits(audio_bytes=4_000_000, idle_seconds=5, seconds=5)
BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, *, filename: str | None = None, content_type: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n"
    if content_type is not None:
        head += f"Content-Type: {content_type}\r\n"
    return head.encode() + b"\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def request(chunks, content_type: str = "", **headers: str) -> Request:
    """A request whose body comes in `chunks`; after them the client hangs, or is gone where the last one is None."""
    pending = list(chunks)
    names = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def receive():
        if not pending:
            await asyncio.Event().wait()
        chunk = pending.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(pending) or chunk == b"..."}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in names.items() if value],
    }
    return Request(scope, receive)


def read(chunks, content_type="", *, limits=LIMITS, only_form=False, folder="/tmp", **headers):
    async def run():
        async with Spool(folder) as spool:
            body = await read_body(request(chunks, content_type, **headers), spool, limits, only_form=only_form)
            descriptor = await spool.finish()
            return body, os.pread(descriptor, spool.size + 1, 0)

    return asyncio.run(run())


def cut(content: bytes, places) -> list[bytes]:
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "audio/wav", "Audio/MPEG; x=y", "video/webm"])
def test_a_raw_body_is_the_audio(content_type):
    body, audio = read([b"RI", b"FF"], content_type)
    assert body.audio
    assert audio == b"RIFF"


audio_bytes = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"\r\n", b"--", BOUNDARY.encode(), b"\r\n--" + BOUNDARY[:-1].encode(), b"x"])).map(
        b"".join
    ),
)


@given(
    audio_bytes.filter(lambda content: b"--" + BOUNDARY.encode() not in content),
    st.lists(st.integers(0, 2000), max_size=12),
)
def test_a_form_is_the_same_however_it_is_cut_into_chunks(content, places):
    whole = form(part("language", b"hi"), part("file", content, filename="a.wav"), part("prompt", "नमस्ते".encode()))
    body, audio = read(cut(whole, places), FORM)
    assert audio == content
    assert body.fields == [("language", "hi"), ("prompt", "नमस्ते")]
    assert body.audio_part == "file"


@settings(max_examples=200)
@given(
    st.binary(max_size=400),
    st.sampled_from([FORM, "application/json", "multipart/form-data", "text/plain", "a/b/c; d"]),
)
def test_random_bodies_end_in_an_error_with_a_status_and_nothing_else(content, content_type):
    try:
        read([content], content_type)
    except ApiError as error:
        assert error.status in (400, 413, 415)  # noqa: PT017 - a body that happens to be good is good


def test_two_audio_parts_are_refused():
    with pytest.raises(BadRequest, match="two audio parts"):
        read([form(part("file", b"a", filename="a.wav"), part("audio", b"b"))], FORM)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (form(part("file", b"a", filename="a"))[:-6], "cut off"),
        (b"", "cut off"),
        (b"garbage", "not multipart"),
        (f"--{BOUNDARY}\r\nContent-Type: audio/wav\r\n\r\nx\r\n--{BOUNDARY}--".encode(), "has no name"),
        (form(*(part(f"f{n}", b"") for n in range(65))), "more than 64 parts"),
        (form(part("prompt", b"x" * 330_000)), "larger than 320 KiB"),
        (form(part("prompt", b"\xff\xfe")), "not UTF-8"),
        (f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 100 + b"\r\n\r\n", "not multipart"),
        (f"--{BOUNDARY}\r\nA: ".encode() + b"b" * 100_000, "not multipart"),
    ],
)
def test_an_abused_form_is_refused_with_a_sentence(content, why):
    with pytest.raises(BadRequest, match=why):
        read([content], FORM)


def test_a_form_without_a_boundary_is_refused():
    with pytest.raises(BadRequest, match="without a boundary"):
        read([b""], "multipart/form-data")


def test_a_boundary_of_a_kilobyte_is_refused():
    with pytest.raises(BadRequest):
        read([b""], f"multipart/form-data; boundary={'b' * 1000}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"url": 3}', b'"x"', b"[" * 50_000, b"\xff"])
def test_json_without_a_url_is_refused_with_the_shape_that_is_wanted(content):
    with pytest.raises(BadRequest, match=r'send \{"url"'):
        read([content], "application/json")


def test_json_options_are_read_as_a_query_string_would_have_them():
    body, _ = read(
        [b'{"url": "http://x", "punctuate": false, "sample_rate": 8000.0, "language": "hi", "x": null}'],
        "application/json",
    )
    assert body.url == "http://x"
    assert body.fields == [("punctuate", "false"), ("sample_rate", "8000"), ("language", "hi")]


def test_a_large_json_body_is_refused_before_it_is_read():
    with pytest.raises(BadRequest, match="320 KiB"):
        read([b" " * 40_000] * 100, "application/json")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_other_bodies_are_refused_by_name(content_type):
    with pytest.raises(UnsupportedBody, match=content_type):
        read([b"x"], content_type)


def test_compressed_bodies_are_refused():
    with pytest.raises(UnsupportedBody, match="Content-Encoding gzip"):
        read([b"x"], "audio/wav", content_encoding="gzip")


def test_a_path_that_takes_forms_takes_nothing_else():
    with pytest.raises(UnsupportedBody, match="multipart/form-data"):
        read([b"x"], "audio/wav", only_form=True)


@pytest.mark.parametrize("declared", ["4000001", "99999999999999999999", "9" * 400])
def test_a_declared_size_over_the_limit_is_refused_before_the_body_is_read(declared):
    with pytest.raises(BodyTooLarge, match="larger than 4 MB"):
        read([], "audio/wav", content_length=declared)


@pytest.mark.parametrize("declared", ["", "10", "-1", "x"])
def test_the_limit_counts_what_arrives_and_not_what_is_declared(declared):
    with pytest.raises(BodyTooLarge):
        read([b"x" * 1_000_000] * 5, "audio/wav", content_length=declared)


def test_the_limit_holds_inside_a_form():
    whole = form(part("file", b"x" * 4_000_001, filename="a"))
    with pytest.raises(BodyTooLarge):
        read(cut(whole, range(0, len(whole), 65_536)), FORM)


def test_a_form_of_many_small_parts_counts_as_a_whole():
    with pytest.raises(BadRequest):
        read([part("x", b"y" * 1000)] * 7000, FORM)


def test_a_body_that_stops_is_given_up():
    with pytest.raises(BodyStalled, match="stopped arriving"):
        read([b"..."], "audio/wav", limits=BodyLimits(1000, 0.02, 5))


def test_a_body_that_trickles_is_given_up():
    async def run():
        async def trickle():
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"x", "more_body": True}

        slow = Request(request([], "audio/wav").scope, trickle)
        async with Spool("/tmp") as spool:
            await read_body(slow, spool, BodyLimits(1000, 5, 0.1))

    with pytest.raises(BodyStalled):
        asyncio.run(run())


def test_a_client_that_goes_away_ends_the_reading():
    with pytest.raises(ClientGone):
        read([b"abc", None], "audio/wav")


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, 3_500_000])
def test_the_spool_gives_back_what_was_written_in_memory_or_on_disk(size, tmp_path, monkeypatch):
    on_disk = []
    real = spool_module.tempfile.TemporaryFile
    monkeypatch.setattr(
        spool_module.tempfile, "TemporaryFile", lambda **options: on_disk.append(options) or real(**options)
    )
    content = os.urandom(size)

    async def run():
        async with Spool(tmp_path) as spool:
            for start in range(0, size, 60_000):
                await spool.write(content[start : start + 60_000])
            descriptor = await spool.finish()
            assert spool.size == size
            assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
            assert os.pread(descriptor, size + 1, 0) == content
            assert list(tmp_path.iterdir()) == []  # the file has no name

    asyncio.run(run())
    assert bool(on_disk) == (size > IN_MEMORY_BYTES)


def test_a_full_or_missing_disk_is_not_the_clients_fault(tmp_path):
    with pytest.raises(Unavailable, match="STATE_DIR") as refused:
        read([b"x" * 1_000_000], "audio/wav", folder=tmp_path / "gone")
    assert "retry-after" in refused.value.headers
