"""From MODEL_URL to checkpoints, with local sources: no network, nothing half-done, every refusal a sentence."""

import json
import os
import subprocess
import sys
import threading

import pytest

from babelrack.checkpoints import (
    CheckpointError,
    FetchSettings,
    FetchStopped,
    Manifest,
    fetch,
    inspect,
    pack,
    parse_model_url,
    prepare,
)
from babelrack.checkpoints.digests import DigestMemory, sha256_file
from checkpoint_samples import edit_json, write_checkpoint

SETTINGS = FetchSettings()
SAYS_ALL = "name=indic&role=multilingual&languages=hi+en"


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "tiny")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def prepared(url, cache, **more):
    return prepare(url, cache, settings=SETTINGS, **more)


def refusal(url, cache):
    with pytest.raises(CheckpointError) as caught:
        prepared(url, cache)
    assert "\n" not in str(caught.value)
    assert not list((cache / "staging").glob("*"))
    return str(caught.value)


def test_a_local_folder_is_used_where_it_is(checkpoint, cache):
    digest = sha256_file(checkpoint / "model.safetensors")
    (found,) = prepared(f"{checkpoint.as_uri()}#{SAYS_ALL}&sha256={digest}", cache)
    assert (found.path, found.name, found.role) == (checkpoint, "indic", "multilingual")
    assert (found.languages, found.sha256) == (("hi", "en"), digest)
    assert not list(cache.rglob("*.safetensors"))


def test_a_local_archive_is_unpacked_once_and_then_reused(checkpoint, cache, tmp_path):
    digest = pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    url = f"{(tmp_path / 'x.tar.zst').as_uri()}#sha256={digest}"
    (first,) = prepared(url, cache)
    assert (first.name, first.role, first.languages, first.sha256) == ("a", "dedicated", ("hi",), digest)
    inode = (first.path / "model.safetensors").stat().st_ino
    (second,) = prepared(url, cache)
    assert second == first
    assert (second.path / "model.safetensors").stat().st_ino == inode
    assert {path.name for path in first.path.iterdir()} == {path.name for path in checkpoint.iterdir()} | {
        "manifest.json"
    }


def test_the_fragment_wins_over_the_manifest(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    url = (tmp_path / "x.tar.zst").as_uri()
    (found,) = prepared(f"{url}#name=b&languages=bn+ta", cache)
    assert (found.name, found.role, found.languages) == ("b", "dedicated", ("bn", "ta"))


def test_three_from_one_archive_share_it(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", role="dedicated")
    url = (tmp_path / "x.tar.zst").as_uri()
    entries = (f"{url}#name={name}&languages={code}" for name, code in (("a", "hi"), ("b", "bn"), ("c", "ta")))
    found = prepared(",".join(entries), cache)
    assert [checkpoint.name for checkpoint in found] == ["a", "b", "c"]
    assert len({checkpoint.path for checkpoint in found}) == 1


@pytest.mark.parametrize(
    ("fragment", "says"),
    [
        ("", "says name= and role= and languages="),
        ("name=a&role=dedicated", "says languages="),
        ("name=a&role=dedicated&languages=fr", "no token for fr"),
        (f"{SAYS_ALL}&sha256={'0' * 64}", f"{'0' * 64} was asked for"),
    ],
)
def test_what_is_missing_or_wrong_is_named(checkpoint, cache, fragment, says):
    assert says in refusal(f"{checkpoint.as_uri()}#{fragment}", cache)


def test_two_manifests_with_one_name_are_refused(checkpoint, cache, tmp_path):
    for place in ("x", "y"):
        pack(checkpoint, tmp_path / f"{place}.tar.zst", name="same", role="multilingual", languages=("hi",))
    urls = ",".join((tmp_path / f"{place}.tar.zst").as_uri() for place in ("x", "y"))
    assert "two checkpoints the name 'same'" in refusal(urls, cache)


def test_a_language_is_dedicated_once(checkpoint, cache):
    urls = ",".join(f"{checkpoint.as_uri()}#name={name}&role=dedicated&languages=hi" for name in "ab")
    assert "a and b are both dedicated to hi" in refusal(urls, cache)


def test_a_manifest_that_does_not_fit_its_files_is_refused(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    good = fetch(parse_model_url((tmp_path / "x.tar.zst").as_uri())[0], cache, settings=SETTINGS)
    (checkpoint / "manifest.json").write_bytes((good / "manifest.json").read_bytes())
    assert prepared(checkpoint.as_uri(), cache)[0].sha256 == sha256_file(checkpoint / "model.safetensors")
    edit_json(checkpoint / "generation_config.json", changed=True)
    assert "generation_config.json: sha256 is" in refusal(checkpoint.as_uri(), cache)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["files"]["generation_config.json"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert "lists no sha256 for generation_config.json" in refusal(checkpoint.as_uri(), cache)


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", '{"name": "a b"}', '{"role": "both"}', '{"languages": "hi"}', '{"files": {"config.json": "12"}}'],
)
def test_a_manifest_that_is_none_is_refused(checkpoint, cache, manifest):
    (checkpoint / "manifest.json").write_text(manifest)
    assert "manifest.json" in refusal(f"{checkpoint.as_uri()}#{SAYS_ALL}", cache)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "no such file or folder"),
        ("model.safetensors", "the weights alone"),
        ("pytorch_model.bin", "is a pickle"),
        ("config.json", "web page"),
    ],
)
def test_a_file_that_is_no_archive_is_called_by_its_name(checkpoint, cache, name, says):
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert says in refusal(f"{(checkpoint / name).as_uri()}#{SAYS_ALL}", cache)


def test_an_archive_whose_checkpoint_is_bad_never_lands(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "good.tar.zst")
    edit_json(checkpoint / "config.json", d_model=32)
    with pytest.raises(CheckpointError, match="calls for"):
        pack(checkpoint, tmp_path / "bad.tar.zst")
    import tarfile

    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(checkpoint, arcname="bad")
    message = refusal(f"{(tmp_path / 'bad.tar').as_uri()}#{SAYS_ALL}", cache)
    assert message.startswith(str(tmp_path / "bad.tar"))  # and not a folder that is gone by now
    assert not list((cache / "checkpoints").glob("*"))


def test_a_damaged_copy_in_the_cache_says_how_to_get_rid_of_it(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    url = (tmp_path / "x.tar.zst").as_uri()
    (found,) = prepared(url, cache)
    with (found.path / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert f"remove {found.path} and start again" in refusal(url, cache)


def test_what_a_killed_fetch_left_is_swept_and_what_is_locked_is_not(checkpoint, cache):
    import fcntl

    for key in ("dead", "alive"):
        (cache / "staging" / f"{key}.1").mkdir(parents=True)
        (cache / "staging" / f"{key}.1" / "model.safetensors").write_bytes(b"half")
    (cache / "locks").mkdir()
    with (cache / "locks" / "alive").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepared(f"{checkpoint.as_uri()}#{SAYS_ALL}", cache)
        assert [path.name for path in (cache / "staging").iterdir()] == ["alive.1"]


def test_a_digest_is_remembered_until_the_file_changes(checkpoint, cache):
    weights = checkpoint / "model.safetensors"
    two_minutes_ago = weights.stat().st_mtime - 120
    os.utime(weights, (two_minutes_ago, two_minutes_ago))
    memory = DigestMemory(cache)
    first = memory.digest(weights)
    assert not cache.exists()  # its change time is too fresh to be believed
    original = weights.stat().st_size
    weights.write_bytes(bytes(original))
    os.utime(weights, (two_minutes_ago, two_minutes_ago))  # same size, same mtime; ctime tells
    assert memory.digest(weights) == sha256_file(weights) != first


def test_a_remembered_digest_needs_no_reading(checkpoint, cache, monkeypatch):
    from babelrack.checkpoints import digests

    monkeypatch.setattr(digests, "_SETTLED_SECONDS", -1.0)
    weights, read = checkpoint / "model.safetensors", []
    memory = DigestMemory(cache)
    assert memory.digest(weights, read.append) == memory.digest(weights, read.append)
    assert read == [weights.stat().st_size]


def test_a_cache_that_cannot_be_written_is_named(checkpoint, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    (tmp_path / "file").write_text("")
    url = (tmp_path / "x.tar.zst").as_uri()
    message = refusal(url, tmp_path / "file" / "cache")
    assert str(tmp_path / "file" / "cache") in message
    assert "MODEL_CACHE_DIR" in message


def test_stopping_ends_it(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    stop = threading.Event()
    with pytest.raises(FetchStopped):
        prepared((tmp_path / "x.tar.zst").as_uri(), cache, progress=lambda _step: stop.set(), stop=stop)
    assert not list((cache / "staging").glob("*"))


def test_progress_tells_every_phase(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "x.tar.zst", name="a", role="dedicated", languages=("hi",))
    steps = []
    prepared((tmp_path / "x.tar.zst").as_uri(), cache, progress=steps.append)
    assert list(dict.fromkeys(step.phase for step in steps))[:2] == ["verifying", "unpacking"]
    assert steps[-1].phase == "ready"
    assert all(0 <= step.done <= step.total for step in steps if step.total)


def test_packing_is_deterministic_and_leaves_the_folder_alone(checkpoint, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    first = pack(checkpoint, tmp_path / "a.tar.zst", name="a", languages=("hi", "en"), role="multilingual")
    for path in checkpoint.iterdir():
        os.utime(path, (1, 1))
    second = pack(checkpoint, tmp_path / "b.tar.zst", name="a", languages=("hi", "en"), role="multilingual")
    assert first == second == sha256_file(tmp_path / "a.tar.zst") == sha256_file(tmp_path / "b.tar.zst")
    assert set(before) == {path.name for path in checkpoint.iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_packed_and_unpacked_is_the_same(checkpoint, cache, tmp_path):
    pack(checkpoint, tmp_path / "a.tar.zst", name="a", languages=("hi",), role="dedicated")
    folder = fetch(parse_model_url((tmp_path / "a.tar.zst").as_uri())[0], cache, settings=SETTINGS)
    manifest = Manifest.read(folder)
    assert set(manifest.files) == {path.name for path in checkpoint.iterdir()}
    for path in checkpoint.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
        assert manifest.files[path.name] == sha256_file(path)
        assert (folder / path.name).stat().st_mode & 0o777 == 0o644
    assert inspect(folder).parameters == inspect(checkpoint).parameters


@pytest.mark.parametrize(
    ("facts", "says"),
    [({"name": "a b"}, "a name is"), ({"languages": ("xx",)}, "no token for xx"), ({"out": "x.zip"}, ".tar.zst")],
)
def test_packing_refuses_facts_that_could_not_be_served(checkpoint, tmp_path, facts, says):
    out = tmp_path / facts.pop("out", "x.tar.zst")
    with pytest.raises(CheckpointError, match=says):
        pack(checkpoint, out, **facts)
    assert not out.exists()


def test_a_sharded_folder_is_held_to_its_manifest(cache, tmp_path):
    sharded = write_checkpoint(tmp_path / "s", shards=2)
    pack(sharded, tmp_path / "s.tar.zst", name="s", role="dedicated", languages=("hi",))
    folder = fetch(parse_model_url((tmp_path / "s.tar.zst").as_uri())[0], cache, settings=SETTINGS)
    digest = sha256_file(folder / "manifest.json")
    (found,) = prepared(f"{folder.as_uri()}#sha256={digest}", cache)
    assert found.sha256 == digest
    edit_json(folder / "manifest.json", files=None)
    digest = sha256_file(folder / "manifest.json")
    assert "says nothing of the weights" in refusal(f"{folder.as_uri()}#{SAYS_ALL}&sha256={digest}", cache)


def test_checkpoints_need_no_torch():
    code = "import babelrack.checkpoints, babelrack.cli.checkpoints, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "hub.site"),
        ("HF_ENDPOINT", "ftp://hub"),
        ("AWS_ENDPOINT_URL", "http://key:hidden@minio"),
        ("CHECKPOINT_TRIES", "many"),
        ("CHECKPOINT_READ_SECONDS", "-1"),
    ],
)
def test_a_setting_that_cannot_be_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=name) as caught:
        FetchSettings.from_environment()
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_secrets_come_from_files_first(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "hf_token").write_text("hf_fromfile\n")
    (tmp_path / "aws").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = S%x\n[site]\naws_access_key_id=B\n"
    )
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "hf_token"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    settings = FetchSettings.from_environment()
    assert settings.hub_token.get_secret_value() == "hf_fromfile"
    assert (settings.s3_access_key, settings.s3_secret_key.get_secret_value()) == ("A", "S%x")
    assert "S%x" not in repr(settings)
    monkeypatch.setenv("AWS_PROFILE", "site")
    with pytest.raises(CheckpointError, match=r"\[site\]"):
        FetchSettings.from_environment()
    (tmp_path / "aws").write_text("aws_secret_access_key = hidden\n")
    with pytest.raises(CheckpointError) as caught:
        FetchSettings.from_environment()
    assert "hidden" not in str(caught.value)
