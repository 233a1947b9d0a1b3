"""`babelrack routes`: what nginx, clients and people need to know to reach the right pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from babelrack.packs.faults import Fault, PackError, nearest, shown
from babelrack.packs.gateway import StandalonePaths, render_nginx
from babelrack.packs.languages import LANGUAGES
from babelrack.packs.routes import Routes
from babelrack.packs.site import Address, load_site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from babelrack.packs.site import Site


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
    replica: Annotated[
        list[str] | None,
        typer.Option(
            "--replica",
            help="Where a replica's API server is, when the site file doesn't say; may be given many times.",
            metavar="PACK=HOST:PORT",
        ),
    ] = None,
    drained: Annotated[
        list[str] | None,
        typer.Option(
            "--drained",
            help="With nginx: a replica that gets no new requests; may be given many times.",
            metavar="HOST:PORT",
        ),
    ] = None,
) -> None:
    """Print a site's routes: language → pack → replicas."""
    try:
        checked = load_site(site)
        addresses = _replicas(checked, replica or ())
        resting = {_address("--drained", text) for text in drained or ()}
        table = Routes.from_site(checked, addresses)
        for notice in _notices(checked, table, resting):
            typer.echo(notice, err=True)
        if format == "nginx":
            paths = StandalonePaths(standalone.absolute()) if standalone else None
            typer.echo(render_nginx(checked, standalone=paths, addresses=addresses, drained=resting), nl=False)
        elif format == "json":
            typer.echo(table.to_json())
        elif format == "python":
            typer.echo(table.to_python())
        else:
            Console().print(_table(table))
    except PackError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _replicas(site: Site, written: Sequence[str]) -> dict[str, list[Address]]:
    """The replicas of each pack that `--replica` names; raises `PackError`."""
    replicas: dict[str, list[Address]] = {}
    for text in written:
        name, sign, address = text.partition("=")
        if not sign:
            raise PackError([Fault("--replica", f"is {shown(text)}; write PACK=HOST:PORT")])
        if name not in site.deployments:
            meant = nearest(name, list(site.deployments))
            fix = f"did you mean {meant!r}?" if meant else f"its packs are {', '.join(site.deployments)}"
            raise PackError([Fault("--replica", f"names the pack {shown(name)}, which this site doesn't run; {fix}")])
        where = _address("--replica", address)
        for other, taken in replicas.items():
            if where in taken:
                raise PackError([Fault("--replica", f"gives {where} to {other} and again to {name}; leave one out")])
        replicas.setdefault(name, []).append(where)
    return replicas


def _address(option: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise PackError([Fault(option, str(error))]) from None


def _notices(site: Site, routes: Routes, drained: set[Address]) -> Iterator[str]:
    for name in site.deployments:
        if name not in routes.packs:
            yield f"the pack {name} has no replica yet; its languages are not routed until it has one"
    known = {url.removeprefix("http://") for urls in routes.packs.values() for url in urls}
    for address in sorted(drained):
        if str(address) not in known:
            yield f"--drained {address} is no replica of this site; nothing was drained for it"


def _table(routes: Routes) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("language", "", "pack"):
        table.add_column(heading)
    table.add_column("replicas", no_wrap=True)
    for code in routes.codes:
        pack = routes.pack(code)
        table.add_row(code, LANGUAGES.get(code, "finds out which"), pack, "\n".join(routes.packs[pack]))
    return table
