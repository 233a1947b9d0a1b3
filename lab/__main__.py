"""`python -m lab`: throw-away on-prem hosts."""

import os
import subprocess
import sys
from enum import StrEnum
from typing import Annotated

import typer

from lab import image, registry
from lab.commands import environment
from lab.faults import FAULTS
from lab.laboratory import Lab, labs
from lab.trouble import LabError, LabUnavailable

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Throw-away on-prem hosts with systemd and sshd.")
How = StrEnum("How", {fault.upper().replace("-", "_"): fault for fault in FAULTS})  # type: ignore[misc]

Name = Annotated[str, typer.Option("--name", envvar="BABELRACK_LAB", help="Which lab; each is on its own.")]
Host = Annotated[str, typer.Argument(metavar="HOST", help="A host's name, such as host-1.")]
ALL_FAULTS = "; ".join(f"{how}: {what}" for how, what in FAULTS.items())


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def up(
    count: Annotated[int, typer.Argument(min=1, max=200, metavar="[N]", help="How many hosts there are to be.")] = 2,
    name: Name = "default",
    suite: Annotated[str, typer.Option(help="bookworm, trixie, or both with a comma: taken in turn.")] = "bookworm",
    memory: Annotated[str | None, typer.Option(help="Memory of each new host, such as 2g; default no limit.")] = None,
    disk: Annotated[str, typer.Option(help="Disk of each new host for checkpoints and state.")] = "4g",
) -> None:
    """Have N hosts: missing ones are made, surplus ones removed, the others left alone."""
    lab = Lab(name, say=_say)
    lab.up(count, suite.split(","), memory=memory, disk=disk)
    _show(lab)


@app.command()
def down(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="All labs of this checkout.")] = False,
) -> None:
    """Remove the hosts and everything that was made for them, also what a killed run left."""
    for each in labs() if everything else [name]:
        Lab(each, say=_say).down()


@app.command("list")
def list_(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="The labs of this machine instead.")] = False,
) -> None:
    """Show the hosts of a lab: name, address, Debian release, faults."""
    if everything:
        for record in registry.records().values():
            typer.echo(f"{record.name}\t{record.subnet}\t{record.folder}")
        return
    lab = Lab(name)
    if not lab.hosts:
        _say(f"lab {name} has no hosts; bring some up: python -m lab up")
    _show(lab)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    host: Host,
    command: Annotated[list[str] | None, typer.Argument(metavar="[CMD]...", help="What to run there.")] = None,
    name: Name = "default",
) -> None:
    """Open a shell on a host, or run a command there. Options of this program go before HOST."""
    lab = Lab(name)
    words = ["ssh", "-F", str(lab.keys.config), lab.host(host).name, *(["--", *command] if command else [])]
    raise typer.Exit(subprocess.run(words, check=False, env=environment()).returncode)


@app.command("break", help=f"Give a host a fault, from outside. {ALL_FAULTS}.")
def break_(host: Host, how: Annotated[How, typer.Option(help="Which fault.")], name: Name = "default") -> None:
    """Give a host a fault."""
    Lab(name, say=_say).break_(host, how.value)
    _say(f"{host}: {how.value}; to undo: python -m lab mend {host}{'' if name == 'default' else f' --name {name}'}")


@app.command()
def mend(
    host: Host,
    how: Annotated[How | None, typer.Option(help="Which fault; default all that it has.")] = None,
    name: Name = "default",
) -> None:
    """Take a host's faults away."""
    mended = Lab(name, say=_say).mend(host, how.value if how else None)
    _say(f"{host}: {' and '.join(mended)} mended" if mended else f"{host}: nothing to mend")


@app.command("image")
def image_(
    suite: Annotated[str, typer.Option(help="Which Debian releases, with commas.")] = ",".join(image.SUITES),
) -> None:
    """Make the hosts' images ahead, and remove those that no recipe makes any more."""
    lab = Lab("image", say=_say)
    try:
        for store in lab.make_images(suite.split(",")):
            typer.echo(store)
    finally:
        lab.down()


def _show(lab: Lab) -> None:
    for host in lab.hosts:
        typer.echo(f"{host.name}\t{host.address}\t{host.suite}\t{', '.join(lab.broken(host.name)) or 'well'}")


def main() -> None:
    """Run a command; what goes wrong is one sentence, and no traceback."""
    try:
        app()
    except LabUnavailable as error:
        _say(f"lab: {error}")
        sys.exit(os.EX_UNAVAILABLE)
    except LabError as error:
        _say(f"lab: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
