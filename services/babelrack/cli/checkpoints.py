"""`babelrack checkpoints`: fetch, inspect, pack, convert: the same code that a model server runs at its start."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from babelrack.checkpoints import (
    CheckpointError,
    Layout,
    Manifest,
    Role,
    Step,
    convert_ctranslate2,
    fetch,
    inspect,
    pack,
    parse_model_url,
)
from babelrack.checkpoints import Progress as Tell
from babelrack.checkpoints.speaker_model import fetch_speaker_model
from babelrack.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["app"]

app = typer.Typer(help="Fetch, verify and show checkpoints.", no_args_is_help=True, pretty_exceptions_enable=False)

DEFAULT_CACHE = Path("~/.cache/babelrack/checkpoints").expanduser()
Cache = Annotated[Path, typer.Option("--cache", envvar="MODEL_CACHE_DIR", help="Where fetched checkpoints are kept.")]

_SECONDS_A_LINE = 5.0


@app.callback()
def _root() -> None:
    configure_logging("babelrack", "warning")


@app.command("fetch")
def fetch_command(
    model_url: Annotated[
        list[str] | None, typer.Argument(help="One to three URLs, as in MODEL_URL.", metavar="MODEL_URL...")
    ] = None,
    speaker_model: Annotated[str, typer.Option(help="A speaker model's URL, as in SPEAKER_MODEL_URL.")] = "",
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Bring checkpoints and a speaker model into the cache and verify them; prints each one's folder.

    For a host with no way out: run this where there is one, then copy the cache folder.
    """
    references = parse_model_url(",".join(model_url or [])) if model_url or not speaker_model else ()
    with _progress() as tell:
        paths = [fetch(reference, cache, tell) for reference in references]
        if speaker_model:
            paths.append(fetch_speaker_model(speaker_model, cache, tell))
    for path in paths:
        typer.echo(path)


@app.command("inspect")
def inspect_command(
    where: Annotated[str, typer.Argument(help="A folder, an archive, or a URL as in MODEL_URL.", metavar="PATH|URL")],
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Show what a checkpoint is: its name, languages, dimensions, dtype and files."""
    path = Path(where)
    references = parse_model_url(path.absolute().as_uri() if path.exists() else where)
    if len(references) > 1:
        raise CheckpointError(f"inspect shows one checkpoint and {len(references)} are named; run it once for each")
    with _progress() as tell:
        directory = fetch(references[0], cache, tell)
    manifest = Manifest.read(directory)
    said = {field: getattr(references[0], field) for field in ("name", "role", "languages")}
    manifest = manifest.model_copy(update={field: value for field, value in said.items() if value})
    Console(soft_wrap=True).print(_table(inspect(directory), manifest))


@app.command("pack")
def pack_command(
    directory: Annotated[Path, typer.Argument(help="A Whisper checkpoint in safetensors.", metavar="DIR")],
    out: Annotated[Path, typer.Argument(help="The archive to write.", metavar="OUT.tar.zst")],
    name: Annotated[str | None, typer.Option(help="What packs call it.")] = None,
    languages: Annotated[str | None, typer.Option(help="Codes with + between them, such as hi+en.")] = None,
    role: Annotated[Role | None, typer.Option(help="What it is for.")] = None,
) -> None:
    """Make an archive with a manifest and print its sha256; the same files give the same bytes."""
    codes = tuple(languages.split("+")) if languages else None
    with _working(f"packing {directory}"):
        digest = pack(directory, out, name=name, role=role, languages=codes)
    typer.echo(f"{digest}  {out}")


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="A CTranslate2 Whisper model, not quantised.", metavar="CT2_DIR")],
    target: Annotated[Path, typer.Argument(help="The folder to write.", metavar="OUT_DIR")],
) -> None:
    """Convert a CTranslate2 Whisper model, such as faster-whisper's, to safetensors."""
    with _working(f"converting {source}"):
        convert_ctranslate2(source, target)
        layout = inspect(target)
    typer.echo(f"{target}: {layout.parameters:,} parameters, {' '.join(layout.dtypes)}")


def _table(layout: Layout, manifest: Manifest) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    size = layout.dimensions
    rows = {
        "path": str(layout.path),
        "name": manifest.name or "not said; give name= in the URL's fragment",
        "role": manifest.role or "not said; give role= in the URL's fragment",
        "languages": " ".join(manifest.languages or ())
        or f"not said; the tokenizer knows {len(layout.languages)}: {' '.join(sorted(layout.languages))}",
        "dims": f"width {size['d_model']}, {size['encoder_layers']}+{size['decoder_layers']} layers, "
        f"{size['encoder_attention_heads']} heads, {size['num_mel_bins']} mel bins, {size['vocab_size']:,} tokens",
        "dtype": " ".join(layout.dtypes),
        "params": f"{layout.parameters:,}",
        "files": "\n".join(f"{file}  {count:,} bytes" for file, count in layout.files.items()),
    }
    for heading, text in rows.items():
        table.add_row(heading, Text(text))
    return table


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Say that it takes a while, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(what)):
        yield


@contextmanager
def _progress() -> Iterator[Tell]:
    """Bars on a terminal, plain lines elsewhere, both on stderr: stdout has the result."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """A bar for each phase of each checkpoint."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, step: Step, /) -> None:
        if step.phase == "ready":
            return
        with self._lock:
            key = (step.checkpoint, step.phase)
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(f"{step.checkpoint} {step.phase}", total=step.total)
        self._bars.update(self._tasks[key], completed=step.done, total=step.total)


class _Lines:
    """A line when a phase begins, and then one every few seconds."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def __call__(self, step: Step, /) -> None:
        key, now = (step.checkpoint, step.phase), time.monotonic()
        with self._lock:
            if now < self._told.get(key, -math.inf) + _SECONDS_A_LINE:
                return
            self._told[key] = now
        amount = f", {step.done:,} of {step.total:,} bytes" if step.total else ""
        typer.echo(f"{step.checkpoint}: {step.phase}{amount}", err=True)
