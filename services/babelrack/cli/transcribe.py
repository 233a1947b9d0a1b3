"""`babelrack transcribe`: audio files through the gateway."""

from __future__ import annotations

import enum
import io
import json
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from babelrack.audio import SAMPLE_RATE
from babelrack.cli import live as live_stream
from babelrack.cli.rack import STATE, RackError, StateOption, gateway_and_key
from babelrack.client import Client, TranscriptionError, read_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from babelrack.packs.routes import Routes

# Together some four minutes: a busy pack is worth waiting for, a broken one isn't worth an evening.
TRIES = 20
_LONGEST_PAUSE_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 60.0
_LARGE_BYTES = 4 << 20
_TIMEOUT = httpx.Timeout(3600, connect=5)


class Format(enum.StrEnum):
    """What is written for a file."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


SUFFIXES = {Format.TEXT: ".txt", Format.JSON: ".json", Format.SRT: ".srt", Format.VTT: ".vtt"}


def transcribe(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Audio files: wav, flac, mp3, ogg, m4a, webm.")],
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="A code such as es, or an aggregator such as multi-indic.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", "-f", help="What to write for each file.")] = Format.TEXT,
    gateway: Annotated[
        str | None, typer.Option(envvar="BABELRACK_GATEWAY", help="The gateway's URL; that of `up` when left out.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(envvar="BABELRACK_KEY_FILE", help="File with a client key; that of `up` if left out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for a file for each input, instead of stdout.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=64, help="Files on their way at a time.")] = 4,
    live: Annotated[
        bool, typer.Option("--live", help="Stream one file, or headerless audio on stdin (-), as it is spoken.")
    ] = False,
    encoding: Annotated[
        live_stream.Encoding, typer.Option(help="Of the audio on stdin.")
    ] = live_stream.Encoding.LINEAR16,
    sample_rate: Annotated[int, typer.Option(help="Of the audio on stdin, in Hz.")] = SAMPLE_RATE,
    state: StateOption = STATE,
) -> None:
    """Transcribe audio files, or one live stream.

    Results go to stdout in the order of the files, errors to stderr; exit code 1 when a file has no transcript, after
    the others are done.
    """
    if live:
        _stream(files, format_, output, encoding, sample_rate, language, *gateway_and_key(state, gateway, key_file))
        return
    if live_stream.STDIN in files:
        raise typer.BadParameter("stdin (-) is for live streams; add --live, or name a file.")
    _check_outputs(files, format_, output)
    url, key = gateway_and_key(state, gateway, key_file)
    routes = _through_gateway(url, language)
    if output:
        output.mkdir(parents=True, exist_ok=True)
    failures = 0
    with _Uploads(files, routes, url, key, language, format_) as uploads, ThreadPoolExecutor(jobs) as threads:
        futures = [threads.submit(uploads.result, file) for file in files]
        try:
            for file, future in zip(files, futures, strict=True):
                try:
                    text = future.result()
                except (TranscriptionError, OSError) as error:
                    failures += 1
                    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                    uploads.say(f"{file}: {reason}")
                else:
                    _write(text, file, format_, output, several=len(files) > 1)
        except KeyboardInterrupt:
            # A thread in the middle of a request can't be interrupted. The end of the process closes its connection,
            # and with that the server drops the request.
            uploads.restore_terminal()
            os._exit(130)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            uploads.stop()
            raise
    if failures:
        raise typer.Exit(1)


def _stream(
    files: list[Path],
    format_: Format,
    output: Path | None,
    encoding: live_stream.Encoding,
    sample_rate: int,
    language: str | None,
    url: str,
    key: str | None,
) -> None:
    """One live stream, drawn as it comes."""
    if len(files) != 1:
        raise typer.BadParameter(f"--live streams one file, not {len(files)}.")
    if output is not None or format_ not in (Format.TEXT, Format.JSON):
        raise typer.BadParameter("--live writes text or json to stdout; leave --output and subtitles out.")
    _through_gateway(url, language)
    source = live_stream.Source(files[0], encoding, sample_rate)
    live_stream.transcribe(source, url, key, language, as_json=format_ is Format.JSON)


def _check_outputs(files: list[Path], format_: Format, output: Path | None) -> None:
    if output is None and len(files) > 1 and format_ in (Format.SRT, Format.VTT):
        raise typer.BadParameter(f"subtitles of {len(files)} files don't fit on stdout; name a folder with --output.")
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if output and twice:
        name = f"{twice[0]}{SUFFIXES[format_]}"
        raise typer.BadParameter(f"two files would be written to {name} in {output}; transcribe them apart.")


def _through_gateway(url: str, language: str | None) -> Routes:
    """The gateway's routes, with the gateway in the place of every pack's own address."""
    routes = read_routes(f"{url}/routes.json")
    try:
        routes.pack(language)
    except Exception as error:
        raise RackError(f"--language {language}: {error}" if language else f"--language is missing: {error}") from None
    return replace(routes, packs=dict.fromkeys(routes.packs, (url,)))


def _write(text: str, file: Path, format_: Format, output: Path | None, *, several: bool) -> None:
    if output:
        (output / f"{file.stem}{SUFFIXES[format_]}").write_text(text)
        return
    prefix = f"{file}: " if several and format_ is Format.TEXT else ""
    sys.stdout.write(f"{prefix}{text}")
    sys.stdout.flush()


class _Uploads:
    """Sends files, from several threads, and shows how far they are."""

    def __init__(
        self, files: list[Path], routes: Routes, gateway: str, key: str | None, language: str | None, format_: Format
    ) -> None:
        self._gateway = gateway
        self._language = language
        self._format = format_
        self._client = Client(routes, api_key=key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._openai = httpx.Client(headers=headers, timeout=_TIMEOUT)
        self._stopped = threading.Event()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        # On a terminal rich prints results above the bar; into a pipe or a file they must go untouched.
        redirect = sys.stdout.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(),
            console=self._console, transient=True, redirect_stdout=redirect, disable=not self._worth_showing(files),
        )  # fmt: skip
        self._total = self._progress.add_task(f"0 of {len(files)} files", total=sum(map(_size, files)))
        self._done = 0
        self._count = len(files)

    def _worth_showing(self, files: list[Path]) -> bool:
        return self._console.is_terminal and (len(files) > 1 or sum(map(_size, files)) > _LARGE_BYTES)

    def __enter__(self) -> _Uploads:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._client.close()
        self._openai.close()

    def say(self, sentence: str) -> None:
        """One line on stderr, above the progress bar."""
        self._console.print(sentence, markup=False)

    def restore_terminal(self) -> None:
        """Take the progress bar away."""
        self._progress.stop()

    def stop(self) -> None:
        """Wait and try no more."""
        self._stopped.set()

    def result(self, file: Path) -> str:
        """What is to be written for a file; tried again when the answer says when.

        Raises:
            TranscriptionError, OSError: when there is none.
        """
        try:
            for tried in range(1, TRIES + 1):
                try:
                    return self._once(file)
                except TranscriptionError as error:
                    wait = max(error.retry_after or 0.0, min(0.5 * 2**tried, _LONGEST_PAUSE_SECONDS))
                    if error.status not in (429, 503) or tried == TRIES or wait > _LONGEST_WAIT_SECONDS:
                        raise
                    if self._stopped.wait(wait):
                        raise
            raise AssertionError  # the last try returns or raises
        finally:
            self._done += 1
            self._progress.update(self._total, description=f"{self._done} of {self._count} files")

    def _once(self, file: Path) -> str:
        with _Counted(file, lambda sent: self._progress.advance(self._total, sent)) as audio:
            if self._format in (Format.SRT, Format.VTT):
                return self._subtitles(file.name, audio)
            transcript = self._client.transcribe(io.BufferedReader(audio), self._language)
        if self._format is Format.TEXT:
            return transcript.text + "\n"
        found: dict[str, Any] = {"file": str(file), **transcript.raw}
        found |= {"pack": transcript.pack, "checkpoint": transcript.checkpoint}
        return json.dumps(found, ensure_ascii=False) + "\n"

    def _subtitles(self, name: str, audio: _Counted) -> str:
        # The gateway routes by the query, the endpoint reads the form.
        language = {"language": self._language} if self._language else {}
        form = {"model": "pulse", "response_format": self._format.value} | language
        try:
            answer = self._openai.post(
                f"{self._gateway}/v1/audio/transcriptions", params=language, data=form,
                files={"file": (name, io.BufferedReader(audio), "application/octet-stream")},
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise TranscriptionError(f"The connection to {self._gateway} failed: {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise TranscriptionError(
                _message(answer), status=answer.status_code, retry_after=_seconds(answer.headers.get("retry-after"))
            )
        return answer.text


class _Counted(io.RawIOBase):
    """A file that tells how much of it was read for the first time, so that a second try isn't counted again."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._advance = advance
        self._furthest = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int | None:
        count = self._file.readinto(buffer)
        position = self._file.tell()
        if position > self._furthest:
            self._advance(position - self._furthest)
            self._furthest = position
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _message(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return str(body["error"]["message"] if isinstance(body.get("error"), dict) else body["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.reason_phrase


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None
