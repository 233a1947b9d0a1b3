"""`babelrack new`: files to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from babelrack.packs.faults import Fault, PackError, shown
from babelrack.packs.pack import load_pack, parse_pack
from babelrack.provider.templates import pack_file, root_files

app = typer.Typer(help="Make files to start from.", no_args_is_help=True)


@app.callback()
def _new() -> None:
    """Make files to start from."""


@app.command()
def pack(
    name: Annotated[str, typer.Argument(help="The pack's name, such as nordic or western_sea.")],
    languages: Annotated[
        str, typer.Option("--languages", help="Its languages, as Whisper's codes, such as da,no,sv.", metavar="CODES")
    ],
    project: Annotated[Path, typer.Option("--project", help="The project's folder.", metavar="DIR")] = Path(),
) -> None:
    """Write packs/NAME.yaml and terraform/packs/NAME/, and say what comes next. What exists is never overwritten."""
    try:
        _write(project, name, [code.strip() for code in languages.split(",")])
    except PackError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _write(project: Path, name: str, languages: list[str]) -> None:
    content = pack_file(name, languages)
    # Before anything is written: a wrong name or language leaves nothing behind.
    if parse_pack(content.encode()).name != name:
        raise PackError([Fault("name", f"is {shown(name)}; write letters, digits and underscores on one line")])
    file, root = project / "packs" / f"{name}.yaml", project / "terraform" / "packs" / name
    for folder in (file.parent, root.parent):
        if not folder.is_dir():
            raise PackError([Fault("", f"{folder} is missing; run this in the project's folder, or use --project")])
    for path in (file, root):
        if path.exists():
            raise PackError([Fault("", f"{path} exists already; choose another name, or remove it")])
    root.mkdir()
    for part, text in root_files(name).items():
        (root / part).write_text(text, encoding="utf-8")
    file.write_text(content, encoding="utf-8")
    load_pack(file)
    typer.echo(
        f"{file} and {root} are there. Next:\n"
        f"  1. choose the checkpoint in {file}, then `babelrack packs check`\n"
        f"  2. add {name} to `packs` in inventories/SITE/site.yaml\n"
        f"  3. babelrack apply {name} --site inventories/SITE/site.yaml"
    )
