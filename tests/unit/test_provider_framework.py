"""The seam to `tf`: what it lacks is there, and nothing else in the package knows it."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tf.gen import tfplugin_pb2 as pb
from tf.utils import read_dynamic_value, to_dynamic_value

from babelrack.provider import framework
from babelrack.provider.framework import List, Number, Object, Servicer, String, Unknown
from babelrack.provider.onprem import Onprem

PROVIDER = Path(framework.__file__).parent
STATE = {
    "pack": "indic", "site": "lab", "replica": 0,
    "needs": {"gpus": 0, "gpu_memory_gib": 0, "ram_gib": 1, "disk_gib": 1},
    "ports": {"api": 1, "model": 2, "metrics": 3}, "gpu_model": None, "labels": None, "avoid": None, "id": "a/place-0",
    "host": "a", "address": "10.0.0.1", "place": 0, "gpu_ids": [], "claimed_at": "2026", "claimed_by": "me@here",
}  # fmt: skip


def test_only_the_seam_knows_the_framework():
    for path in PROVIDER.rglob("*.py"):
        names = {
            (node.names[0].name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        assert path.name == "framework.py" or not names & {"tf", "grpc", "msgpack", "google"}, path


def test_an_object_has_a_type_and_survives_the_wire():
    kind = Object({"name": String(), "sizes": List(Number()), "inner": Object({"n": Number()})})
    assert kind.tf_type() == b'["object",{"name":"string","sizes":["list","number"],"inner":["object",{"n":"number"}]}]'
    value = {"name": "x", "sizes": [1, 2], "inner": {"n": None}}
    assert kind.decode(kind.encode(value)) == value
    assert kind.encode({"name": "x"}) == {"name": "x", "sizes": None, "inner": None}
    assert kind.encode(None) is None
    assert kind.decode(Unknown) is Unknown
    assert kind.decode({"name": Unknown, "sizes": Unknown, "inner": None})["sizes"] is Unknown


class Broken(Onprem):
    @property
    def hosts(self):
        raise RuntimeError("something\nunforeseen")


@pytest.mark.parametrize(
    ("call", "request_", "kept"),
    [
        ("ReadResource", pb.ReadResource.Request(current_state=to_dynamic_value(STATE)), STATE),
        (
            "ApplyResourceChange",
            pb.ApplyResourceChange.Request(prior_state=to_dynamic_value(STATE), planned_state=to_dynamic_value(None)),
            STATE,
        ),
    ],
)
def test_an_exception_is_a_sentence_and_keeps_the_state(call, request_, kept):
    request_.type_name = "onprem_host_claim"
    answer = getattr(Servicer(Broken()), call)(request_, None)
    (diagnostic,) = answer.diagnostics
    assert diagnostic.summary == "The provider onprem failed: RuntimeError"
    assert diagnostic.detail.startswith("something unforeseen. ")
    assert read_dynamic_value(answer.new_state) == kept


def test_started_by_hand_it_says_what_it_is():
    done = subprocess.run([sys.executable, "-m", "babelrack.provider"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("This is a Terraform provider")


@pytest.fixture
def orphan(tmp_path):
    """A provider whose parent is a process that can be killed; its pid, and that parent."""
    pid = tmp_path / "pid"
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([{sys.executable!r}, '-m', 'babelrack.provider'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        f"open({str(pid)!r} + '.new', 'w').write(str(child.pid)); os.rename({str(pid)!r} + '.new', {str(pid)!r})\n"
        "time.sleep(60)\n"
    )
    key, value = framework._COOKIE
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {key: value, "TMPDIR": str(tmp_path), "HOME": str(home)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 60
    while not pid.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield int(pid.read_text()), parent
    parent.kill()
    parent.wait()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_provider_does_not_outlive_a_terraform_that_was_killed_and_leaves_nothing(orphan, tmp_path):
    pid, parent = orphan
    os.kill(pid, signal.SIGINT)  # Ctrl-C is Terraform's to handle
    assert list(tmp_path.glob("onprem-*"))
    assert is_running(pid)
    parent.kill()
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline, "it is still running"
        time.sleep(0.05)
    assert not list(tmp_path.glob("onprem-*"))
    assert not list((tmp_path / "home").iterdir())
