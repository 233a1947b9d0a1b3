"""`babelrack provider`: the Terraform provider `onprem`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from babelrack.provider.install import InstallError, install, install_in_project

app = typer.Typer(help="The Terraform provider `onprem`.", no_args_is_help=True)


@app.callback()
def _provider() -> None:
    """The Terraform provider `onprem`."""


@app.command("install")
def install_provider(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="The mirror's folder; ~/.terraform.d/plugins when left out.", metavar="DIR"),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project",
            help="Install into DIR/.babelrack/terraform and nothing into the home folder; prints what to export.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Tell Terraform where the provider is. Run it again after the package was upgraded or moved."""
    if directory is not None and project is not None:
        raise InstallError("--dir and --project are two places; give one of them.")
    if project is not None:
        typer.echo(f"export TF_CLI_CONFIG_FILE={install_in_project(project)}")
        return
    done = install(directory)
    typer.echo(f"{done.launcher} {'is installed' if done.changed else 'was there already'}")
