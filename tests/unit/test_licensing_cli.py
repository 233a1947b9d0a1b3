"""`babelrack license`: secrets go to files, faults are sentences, nothing is overwritten."""

import csv
import io
import time
from datetime import datetime

import pytest
from typer.testing import CliRunner

from babelrack.cli.license import app
from babelrack.license_proxy.ledger import Ledger
from babelrack.licensing import LicenseError
from babelrack.licensing.messages import UsageRecord


@pytest.fixture
def cli(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("LICENSE_KEY", "LICENSE_KEY_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def issuer(cli, tmp_path):
    assert cli("keygen", "--out", tmp_path / "issuer").exit_code == 0
    return tmp_path / "issuer"


@pytest.fixture
def issue(cli, issuer, tmp_path):
    def issue(*more, name="acme.jws", languages="hi,en"):
        order = ["--customer", "Acme", "--languages", languages, "--seats", 3, "--days", 30]
        return cli("issue", *order, "--signing-key", issuer / "issuer.key", "--out", tmp_path / name, *more)

    return issue


def test_the_private_key_is_the_owners_alone_and_is_never_replaced(cli, issuer):
    assert (issuer / "issuer.key").stat().st_mode & 0o777 == 0o600
    private = (issuer / "issuer.key").read_text()
    again = cli("keygen", "--out", issuer)
    assert again.exit_code == 1
    assert isinstance(again.exception, LicenseError)
    assert (issuer / "issuer.key").read_text() == private
    assert private not in (issuer / "issuer.pub").read_text()


def test_the_licence_key_goes_to_its_file_and_is_shown_only_when_asked_for(issue, tmp_path):
    issued = issue()
    assert issued.exit_code == 0
    key = (tmp_path / "acme.jws.key").read_text().strip()
    assert (tmp_path / "acme.jws.key").stat().st_mode & 0o777 == 0o600
    assert key not in issued.output + (tmp_path / "acme.jws").read_text()
    shown = issue("--show-key", "--key-out", tmp_path / "elsewhere", name="other.jws")
    assert (tmp_path / "elsewhere").read_text().strip() in shown.output


def test_nothing_is_overwritten_by_a_second_licence(issue, tmp_path):
    issue()
    before = (tmp_path / "acme.jws").read_text(), (tmp_path / "acme.jws.key").read_text()
    assert "there already" in str(issue().exception)
    assert ((tmp_path / "acme.jws").read_text(), (tmp_path / "acme.jws.key").read_text()) == before


def test_inspect_shows_what_the_licence_says_and_whether_it_is_good(cli, issue, issuer, tmp_path):
    issue()
    good = cli("inspect", tmp_path / "acme.jws", "--public-key", issuer / "issuer.pub")
    assert good.exit_code == 0
    for word in ("Acme", "hi en", "3", "good"):
        assert word in good.output
    assert "not verified" in cli("inspect", tmp_path / "acme.jws").output
    cli("keygen", "--out", tmp_path / "other")
    forged = cli("inspect", tmp_path / "acme.jws", "--public-key", tmp_path / "other/issuer.pub")
    assert forged.exit_code == 1
    assert "another issuer" in str(forged.exception)
    issue(name="all.jws", languages="all")
    assert "all" in cli("inspect", tmp_path / "all.jws").output


def test_inspect_of_an_expired_licence_shows_it_and_fails(cli, issue, issuer, tmp_path, monkeypatch):
    issue()
    in_two_months = time.time() + 61 * 86400
    monkeypatch.setattr("babelrack.cli.license.datetime", _clock_at(in_two_months))
    expired = cli("inspect", tmp_path / "acme.jws", "--public-key", issuer / "issuer.pub")
    assert expired.exit_code == 1
    assert "Acme" in expired.output
    assert "expired on" in expired.output


def _clock_at(seconds):

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(seconds, tz)

    return Clock


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xfe", b"a.b.c", b"e30.e30.AAAA"])
def test_a_file_that_is_no_licence_is_refused_in_one_sentence(cli, tmp_path, content):
    path = tmp_path / "license"
    path.write_bytes(content)
    for result in (cli("inspect", path), cli("inspect", tmp_path / "missing")):
        assert result.exit_code == 1
        assert isinstance(result.exception, LicenseError)
        assert "\n" not in str(result.exception)


def test_usage_is_a_table_with_a_total_and_a_csv_that_is_safe_to_open(cli, tmp_path):
    ledger = Ledger(tmp_path / "usage.sqlite3")
    one = {"deployment": "indic", "checkpoint": "indic-multi", "language": "hi", "key": "acme", "audio_seconds": 1.5}
    en = one | {"language": "en", "audio_seconds": 3600}
    ledger.count([UsageRecord(**fields) for fields in [one] * 4 + [en] * 2 + [one | {"key": "=1+1"}]], time.time())
    ledger.close()
    source = ("usage", "--database", tmp_path / "usage.sqlite3")
    table = cli(*source)
    assert table.exit_code == 0
    assert "2:00:07.5" in table.output
    report = cli(*source, "--by", "language,key", "--format", "csv")
    assert list(csv.reader(io.StringIO(report.output))) == [
        ["language", "key", "requests", "audio_seconds"],
        ["en", "acme", "2", "7200.000"],
        ["hi", "'=1+1", "1", "1.500"],
        ["hi", "acme", "4", "6.000"],
    ]
    none = cli(*source, "--until", "2020-01-01", "--format", "csv")
    assert none.output == "pack,language,requests,audio_seconds\n"


@pytest.mark.parametrize("wrong", [["--by", "x"], ["--by", ""], ["--since", "x"], ["--format", "pdf"]])
def test_a_wrong_option_is_named(cli, tmp_path, wrong):
    result = cli("usage", "--database", tmp_path, *wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.output


def test_usage_says_where_it_found_nothing_to_read(cli, tmp_path):
    assert cli("usage").exit_code == 2
    assert "no usage database" in str(cli("usage", "--database", tmp_path / "missing").exception)
    assert "--license-key-file" in str(cli("usage", "--url", "http://127.0.0.1:9").exception)
