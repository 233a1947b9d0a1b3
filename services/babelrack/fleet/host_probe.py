"""What one host of a fleet knows about itself, as JSON on stdout.

Sent over SSH and run there by the host's own Python (3.10 or newer), as root: it imports nothing but the standard
library and nothing of Babelrack, changes nothing, and takes at most some ten seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HTTP_SECONDS = 4
COMMAND_SECONDS = 5
LARGEST_ANSWER = 1024 * 1024
FOLDERS = ("/", "/var/cache/babelrack", "/var/lib/babelrack", "/opt/babelrack", "/var/log", "/tmp")  # noqa: S108 - looked at
UNITS = ("asr@*.service", "api-server@*.service", "license-proxy.service")
# What may leave the host: settings that are no secrets, by name.
SETTINGS = {
    "API_BASE_URL", "API_SERVER_PORT", "AGGREGATOR", "ASR_BASE_URL", "DEPLOYMENT_NAME", "HOST", "METRICS_PORT",
    "MODEL_URL", "PORT",
}  # fmt: skip


def environment_file(path: Path) -> dict[str, str] | None:
    """The settings in a file as systemd's EnvironmentFile reads it; None when there is no such file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.strip().partition("=")
        if not equals or name not in SETTINGS:
            continue
        if value[:1] in ("'", '"'):
            with contextlib.suppress(ValueError):
                value = "".join(shlex.split(value))
        found[name] = value
    return found


def ask(url: str) -> dict[str, Any]:
    """What a server's health endpoint answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            response = opener.open(url, timeout=HTTP_SECONDS)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            body = json.loads(response.read(LARGEST_ANSWER))
            return {"url": url, "status": response.status, "body": body if isinstance(body, dict) else {}}
    except ValueError:
        return {"url": url, "status": None, "error": "answers with something that isn't JSON"}
    except OSError as error:
        reason = getattr(error, "reason", error)
        return {
            "url": url,
            "status": None,
            "error": "doesn't answer (%s)" % (getattr(reason, "strerror", "") or reason),
        }


def base_url(settings: dict[str, str], port: str, default: int) -> str:
    """Where a server with these settings listens, as seen from its own host."""
    host = settings.get("HOST", "127.0.0.1")
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.get(port, default)}"


def units() -> dict[str, str]:
    """systemd's word for each of our units: unit -> active, failed, inactive, …"""
    command = ["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager", *UNITS]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split() for line in done.stdout.decode(errors="replace").splitlines()]
    return {row[0]: row[2] for row in rows if len(row) > 3 and row[1] == "loaded"}


def file_systems() -> list[dict[str, Any]]:
    """One entry a file system, under the first folder that is in it."""
    seen: set[int] = set()
    found: list[dict[str, Any]] = []
    for folder in FOLDERS:
        try:
            device, stats = Path(folder).stat().st_dev, os.statvfs(folder)
        except OSError:
            continue
        if device not in seen and stats.f_blocks:
            seen.add(device)
            found.append(
                {"path": folder, "size": stats.f_blocks * stats.f_frsize, "free": stats.f_bavail * stats.f_frsize}
            )
    return found


def claims(folder: Path) -> list[dict[str, Any]]:
    """Every claimed place with what its claim says; one that can't be read says nothing."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("place-*")):
        number = re.fullmatch(r"place-([0-9]{1,3})", path.name)
        if not number:
            continue
        try:
            content = json.loads((path / "claim.json").read_text())
            claim = {name: content.get(name) for name in ("pack", "site", "replica", "claimed_by")}
        except FileNotFoundError:  # a place without a claim is free
            continue
        except (OSError, ValueError, AttributeError):
            claim = {}
        found.append({"place": int(number.group(1)), "claim": claim})
    return found


def look(root: Path) -> dict[str, Any]:
    """Everything; `root` is where the file system starts."""
    began = time.time()
    active = units()
    packs: dict[str, dict[str, Any]] = {}
    questions: dict[tuple[str, str], str] = {}
    names = {path.name for path in (root / "etc/babelrack/packs").glob("*") if path.is_dir()}
    names |= {re.split("[@.]", unit)[1] for unit in active if "@" in unit}
    for name in sorted(names):
        folder = root / "etc/babelrack/packs" / name
        pack: dict[str, Any] = {"model_environment": environment_file(folder / "model.env")}
        pack["api_environment"] = environment_file(folder / "api.env")
        pack["units"] = {unit: state for unit, state in active.items() if re.split("[@.]", unit)[1] == name}
        try:
            pack["release"] = (root / "opt/babelrack/current" / name).readlink().name
        except OSError:
            pack["release"] = ""
        packs[name] = pack
        if pack["model_environment"] is not None:
            questions[name, "model"] = base_url(pack["model_environment"], "PORT", 2233) + "/health"
        if pack["api_environment"] is not None:
            questions[name, "api"] = base_url(pack["api_environment"], "API_SERVER_PORT", 7100) + "/health?verbose=true"
    proxy = environment_file(root / "etc/babelrack/license-proxy.env")
    if active.get("license-proxy.service") == "active":
        questions["", "license_proxy"] = base_url(proxy or {}, "PORT", 6699) + "/health"
    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(questions, pool.map(ask, questions.values()), strict=True))
    for (name, role), answer in answers.items():
        if name:
            packs[name][role] = answer
    return {
        "began": began,
        "file_systems": file_systems(),
        "claims": claims(root / "var/lib/babelrack/claims"),
        "packs": packs,
        "license_proxy": answers.get(("", "license_proxy")),
        "drained": sorted(path.name for path in (root / "etc/babelrack/gateway/drained").glob("*:*")),
        "ended": time.time(),
    }


if __name__ == "__main__":
    json.dump(look(Path("/")), sys.stdout)
