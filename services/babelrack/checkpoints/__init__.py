"""Checkpoints: from `MODEL_URL` to verified directories that the engine may load.

`prepare(model_url, cache_dir)` does the whole: it reads one to three URLs, fetches what the cache lacks, verifies and
returns a `Checkpoint` for each. `fetch` does one reference, `inspect` reads a directory, `pack` makes an archive.
"""

from babelrack.checkpoints.archive import Bounds
from babelrack.checkpoints.convert import convert_ctranslate2
from babelrack.checkpoints.errors import CheckpointError, FetchStopped, SourceUnavailable
from babelrack.checkpoints.fetch import fetch
from babelrack.checkpoints.layout import Layout, inspect, weight_files
from babelrack.checkpoints.manifest import Manifest, Role
from babelrack.checkpoints.packing import pack
from babelrack.checkpoints.prepare import Checkpoint, prepare
from babelrack.checkpoints.progress import Progress, Step
from babelrack.checkpoints.reference import CheckpointRef, parse_model_url
from babelrack.checkpoints.settings import FetchSettings

__all__ = [
    "Bounds",
    "Checkpoint",
    "CheckpointError",
    "CheckpointRef",
    "FetchSettings",
    "FetchStopped",
    "Layout",
    "Manifest",
    "Progress",
    "Role",
    "SourceUnavailable",
    "Step",
    "convert_ctranslate2",
    "fetch",
    "inspect",
    "pack",
    "parse_model_url",
    "prepare",
    "weight_files",
]
