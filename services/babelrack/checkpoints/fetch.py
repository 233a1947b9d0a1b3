"""From a reference to a directory that may be loaded: from the cache if it is there, else from its source.

The order never varies: download, verify the checksum, unpack, check the layout, make durable, rename into place. What a
kill interrupts is continued (downloads) or removed (everything else) by the next start.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import structlog

from babelrack.checkpoints.archive import Bounds, unpack, unpacked_size
from babelrack.checkpoints.cache import Cache, Record, RecordedFile, is_disk_full
from babelrack.checkpoints.download import Downloader, NotFound, Received, Refused, Telling
from babelrack.checkpoints.errors import CheckpointError, FetchStopped, SourceUnavailable
from babelrack.checkpoints.layout import (
    INDEX,
    PICKLE_SUFFIXES,
    WEIGHTS,
    WHISPER,
    Kind,
    Layout,
    pickle_sentence,
    shard_names,
)
from babelrack.checkpoints.manifest import MANIFEST, Manifest
from babelrack.checkpoints.progress import Phase, Progress, Step, silent
from babelrack.checkpoints.settings import FetchSettings
from babelrack.checkpoints.source import ARCHIVE, Source, digest_file, is_commit, refuse_unauthenticated, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from babelrack.checkpoints.reference import CheckpointRef

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Obtained:
    """A checked directory; `sha256` of the archive or the weights, None if nobody had to compute it."""

    layout: Layout
    manifest: Manifest
    sha256: str | None


def fetch(
    ref: CheckpointRef,
    cache_dir: Path,
    progress: Progress | None = None,
    *,
    settings: FetchSettings | None = None,
    stop: threading.Event | None = None,
    kind: Kind = WHISPER,
) -> Path:
    """The directory of the checkpoint `ref`, verified and ready to load.

    A `file:` directory is used where it is; everything else lands in `cache_dir`. With a sha256 that the cache has, no
    network is used. `stop`, when set, ends the fetch soon and keeps what has arrived.

    Raises:
        CheckpointError: in one sentence, whatever is wrong; `FetchStopped` when `stop` was set.
    """
    cache = Cache(cache_dir)
    cache.sweep()
    settings = settings or FetchSettings.from_environment()
    return obtain(ref, cache, progress or silent, settings, stop or threading.Event(), kind).layout.path


def obtain(
    ref: CheckpointRef,
    cache: Cache,
    progress: Progress,
    settings: FetchSettings,
    stop: threading.Event,
    kind: Kind = WHISPER,
) -> Obtained:
    """`fetch`, with everything that was learnt on the way."""
    obtained = _Fetch(ref, cache, progress, settings, stop, kind).run()
    progress(Step(ref.label, "ready"))
    return obtained


class _Fetch:
    """One reference on its way; phases are methods, in the order in which they happen."""

    def __init__(
        self,
        ref: CheckpointRef,
        cache: Cache,
        progress: Progress,
        settings: FetchSettings,
        stop: threading.Event,
        kind: Kind,
    ) -> None:
        self._kind = kind
        self._ref = ref
        self._cache = cache
        self._progress = progress
        self._settings = settings
        self._stop = stop
        self._needed: int | None = None

    def run(self) -> Obtained:
        try:
            with self._cache.faults(self._ref.label, lambda: self._needed):
                return self._local() if self._ref.scheme == "file" else self._remote()
        except UnicodeEncodeError:
            raise CheckpointError(f"{self._ref.redacted}: its path can't be a file name here; rename it") from None

    # A local directory or archive

    def _local(self) -> Obtained:
        path = self._ref.path
        if path.is_dir():
            return self._checked(path, self._verified_directory(path))
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file or folder; check the path and that this host has it mounted")
        if path.name.endswith(PICKLE_SUFFIXES):
            raise CheckpointError(f"{path}: {pickle_sentence(path.name)}")
        if path.suffix == ".safetensors":
            raise CheckpointError(
                f"{path}: is the weights alone; give its folder, with {' and '.join(self._kind.required)}"
            )
        digest = self._digest(path)
        self._expect(digest, str(path))
        if ready := self._cache.ready(digest):
            return self._from_cache(ready, digest)
        with self._locked(digest):
            if ready := self._cache.ready(digest):
                return self._from_cache(ready, digest)
            before = path.stat()
            with self._unpacked(path, digest, str(path)) as staged:
                if (path.stat().st_mtime_ns, path.stat().st_size) != (before.st_mtime_ns, before.st_size):
                    raise CheckpointError(f"{path}: changed while it was read; start again when it is complete")
                return self._landed(staged, digest, digest, str(path))

    def _verified_directory(self, path: Path) -> str | None:
        if self._ref.sha256 is None:
            return None
        name = digest_file(file.name for file in path.iterdir())
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path}: has neither {WEIGHTS} nor {MANIFEST}, which sha256 would be of; check the path"
            )
        digest = self._digest(path / name)
        self._expect(digest, str(path / name))
        return digest

    def _expect(self, digest: str | None, what: str) -> None:
        if self._ref.sha256 not in {None, digest}:
            raise CheckpointError(
                f"{what}: sha256 is {digest} and {self._ref.sha256} was asked for; "
                "correct the sha256 if the file is right, else copy the file again"
            )

    # A remote archive or folder

    def _remote(self) -> Obtained:
        if cached := self._cached():
            return cached
        refuse_unauthenticated(self._ref, self._settings)
        with self._locked(self._key):
            # Whoever held the lock may have brought it.
            return self._cached() or self._from_source()

    @property
    def _is_folder(self) -> bool:
        return self._ref.path.is_dir() if self._ref.scheme == "file" else self._ref.is_directory

    @property
    def _key(self) -> str:
        """The same for fetches that would bring the same files."""
        if self._ref.sha256 and not self._ref.is_directory:
            return self._ref.sha256
        return hashlib.sha256(f"{self._ref.identity}\n{self._ref.sha256}".encode()).hexdigest()

    def _cached(self) -> Obtained | None:
        """What needs no network: the content is named by its checksum, or by a commit, and is here."""
        sha256 = self._ref.sha256
        if sha256 and not self._ref.is_directory and (ready := self._cache.ready(sha256)):
            return self._from_cache(ready, sha256)
        record = self._cache.record(self._ref.identity)
        fixed = self._ref.scheme == "hf" and is_commit(self._ref.hub[1])
        if record and (record.sha256 == sha256 if sha256 else fixed):
            return self._recorded(record)
        return None

    def _from_cache(self, ready: Path, sha256: str | None) -> Obtained:
        try:
            return self._checked(ready, sha256)
        except FetchStopped:
            raise
        except CheckpointError as error:
            raise CheckpointError(f"{error} (remove {ready} and start again)") from error

    def _recorded(self, record: Record) -> Obtained:
        return self._from_cache(self._cache.checkpoint(record.address), record.sha256)

    def _from_source(self) -> Obtained:
        record = None if self._ref.sha256 else self._cache.record(self._ref.identity)
        with Downloader(self._settings, self._stop) as downloader:
            try:
                source = resolve(self._ref, self._settings, downloader)
                if record and _unchanged(record, source, downloader):
                    return self._recorded(record)
                return self._fetched(source, downloader, record)
            except SourceUnavailable as error:
                if record is None:
                    raise
                log.warning(
                    "source unavailable, the copy that was fetched before is used",
                    checkpoint=self._ref.label,
                    reason=str(error),
                )
                return self._recorded(record)

    def _fetched(self, source: Source, downloader: Downloader, record: Record | None) -> Obtained:
        self._cache.resume(self._key, source.revision)
        try:
            if self._ref.is_directory:
                received = self._download_folder(source, downloader)
                address, stated = _address(received), received.get(digest_file(received))
            else:
                stated = self._download(source, ARCHIVE, downloader, 0)
                received, address = {ARCHIVE: stated}, stated.sha256
        except OSError as error:
            if is_disk_full(error):  # what fills a disk to the brim harms others; begin anew when there is room
                self._cache.forget_partial(self._key)
            raise
        sha256 = stated.sha256 if stated else None
        try:
            self._expect_same(record, address, sha256)
            obtained = self._arrived(received, address, sha256)
        except FetchStopped:
            raise
        except (CheckpointError, OSError):
            self._cache.forget_partial(self._key)
            raise
        files = {name: RecordedFile(**asdict(file)) for name, file in received.items()}
        facts = Record(url=self._ref.redacted, address=address, sha256=sha256, revision=source.revision, files=files)
        self._cache.remember(self._ref.identity, facts)
        self._cache.forget_partial(self._key)
        if self._ref.sha256 is None and record is None:
            log.warning(
                "fetched without a sha256 to hold it to; later fetches of this URL must bring the same",
                checkpoint=self._ref.label,
                url=self._ref.redacted,
                sha256=sha256,
            )
        return obtained

    def _arrived(self, received: dict[str, Received], address: str, sha256: str | None) -> Obtained:
        if ready := self._cache.ready(address):
            return self._from_cache(ready, sha256)
        partial = self._cache.partial(self._key)
        if not self._ref.is_directory:
            with self._unpacked(partial / ARCHIVE, self._key, self._ref.redacted) as staged:
                return self._landed(staged, address, sha256, self._ref.redacted)
        with self._cache.staging(self._key) as staged:
            for name in received:
                (partial / name).rename(staged / name)
            return self._landed(staged, address, sha256, self._ref.redacted)

    # Downloading

    def _download(self, source: Source, name: str, downloader: Downloader, before: int) -> Received:
        def downloaded(done: int, total: int | None) -> None:
            self._needed = None if total is None else total - done
            self._tell("downloading", before + done, None if total is None else before + total)

        def room(remaining: int, total: int) -> None:
            unpacked = 0 if self._ref.is_directory else total  # weights hardly compress: at least as much again
            self._cache.require(remaining + unpacked, self._ref.label)

        telling = Telling(downloaded, lambda done, total: self._tell("verifying", done, total), room)
        return downloader.fetch(source.file(name), self._cache.partial(self._key) / name, telling)

    def _download_folder(self, source: Source, downloader: Downloader) -> dict[str, Received]:
        """Small files first, so that what is wrong shows before the weights are on their way."""
        received: dict[str, Received] = {}
        partial = self._cache.partial(self._key)

        def bring(name: str) -> None:
            before = sum((partial / done).stat().st_size for done in received)
            received[name] = self._download(source, name, downloader, before)

        def bring_if_there(name: str) -> bool:
            try:
                if source.names is None or name in source.names:
                    bring(name)
            except (NotFound, Refused):  # S3 says 403 for what isn't there to who may not list the bucket
                return False
            return name in received

        for name in self._kind.required:
            bring(name)
        for name in self._kind.optional:
            bring_if_there(name)
        if not bring_if_there(WEIGHTS):
            bring(INDEX)
            for name in shard_names(partial / INDEX):
                bring(name)
            if self._ref.sha256:
                self._expect_manifest(received)
        return received

    def _expect_manifest(self, received: dict[str, Received]) -> None:
        if MANIFEST not in received:
            raise CheckpointError(
                f"{self._ref.redacted}: is sharded and has no {MANIFEST} for sha256 to be of; pack it into an archive"
            )
        self._expect(received[MANIFEST].sha256, f"{self._ref.redacted}: {MANIFEST}")

    def _expect_same(self, record: Record | None, address: str, sha256: str | None) -> None:
        if record is None or record.address == address:
            return
        changed = f"{self._ref.redacted}: has changed since it was fetched first"
        if sha256 is None or sha256 == record.sha256:  # a file beside the weights, or shards that no manifest names
            known = self._cache.record_path(self._ref.identity)
            raise CheckpointError(f"{changed}; if that is intended, remove {known} and start again")
        raise CheckpointError(
            f"{changed} (sha256 {record.sha256}, now {sha256}); "
            f"if that is intended, add sha256={sha256} to the URL's fragment"
        )

    # Unpacking, checking, landing

    @contextmanager
    def _unpacked(self, archive: Path, key: str, shown: str) -> Iterator[Path]:
        size = unpacked_size(archive)
        if size is not None:
            self._cache.require(size, self._ref.label)

        def advance(done: int) -> None:
            self._needed = None if size is None else max(0, size - done)
            self._tell("unpacking", done, size)

        with self._cache.staging(key) as staged:
            bounds = Bounds(unpacked_bytes=self._settings.largest_unpacked)
            yield unpack(archive, staged, shown=shown, bounds=bounds, advance=advance)

    def _landed(self, staged: Path, address: str, sha256: str | None, shown: str) -> Obtained:
        try:
            obtained = self._checked(staged, sha256)
        except FetchStopped:
            raise
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(staged), shown)) from error
        landed = self._cache.land(staged, address)
        return replace(obtained, layout=replace(obtained.layout, path=landed))

    def _checked(self, directory: Path, sha256: str | None) -> Obtained:
        """The checkpoint in `directory`, if it is whole and is what its manifest says."""
        layout = self._kind.inspect(directory)
        manifest = Manifest.read(directory)
        of_manifest = WEIGHTS not in layout.files and self._is_folder and self._ref.sha256 is not None
        if of_manifest and manifest.files is None:
            raise CheckpointError(
                f"{directory / MANIFEST}: lists no files, so its sha256 says nothing of the weights; pack it again"
            )
        for name in layout.files if manifest.files is not None else ():
            if name == MANIFEST:
                continue
            expected = (manifest.files or {}).get(name)
            if expected is None:
                raise CheckpointError(f"{directory / MANIFEST}: lists no sha256 for {name}; pack the checkpoint again")
            if (digest := self._digest(directory / name)) != expected:
                raise CheckpointError(
                    f"{directory / name}: sha256 is {digest} and {MANIFEST} says {expected}; fetch or pack it again"
                )
        weights = (manifest.files or {}).get(WEIGHTS)
        return Obtained(layout, manifest, sha256 or weights)

    # Telling

    def _digest(self, path: Path) -> str:
        total = path.stat().st_size
        return self._cache.digests.digest(path, lambda done: self._tell("verifying", done, total))

    def _locked(self, key: str) -> AbstractContextManager[None]:
        return self._cache.lock(key, self._stop, lambda: self._progress(Step(self._ref.label, "waiting")))

    def _tell(self, phase: Phase, done: int, total: int | None) -> None:
        self._progress(Step(self._ref.label, phase, done, total))
        if self._stop.is_set():
            raise FetchStopped(f"{self._ref.redacted}: stopped; the next start continues")


def _unchanged(record: Record, source: Source, downloader: Downloader) -> bool:
    if record.revision is not None:
        return record.revision == source.revision
    return all(
        downloader.unchanged(source.file(name), file.etag, file.last_modified) for name, file in record.files.items()
    )


def _address(received: dict[str, Received]) -> str:
    """A folder's address: the digest of its files' names and digests."""
    lines = "".join(f"{name}\0{received[name].sha256}\n" for name in sorted(received))
    return hashlib.sha256(lines.encode()).hexdigest()
