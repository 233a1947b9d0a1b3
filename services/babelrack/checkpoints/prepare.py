"""From `MODEL_URL` to the checkpoints that a model server loads."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelrack.checkpoints.cache import Cache
from babelrack.checkpoints.errors import CheckpointError, FetchStopped
from babelrack.checkpoints.fetch import Obtained, obtain
from babelrack.checkpoints.progress import Progress, silent
from babelrack.checkpoints.reference import CheckpointRef, parse_model_url
from babelrack.checkpoints.settings import FetchSettings

if TYPE_CHECKING:
    from pathlib import Path

    from babelrack.checkpoints.manifest import Role


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model server loads: a checked directory and what it is for.

    `sha256` is that of the archive, or of `model.safetensors` in a directory; None for a directory without any stated.
    """

    path: Path
    name: str
    role: Role
    languages: tuple[str, ...]
    sha256: str | None


def prepare(
    model_url: str,
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    settings: FetchSettings | None = None,
    stop: threading.Event | None = None,
) -> tuple[Checkpoint, ...]:
    """The one to three checkpoints of `model_url`, fetched side by side into `cache_dir` and verified, in its order.

    Blocks until all are there. `progress` is called from other threads. `stop`, when set, ends it soon; what has
    arrived is kept for the next start.

    Raises:
        CheckpointError: in one sentence, whatever is wrong with any of them; `FetchStopped` when `stop` was set.
    """
    references = parse_model_url(model_url)
    settings = settings or FetchSettings.from_environment()
    cache = Cache(cache_dir)
    cache.sweep()
    obtained = _obtain_all(references, cache, progress or silent, settings, stop or threading.Event())
    checkpoints = tuple(_named(ref, found) for ref, found in zip(references, obtained, strict=True))
    _refuse_conflicts(checkpoints)
    return checkpoints


def _obtain_all(
    references: tuple[CheckpointRef, ...],
    cache: Cache,
    progress: Progress,
    settings: FetchSettings,
    stop: threading.Event,
) -> list[Obtained]:
    """Obtain all; the first that fails stops the others, since without it none will be loaded."""
    given_up = _Either(stop)
    with ThreadPoolExecutor(max_workers=len(references), thread_name_prefix="checkpoint") as threads:
        futures = [threads.submit(obtain, ref, cache, progress, settings, given_up) for ref in references]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also when Ctrl-C ends the waiting: the threads must not fetch on.
            if not all(future.done() for future in futures):
                given_up.set()
    faults = [error for future in futures if (error := future.exception())]
    for error in sorted(faults, key=lambda error: isinstance(error, FetchStopped)):
        raise error
    return [future.result() for future in futures]


class _Either(threading.Event):
    """Set when it is itself, or when the caller's event is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        # Waits here are short (a lock's poll, a back-off of seconds); the caller's event is looked at between slices.
        left = timeout if timeout is not None else float("inf")
        while left > 0 and not self.is_set():
            super().wait(min(left, 0.1))
            left -= 0.1
        return self.is_set()


def _named(ref: CheckpointRef, found: Obtained) -> Checkpoint:
    """Manifest and fragment together; the fragment wins."""
    name = ref.name or found.manifest.name
    role = ref.role or found.manifest.role
    languages = ref.languages or found.manifest.languages
    if not name or not role or not languages:
        missing = [
            f"{field}=" for field, value in (("name", name), ("role", role), ("languages", languages)) if not value
        ]
        raise CheckpointError(
            f"{ref.redacted}: neither its manifest.json nor the URL's fragment says {' and '.join(missing)}; "
            "add it to the fragment, such as #name=indic&role=multilingual&languages=hi+en"
        )
    unknown = [code for code in languages if code not in found.layout.languages]
    if unknown:
        raise CheckpointError(
            f"{name}: its tokenizer has no token for {', '.join(unknown)}; correct languages= of {ref.redacted}"
        )
    return Checkpoint(found.layout.path, name, role, languages, found.sha256)


def _refuse_conflicts(checkpoints: tuple[Checkpoint, ...]) -> None:
    names = [checkpoint.name for checkpoint in checkpoints]
    for name in names:
        if names.count(name) > 1:
            raise CheckpointError(f"MODEL_URL gives two checkpoints the name {name!r}; add name= to one URL's fragment")
    owners: dict[str, str] = {}
    for checkpoint in checkpoints:
        for code in checkpoint.languages if checkpoint.role == "dedicated" else ():
            if code in owners:
                raise CheckpointError(
                    f"{owners[code]} and {checkpoint.name} are both dedicated to {code}; take it from one of them"
                )
            owners[code] = checkpoint.name
