"""An archive gives its checkpoint or a sentence; it never writes elsewhere, never too much."""

import contextlib
import io
import stat
import struct
import tarfile
import zipfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babelrack.checkpoints import Bounds, CheckpointError, pack
from babelrack.checkpoints.archive import safe_parts, unpack, unpacked_size
from babelrack.checkpoints.tar import members
from checkpoint_samples import write_checkpoint

NAMES = ("config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("samples") / "tiny")


def entry(name, content=b"{}", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, io.BytesIO(content)


def tar_of(*entries, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, content)
    return out.getvalue()


def zip_of(*names, mode=stat.S_IFREG | 0o644, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr = name, mode << 16
            archive.writestr(info, "{}", method)
    return out.getvalue()


def unpacked(tmp_path, data, **bounds):
    archive, target = tmp_path / "archive", tmp_path / "in" / "target"
    archive.write_bytes(data)
    target.mkdir(parents=True, exist_ok=True)
    return unpack(archive, target, shown="the archive", bounds=Bounds(**bounds))


def refused(tmp_path, data, **bounds):
    with pytest.raises(CheckpointError) as caught:
        unpacked(tmp_path, data, **bounds)
    outside = [path for path in tmp_path.rglob("*") if path.name not in {"archive", "in", "target"}]
    assert not [path for path in outside if tmp_path / "in" / "target" not in path.parents]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("top", ["", "./", "whisper/", f"{'long-' * 26}/", f"{'whispeг-' * 24}/"])
@pytest.mark.parametrize("frames", [0, 1, 3])
def test_every_common_tar_is_read(tmp_path, checkpoint, form, top, frames):
    if form == tarfile.USTAR_FORMAT:
        top = top.encode()[:120].decode()  # it has no longer names
        top = top if not top or top.endswith("/") else f"{top}/"
    data = tar_of(*(entry(top + name, (checkpoint / name).read_bytes()) for name in NAMES), form=form)
    if frames:
        part = -(-len(data) // frames)
        data = b"".join(zstandard.compress(data[begin : begin + part]) for begin in range(0, len(data), part))
    folder = unpacked(tmp_path, data)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (checkpoint / name).read_bytes() for name in NAMES
    }


def test_a_zstd_that_begins_with_a_skippable_frame_is_read(tmp_path):
    data = zstandard.compress(tar_of(entry("config.json", b"{1}")))
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"\0\0\0\0"
    assert (unpacked(tmp_path, skippable + data) / "config.json").read_bytes() == b"{1}"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_is_read(tmp_path, method):
    folder = unpacked(tmp_path, zip_of("whisper/config.json", "whisper/tokenizer.json", method=method))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]


CLIMBING = [
    "../config.json",
    "whisper/../../config.json",
    "/etc/config.json",
    "//config.json",
    "..",
    "a/../config.json",
    "..\\config.json",
    "C:\\config.json",
    "C:config.json",
    "config.json\x01",
    "x" * 600,
]


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("make", [lambda name: tar_of(entry(name)), zip_of], ids=["tar", "zip"])
def test_a_path_that_leaves_the_archive_is_refused(tmp_path, name, make):
    assert "pack it again" in refused(tmp_path, make(name))


def test_a_zip_name_that_is_cut_at_nul_is_refused(tmp_path):
    data = zip_of("config.json?.bin").replace(b"config.json?.bin", b"config.json\0.bin")
    assert "control character" in refused(tmp_path, data)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CONTTYPE, "unknown kind"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_only_files_and_folders_may_be_in_a_tar(tmp_path, kind, says):
    assert says in refused(tmp_path, tar_of(entry("config.json", kind=kind, link="/etc/passwd")))


def test_a_link_and_then_a_file_through_it_writes_nowhere(tmp_path):
    trick = tar_of(entry("whisper", kind=tarfile.SYMTYPE, link="../../.."), entry("whisper/config.json"))
    refused(tmp_path, trick)
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_only_files_and_folders_may_be_in_a_zip(tmp_path, kind):
    assert "link or device" in refused(tmp_path, zip_of("config.json", mode=kind | 0o777))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "make",
    [lambda again: tar_of(entry("config.json"), entry(again)), lambda again: zip_of("config.json", again)],
    ids=["tar", "zip"],
)
@pytest.mark.parametrize("again", ["config.json", "./config.json", "Config.json", "config.json/x", "x/..//config.json"])
def test_a_name_that_is_there_twice_is_refused(tmp_path, again, make):
    refused(tmp_path, make(again))


def test_pickles_and_strangers_are_passed_over(tmp_path):
    names = ("config.json", "pytorch_model.bin", "optimizer.pt", "README.md", "deep/er/config.json", "run.sh")
    folder = unpacked(tmp_path, tar_of(*map(entry, names)))
    assert [path.name for path in folder.rglob("*")] == ["config.json"]


def test_too_many_members_are_refused(tmp_path):
    assert "more than 10 members" in refused(tmp_path, tar_of(*(entry(f"{n}") for n in range(11))), members=10)
    assert "more than 10 members" in refused(tmp_path, zip_of(*(f"{n}" for n in range(11))), members=10)


@pytest.mark.parametrize("name", ["model.safetensors", "stranger"])
@pytest.mark.parametrize("wrap", [lambda data: data, zstandard.compress], ids=["tar", "tar.zst"])
def test_more_than_the_bound_is_refused_before_it_is_written(tmp_path, name, wrap):
    message = refused(tmp_path, wrap(tar_of(entry(name, bytes(3 << 20)))), unpacked_bytes=1 << 20)
    assert "unpacks to more than 1,048,576 bytes" in message
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("*") if path.is_file()) <= 1 << 20


def test_a_small_archive_that_grows_beyond_measure_is_refused(tmp_path):
    bomb = zstandard.compress(tar_of(entry("model.safetensors", bytes(80 << 20))))
    assert len(bomb) < 64 << 10
    assert "200 times" in refused(tmp_path, bomb)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.safetensors", bytes(80 << 20))
    assert "200 times" in refused(tmp_path, out.getvalue())


def test_a_header_that_claims_gigabytes_is_refused_without_reading_them(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 10 << 30
    assert "header of" in refused(tmp_path, info.tobuf(tarfile.GNU_FORMAT))
    info.type = tarfile.GNUTYPE_LONGNAME
    assert "header of" in refused(tmp_path, info.tobuf(tarfile.GNU_FORMAT))


def test_a_zstd_that_wants_gigabytes_of_window_is_refused(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert "damaged archive" in refused(tmp_path, stream.compress(tar_of(entry("config.json"))) + stream.flush())


def test_a_zip_that_lies_about_a_members_size_is_refused(tmp_path):
    data = zip_of("config.json", method=zipfile.ZIP_STORED)
    directory = data.rindex(b"PK\1\2")
    lying = bytearray(data)
    struct.pack_into("<I", lying, directory + 24, 1)
    refused(tmp_path, bytes(lying))


def test_a_zip_with_an_endless_list_of_members_is_refused(tmp_path):
    assert "list of members is too long" in refused(tmp_path, zip_of(*(f"{n:0100d}" for n in range(30_000))))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "neither .tar.zst nor .tar nor .zip"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x80\x04\x95rest", "pickle"),
        (b"<!DOCTYPE html>", "web page"),
        (b'{"error": "not found"}', "web page"),
        (b"random", "neither"),
        (tar_of(entry("README.md")), "no config.json"),
        (zip_of("archive/data.pkl", "archive/version"), "pickle"),
    ],
)
def test_what_is_no_archive_of_a_checkpoint_is_called_by_its_name(tmp_path, data, says):
    assert says in refused(tmp_path, data)


def test_an_archive_cut_anywhere_is_refused_or_lacks_nothing(tmp_path, checkpoint):
    pack(checkpoint, tmp_path / "x.tar.zst")
    whole = (tmp_path / "x.tar.zst").read_bytes()
    plain = zstandard.ZstdDecompressor().decompress(whole)
    accepted = 0
    for place, data in (("zst", whole), ("tar", plain)):
        for length in [*range(1, len(data), len(data) // 20), *range(len(data) - 8, len(data))]:
            target = tmp_path / f"{place}-{length}"
            target.mkdir()
            try:
                folder = unpacked(target, data[:length])
            except CheckpointError:
                continue
            accepted += 1
            assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"} == {
                name: (checkpoint / name).read_bytes() for name in NAMES
            }
    assert accepted <= 16  # cuts in the checksum or the padding only


def test_the_size_beforehand_is_the_size_afterwards(tmp_path, checkpoint):
    pack(checkpoint, tmp_path / "x.tar.zst")
    whole = zstandard.ZstdDecompressor().decompress((tmp_path / "x.tar.zst").read_bytes())
    assert unpacked_size(tmp_path / "x.tar.zst") == len(whole)
    (tmp_path / "x.zip").write_bytes(zip_of("config.json", "tokenizer.json"))
    assert unpacked_size(tmp_path / "x.zip") == 4


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("./\\.aC:\0~", max_size=12))
def test_a_safe_name_stays_inside_wherever_it_is_put(name):
    try:
        parts = safe_parts(name)
    except ValueError:
        return
    assert not any(part in {"", ".", ".."} or "/" in part or "\\" in part or "\0" in part for part in parts)


member_names = st.from_regex(r"(\./)?[a-z]{1,60}(/[a-zA-Zäß ._-]{1,120}){0,2}", fullmatch=True)


@settings(deadline=None)
@given(
    st.lists(st.tuples(member_names, st.binary(max_size=1200)), max_size=5),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_our_reader_sees_what_the_standard_librarys_sees(files, form):
    data = tar_of(*(entry(name, content) for name, content in files), form=form)
    ours = [(member.name, b"".join(member.chunks())) for member in members(io.BytesIO(data), "x")]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = [(info.name, archive.extractfile(info).read()) for info in archive]
    assert ours == theirs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_tar_is_an_error_or_a_tar_and_nothing_else(data):
    whole = bytearray(tar_of(entry("a/config.json", b"x" * 700), entry(f"a/{'n' * 120}", b"y")))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        for member in members(io.BytesIO(bytes(whole)), "x"):
            assert sum(map(len, member.chunks())) == member.size
    except CheckpointError:
        pass


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_zip_is_an_error_or_a_zip_and_nothing_else(tmp_path_factory, data):
    whole = bytearray(zip_of("a/config.json", "a/tokenizer.json"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    place = tmp_path_factory.mktemp("zip")
    with contextlib.suppress(CheckpointError):
        unpacked(place, bytes(whole))
    assert {path.relative_to(place).parts[0] for path in place.rglob("*")} <= {"archive", "in"}
