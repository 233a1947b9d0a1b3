"""`babelrack keys`: client keys and what they may."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from babelrack.keys.file import add_key, read_keys, revoke_key

__all__ = ["app"]

app = typer.Typer(help="Add, list and revoke client keys.", no_args_is_help=True, pretty_exceptions_enable=False)

File = Annotated[Path, typer.Option("--file", envvar="KEYS_FILE", help="The key file, YAML or JSON by its name.")]
DEFAULT_FILE = Path("keys.yaml")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is; usage is counted under this name.")],
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Default: no limit.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at once; default: no limit.")] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="May watch live sessions of all keys; for the people who run the pack.")
    ] = False,
    file: File = DEFAULT_FILE,
) -> None:
    """Add a key and print it, this once: the file keeps only its hash."""
    key = add_key(file, name, requests_per_minute=requests_per_minute, concurrency=concurrency, operator=operator)
    typer.echo(f"{name} added to {file}; this is the only time its key is shown:", err=True)
    typer.echo(key)


@app.command("list")
def list_keys(file: File = DEFAULT_FILE) -> None:
    """List the keys by name, with their limits."""
    table = Table()
    for heading in ("name", "requests a minute", "at once", "operator", "created", "revoked"):
        table.add_column(heading)
    for entry in read_keys(file):
        table.add_row(
            entry.name,
            "no limit" if entry.requests_per_minute is None else f"{entry.requests_per_minute:,}",
            "no limit" if entry.concurrency is None else f"{entry.concurrency:,}",
            "yes" if entry.operator else "",
            f"{entry.created:%Y-%m-%d}",
            "" if entry.revoked is None else f"{entry.revoked:%Y-%m-%d %H:%M}",
        )
    Console().print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose key.")],
    file: File = DEFAULT_FILE,
) -> None:
    """Revoke a key; servers refuse it within two seconds, without a restart."""
    revoke_key(file, name)
    typer.echo(f"{name} is revoked in {file}")


if __name__ == "__main__":
    app()
