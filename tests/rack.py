"""A whole rack on ephemeral ports, as `babelrack up` runs it, for the tests that need one.

with running_rack(["indic", "future"], tmp_path) as rack:
    httpx.post(f"{rack.gateway}/waves/v1/pulse/get_text?language=es", headers=rack.headers, content=audio)
    os.kill(rack.process("model_server", "indic").pid, signal.SIGKILL)
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from babelrack.local.identity import end_sessions
from babelrack.local.state import StateFolder

PROJECT = Path(__file__).parents[1]
CHECKPOINT = PROJECT / ".cache/checkpoints/whisper-base"
SPEECH = PROJECT / "tests/fixtures/speech"
# A safety net, not an expectation: models load slowly on a busy machine.
TIMEOUT_SECONDS = 240


def speech(**wanted):
    """The entries of the speech manifest whose fields are as wanted, each with its `path`."""
    entries = json.loads((SPEECH / "manifest.json").read_text())
    found = [entry for entry in entries if all(entry.get(name) == value for name, value in wanted.items())]
    return [entry | {"path": SPEECH / entry["file"]} for entry in found]


def free_ports(count):
    """Ports that nobody listens on now, outside of the range that the kernel hands out to clients."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    low = 20_000 + worker % 6 * 2_000
    found = []
    with contextlib.ExitStack() as held:
        for port in random.sample(range(low, low + 2_000), 500):
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")


def write_site(packs, folder, *, checkpoint=CHECKPOINT, packs_dir=PROJECT / "packs", **fields):
    """A site file for these packs on free ports of 127.0.0.1; `fields` replace whole top-level fields."""
    ports = iter(free_ports(3 + 3 * len(packs)))
    site = {
        "packs": list(packs),
        "packs_dir": str(packs_dir),
        "deployments": {
            name: {"ports": {"api": next(ports), "model": next(ports), "metrics": next(ports)}} for name in packs
        },
        "checkpoint_sources": {"*": {"url": f"file://{checkpoint}"}},
        "gateway": {"address": "127.0.0.1", "listen": next(ports)},
        "license_proxy": {"address": "127.0.0.1", "port": next(ports)},
        "redis": {"address": "127.0.0.1", "port": next(ports)},
    }
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump(site | fields, sort_keys=False))
    return file


def babelrack(*arguments, **options):
    """Run the command; its output is text."""
    command = [sys.executable, "-m", "babelrack.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS + 60,
        check=False, **options,
    )  # fmt: skip


class Rack:
    """A rack that runs; `record` is always read anew."""

    def __init__(self, state, site):
        self.folder = StateFolder(state)
        self.state = state
        self.site = site

    @property
    def record(self):
        """What the supervisor last wrote."""
        return self.folder.read_record()

    def service(self, role, pack=None):
        """The record of one service; `role` as in `babelrack.local.service.Role`."""
        return next(each for each in self.record.services if each.role == role and pack in (None, each.pack))

    def process(self, role, pack=None):
        """The identity (`pid`, `alive()`, `session()`) of its process; None while it has none."""
        return self.service(role, pack).process

    def url(self, role, pack=None):
        """Where it listens."""
        return self.service(role, pack).url

    @property
    def gateway(self):
        """The gateway's URL."""
        return self.url("gateway")

    @property
    def key_file(self):
        """A file with a client's key, which has no limits."""
        return Path(self.record.key_file)

    @property
    def key(self):
        """The key in it."""
        return self.key_file.read_text().strip()

    @property
    def headers(self):
        """The header that shows it."""
        return {"Authorization": f"Bearer {self.key}"}

    def log(self, name):
        """What a service printed, such as `asr@indic`, `api-server@indic`, `nginx`, `redis`, `license-proxy`."""
        return self.folder.log_file(name).read_text()

    def run(self, command, *arguments, **options):
        """`babelrack COMMAND` for this rack."""
        return babelrack(command, "--state", self.state, *arguments, **options)

    def until(self, condition, seconds=TIMEOUT_SECONDS):
        """Wait until `condition()` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still waiting; {self.record}"
            time.sleep(0.1)

    def until_healthy(self):
        """Wait until every service is well."""
        self.until(lambda: self.record is not None and self.record.healthy)

    def processes(self):
        """Every process that belongs to the rack now."""
        record = self.record
        leaders = [record.supervisor, *record.leaders()] if record else []
        return [member for leader in leaders for member in leader.session()]


@contextlib.contextmanager
def running_rack(packs, folder, *, threads=1, settings=(), healthy=True, site=None, **site_fields):
    """`babelrack up --detach` for these packs in `folder`, and `down` at the end, whatever happens.

    `settings` are texts as `--set` takes them (`model_server.MAX_QUEUE=4`); `site` is a site file made by hand,
    `site_fields` are `write_site`'s. With `healthy=False` the rack may come up with something broken.
    """
    state = folder / "rack"
    folder.mkdir(parents=True, exist_ok=True)
    site = site or write_site(packs, folder, **site_fields)
    rack = Rack(state, site)
    options = [part for text in settings for part in ("--set", text)]
    try:
        started = babelrack(
            "up", "--detach", *packs, "--site", site, "--state", state, "--threads", threads,
            "--timeout", TIMEOUT_SECONDS, *options,
        )  # fmt: skip
        logs = "" if started.returncode == 0 else _logs(state)
        assert started.returncode == 0 or not healthy, f"{started.stdout}{started.stderr}{logs}"
        yield rack
    finally:
        record = rack.record if state.exists() else None
        ended = babelrack("down", "--state", state)
        left = end_sessions([record.supervisor, *record.leaders()], grace_seconds=0) if record else 0
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert left == 0, f"{left} processes outlived `babelrack down`"


def _logs(state):
    files = sorted((state / "logs").glob("*.log")) if (state / "logs").is_dir() else []
    return "".join(f"\n--- {file.name}\n{file.read_text()[-2000:]}" for file in files)
