"""`scale` changes one number in a file that people write, and nothing else in it."""

import pytest
import yaml

from babelrack.fleet import FleetError
from babelrack.fleet.site_file import set_replicas

BLOCK = """\
# The lab.
packs: [indic, western_sea]

deployments:
  # Indic is the large one.
  indic:
    # ports of its own
    ports: {api: 7100}  # the usual
    replicas: 1   # one is enough
  western_sea:
    # as small as it gets
    ports:
      api: 7101
gateway: {listen: 8080}
"""


@pytest.fixture
def file(tmp_path):
    def make(text):
        path = tmp_path / "site.yaml"
        path.write_text(text)
        return path

    return make


def changed_lines(edit):
    return [line for line in edit.diff().splitlines()[3:] if line[:1] in "+-"]


def test_the_number_changes_and_its_comment_stays(file):
    edit = set_replicas(file(BLOCK), "indic", 3)
    assert changed_lines(edit) == ["-    replicas: 1   # one is enough", "+    replicas: 3   # one is enough"]


def test_a_deployment_without_a_number_gets_a_line_and_keeps_its_comments(file):
    edit = set_replicas(file(BLOCK), "western_sea", 2)
    assert changed_lines(edit) == ["+    replicas: 2"]
    assert "  western_sea:\n    replicas: 2\n    # as small" in edit.after


def test_a_pack_without_an_entry_gets_one(file):
    edit = set_replicas(file(BLOCK.replace("western_sea:", "future:").replace("western_sea", "x")), "western_sea", 2)
    assert changed_lines(edit) == ["+  western_sea:", "+    replicas: 2"]
    assert "\n  # Indic is the large one.\n  indic:" in edit.after


@pytest.mark.parametrize(
    "text",
    [
        "packs: [indic]",
        "packs: [indic]\n",
        "packs: [indic]\ndeployments: {}\n",
        "packs: [indic]\ndeployments: {}\nroutes: {}\n# the end\n",
        "deployments:\npacks: [indic]\n",
        "packs: [indic]\ndeployments:\n  indic: {ports: {api: 1}}\n",
        "packs: [indic]\ndeployments: {indic: {replicas: 1, host: {gpus: 0}}, other: {}}\n",
        "packs: [indic]\ndeployments:\n    indic:\n        replicas:\n          1\n",
        '{"packs": ["indic"], "deployments": {"indic": {"replicas": 1}}}',
    ],
)
def test_other_ways_to_write_it_come_out_right(file, text):
    edit = set_replicas(file(text), "indic", 4)
    data = yaml.safe_load(edit.after)
    assert data["deployments"]["indic"].pop("replicas") == 4
    before = yaml.safe_load(text)
    before = (before.get("deployments") or {}).get("indic") or {}
    before.pop("replicas", None)
    assert data["deployments"]["indic"] == before
    assert set_replicas(file(edit.after), "indic", 4).empty


def test_line_ends_stay_as_they_are(file):
    path = file("")
    path.write_bytes(BLOCK.replace("\n", "\r\n").encode())
    set_replicas(path, "western_sea", 2).write()
    assert b"\r\n    replicas: 2\r\n" in path.read_bytes()
    assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")


@pytest.mark.parametrize("text", ["deployments: {indic: {}}\n", "deployments: {other: {replicas: 1}}\n"])
def test_a_form_that_is_not_understood_is_refused_with_the_fix(file, text):
    with pytest.raises(FleetError, match=r"write `replicas: 2` under deployments\.indic yourself"):
        set_replicas(file(text), "indic", 2)


def test_writing_keeps_the_mode_and_undoing_gives_back_every_byte(file):
    path = file(BLOCK)
    path.chmod(0o640)
    edit = set_replicas(path, "indic", 2)
    edit.write()
    assert path.read_text() == edit.after
    assert path.stat().st_mode & 0o777 == 0o640
    edit.undo()
    assert path.read_text() == BLOCK


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(file):
    path = file(BLOCK)
    edit = set_replicas(path, "indic", 2)
    path.write_text(BLOCK + "# mine\n")
    with pytest.raises(FleetError, match="was changed while this ran"):
        edit.write()
    assert path.read_text() == BLOCK + "# mine\n"
