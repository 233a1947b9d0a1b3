"""`babelrack keys`: a key is shown once and stored nowhere."""

import pytest
from typer.testing import CliRunner

from babelrack.cli.keys import app
from babelrack.keys import ClientKey, KeyFile, KeyFileError


@pytest.fixture
def cli(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("KEYS_FILE", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_key_is_printed_alone_on_stdout_so_that_it_can_be_piped(cli, tmp_path):
    path = tmp_path / "keys.yaml"
    added = cli("add", "acme", "--requests-per-minute", 60, "--concurrency", 4, "--file", path)
    assert added.exit_code == 0
    key = added.stdout.strip()
    assert added.stdout == key + "\n"
    assert key not in added.stderr
    assert key not in path.read_text()
    assert KeyFile(path).find(key) == ClientKey("acme", 60, 4)


def test_an_operator_s_key_is_marked_and_no_other_is(cli, tmp_path):
    path = tmp_path / "keys.yaml"
    keys = [cli("add", *names, "--file", path).stdout.strip() for names in (["acme"], ["ops", "--operator"])]
    assert [KeyFile(path).find(key).operator for key in keys] == [False, True]
    assert path.read_text().count("operator") == 1
    assert cli("list", "--file", path).stdout.count("yes") == 1


def test_list_shows_limits_and_revocations_and_no_secret(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("KEYS_FILE", str(tmp_path / "keys.yaml"))
    keys = [cli("add", "acme", "--requests-per-minute", 60).stdout.strip(), cli("add", "other").stdout.strip()]
    assert cli("revoke", "acme").exit_code == 0
    listed = cli("list").stdout
    for word in ("acme", "other", "60", "no limit"):
        assert word in listed
    assert not any(key in listed for key in keys)
    known = KeyFile(tmp_path / "keys.yaml")
    assert [known.find(key) for key in keys] == [None, ClientKey("other")]


@pytest.mark.parametrize("arguments", [["revoke", "nobody"], ["list"], ["add", "bad name"], ["add", "license"]])
def test_a_fault_is_one_sentence(cli, tmp_path, arguments):
    result = cli(*arguments, "--file", tmp_path / "keys.yaml")
    assert result.exit_code == 1
    assert isinstance(result.exception, KeyFileError)
    assert "\n" not in str(result.exception)


def test_a_limit_of_nothing_is_refused_by_name(cli, tmp_path):
    result = cli("add", "acme", "--concurrency", 0, "--file", tmp_path / "keys.yaml")
    assert result.exit_code == 2
    assert "--concurrency" in result.output
