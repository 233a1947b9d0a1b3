"""A fleet on lab hosts: two packs from nothing to transcripts, and a third one added while clips go on.

    python -m demo.fleet

What `make demo` shows: five hosts with systemd and sshd, claimed by Terraform, configured by Ansible, behind nginx.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import typer
import yaml
from lab import Lab, LabError, LabUnavailable
from lab.project import LabProject
from rich.console import Console

from babelrack.client import Client, TranscriptionError, read_routes
from demo.clips import PROJECT, SPEECH, clips, transcribe

if TYPE_CHECKING:
    import subprocess

LAB = "demo"
HOSTS = 5
ROOTS = ("shared", "packs/indic", "packs/western_sea")
FIRST_CLIPS = ("en-11s-a", "ta-5s", "id-11s-a", "id-3s-b", "ms-10s")
LAST_CLIPS = ("es-11s-a", "fr-10s", "de-4s")

console = Console(highlight=False)


class DemoError(Exception):
    """A step failed; what it printed says why."""


def demo() -> None:
    """Show a fleet; the exit code is 1 when something of it failed, 69 where lab hosts can't be made."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    lab = Lab(LAB, say=lambda line: console.print(f"    {line}", style="dim"))
    project = LabProject(PROJECT / ".babelrack" / "demo-fleet", lab)
    started = time.monotonic()
    try:
        _head(f"python -m lab up {HOSTS}")
        lab.down()  # what a demo that was killed has left
        shutil.rmtree(project.folder, ignore_errors=True)
        lab.up(HOSTS)
        project.make()
        _set_replicas(project, "indic", 2)
        failed = _fleet(project)
        console.print(f"From nothing to this in {time.monotonic() - started:.0f} s.")
    except LabUnavailable as why:
        console.print(str(why))
        raise typer.Exit(os.EX_UNAVAILABLE) from None
    except (LabError, DemoError) as why:
        console.print(str(why), style="red")
        raise typer.Exit(1) from None
    finally:
        # A second Ctrl-C must not keep the rest from being removed.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        lab.down()
        shutil.rmtree(project.folder, ignore_errors=True)
    if failed:
        raise typer.Exit(1)


def _fleet(project: LabProject) -> int:
    """Everything after the hosts are there; how many clips failed."""
    _head("babelrack release build")
    _must(project.run("babelrack", "release", "build", "--project", PROJECT, "--out", PROJECT / "dist" / "release"))
    for root in ROOTS:
        _head(f"terraform -chdir=terraform/{root} apply")
        _must(project.terraform(root, "apply", "-auto-approve", "-compact-warnings"))
    _head("ansible-playbook site.yml")
    _must(project.playbook("site.yml"))
    gateway = f"http://{project.lab.hosts[0].address}:8080"
    _head("five clips through the gateway")
    key = project.client_key.read_text().strip()
    failed = transcribe(gateway, clips(*FIRST_CLIPS), console, key)
    _head("babelrack apply future, while clips go on")
    with Visitor(gateway, key) as visitor:
        _must(project.run("babelrack", "apply", "future", "--site", project.site_file, "--yes"))
    console.print(f"{visitor.answered} clips were answered meanwhile, {visitor.failed} failed.")
    _head("all three packs")
    failed += transcribe(gateway, clips(*FIRST_CLIPS, *LAST_CLIPS), console, key)
    return failed + visitor.failed


class Visitor(threading.Thread):
    """Sends one clip after another to the packs that are there, while it is entered."""

    def __init__(self, gateway: str, api_key: str) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.failed = 0
        self._gateway = gateway
        self._api_key = api_key
        self._over = threading.Event()

    def __enter__(self) -> Visitor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Ask, pause, ask again."""
        routes = read_routes(f"{self._gateway}/routes.json")
        with Client(dict.fromkeys(routes.codes, self._gateway), api_key=self._api_key) as client:
            while not self._over.wait(0.5):
                for name, language in (("id-3s-b", "id"), ("en-3s-a", "en")):
                    try:
                        client.transcribe(SPEECH / f"{name}.flac", language=language)
                        self.answered += 1
                    except TranscriptionError as error:
                        self.failed += 1
                        console.print(str(error), style="red")


def _set_replicas(project: LabProject, pack: str, replicas: int) -> None:
    site = yaml.safe_load(project.site_file.read_text())
    site["deployments"][pack]["replicas"] = replicas
    project.site_file.write_text(yaml.safe_dump(site, sort_keys=False))


def _must(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise DemoError(f"That failed with exit code {done.returncode}; see above.")


def _head(text: str) -> None:
    console.rule(text, align="left")
    sys.stdout.flush()


def _ended(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    typer.run(demo)
