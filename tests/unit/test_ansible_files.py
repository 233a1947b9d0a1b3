"""The Ansible module `babelrack_files`, run as Ansible runs it: by itself, with its arguments on standard input."""

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "ansible" / "plugins" / "modules" / "babelrack_files.py"
OURS = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def run(*files, **options):
    arguments = {"files": [OURS | file for file in files]} | {f"_ansible_{name}": on for name, on in options.items()}
    done = subprocess.run(
        [sys.executable, MODULE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)


def test_what_is_missing_is_made_and_a_second_run_changes_nothing(tmp_path):
    folder, file, link = tmp_path / "a" / "b", tmp_path / "a" / "b" / "c.conf", tmp_path / "link"
    wanted = (
        {"path": str(folder), "state": "directory", "mode": "0750"},
        {"path": str(file), "content": "one\n", "mode": "0640"},
        {"path": str(link), "state": "link", "target": "a/b"},
    )
    first = run(*wanted)
    assert first["paths"] == [str(folder), str(file), str(link)]
    assert (file.read_text(), file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == ("one\n", 0o640, 0o750)
    assert link.readlink() == Path("a/b")
    node = file.stat().st_ino
    second = run(*wanted)
    assert (second["changed"], second["paths"]) == (False, [])
    assert file.stat().st_ino == node


def test_content_and_mode_that_somebody_changed_are_put_right_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "c.conf"
    file.write_text("by hand\n")
    kept = file.open()
    assert run({"path": str(file), "content": "one\n"})["changed"]
    assert kept.read() == "by hand\n", "whoever reads the old one reads it to its end"
    file.chmod(0o666)
    assert run({"path": str(file), "content": "one\n"})["changed"]
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("one\n", 0o644)
    assert list(tmp_path.iterdir()) == [file]


def test_what_should_be_absent_goes_with_what_is_in_it(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    gone = {"path": str(tmp_path / "folder"), "state": "absent"}
    assert run(gone)["changed"]
    assert not run(gone)["changed"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_program_refuses_never_gets_there(tmp_path):
    file = tmp_path / "c.conf"
    file.write_text("good\n")
    said = run({"path": str(file), "content": "bad\n", "validate": "grep --quiet good %s"})
    assert said["failed"]
    assert said["msg"].startswith(f"{file} would not be valid")
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(file, "good\n")]


def test_check_mode_says_what_would_change_and_changes_nothing(tmp_path):
    folder, file = tmp_path / "new", tmp_path / "new" / "c.conf"
    said = run(
        {"path": str(folder), "state": "directory"}, {"path": str(file), "content": "one\n"}, check_mode=True, diff=True
    )
    assert said["paths"] == [str(folder), str(file)]
    assert (said["diff"][1]["before"], said["diff"][1]["after"]) == ("absent", "one\n")
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_written_and_never_shown(tmp_path):
    file = {"path": str(tmp_path / "key"), "secret": "a-word-to-keep\n", "mode": "0600"}
    assert "a-word-to-keep" not in json.dumps(run(file, diff=True))
    assert (tmp_path / "key").read_text() == "a-word-to-keep\n"
    assert "a-word-to-keep" not in json.dumps(run(file | {"secret": "another"}, diff=True))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ({"path": "c.conf"}, "has no content"),
        ({"path": "c.conf", "state": "link"}, "has no target"),
        ({"path": "nowhere/c.conf", "content": ""}, "its folder isn't there"),
        ({"path": ".", "content": ""}, "is a folder, and should be a file"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, file, says):
    path = tmp_path / file["path"]
    said = run(file | {"path": str(path)})
    assert said["failed"]
    assert str(path) in said["msg"]
    assert says in said["msg"]
