"""The command itself: quick, lazy, and never with a traceback."""

import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from babelrack import cli
from babelrack.local import RackError


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def command(monkeypatch):
    def make(function):
        module = types.ModuleType("babelrack.cli.sample")
        module.sample = function
        monkeypatch.setitem(sys.modules, "babelrack.cli.sample", module)
        monkeypatch.setitem(cli.COMMANDS, "up", cli.Command("sample", "sample", "", ""))

    return make


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name):
    done = run(name, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_the_version_is_shown():
    assert run("--version").output.startswith("babelrack 0.")


def test_an_error_of_ours_is_its_sentence_and_exit_code_1(command):
    def fails():
        raise RackError("The port is taken.")

    command(fails)
    done = run("up")
    assert (done.exit_code, done.stderr) == (1, "babelrack: The port is taken.\n")


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(command):
    def fails():
        raise ValueError("one line\nand another")

    command(fails)
    done = run("up")
    assert done.exit_code == 1
    assert done.stderr == "babelrack: unexpected ValueError: one line and another; `babelrack --debug …` shows where.\n"
    assert isinstance(run("--debug", "up").exception, ValueError)


def test_a_file_that_is_not_there_is_named(command):
    def fails():
        Path("/no/such/file").read_text()

    command(fails)
    assert run("up").stderr == "babelrack: /no/such/file: No such file or directory\n"


def test_a_room_that_can_not_be_imported_breaks_only_its_own_command(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "packs", cli.Command("nowhere", "app", "", ""))
    done = run("packs", "check")
    assert done.exit_code == 1
    assert "`packs` can't be loaded (No module named 'babelrack.cli.nowhere')" in done.stderr
    assert run("--help").exit_code == 0


@pytest.mark.parametrize("arguments", [["nosuch"], ["up", "--nosuch"], ["transcribe"], ["up", "--timeout", "soon"]])
def test_a_wrong_command_line_is_exit_code_2(arguments):
    assert run(*arguments).exit_code == 2


def test_subtitles_of_several_files_need_a_folder():
    assert run("transcribe", "-f", "srt", "-l", "es", "a.flac", "b.flac").exit_code == 2


def test_two_files_of_one_name_are_not_written_over_each_other(tmp_path):
    done = run("transcribe", "-l", "es", "-o", str(tmp_path), "a/x.flac", "b/x.wav")
    assert done.exit_code == 2
    assert "x.txt" in done.output
