"""`babelrack up`: packs on this machine, kept running."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated

import httpx
import typer

from babelrack.cli.rack import SITE, STATE, SiteOption, StateOption
from babelrack.cli.rack_display import RackDisplay
from babelrack.local import RackError
from babelrack.local.checks import check
from babelrack.local.identity import ProcessIdentity
from babelrack.local.layout import Blueprint, Layout, Settings, local_site, setting
from babelrack.local.leftovers import end_leftovers
from babelrack.local.state import RackRecord, StateFolder
from babelrack.local.supervisor import Supervisor
from babelrack.packs.routes import Routes
from babelrack.packs.site import load_site

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_LOOK_SECONDS = 0.2


def up(
    packs: Annotated[
        list[str] | None, typer.Argument(help="Packs to start; all of the site's when none is named.")
    ] = None,
    site: SiteOption = SITE,
    state: StateOption = STATE,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background, until `down`.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until everything is healthy.")] = 120,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each model server; the cores are shared out when left out.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="ROLE.NAME=VALUE", help="A setting for every server of a role; never a secret."),
    ] = None,
    supervise: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Start packs on this machine: Redis, the licence proxy, each pack's servers, and nginx in front.

    Runs until Ctrl-C, or in the background with --detach. A process that dies is started again; a pack that doesn't get
    healthy is reported, breaks only itself, and makes the exit code 1.
    """
    folder = StateFolder(state)
    settings: Settings = {}
    for role, name, value in map(setting, set_ or []):
        settings.setdefault(role, {})[name] = value
    rack = _Rack(folder, site, packs or [], threads, settings)
    if supervise:
        asyncio.run(rack.supervise())
    elif detach:
        arguments = ["--site", str(site), "--state", str(folder.path), *(packs or [])]
        arguments += ["--threads", str(threads)] if threads else []
        arguments += [part for text in set_ or [] for part in ("--set", text)]
        _detach(folder, arguments, timeout)
    else:
        asyncio.run(rack.run(timeout))


class _Rack:
    """What one `up` was asked for."""

    def __init__(
        self, folder: StateFolder, site: Path, packs: list[str], threads: int | None, settings: Settings
    ) -> None:
        self._folder = folder
        self._site = site
        self._packs = packs
        self._threads = threads
        self._settings = settings

    async def run(self, timeout_seconds: float) -> None:
        """Run in the foreground, with progress until everything is healthy or the time is over."""
        with RackDisplay() as display:
            healthy = await self._with_supervisor(
                display.say, lambda supervisor: _watch(supervisor, display, timeout_seconds, self._folder)
            )
        if not healthy:
            raise typer.Exit(1)

    async def supervise(self) -> None:
        """Run as the background process: say what is wrong on stderr until all is checked, and then only to the log."""
        log = self._folder.log_file("supervisor")

        def report(sentence: str) -> None:
            sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")
            sys.stdout.flush()

        async def detached(supervisor: Supervisor) -> bool:
            # The command that started this reads our stderr until it closes.
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.close(handle)
            await supervisor.run()
            return True

        await self._with_supervisor(report, detached)

    async def _with_supervisor(
        self, report: Callable[[str], None], use: Callable[[Supervisor], Coroutine[None, None, bool]]
    ) -> bool:
        # Certificates of a gateway are the site's business: here it only matters whether nginx answers.
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:  # noqa: S501  (only this machine)
            with self._folder.locked():
                layout = self._layout(client)
                me = ProcessIdentity.of(os.getpid())
                assert me is not None  # noqa: S101  (this process is alive)
                secrets, languages = layout.secrets, Routes.from_site(layout.site).languages
                record = RackRecord(
                    supervisor=me,
                    site=str(self._site.absolute()),
                    gateway=layout.gateway,
                    key_file=str(secrets.client_key),
                    header_file=str(secrets.client_header),
                    language="en" if "en" in languages else next(iter(languages)),
                )
                return await use(Supervisor(layout.services, record, self._folder, report))

    def _layout(self, client: httpx.AsyncClient) -> Layout:
        end_leftovers(self._folder)
        site = local_site(load_site(self._site), self._packs)
        layout = Blueprint(site, self._folder, client, threads=self._threads, settings=self._settings).layout()
        check(layout)
        layout.write()
        return layout


async def _watch(supervisor: Supervisor, display: RackDisplay, timeout_seconds: float, folder: StateFolder) -> bool:
    """Run the supervisor and show how it gets on; whether everything became healthy in time."""
    running = asyncio.create_task(supervisor.run())
    record, deadline = supervisor.record, time.monotonic() + timeout_seconds
    with display.progress():
        while not running.done() and not record.settled and time.monotonic() < deadline and not record.stopping:
            display.show(record)
            await asyncio.wait([running], timeout=_LOOK_SECONDS)
        display.show(record)
    healthy = record.healthy
    if not running.done() and not record.stopping:
        display.summary(record, folder, timeout_seconds)
        display.say("Ctrl-C stops everything.")
    await running
    display.say("Everything is stopped.")
    return healthy


def _detach(folder: StateFolder, arguments: list[str], timeout_seconds: float) -> None:
    """Start the supervisor in a session of its own, and follow it until everything is healthy or the time is over."""
    command = [sys.executable, "-m", "babelrack.cli", "up", "--supervise", *arguments]
    leader = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    assert leader.stderr is not None  # noqa: S101  (it is a pipe)
    try:
        said = leader.stderr.read().decode(errors="replace").strip()
        if said or leader.poll() is not None:
            leader.wait()
            raise RackError(said.removeprefix("babelrack: ") or _ended(folder))
        record = _follow(folder, leader, timeout_seconds)
    except KeyboardInterrupt:
        leader.terminate()
        leader.wait()
        raise
    if not record.healthy:
        raise typer.Exit(1)


def _follow(folder: StateFolder, leader: subprocess.Popen[bytes], timeout_seconds: float) -> RackRecord:
    deadline = time.monotonic() + timeout_seconds
    record = None
    with RackDisplay() as display:
        with display.progress():
            while time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
                if leader.poll() is not None:
                    raise RackError(_ended(folder))
                record = folder.read_record()
                if record:
                    display.show(record)
                    if record.settled:
                        break
        if record is None:
            raise RackError(_ended(folder))
        display.summary(record, folder, timeout_seconds)
        where = "" if folder.path == STATE.resolve() else f" --state {folder.path}"
        display.say(f"Stop it with `babelrack down{where}`.")
    return record


def _ended(folder: StateFolder) -> str:
    return f"The supervisor ended before its time; see {folder.log_file('supervisor')}."
