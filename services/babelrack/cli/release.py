"""`babelrack release`: build, list and verify what hosts install."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from babelrack.release import (
    DEFAULT_PLATFORM,
    Release,
    ReleaseError,
    Sources,
    Step,
    Target,
    build_release,
    find_release,
    list_releases,
    verify_release,
)
from babelrack.release import Progress as Tell

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(help="Build, list and verify what hosts install.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="The folder with the releases.", metavar="DIR")]
OUT = Path("dist/release")


@app.command()
def build(
    python_version: Annotated[
        str, typer.Option("--python-version", help="The hosts' Python: Debian 12 has 3.11, Debian 13 has 3.13.")
    ] = Target.python,
    platform: Annotated[
        str, typer.Option(help="The newest manylinux tag that the hosts can run: their glibc and processor.")
    ] = DEFAULT_PLATFORM,
    torch: Annotated[
        str | None,
        typer.Option(
            help="One build of the locked torch, such as 2.13.0+cpu; else whichever pip finds.", metavar="VERSION"
        ),
    ] = None,
    torch_index: Annotated[
        str | None, typer.Option("--torch-index", help="The package index that torch comes from.", metavar="URL")
    ] = None,
    find_links: Annotated[
        list[str] | None, typer.Option("--find-links", help="Another place with wheels.", metavar="DIR|URL")
    ] = None,
    out: Out = OUT,
    project: Annotated[Path, typer.Option(help="The project's folder.", metavar="DIR")] = Path(),
) -> None:
    """Gather every wheel that hosts need, at the locked versions, with checksums; prints the release's folder.

    The same sources give the same release: a second build finds it and downloads nothing.
    """
    if not (project / "pyproject.toml").is_file():
        raise ReleaseError(f"{project.absolute()} has no pyproject.toml; run this in the project's folder")
    sources = Sources(torch_index, tuple(find_links or ()))
    started = time.monotonic()
    with _progress() as tell:
        built = build_release(project, out, Target(python_version, platform), sources=sources, torch=torch, tell=tell)
    release, word = built.release, "found" if built.reused else "built"
    typer.echo(f"{word} in {time.monotonic() - started:.0f} s: {_summary(release)}", err=True)
    if release.unlocked:
        typer.echo(f"not in requirements.lock: {', '.join(release.unlocked)}", err=True)
    typer.echo(built.folder)


@app.command("list")
def list_(out: Out = OUT) -> None:
    """Show the releases that are there, newest first."""
    releases = list_releases(out)
    if not releases:
        typer.echo(f"{out} has no release; `babelrack release build` makes one", err=True)
        return
    latest = (out / "latest").resolve().name
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("release", "python", "torch", "cuda", "size", "created", ""):
        table.add_column(heading, no_wrap=heading == "release")
    for release in releases:
        table.add_row(
            release.version,
            release.python,
            release.torch,
            release.cuda or "none",
            _megabytes(release),
            release.created.astimezone().strftime("%Y-%m-%d %H:%M"),
            "latest" if release.version == latest else "",
        )
    Console().print(table)


@app.command()
def verify(
    version: Annotated[str, typer.Argument(help="A release's version.", show_default=True)] = "latest",
    out: Out = OUT,
) -> None:
    """Check that every file of a release is what it was when it was built; exit 1 and a sentence each if not."""
    folder = find_release(out, version)
    faults = verify_release(folder)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        typer.echo(f"{folder.name} can't be trusted; remove {folder} and build it again", err=True)
        raise typer.Exit(1)
    typer.echo(f"{folder.name}: every file is as it was built")


def _summary(release: Release) -> str:
    cuda = f"CUDA {release.cuda}" if release.cuda else "no CUDA"
    return (
        f"{release.version}, {release.wheels} wheels, {_megabytes(release)}, Python {release.python}, "
        f"torch {release.torch} ({cuda})"
    )


def _megabytes(release: Release) -> str:
    return f"{release.bytes / 1e6:,.0f} MB"


@contextmanager
def _progress() -> Iterator[Tell]:
    """One line that moves on a terminal, a line for each download elsewhere, both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("")
        yield lambda step: bars.update(task, description=f"{step.wheels:3} wheels  {step.phase} {step.subject}")


def _line(step: Step, /) -> None:
    if step.phase in ("downloading", "building"):
        typer.echo(f"{step.phase} {step.subject}", err=True)
