"""`babelrack up`, `status`, `transcribe` and `down` with the real servers of two packs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from babelrack.cli import COMMANDS
from babelrack.keys.file import add_key
from rack import PROJECT, Rack, babelrack, running_rack, speech, write_site

pytestmark = pytest.mark.timeout(900)

SPANISH = speech(file="es-3s-b.flac")[0]
ENGLISH = speech(file="en-3s-a.flac")[0]


@pytest.fixture(scope="module")
def rack(tmp_path_factory):
    with running_rack(["indic", "future"], tmp_path_factory.mktemp("rack")) as rack:
        yield rack


def words(text):
    return "".join(letter.lower() for letter in text if letter.isalnum() or letter == " ").split()


def test_up_prints_the_urls_and_a_line_to_paste_without_the_key_in_it(rack):
    again = rack.run("status")
    assert again.returncode == 0
    assert rack.record.settled
    header = rack.record.header_file
    url = f"{rack.gateway}/waves/v1/pulse/get_text?language=es"
    answer = subprocess.run(
        [
            "curl", "--silent", "--fail", "--header", f"@{header}", "--header", "Content-Type: audio/flac",
            "--data-binary", f"@{SPANISH['path']}", url,
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert words(json.loads(answer.stdout)["transcription"]) == words(SPANISH["text"])
    assert Path(header).stat().st_mode & 0o777 == 0o600


def test_transcribe_writes_text_in_the_order_of_the_files(rack):
    done = rack.run("transcribe", "--language", "es", SPANISH["path"], speech(file="es-11s-a.flac")[0]["path"])
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{SPANISH['path']}: ")
    assert words(first.partition(": ")[2]) == words(SPANISH["text"])
    assert second.startswith(str(speech(file="es-11s-a.flac")[0]["path"]))
    assert done.stderr == ""


def test_transcribe_writes_json_with_the_pack_and_the_checkpoint_that_served(rack):
    done = rack.run("transcribe", "-l", "en", "-f", "json", ENGLISH["path"])
    answer = json.loads(done.stdout)
    assert (answer["pack"], answer["checkpoint"], answer["language"]) == ("indic", "indic-multi", "en")
    assert words(answer["transcription"]) == words(ENGLISH["text"])


@pytest.mark.parametrize(("kind", "mark"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT")])
def test_transcribe_writes_subtitles(rack, kind, mark):
    done = rack.run("transcribe", "-l", "es", "-f", kind, SPANISH["path"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(mark)
    assert "hermana" in done.stdout


def test_transcribe_goes_on_after_a_file_that_has_no_transcript_and_ends_with_1(rack, tmp_path):
    noise, missing = tmp_path / "noise.flac", tmp_path / "missing.flac"
    noise.write_bytes(os.urandom(5000))
    output = tmp_path / "texts"
    done = rack.run("transcribe", "-l", "es", "-o", output, noise, missing, SPANISH["path"])
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [str(noise), str(missing)]
    assert [file.name for file in output.iterdir()] == ["es-3s-b.txt"]
    assert words((output / "es-3s-b.txt").read_text()) == words(SPANISH["text"])


def test_transcribe_waits_when_the_server_says_so_and_gets_every_transcript(rack, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text(add_key(rack.state / "secrets/keys.yaml", "narrow", requests_per_minute=None, concurrency=1))
    files = [speech(file=f"es-11s-{letter}.flac")[0]["path"] for letter in "ab"] + [SPANISH["path"]]
    header = {"Authorization": f"Bearer {key_file.read_text()}"}
    rack.until(lambda: httpx.get(f"{rack.url('api_server', 'future')}/v1/models", headers=header).status_code == 200)
    done = rack.run("transcribe", "-l", "es", "-j", 3, "--gateway", rack.gateway, "--key-file", key_file, *files)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_transcribe_live_says_each_utterance_of_a_file(rack):
    done = rack.run("transcribe", "--live", "-l", "es", SPANISH["path"])
    assert done.returncode == 0, done.stderr
    assert words(done.stdout) == words(SPANISH["text"])
    assert done.stderr == ""


def test_transcribe_live_takes_headerless_audio_on_stdin_and_writes_the_messages(rack):
    import speech as fixtures

    samples = fixtures.clip(ENGLISH["file"]).samples()
    command = [sys.executable, "-m", "babelrack.cli", "transcribe", "--live", "-l", "en", "-f", "json", "-"]
    done = subprocess.run(
        [*command, "--state", str(rack.state)], input=samples.tobytes(), capture_output=True, timeout=300, cwd=PROJECT,
        check=True,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event.get("is_last") for event in events].index(True) == len(events) - 1
    finals = " ".join(event["transcript"] for event in events if event.get("is_final"))
    assert words(finals) == words(ENGLISH["text"])


def test_transcribe_live_ends_at_ctrl_c_with_the_last_transcript(rack):
    long = speech(file="en-28s.flac")[0]["path"]
    command = [sys.executable, "-m", "babelrack.cli", "transcribe", "--live", "-l", "en", "-f", "json", str(long)]
    live = subprocess.Popen(
        [*command, "--state", str(rack.state)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    first = json.loads(live.stdout.readline())
    live.send_signal(signal.SIGINT)
    rest, complaint = live.communicate(timeout=120)
    assert live.returncode == 0, complaint
    last = json.loads(rest.splitlines()[-1])
    assert (first["is_last"], last["is_last"]) == (False, True)


def test_transcribe_live_says_in_one_sentence_why_it_is_refused(rack, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text("not a key")
    key_file.chmod(0o600)
    done = rack.run(
        "transcribe", "--live", "-l", "en", "--gateway", rack.gateway, "--key-file", key_file, SPANISH["path"]
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    noise = tmp_path / "noise.flac"
    noise.write_bytes(os.urandom(5000))
    done = rack.run("transcribe", "--live", "-l", "en", noise)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not audio" in done.stderr.lower() or "recognise" in done.stderr.lower()


def test_transcribe_refuses_a_language_that_no_pack_serves_before_anything_is_sent(rack):
    done = rack.run("transcribe", "-l", "fi", SPANISH["path"])
    assert done.returncode == 1
    assert done.stderr.startswith("babelrack: --language fi: no pack serves 'fi'")
    assert len(done.stderr.splitlines()) == 1


def test_status_shows_health_checkpoints_and_load_of_every_deployment(rack):
    done = rack.run("status", "--format", "json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert [row["deployment"] for row in found["deployments"]] == ["indic", "future"]
    indic = found["deployments"][0]
    assert [(each["name"], each["concurrency"]) for each in indic["checkpoints"]] == [
        ("indic-hi", 64),
        ("indic-multi", 64),
    ]
    assert indic["uptime_s"] > 0
    assert {each["name"]: each["status"] for each in found["shared"]} == {
        "redis": "healthy", "license-proxy": "healthy", "nginx": "healthy",
    }  # fmt: skip
    assert "indic-multi" in rack.run("status").stdout


def test_status_asks_a_site_or_a_gateway_that_this_folder_knows_nothing_of(rack, tmp_path):
    for where in (["--site", rack.site], ["--gateway", rack.gateway]):
        done = babelrack("status", "--state", tmp_path, "--format", "json", *where)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(json.loads(done.stdout)["deployments"]) == 2


def test_a_second_up_from_the_same_folder_is_refused_and_disturbs_nothing(rack):
    before = rack.record.leaders()
    done = rack.run("up", "--detach", "--site", rack.site)
    assert done.returncode == 1
    assert f"A rack runs from {rack.state} already (pid {rack.record.supervisor.pid})" in done.stderr
    assert rack.record.leaders() == before


def test_a_port_that_is_taken_is_named_with_its_holder(rack, tmp_path):
    done = babelrack("up", "--detach", "--site", rack.site, "--state", tmp_path / "other")
    assert done.returncode == 1
    port = rack.gateway.rpartition(":")[2]
    assert (
        f"Port {port} on 127.0.0.1, which nginx needs, is taken by nginx (pid {rack.process('gateway').pid});"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_no_secret_is_in_a_command_line_or_an_environment(rack):
    folder = rack.state / "secrets"
    secrets = [(folder / name).read_text().strip() for name in ("redis.password", "license.key", "client.key")]
    for process in rack.processes():
        seen = "".join(Path(f"/proc/{process.pid}/{name}").read_text() for name in ("cmdline", "environ"))
        assert not [secret for secret in secrets if secret in seen]
    for log in (rack.state / "logs").iterdir():
        assert not [secret for secret in secrets if secret in log.read_text()]
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir()} == {0}


@pytest.mark.parametrize("role", ["model_server", "api_server", "gateway", "license_proxy", "redis"])
def test_a_process_that_is_killed_is_started_again_while_the_rest_is_left_alone(rack, role):
    rack.until_healthy()
    pack = "future" if role in ("model_server", "api_server") else None
    victim = rack.process(role, pack)
    others = [process for process in rack.record.leaders() if process != victim]
    restarts = rack.service(role, pack).restarts
    os.kill(victim.pid, signal.SIGKILL)
    rack.until(lambda: rack.service(role, pack).restarts == restarts + 1)
    rack.until_healthy()
    assert rack.process(role, pack) != victim
    assert [process for process in rack.record.leaders() if process in others] == others
    assert victim.session() == []
    assert f"{rack.service(role, pack).name} was killed by SIGKILL; started again in" in rack.log("supervisor")
    assert rack.run("transcribe", "-l", "es", SPANISH["path"]).returncode == 0


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path):
    with running_rack(["future"], tmp_path) as rack:
        record, before = rack.record, rack.processes()
        assert len(before) > len(record.services)
        os.kill(record.supervisor.pid, signal.SIGKILL)
        rack.until(lambda: not any(process.alive() for process in before))
        assert rack.run("status").returncode == 3
        assert rack.run("down").returncode == 0
        again = rack.run("down")
        assert (again.returncode, again.stdout) == (0, "Nothing is running.\n")


def test_ctrl_c_ends_everything_in_order_and_leaves_nothing(tmp_path):
    site = write_site(["future"], tmp_path)
    rack = Rack(tmp_path / "rack", site)
    command = [sys.executable, "-m", "babelrack.cli", "up", "future", "--threads", "1", "--timeout", "240"]
    up = subprocess.Popen(
        [*command, "--site", str(site), "--state", str(rack.state)],
        cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        rack.until(lambda: up.poll() is not None or ((rack.state / "rack.json").exists() and rack.record.healthy))
        before = [member for leader in rack.record.leaders() for member in leader.session()]
        assert rack.run("transcribe", "-l", "es", SPANISH["path"]).returncode == 0
        up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=120)
    finally:
        up.kill()
        up.wait()
        rack.run("down")
    assert up.returncode == 0
    assert said.endswith("Everything is stopped.\n")
    assert not any(process.alive() for process in before)


def test_a_pack_that_can_not_load_its_checkpoint_breaks_only_itself(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    sources = {
        "*": {"url": f"file://{PROJECT}/.cache/checkpoints/whisper-base"},
        "indic-hi": {"url": f"file://{broken}"},
    }
    with running_rack(["indic", "future"], tmp_path, healthy=False, checkpoint_sources=sources) as rack:
        assert rack.service("model_server", "indic").condition == "failed"
        assert any(str(broken) in line for line in rack.service("model_server", "indic").last_lines)
        assert rack.run("transcribe", "-l", "es", SPANISH["path"]).returncode == 0
        status = rack.run("status")
        assert status.returncode == 1
        assert "indic" in status.stdout


def test_up_says_what_to_do_when_the_checkpoint_is_not_there(tmp_path):
    site = write_site(["future"], tmp_path, checkpoint=tmp_path / "nowhere")
    done = babelrack("up", "--detach", "--site", site, "--state", tmp_path / "rack")
    assert done.returncode == 1
    assert f"is not at {tmp_path / 'nowhere'}; run `make setup`." in done.stderr


def test_up_says_which_program_is_missing(tmp_path):
    site = write_site(["future"], tmp_path)
    command = [sys.executable, "-c", (
        "from babelrack.local import layout; layout.PROGRAM_PATH = '/nowhere';"
        "from babelrack.cli import main; main()"
    )]  # fmt: skip
    done = subprocess.run(
        [*command, "up", "--site", str(site), "--state", str(tmp_path / "rack")],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "babelrack: redis-server is not installed; run `make setup`, or install Debian's package for it.\n"
    )


def test_help_lists_every_command_and_imports_none_of_them():
    script = "import sys; from babelrack.cli import main\ntry: main()\nfinally: print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=False)
    assert all(name in done.stdout for name in COMMANDS)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"torch", "numpy", "httpx", "pydantic", "fastapi", "babelrack.packs"} & set(loaded)


def test_down_where_nothing_ever_ran_is_no_error(tmp_path):
    done = babelrack("down", "--state", tmp_path / "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing is running.\n", "")
