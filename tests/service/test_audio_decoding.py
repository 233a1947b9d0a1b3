"""Decodes run in confined processes: what goes wrong in one ends that one, and nothing is left behind."""

import asyncio
import contextlib
import io
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from babelrack.audio.decode import AudioError, DecodeLimits, DecoderLost, DecoderPool, decode_file


def wav(seconds, rate=16_000, channels=1, claim=None):
    samples = np.random.default_rng(7).integers(-9_000, 9_000, int(seconds * rate) * channels).astype("<i2").tobytes()
    size = len(samples) if claim is None else claim
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@contextlib.contextmanager
def upload(content):
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


async def decode(pool, content, **declared):
    with upload(content) as file:
        async with pool.open(file, **declared) as decoding:
            pieces = [piece async for piece in decoding]
    assert all(len(piece) <= 65_536 and len(piece) % 2 == 0 for piece in pieces)
    return b"".join(pieces)


def children_of(pid):
    """List the processes whose parent is `pid`, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(state[1]) == pid:
                    found.append(int(entry.name))
    return found


def zygote_of(pid):
    (zygote,) = [child for child in children_of(pid) if b"babelrack.audio.zygote" in _command(child)]
    return zygote


def _command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def about(pid, what):
    return Path(f"/proc/{pid}/{what}").read_bytes()


def descriptors(pid="self"):
    return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())


def target(pid, descriptor):
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.02)


@pytest.fixture
async def pool():
    async with DecoderPool(DecodeLimits(max_seconds=7_200)) as pool:
        yield pool


async def test_pcm_arrives_whole_and_says_what_it_was(pool):
    content = wav(3.0, 44_100, 2)
    with upload(content) as file:
        async with pool.open(file) as decoding:
            pcm = b"".join([piece async for piece in decoding])
    assert (decoding.info.container, decoding.info.codec) == ("wav", "pcm_s16le")
    assert (decoding.info.sample_rate, decoding.info.channels) == (44_100, 2)
    assert len(pcm) == 2 * 48_000


async def test_a_decode_in_a_process_is_the_decode_in_this_one(pool, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(2.0, 22_050, 2))
    assert await decode(pool, path.read_bytes()) == decode_file(path).tobytes()


def encode(codec, container, rate, channels):
    """Encode two seconds of noise with libav: the bytes of a file."""
    file, layout = io.BytesIO(), {1: "mono", 2: "stereo", 8: "7.1"}[channels]
    noise = np.random.default_rng(0).standard_normal((2 * rate, channels)).astype("f4") * 0.1
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.open()
        into = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        step = stream.codec_context.frame_size or 1_024
        for start in range(0, len(noise), step):
            block = noise[start : start + step]
            frame = av.AudioFrame(format="flt", layout=layout, samples=len(block))
            frame.planes[0].update(np.ascontiguousarray(block))
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for ready in into.resample(frame):
                ready.pts = start
                output.mux(stream.encode(ready))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "container", "rate", "channels"),
    [
        ("flac", "flac", 44_100, 2),
        ("libmp3lame", "mp3", 44_100, 2),
        ("libopus", "ogg", 48_000, 1),
        ("libopus", "webm", 48_000, 2),
        ("libopus", "matroska", 48_000, 8),
        ("aac", "ipod", 44_100, 2),
        ("alac", "ipod", 44_100, 2),
        ("aac", "adts", 16_000, 1),
        ("libopencore_amrnb", "amr", 8_000, 1),
        ("pcm_s16be", "aiff", 22_050, 1),
        ("pcm_s16le", "caf", 22_050, 1),
        ("adpcm_ms", "wav", 22_050, 2),
        ("pcm_f64le", "wav", 192_000, 8),
    ],
)
async def test_every_format_decodes_under_confinement_as_it_does_without(
    pool, tmp_path, codec, container, rate, channels
):
    path = tmp_path / "upload"
    path.write_bytes(encode(codec, container, rate, channels))
    assert await decode(pool, path.read_bytes()) == decode_file(path).tobytes()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 50] = bytes(50)
    try:
        await decode(pool, bytes(damaged[: len(damaged) * 3 // 4]))
    except AudioError as refused:
        assert not isinstance(refused, DecoderLost)  # noqa: PT017 - refused or heard, but no child may be lost over it


async def test_headerless_audio_is_read_as_declared(pool):
    samples = np.arange(-8_000, 8_000, dtype="<i2")
    assert await decode(pool, samples.tobytes(), encoding="linear16", sample_rate=16_000) == samples.tobytes()


@pytest.mark.parametrize(
    ("content", "declared", "code"),
    [
        (b"", {}, "EMPTY"),
        (b"no audio at all" * 99, {}, "NOT_AUDIO"),
        (b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", {}, "NOT_AUDIO"),
        (b"fLaC" + bytes(9_000), {}, "UNDECODABLE"),
        (wav(1.0), {"encoding": "mp5"}, "UNKNOWN_ENCODING"),
        (wav(1.0, 999), {}, "UNDECODABLE"),
    ],
)
async def test_a_bad_upload_gets_one_sentence(pool, content, declared, code):
    with pytest.raises(AudioError) as caught:
        await decode(pool, content, **declared)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert len(await decode(pool, wav(0.5))) == 16_000


async def test_too_long_is_told_from_the_header_and_from_the_samples():
    async with DecoderPool(DecodeLimits(max_seconds=5)) as pool:
        with pytest.raises(AudioError) as caught:
            await decode(pool, wav(6.0))
        assert caught.value.code == "TOO_LONG"
        with pytest.raises(AudioError) as caught:
            await decode(pool, wav(6.0, claim=0))
        assert caught.value.code == "TOO_LONG"


async def test_too_much_memory_is_refused():
    async with DecoderPool(DecodeLimits(max_memory_bytes=5 * 1024 * 1024)) as pool:
        with pytest.raises(AudioError) as caught:
            await decode(pool, encode("pcm_f64le", "wav", 192_000, 8))
        assert caught.value.code == "UNDECODABLE"
        assert len(await decode(pool, wav(2.0))) == 2 * 32_000
    async with DecoderPool() as pool:
        assert len(await decode(pool, encode("pcm_f64le", "wav", 192_000, 8))) == 2 * 32_000


async def test_too_much_processor_time_is_refused():
    async with DecoderPool(DecodeLimits(max_seconds=1e6, max_cpu_seconds=1, min_sample_rate=1)) as pool:
        with upload(wav(1)) as file:
            os.ftruncate(file, 2_000_000_000)
            async with pool.open(file, encoding="linear32", sample_rate=192_000) as decoding:
                with pytest.raises(AudioError) as caught:
                    async for _ in decoding:
                        pass
    assert caught.value.code == "TOO_LONG"
    assert "processor time" in caught.value.message


async def test_a_crash_inside_a_codec_ends_that_decode_only(pool):
    with upload(wav(600)) as long, upload(wav(600)) as other:
        async with pool.open(long) as doomed, pool.open(other) as healthy:
            await anext(doomed)
            first = await anext(healthy)
            victim, survivor = sorted(children_of(zygote_of(os.getpid())))
            os.kill(victim, signal.SIGSEGV)
            with pytest.raises(AudioError) as caught:
                async for _ in doomed:
                    pass
            assert caught.value.code == "UNDECODABLE"
            assert survivor in children_of(zygote_of(os.getpid()))
            rest = [len(piece) async for piece in healthy]
    assert len(first) + sum(rest) == 600 * 32_000


async def test_a_child_that_is_killed_is_our_fault_and_not_the_uploads(pool):
    with upload(wav(600)) as file:
        async with pool.open(file) as decoding:
            await anext(decoding)
            (child,) = children_of(zygote_of(os.getpid()))
            os.kill(child, signal.SIGKILL)
            with pytest.raises(DecoderLost):
                async for _ in decoding:
                    pass


async def test_a_zygote_that_dies_takes_its_decodes_with_a_clean_error_and_comes_back(pool):
    with upload(wav(600)) as file:
        async with pool.open(file) as decoding:
            await anext(decoding)
            zygote = zygote_of(os.getpid())
            (child,) = children_of(zygote)
            os.kill(child, signal.SIGSTOP)  # it can't notice by itself
            os.kill(zygote, signal.SIGKILL)
            with pytest.raises(DecoderLost):
                async for _ in decoding:
                    pass
            await until(lambda: not alive(child))
    assert len(await decode(pool, wav(1.0))) == 32_000
    assert zygote_of(os.getpid()) != zygote


async def test_leaving_early_ends_the_child_at_once_even_if_it_never_writes_again(pool):
    with upload(wav(600)) as file:
        async with pool.open(file) as decoding:
            await anext(decoding)
            (child,) = children_of(zygote_of(os.getpid()))
            os.kill(child, signal.SIGSTOP)
    await until(lambda: not alive(child))


async def test_a_slow_listener_holds_the_decoder_back(pool):
    with upload(wav(600)) as file:
        async with pool.open(file) as decoding:
            await anext(decoding)
            (child,) = children_of(zygote_of(os.getpid()))
            used = None
            while used != (used := _processor_ticks(child)):
                await asyncio.sleep(0.5)
            assert alive(child)


def _processor_ticks(pid):
    fields = about(pid, "stat").decode().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_the_event_loop_keeps_ticking_while_a_long_file_decodes(pool):
    ticks, over = 0, asyncio.Event()

    async def tick():
        nonlocal ticks
        while not over.is_set():
            ticks += 1
            await asyncio.sleep(0)

    ticking, pieces = asyncio.create_task(tick()), 0
    with upload(wav(1_800)) as file:
        async with pool.open(file) as decoding:
            async for _ in decoding:
                pieces += 1
    over.set()
    await ticking
    assert pieces >= 1_800 * 32_000 // 65_536
    assert ticks >= pieces


async def test_children_are_confined(pool):
    with upload(wav(600)) as file:
        async with pool.open(file) as decoding:
            await anext(decoding)
            (child,) = children_of(zygote_of(os.getpid()))
            assert descriptors(child) == [0, 1, 2, 3]
            assert target(child, 2) == "/dev/null"
            status = about(child, "status").decode()
            assert "NoNewPrivs:\t1" in status
            assert "Threads:\t1" in status
            bounds = {
                resource.RLIMIT_NOFILE: 4,
                resource.RLIMIT_FSIZE: 0,
                resource.RLIMIT_CORE: 0,
                resource.RLIMIT_NPROC: 0,
                resource.RLIMIT_CPU: DecodeLimits().max_cpu_seconds,
            }
            for what, bound in bounds.items():
                assert resource.prlimit(child, what)[0] == bound
            occupied = int(about(child, "statm").split()[0]) * resource.getpagesize()
            allowed = resource.prlimit(child, resource.RLIMIT_AS)[0]
            assert allowed - occupied <= DecodeLimits().max_memory_bytes


async def test_no_secret_of_the_servers_environment_reaches_the_decoder(monkeypatch):
    monkeypatch.setenv("LICENSE_KEY", "very-secret")
    async with DecoderPool() as pool:
        assert await decode(pool, wav(0.1))
        zygote = zygote_of(os.getpid())
        assert b"very-secret" not in about(zygote, "environ")


async def test_the_parallel_bound_holds_and_waiters_get_their_turn():
    async with DecoderPool(parallel=2) as pool:
        content, most = wav(4.0), 0

        async def watched():
            nonlocal most
            with upload(content) as file:
                async with pool.open(file) as decoding:
                    async for _ in decoding:
                        most = max(most, len(children_of(zygote_of(os.getpid()))))

        await asyncio.gather(*(watched() for _ in range(8)))
    assert 1 <= most <= 3  # a child that has finished may not be reaped yet when the next one starts


async def test_two_hundred_decodes_with_random_cancellations_leak_nothing(pool):
    assert await decode(pool, wav(0.1))
    zygote = zygote_of(os.getpid())
    before = descriptors(), descriptors(zygote)
    rng, contents = random.Random(3), [wav(0.2), wav(30.0), b"junk" * 50, b""]
    finished = 0

    async def one():
        nonlocal finished
        with contextlib.suppress(AudioError):
            await decode(pool, rng.choice(contents))
        finished += 1

    for _ in range(10):
        tasks = [asyncio.create_task(one()) for _ in range(20)]
        for task in rng.sample(tasks, 8):
            await asyncio.sleep(rng.random() * 0.02)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert finished >= 100
    await until(lambda: not children_of(zygote))
    await until(lambda: descriptors(zygote) == before[1])
    assert descriptors() == before[0]
    assert zygote_of(os.getpid()) == zygote


async def test_closing_the_pool_leaves_no_process():
    pool = DecoderPool()
    await pool.start()
    with upload(wav(600)) as file:
        async with pool.open(file) as decoding:
            await anext(decoding)
            zygote = zygote_of(os.getpid())
            children = children_of(zygote)
            await pool.close()
            assert not alive(zygote)
            await until(lambda: not any(alive(child) for child in children))
            with pytest.raises(DecoderLost):
                async for _ in decoding:
                    pass
    with pytest.raises(DecoderLost), upload(wav(1)) as file:
        async with pool.open(file):
            pass


SERVER = """
import asyncio, os, sys
from babelrack.audio.decode import DecoderPool
async def main():
    async with DecoderPool() as pool:
        with open(sys.argv[1], "rb") as file:
            async with pool.open(file.fileno()) as one, pool.open(file.fileno()) as two:
                await anext(one); await anext(two)
                print("ready", flush=True)
                await asyncio.sleep(300)
asyncio.run(main())
"""


def start_server(path):
    return subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_is_killed_leaves_nothing_behind(tmp_path, number):
    path = tmp_path / "long.wav"
    path.write_bytes(wav(600))
    with start_server(path) as server:
        try:
            assert await asyncio.to_thread(server.stdout.readline) == b"ready\n"
            zygote = zygote_of(server.pid)
            family = [zygote, *children_of(zygote)]
            assert len(family) == 3
        finally:
            server.send_signal(number)
        await asyncio.to_thread(server.wait)
        await until(lambda: not any(alive(pid) for pid in family))


async def test_signals_for_the_servers_group_do_not_end_decodes_that_drain(pool):
    with upload(wav(120)) as file:
        async with pool.open(file) as decoding:
            first = await anext(decoding)
            zygote = zygote_of(os.getpid())
            for pid in (zygote, *children_of(zygote)):
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    os.kill(pid, number)
            rest = [len(piece) async for piece in decoding]
    assert len(first) + sum(rest) == 120 * 32_000


async def test_uvicorns_loop_can_drive_it():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with DecoderPool() as pool:
            return await decode(pool, wav(3.0))

    def run():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    assert len(await asyncio.to_thread(run)) == 3 * 32_000


def test_a_child_that_writes_nonsense_as_its_status_is_not_believed():
    from babelrack.audio.decode import _info, _messages

    told = b'\xff\xfe{"x"\n[1,2]\n"done"\n' + b"[" * 9_000 + b'\n{"info": {"container": 1}}\n{"done": true}'
    assert _messages(told) == {"info": {"container": 1}}
    assert _info(_messages(told)) is None


def test_the_zygote_leaves_when_it_has_never_heard_anything():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        zygote = subprocess.Popen([sys.executable, "-m", "babelrack.audio.zygote"], stdin=theirs.fileno())
    ours.send(json.dumps({"kill": 12}).encode())
    time.sleep(0)
    ours.close()
    assert zygote.wait(60) == 0
