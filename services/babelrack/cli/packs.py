"""`babelrack packs`: check pack files, print their schema and a model server's `MODEL_URL`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from babelrack.packs.faults import Fault, PackError, shown
from babelrack.packs.pack import Pack, Ports, json_schema, load_pack
from babelrack.packs.site import Site, load_site

app = typer.Typer(help="Check pack files and what is made of them.", no_args_is_help=True)

SiteOption = Annotated[
    Path | None, typer.Option("--site", help="A site file: its packs, with what it changes about them.", metavar="FILE")
]


@dataclass(frozen=True)
class Row:
    """What the table says about one pack: its own fields, or those of its deployment at a site."""

    pack: Pack
    replicas: int
    ports: Ports
    file: str


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Pack files; packs/*.yaml when left out.", show_default=False)
    ] = None,
    site: SiteOption = None,
    format: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print the packs.")] = "table",  # noqa: A002 - the option's name
) -> None:
    """Check pack files, and a site with --site: a table of the packs, one sentence a fault, exit 1 if there is one."""
    faults: list[Fault] = []
    rows: list[Row] = []
    checked: Site | None = None
    if site is not None:
        try:
            checked = load_site(site)
        except PackError as error:
            faults += error.faults
    for file in _pack_files(files or [], site, checked, faults):
        try:
            rows.append(_row(load_pack(file), checked, str(file)))
        except PackError as error:
            faults += error.faults
    faults = list(dict.fromkeys(faults))
    advice = [f"{row.file}: {sentence}" for row in rows for sentence in row.pack.advice()]
    if format == "json":
        report = {"packs": list(map(_as_data, rows)), "faults": list(map(str, faults)), "warnings": advice}
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    elif rows:
        Console().print(_table(rows))
    for sentence in advice:
        typer.echo(f"warning: {sentence}", err=True)
    for fault in faults:
        typer.echo(str(fault), err=True)
    if faults:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a pack file, for editors."""
    typer.echo(json_schema(), nl=False)


@app.command("model-url")
def model_url(
    pack: Annotated[str, typer.Argument(help="A pack file, or with --site one of its packs by name.")],
    site: SiteOption = None,
) -> None:
    """Print the MODEL_URL of a pack's model server."""
    try:
        checked = load_site(site) if site else None
        typer.echo(_chosen(pack, site, checked).model_url(checked))
    except PackError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _chosen(pack: str, site: Path | None, checked: Site | None) -> Pack:
    if pack.endswith((".yaml", ".yml")) or checked is None:
        return load_pack(Path(pack) if pack.endswith((".yaml", ".yml")) else Path("packs", f"{pack}.yaml"))
    if pack in checked.deployments:
        return checked.deployments[pack].pack
    known = ", ".join(checked.deployments)
    raise PackError([Fault("", f"{site} doesn't run the pack {shown(pack)}; name one of {known}, or a pack file")])


def _pack_files(given: list[Path], site: Path | None, checked: Site | None, faults: list[Fault]) -> list[Path]:
    if given:
        return given
    if checked is not None:
        return [deployment.file for deployment in checked.deployments.values()]
    files = sorted(Path("packs").glob("*.yaml"))
    if not files and site is None:
        faults.append(Fault("", "there is no packs/*.yaml here; name pack files, or run this in the project's folder"))
    return files


def _row(pack: Pack, site: Site | None, file: str) -> Row:
    deployment = site.deployments.get(pack.name) if site else None
    if deployment:
        return Row(pack, deployment.replicas, deployment.ports, file)
    return Row(pack, pack.replicas, pack.ports, file)


def _table(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("pack", no_wrap=True)
    table.add_column("checkpoint", no_wrap=True)
    table.add_column("languages", min_width=11)
    table.add_column("concurrency\neach", justify="right", no_wrap=True)
    table.add_column("replicas", justify="right")
    table.add_column("ports")
    for row in rows:
        ports = f"{row.ports.api} {row.ports.model} {row.ports.metrics}"
        for index, checkpoint in enumerate(row.pack.checkpoints):
            languages = " ".join(checkpoint.languages) + (" (dedicated)" if checkpoint.role == "dedicated" else "")
            once = (row.pack.name, str(row.replicas), ports) if index == 0 else ("", "", "")
            table.add_row(once[0], checkpoint.name, languages, str(row.pack.concurrency), *once[1:])
    return table


def _as_data(row: Row) -> dict[str, object]:
    return {
        "name": row.pack.name,
        "file": row.file,
        "aggregator": row.pack.aggregator,
        "languages": list(row.pack.languages),
        "checkpoints": [
            {"name": checkpoint.name, "role": checkpoint.role, "languages": list(checkpoint.languages)}
            for checkpoint in row.pack.checkpoints
        ],
        "concurrency": row.pack.concurrency,
        "replicas": row.replicas,
        "ports": row.ports.model_dump(),
    }
