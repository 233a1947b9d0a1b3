"""`SPEAKER_MODEL_URL`: one URL of a speaker encoder, fetched, verified and cached as checkpoints are.

Its folder holds `model.safetensors` and `config.json`: `model_type` `ge2e-lstm`, `mel_channels`, `hidden_size`,
`layers`, `embedding_size`, `window_frames`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.fetch import fetch
from babelrack.checkpoints.layout import WEIGHTS, Kind, Layout, check_shapes, read_json, weight_files
from babelrack.checkpoints.manifest import MANIFEST
from babelrack.checkpoints.reference import CheckpointRef, parse_reference
from babelrack.checkpoints.weights import read_header

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from babelrack.checkpoints.progress import Progress

_MODEL_TYPE = "ge2e-lstm"
_MOST = {"mel_channels": 512, "hidden_size": 8192, "layers": 32, "embedding_size": 8192, "window_frames": 3000}


def parse_speaker_model_url(value: str) -> CheckpointRef:
    """The reference in `value`, whose fragment may say a `sha256`.

    Raises:
        CheckpointError: saying what is wrong with it.
    """
    return parse_reference(value.strip(), "SPEAKER_MODEL_URL")


def fetch_speaker_model(
    url: str, cache_dir: Path, progress: Progress | None = None, *, stop: threading.Event | None = None
) -> Path:
    """The directory of the speaker model at `url`, verified and ready to load; blocks.

    Raises:
        CheckpointError: in one sentence, whatever is wrong; `FetchStopped` when `stop` was set.
    """
    return fetch(parse_speaker_model_url(url), cache_dir, progress, stop=stop, kind=_SPEAKER_MODEL)


def _inspect(directory: Path) -> Layout:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such folder; check the path")
    config_path = directory / "config.json"
    if not config_path.is_file():
        raise CheckpointError(f"{directory}: has no config.json; give the whole folder of a speaker model")
    config = read_json(config_path)
    if config.get("model_type") != _MODEL_TYPE:
        raise CheckpointError(
            f"{config_path}: model_type is {str(config.get('model_type'))[:40]!r}; a speaker model is {_MODEL_TYPE!r}"
        )
    dimensions: dict[str, int] = {}
    for name, most in _MOST.items():
        value = config.get(name)
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(f"{config_path}: {name} must be a number from 1 to {most}; fetch the file again")
        dimensions[name] = value
    weights = weight_files(directory)
    if [path.name for path in weights] != [WEIGHTS]:
        raise CheckpointError(f"{directory}: is sharded, which a speaker model isn't; give one {WEIGHTS}")
    tensors = read_header(weights[0])
    check_shapes(directory, _shapes(dimensions), tensors)
    files = (*weights, *(directory / name for name in ("config.json", MANIFEST) if (directory / name).is_file()))
    return Layout(
        path=directory,
        dimensions=dimensions,
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors.values()})),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        languages=frozenset(),
        files={path.name: path.stat().st_size for path in files},
    )


def _shapes(dimensions: dict[str, int]) -> dict[str, tuple[int, ...]]:
    hidden, embedding = dimensions["hidden_size"], dimensions["embedding_size"]
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (embedding, hidden), "linear.bias": (embedding,)}
    for layer in range(dimensions["layers"]):
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * hidden, hidden if layer else dimensions["mel_channels"])
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * hidden, hidden)
        shapes[f"lstm.bias_ih_l{layer}"] = shapes[f"lstm.bias_hh_l{layer}"] = (4 * hidden,)
    return shapes


_SPEAKER_MODEL = Kind(("config.json",), (MANIFEST,), _inspect)
