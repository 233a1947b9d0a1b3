"""The examples do what their README says: real clients, a real browser, a real pack."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from api_rig import ROOT, Rig
from license_rig import PATIENCE, free_port

from browser import CHROMIUM, Page, browser_page
from speech import RATE, clip, encoded, recording, score, silence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["api_pack"]

EXAMPLES = ROOT / "examples"
NODE = shutil.which("node")
SPOKEN = clip("en-11s-a")
# Against the same audio sent as a file: two of the clip's 34 words.
NEAR = 0.06

needs_node = pytest.mark.skipif(
    NODE is None or not (EXAMPLES / "javascript" / "node_modules" / "ws").is_dir(),
    reason="Node or its package ws is missing; make setup installs both",
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing; make setup installs it")
clients = pytest.mark.parametrize(
    "client",
    [
        pytest.param([sys.executable, str(EXAMPLES / "python" / "live.py")], id="python"),
        pytest.param([NODE, str(EXAMPLES / "javascript" / "live.mjs")], id="javascript", marks=needs_node),
    ],
)


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> Path:
    """The clip, with a second of quiet before it and two after it: a microphone is opened before somebody speaks."""
    samples = np.concatenate([silence(1), SPOKEN.samples(), silence(2)])
    return encoded(samples, tmp_path_factory.mktemp("speech") / "spoken.wav")


@pytest.fixture(scope="module")
def error_rate_of_the_file(pack: Rig, wav: Path) -> float:
    """What the same audio comes to when it isn't live."""
    with pack.client() as client:
        answer = client.post("/waves/v1/pulse/get_text", params={"language": "en"}, content=wav.read_bytes())
    return score([SPOKEN.text], [answer.json()["transcription"]]).wer


def run(
    client: list[str], pack: Rig, *arguments: str, key: str | None = None, **options
) -> subprocess.CompletedProcess:
    """A client against the pack, with the key in a file's place: the environment, which no other user can read."""
    command = [*client, "--gateway", pack.api.url, "--language", "en", *arguments]
    environment = {"BABELRACK_KEY": key or pack.key}
    return subprocess.run(command, env=environment, capture_output=True, timeout=2 * PATIENCE, check=False, **options)


@clients
def test_a_client_prints_what_a_file_says_while_it_is_spoken(client, pack, wav, error_rate_of_the_file):
    started = time.monotonic()
    ended = run(client, pack, str(wav))
    assert ended.returncode == 0, ended.stderr.decode()
    assert time.monotonic() - started > SPOKEN.seconds, "a file is sent at the pace of time"
    assert score([SPOKEN.text], [ended.stdout.decode()]).wer <= error_rate_of_the_file + NEAR
    partials = ended.stderr.decode().splitlines()
    assert any(partial.startswith("We walked") for partial in partials), partials


@clients
def test_a_client_takes_raw_samples_on_standard_input(client, pack):
    said = clip("en-3s-a")
    ended = run(client, pack, "--sample-rate", str(RATE), "-", input=said.samples().astype("<i2").tobytes())
    assert ended.returncode == 0, ended.stderr.decode()
    assert score([said.text], [ended.stdout.decode()]).wer <= 0.15


@clients
def test_an_interrupted_client_still_prints_the_last_words(client, pack, tmp_path):
    long = recording(150)
    wav = encoded(long.samples, tmp_path / "long.wav")
    command = [*client, "--gateway", pack.api.url, "--language", "en", str(wav)]
    process = subprocess.Popen(
        command, env={"BABELRACK_KEY": pack.key}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        partial = process.stderr.readline().strip()
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=2 * PATIENCE)
    assert partial
    assert process.returncode == 0, complaint
    assert said.startswith(long.text.partition(" ")[0])
    assert len(said.split()) < len(long.text.split()) / 2


@clients
@pytest.mark.parametrize(
    ("arguments", "key", "sentence"),
    [
        (["-"], "brk_wrong", "unauthorized"),
        (["--language", "xx", "-"], None, "xx"),
        (["--gateway", "http://127.0.0.1:1", "-"], None, "127.0.0.1:1"),
        (["--gateway", "nowhere", "-"], None, "nowhere is no gateway's address"),
        (["no-such-file.wav"], None, "no-such-file.wav can't be read"),
    ],
)
def test_a_client_says_in_a_sentence_why_there_is_no_transcript(client, pack, arguments, key, sentence):
    ended = run(client, pack, *arguments, key=key, input=b"")
    complaint = ended.stderr.decode()
    assert ended.returncode == 1, complaint
    assert sentence in complaint
    assert len(complaint.splitlines()) == 1
    assert (key or pack.key) not in complaint


@clients
def test_a_client_refuses_a_wav_file_that_no_session_takes(client, pack, tmp_path):
    odd = encoded(silence(0.1), tmp_path / "odd.wav", rate=11_025)
    ended = run(client, pack, str(odd))
    assert ended.returncode == 1
    assert "11025 Hz; make it mono, 16 bits, at one of 8000, " in ended.stderr.decode()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The page's folder behind a web server that knows nothing of the pack."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(
        command,
        cwd=EXAMPLES / "microphone",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            httpx.get(url, trust_env=False)
            break
        except httpx.HTTPError:
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(PATIENCE)


async def fill_in_and_start(page: Page, *, gateway: str, key: str, language: str = "en") -> None:
    for field, value in (("gateway", gateway), ("key", key), ("language", language)):
        await page.evaluate(f"document.getElementById('{field}').value = {json.dumps(value)}")
    # Kept by the page itself, because a partial may be there for less time than a look from outside takes.
    await page.evaluate(
        """window.seen = [];
        new MutationObserver(() => window.seen.push([
          document.getElementById("settled").textContent, document.getElementById("open").textContent,
        ])).observe(document.getElementById("current"), {subtree: true, childList: true, characterData: true})"""
    )
    await page.evaluate("document.getElementById('toggle').click()")


@needs_browser
async def test_the_page_shows_what_the_microphone_hears_and_stop_brings_the_last_words(
    pack, site, wav, error_rate_of_the_file, tmp_path
):
    async with browser_page(tmp_path / "profile", microphone=wav) as page:
        await page.open(site)
        await fill_in_and_start(page, gateway=pack.api.url, key=pack.key)
        await page.until("document.body.dataset.state === 'hearing'")
        await page.until("!document.getElementById('current').hidden")
        await page.until("document.getElementById('finals').textContent.includes('bridge')")
        await page.until("document.body.dataset.state === 'listening'")
        await page.evaluate("document.getElementById('toggle').click()")
        await page.until("document.body.dataset.state === 'ended'")

        assert await page.evaluate("document.getElementById('fault').textContent") == ""
        shown = await page.evaluate("document.getElementById('finals').innerText")
        seen = await page.evaluate("window.seen")
        assert await page.evaluate("document.getElementById('current').hidden")
    assert score([SPOKEN.text], [shown]).wer <= error_rate_of_the_file + NEAR
    messages = [json.loads(text) for text in page.received]
    partials = [message["transcript"] for message in messages if message.get("is_final") is False]
    assert partials
    assert {settled + open_ for settled, open_ in seen} - {""} <= set(partials), "what is drawn is what was said"
    assert [message.get("is_last", False) for message in messages] == [False] * (len(messages) - 1) + [True]
    finals = [message["transcript"] for message in messages if message.get("is_final") and message["transcript"]]
    assert shown.split("\n\n") == finals
    assert page.faults == []


@needs_browser
async def test_the_page_draws_apart_what_two_partials_agree_on(site, wav, tmp_path):
    drawn = [
        (["We walked"], "", "We walked"),
        (["We walked a", "We walked along"], "We walked ", "along"),
        (["We walked along the", "We walked along a", "We"], "We", ""),
        (["We walked along", "We walked along the", "We walked on"], "We walked ", "on"),
        (["आज पुस्तकालय", "आज पुस्तकालय शाम"], "आज पुस्तकालय", " शाम"),
        (["今天下雨", "今天下雪了"], "今天", "下雪了"),
        (["Hello", ""], "", ""),
    ]
    async with browser_page(tmp_path / "profile", microphone=wav) as page:
        await page.open(site)
        for partials, settled, may_change in drawn:
            await page.evaluate(
                f"""import("./transcript.js").then(({{ Transcript }}) => {{
                  const at = (id) => document.getElementById(id);
                  const transcript = new Transcript(at("finals"), at("current"));
                  for (const partial of ["", ...{json.dumps(partials)}]) transcript.partial(partial);
                }})"""
            )
            assert await page.evaluate("document.getElementById('settled').textContent") == settled
            assert await page.evaluate("document.getElementById('open').textContent") == may_change


@needs_browser
async def test_the_page_says_in_a_sentence_why_there_is_no_session(pack, site, wav, tmp_path):
    refusals = [
        ({"key": "brk_wrong"}, "The gateway refused the session: check the key"),
        ({"language": "xx"}, "The gateway refused the session: check the key, and that the language"),
        ({"key": "a key"}, "The key has characters that no key has"),
        ({"gateway": "http://127.0.0.1:1"}, "Nothing answers at http://127.0.0.1:1"),
        ({"gateway": "ftp://127.0.0.1"}, "The gateway's address begins with http:// or https://."),
    ]
    async with browser_page(tmp_path / "profile", microphone=wav) as page:
        await page.open(site)
        for changed, sentence in refusals:
            await fill_in_and_start(page, **{"gateway": pack.api.url, "key": pack.key} | changed)
            await page.until(f"document.getElementById('fault').textContent.startsWith({json.dumps(sentence)})")
            await page.until("document.getElementById('toggle').textContent === 'Start'")


@needs_browser
async def test_the_page_says_so_when_the_microphone_is_refused(pack, site, wav, tmp_path):
    async with browser_page(tmp_path / "profile", microphone=wav, allowed=False) as page:
        await page.open(site)
        await fill_in_and_start(page, gateway=pack.api.url, key=pack.key)
        await page.until("!document.getElementById('fault').hidden")
        assert "may not be used" in await page.evaluate("document.getElementById('fault').textContent")


@pytest.mark.skipif(NODE is None, reason="Node is missing; make setup installs it")
@pytest.mark.parametrize(
    "script", sorted([*EXAMPLES.glob("*/*.js"), *EXAMPLES.glob("*/*.mjs")]), ids=lambda path: path.name
)
def test_scripts_are_valid(script, tmp_path):
    module = shutil.copy(script, tmp_path / f"{script.name.removesuffix('.js')}.mjs")
    checked = subprocess.run([NODE, "--check", module], capture_output=True, check=False, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stderr.decode()


def test_the_lock_file_names_no_registry():
    lock = (EXAMPLES / "javascript" / "package-lock.json").read_text()
    packages = json.loads(lock)["packages"]
    assert all("integrity" in package for path, package in packages.items() if path)
    assert "http" not in lock
