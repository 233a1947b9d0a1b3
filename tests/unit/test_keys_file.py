"""Client keys: only those in force are found, and a broken file locks nobody out and nobody in."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from babelrack.credentials import CredentialError, read_credential, write_private
from babelrack.keys import ClientKey, KeyFile, KeyFileError
from babelrack.keys.file import add_key, read_keys, revoke_key
from babelrack.licensing.document import generate_license_key, key_sha256


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.yaml"


def add(path, name, requests_per_minute=None, concurrency=None):
    return add_key(path, name, requests_per_minute=requests_per_minute, concurrency=concurrency)


def test_a_key_is_found_with_its_limits_and_nothing_else_is(path):
    acme, other = add(path, "acme", 60, 4), add(path, "other")
    keys = KeyFile(path)
    assert keys.find(acme) == ClientKey("acme", 60, 4)
    assert keys.find(other) == ClientKey("other", None, None)
    for wrong in ("", "brk_", acme[:-1], acme + " ", acme.lower(), other + acme, "x" * 10_000, "\ud800", "é" * 300):
        assert keys.find(wrong) is None


@settings(deadline=None)
@given(st.text())
def test_no_made_up_key_is_found(tmp_path_factory, presented):
    path = tmp_path_factory.getbasetemp() / "made-up.yaml"
    if not path.exists():
        add(path, "acme")
    assert KeyFile(path).find(presented) is None


def test_the_file_holds_no_key(path):
    key = add(path, "acme")
    assert key.startswith("brk_")
    assert len(key) >= 47
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_licence_key_is_accepted_as_license_without_limits(path):
    license_key = generate_license_key()
    add(path, "acme")
    for keys in (
        KeyFile(path, license_key_sha256=key_sha256(license_key)),
        KeyFile(None, license_key_sha256=key_sha256(license_key)),
    ):
        assert keys.find(license_key) == ClientKey("license")
    with pytest.raises(KeyFileError, match="licence key's own"):
        add(path, "license")


def test_a_change_is_seen_within_a_second_and_the_file_is_looked_at_no_more_often(path):
    clock = Clock()
    first = add(path, "acme")
    keys = KeyFile(path, monotonic=clock)
    second = add(path, "other")
    revoke_key(path, "acme")
    clock.now += 0.9
    assert keys.find(second) is None
    clock.now += 0.2
    assert keys.find(second) == ClientKey("other")
    assert keys.find(first) is None


@pytest.mark.parametrize(
    "broken",
    [
        "keys: [",
        "\tkeys: 1",
        "keys: 7",
        "keys:\n- name: acme\n",
        "keys: []\nmore: 1",
        '{"keys": [}',
        "\x00",
        "keys: &a [*a]",
        "- " * 5000,
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_a_broken_file_keeps_the_last_good_keys_and_is_reported(path, broken):
    clock = Clock()
    key = add(path, "acme")
    good = path.read_text()
    keys = KeyFile(path, monotonic=clock)
    path.write_text(broken)
    clock.now += 2
    assert keys.find(key) == ClientKey("acme")
    assert str(path) in keys.fault
    assert "\n" not in keys.fault
    path.write_text(good)
    clock.now += 2
    assert keys.find(key) == ClientKey("acme")
    assert keys.fault is None


def test_a_file_that_vanishes_keeps_its_keys_and_is_reported(path):
    clock = Clock()
    key = add(path, "acme")
    keys = KeyFile(path, monotonic=clock)
    path.unlink()
    clock.now += 2
    assert keys.find(key) == ClientKey("acme")
    assert "can't be read" in keys.fault


@settings(deadline=None)
@given(st.text(max_size=300) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(json.dumps))
@example("keys:\n- {name: a, sha256: " + "0" * 64 + ", created: 2026-01-01}")
@example("[" * 5000)
@example("[" * 1_000_000)
@example("- " * 500_000)
@example("{a: " * 500_000)
@example('{"a":' * 500_000)
def test_any_file_is_read_or_refused_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content.encode(errors="replace"))
    refusal = None
    try:
        read_keys(path)
    except KeyFileError as error:
        refusal = str(error)
    assert refusal is None or (str(path) in refusal and "\n" not in refusal)


def test_names_and_hashes_are_there_once(path):
    add(path, "acme")
    entry = yaml.safe_load(path.read_text())["keys"][0]
    for twin in (entry | {"sha256": "0" * 64}, entry | {"name": "twin"}):
        path.write_text(yaml.safe_dump({"keys": [entry, twin]}))
        with pytest.raises(KeyFileError, match="twice"):
            read_keys(path)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"concurrency": -1}, {"requests_per_minute": 10**9}])
def test_a_senseless_limit_is_refused_by_name(path, limits):
    with pytest.raises(KeyFileError, match=next(iter(limits))):
        add(path, "acme", **limits)
    assert not path.exists()


def test_names_are_used_once_and_must_be_there_to_be_revoked(path):
    add(path, "acme")
    with pytest.raises(KeyFileError, match="already"):
        add(path, "acme")
    with pytest.raises(KeyFileError, match="no key named"):
        revoke_key(path, "nobody")
    revoke_key(path, "acme")
    when = read_keys(path)[0].revoked
    revoke_key(path, "acme")
    assert read_keys(path)[0].revoked == when


def test_commands_at_the_same_time_lose_no_key(path):
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda number: add(path, f"client-{number}"), range(24)))
    known = KeyFile(path)
    assert [known.find(key).name for key in keys] == [f"client-{number}" for number in range(24)]


def test_json_stays_json(tmp_path):
    path = tmp_path / "keys.json"
    key = add(path, "acme", 5)
    assert json.loads(path.read_text())["keys"][0]["name"] == "acme"
    assert KeyFile(path).find(key) == ClientKey("acme", 5, None)


def test_the_servers_access_to_the_file_outlives_a_change(path):
    add(path, "acme")
    path.chmod(0o640)
    add(path, "other")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_server_without_its_key_file_says_so_at_start(path):
    with pytest.raises(KeyFileError, match=str(path)):
        KeyFile(path)


def test_a_credential_comes_from_systemd_then_the_file_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("LICENSE_KEY", raising=False)
    file = tmp_path / "file"
    write_private(file, "from the file\n")
    assert read_credential("license_key") is None
    assert read_credential("license_key", env="LICENSE_KEY") is None
    monkeypatch.setenv("LICENSE_KEY", "from the environment\n")
    assert read_credential("license_key", env="LICENSE_KEY") == "from the environment"
    assert read_credential("license_key", file=file, env="LICENSE_KEY") == "from the file"
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert read_credential("license_key", file=file, env="LICENSE_KEY") == "from the file"
    (folder / "license_key").write_text("from systemd\n")
    assert read_credential("license_key", file=file, env="LICENSE_KEY") == "from systemd"


def test_a_credential_file_that_is_named_must_work(tmp_path, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    file = tmp_path / "secret"
    with pytest.raises(CredentialError, match="can't be read"):
        read_credential("license_key", file=file)
    for content, fault in ((b" \n", "empty"), (b"\xff\xfe", "not text"), (b"x" * 70_000, "larger")):
        file.write_bytes(content)
        with pytest.raises(CredentialError, match=fault):
            read_credential("license_key", file=file)


def test_a_secret_that_everyone_can_read_is_warned_about_without_telling_it(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    file = tmp_path / "secret"
    file.write_text("hush-hush")
    file.chmod(0o644)
    assert read_credential("license_key", file=file) == "hush-hush"
    assert "chmod 600" in caplog.text
    assert "hush-hush" not in caplog.text


def test_a_private_file_is_replaced_whole_and_never_overwritten_by_accident(tmp_path):
    file = tmp_path / "secret"
    write_private(file, "one", replace=False)
    with pytest.raises(FileExistsError):
        write_private(file, "two", replace=False)
    write_private(file, "three")
    assert file.read_text() == "three"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
