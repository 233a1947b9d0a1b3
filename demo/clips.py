"""The demo's clips: real speech with known text, sent through a gateway, and the table of what came back."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from babelrack.client import Client, TranscriptionError, read_routes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

PROJECT = Path(__file__).resolve().parents[1]
SPEECH = PROJECT / "tests/fixtures/speech"


def clips(*names: str) -> list[dict[str, object]]:
    """The manifest's entries of these clips, or of those that are marked for the demo."""
    manifest = json.loads((SPEECH / "manifest.json").read_text())
    if not names:
        return [clip for clip in manifest if clip.get("demo")]
    return [clip for name in names for clip in manifest if clip["file"] == f"{name}.flac"]


def transcribe(gateway: str, chosen: Sequence[dict[str, object]], console: Console, api_key: str | None = None) -> int:
    """Transcribe clips through a gateway and show them; how many failed."""
    routes = read_routes(f"{gateway}/routes.json")
    through_nginx = replace(routes, packs=dict.fromkeys(routes.packs, (gateway,)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("language", "pack", "checkpoint", "text"):
        table.add_column(heading)
    table.add_column("audio s", justify="right")
    table.add_column("took s", justify="right")
    failed = 0
    with Client(through_nginx, api_key=api_key) as client:
        for clip in chosen:
            language = str(clip["language"])
            started = time.monotonic()
            try:
                transcript = client.transcribe(SPEECH / str(clip["file"]), language=language)
            except TranscriptionError as error:
                failed += 1
                table.add_row(language, routes.pack(language), "", Text(str(error), style="red"))
                continue
            table.add_row(
                language, transcript.pack, transcript.checkpoint, Text(transcript.text),
                f"{clip['seconds']:.1f}", f"{time.monotonic() - started:.2f}",
            )  # fmt: skip
    console.print(table)
    return failed
