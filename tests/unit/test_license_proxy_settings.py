"""The licence proxy's settings: a wrong one is a sentence that names it."""

import pytest

from babelrack.license_proxy.__main__ import main


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "LICENSE_FILE"),
        ({"LICENSE_FILE": "/x"}, "LICENSE_PUBLIC_KEY_FILE"),
        ({"UPSTREAM_URL": "ftp://x"}, "UPSTREAM_URL"),
        ({"UPSTREAM_URL": "http://127.0.0.1:9", "PORT": "many"}, "PORT"),
        ({"UPSTREAM_URL": "http://127.0.0.1:9", "SEAT_SECONDS": "0"}, "SEAT_SECONDS"),
    ],
)
def test_an_unusable_setting_is_named_and_ends_with_exit_code_2(monkeypatch, capsys, environment, named):
    for name in ("LICENSE_FILE", "LICENSE_PUBLIC_KEY_FILE", "UPSTREAM_URL", "PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main() == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
