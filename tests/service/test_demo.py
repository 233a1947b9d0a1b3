"""The demo without lab hosts, with ports of its own."""

import signal
import subprocess
import sys

import pytest

from babelrack.local.state import StateFolder
from rack import PROJECT, TIMEOUT_SECONDS, Rack, speech, write_site

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def demo(tmp_path):
    site = write_site(["indic", "future"], tmp_path)
    rack = Rack(tmp_path / "rack", site)
    command = [sys.executable, "-m", "demo.local", "--site", str(site), "--state", str(rack.state)]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=None,
    )  # fmt: skip
    yield process, rack
    process.kill()
    process.wait()
    assert rack.run("down").stdout == "Nothing is running.\n"


def test_the_demo_transcribes_five_languages_and_leaves_nothing_running(demo):
    process, rack = demo
    seen = []
    rack.until(lambda: process.poll() is not None or ((rack.state / "rack.json").exists() and rack.record.healthy))
    if process.poll() is None:
        seen = rack.processes()
    said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, said
    clips = speech(demo=True)
    assert {clip["language"] for clip in clips} == {"en", "es", "pt", "de", "fr"}
    for clip in clips:
        pack = "indic" if clip["language"] == "en" else "future"
        assert any(line.split()[:3] == [clip["language"], pack, f"{pack}-multi"] for line in said.splitlines()), said
    assert "Everything is stopped." in said
    assert not any(member.alive() for member in seen)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_takes_everything_down_when_it_is_interrupted(demo, number):
    process, rack = demo
    rack.until(lambda: process.poll() is not None or StateFolder(rack.state).record_file.exists())
    seen = rack.processes()
    assert seen
    process.send_signal(number)
    said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert not any(member.alive() for member in seen), said
