"""`babelrack routes`: what nginx, clients and people need to know to reach the right pack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from babelrack.packs.faults import PackError
from babelrack.packs.gateway import StandalonePaths, render_nginx
from babelrack.packs.languages import LANGUAGES
from babelrack.packs.routes import Routes
from babelrack.packs.site import load_site


def routes(
    site: Annotated[Path, typer.Option("--site", help="The site file.", metavar="FILE")] = Path(
        "inventories/local/site.yaml"
    ),
    format: Annotated[Literal["nginx", "json", "python", "table"], typer.Option("--format")] = "table",  # noqa: A002 - the option's name
    standalone: Annotated[
        Path | None,
        typer.Option(
            "--standalone",
            help="With nginx: print a whole nginx.conf that keeps its files in this folder, not one for conf.d.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Print a site's routes: language → pack → replicas."""
    try:
        checked = load_site(site)
        table = Routes.from_site(checked)
        if format == "nginx":
            paths = StandalonePaths(standalone.absolute()) if standalone else None
            typer.echo(render_nginx(checked, standalone=paths), nl=False)
        elif format == "json":
            typer.echo(table.to_json())
        elif format == "python":
            typer.echo(table.to_python())
        else:
            Console().print(_table(table))
    except PackError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _table(routes: Routes) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("language", "", "pack"):
        table.add_column(heading)
    table.add_column("replicas", no_wrap=True)
    for code in routes.codes:
        pack = routes.pack(code)
        table.add_row(code, LANGUAGES.get(code, "finds out which"), pack, "\n".join(routes.packs[pack]))
    return table
