"""What a remote reference stands for: one archive, or the files of a checkpoint's folder."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from babelrack.checkpoints import s3
from babelrack.checkpoints.download import Authorize, Downloader, RemoteFile
from babelrack.checkpoints.errors import CheckpointError
from babelrack.checkpoints.layout import PICKLE_SUFFIXES, WEIGHTS, is_checkpoint_file, pickle_sentence
from babelrack.checkpoints.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from babelrack.checkpoints.reference import CheckpointRef
    from babelrack.checkpoints.settings import FetchSettings

ARCHIVE = "archive"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_COMMIT_DIGITS = 40
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reference's files are. `file(name)` is one of them, `names` those that are known to be there (None: ask).

    `revision` is the commit that a hub's revision stands for right now.
    """

    file: Callable[[str], RemoteFile]
    names: tuple[str, ...] | None = None
    revision: str | None = None


def refuse_unauthenticated(ref: CheckpointRef, settings: FetchSettings) -> None:
    """Plain http proves nothing about what arrives: without a sha256 anybody on the way chooses the weights.

    Raises:
        CheckpointError: for such a reference, unless it stays on this host.
    """
    base = {"s3": s3.object_url(ref, settings) if ref.scheme == "s3" else "", "hf": settings.hub_endpoint}.get(
        ref.scheme, ref.url
    )
    parts = urlsplit(base)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and ref.sha256 is None:
        raise CheckpointError(
            f"{ref.redacted}: comes over plain http, which anybody on the way can change; "
            "add sha256=… to the URL's fragment (see sha256sum), or use https"
        )


def resolve(ref: CheckpointRef, settings: FetchSettings, downloader: Downloader) -> Source:
    """Where the files of `ref` are; asks the hub for `hf:`, and nobody else.

    Raises:
        SourceUnavailable: when the hub can't be reached or refuses.
        CheckpointError: when what is there can't be a checkpoint that is loaded.
    """
    if ref.scheme == "hf":
        return _hub(ref, settings, downloader)
    if ref.scheme == "s3":
        url = s3.object_url(ref, settings)
        signer = s3.signer(settings)
        hint = "check AWS_ACCESS_KEY_ID and its secret, AWS_REGION, AWS_ENDPOINT_URL and the bucket's policy"
        authorize: Authorize | None = signer.sign if signer else None
    else:
        url, authorize = _without_user(ref.url)
        hint = "check the URL's user and password, or sign the URL again"
    if not ref.is_directory and (name := unquote(urlsplit(url).path)).endswith(PICKLE_SUFFIXES):
        raise CheckpointError(f"{ref.redacted}: {pickle_sentence(name.rpartition('/')[2])}")

    def file(name: str) -> RemoteFile:
        place, shown = (
            (_joined(url, name), f"{ref.redacted.removesuffix('?…')}{name}")
            if ref.is_directory
            else (url, ref.redacted)
        )
        extra = {"authorize": authorize} if authorize else {}
        return RemoteFile(name=name, url=place, shown=shown, sha256=_expected(ref, name), hint=hint, **extra)

    return Source(file)


def digest_file(names: Iterable[str]) -> str:
    """Which of a folder's files a reference's sha256 is of: the weights, or of a sharded checkpoint the manifest."""
    return WEIGHTS if WEIGHTS in set(names) else MANIFEST


def _expected(ref: CheckpointRef, name: str) -> str | None:
    return ref.sha256 if name in {ARCHIVE, WEIGHTS} else None


def _joined(folder: str, name: str) -> str:
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=parts.path + name))


def _without_user(url: str) -> tuple[str, Authorize | None]:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    header = {"Authorization": "Basic " + base64.b64encode(unquote(user).encode()).decode()}
    return urlunsplit(parts._replace(netloc=host)), lambda _url, _headers: header


def _hub(ref: CheckpointRef, settings: FetchSettings, downloader: Downloader) -> Source:
    repository, revision = ref.hub
    endpoint = settings.hub_endpoint.rstrip("/")
    token = settings.hub_token
    header = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    hint = "set HF_TOKEN_FILE to a token that may read it, and accept the repository's terms"

    def remote(name: str, url: str, sha256: str | None = None) -> RemoteFile:
        return RemoteFile(name, url, f"{ref.redacted}/{name}", sha256, lambda _url, _headers: header, hint)

    api = f"{endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    answer = downloader.get_json(remote("(list of files)", api))
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(siblings, list):
        raise CheckpointError(f"{ref.redacted}: {endpoint} answers with no list of files; check HF_ENDPOINT")
    listed = {
        entry["rfilename"]: entry
        for entry in siblings
        if isinstance(entry, dict) and isinstance(entry.get("rfilename"), str)
    }
    names = tuple(sorted(name for name in listed if is_checkpoint_file(name)))
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in listed if name.endswith(PICKLE_SUFFIXES))
        raise CheckpointError(
            f"{ref.redacted}: {pickle_sentence(pickles[0])}"
            if pickles
            else f"{ref.redacted}: holds no {WEIGHTS}; name the repository of a Whisper checkpoint"
        )
    commit = answer.get("sha")
    commit = commit if isinstance(commit, str) and is_commit(commit) else None

    def file(name: str) -> RemoteFile:
        lfs = listed.get(name, {}).get("lfs")
        stated = lfs.get("sha256") if isinstance(lfs, dict) else None
        stated = stated.lower() if isinstance(stated, str) and len(stated) == _SHA256_DIGITS else None
        url = f"{endpoint}/{repository}/resolve/{quote(commit or revision, safe='')}/{name}"
        return remote(name, url, _expected(ref, name) or stated)

    return Source(file, names, commit)


def is_commit(revision: str) -> bool:
    """Whether a hub's revision is a full commit, which never changes, and not a branch or tag."""
    return len(revision) == _COMMIT_DIGITS and all(digit in "0123456789abcdef" for digit in revision)
