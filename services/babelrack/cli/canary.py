"""`babelrack canary`: one clip with known text against one API server; a roll goes on only when the text comes back."""

from __future__ import annotations

import time
import unicodedata
from itertools import pairwise
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import httpx
import typer

from babelrack.credentials import read_credential

if TYPE_CHECKING:
    from collections.abc import Sequence

# These write no spaces between words: each character counts as a word.
_UNSPACED: Final = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
_PATH: Final = "/waves/v1/pulse/get_text"
_BUSY: Final = (429, 503)
_PAUSE_SECONDS: Final = 2.0
_SHOWN_CHARACTERS: Final = 300


class CanaryError(Exception):
    """The replica isn't fit to serve; the message says why."""


def canary(
    url: Annotated[str, typer.Argument(help="The API server, such as http://10.20.0.11:7100.", metavar="URL")],
    audio: Annotated[Path, typer.Option("--audio", help="The clip.", exists=True, dir_okay=False)],
    language: Annotated[str, typer.Option("--language", help="The language that it is sent with.")],
    text: Annotated[str, typer.Option("--text", help="What is said in it.")],
    max_word_error_rate: Annotated[
        float, typer.Option("--max-word-error-rate", min=0, max=1, help="The share of words that may be wrong.")
    ] = 0.3,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="File with a client key; the credential license_key when left out."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long to wait for the answer, a busy server included.")
    ] = 120,
) -> None:
    """Send a clip with known text to one API server and compare.

    Exit code 0 when at most `--max-word-error-rate` of the words are wrong, else 1 with a sentence.
    """
    expected = words(text, language)
    if not expected:
        raise typer.BadParameter(f"{text!r} has no words to compare with; write what is said in {audio}.")
    key = read_credential("license_key", file=key_file)
    heard = _transcribe(url, audio.read_bytes(), language, key, seconds)
    wrong = word_errors(expected, words(heard, language))
    rate = wrong / len(expected)
    verdict = f"{language}: {wrong} of {len(expected)} words wrong"
    if rate > max_word_error_rate:
        raise CanaryError(
            f"the canary {audio.name} came back wrong from {url}: {verdict}, and at most "
            f"{max_word_error_rate:.0%} may be; it heard {_shown(heard)} instead of {_shown(text)}"
        )
    typer.echo(f"{verdict}; it heard {_shown(heard)}")


def words(text: str, language: str) -> list[str]:
    """The words of a text as they are compared: without case, punctuation and marks of spelling that sound alike."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    # Marks (M) are vowels in Indian scripts: they stay. An apostrophe joins; what else is no letter parts words.
    kept = "".join(_sign(sign) for sign in plain)
    if language in _UNSPACED:
        return [sign for sign in kept if not sign.isspace()]
    return kept.split()


def word_errors(expected: Sequence[str], heard: Sequence[str]) -> int:
    """Words to insert, delete or replace to make one of the other (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for count, word in enumerate(expected, start=1):
        following = [count]
        for (diagonal, above), other in zip(pairwise(row), heard, strict=True):
            following.append(min(above + 1, following[-1] + 1, diagonal + (word != other)))
        row = following
    return row[-1]


def _sign(sign: str) -> str:
    category = unicodedata.category(sign)
    if sign in "'’" or category == "Cf":  # Cf: invisible joiners within words of Indian scripts
        return ""
    return sign if category[0] in "LMN" else " "


def _transcribe(url: str, audio: bytes, language: str, key: str | None, seconds: float) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        raise CanaryError(f"{url!r} is no API server's address; write one such as http://10.20.0.11:7100")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    deadline = time.monotonic() + seconds
    # Never through a proxy: the question is how this one server answers.
    with httpx.Client(headers=headers, trust_env=False) as http:
        while True:
            left = max(deadline - time.monotonic(), 1.0)
            try:
                answer = http.post(
                    url.rstrip("/") + _PATH,
                    params={"language": language},
                    content=audio,
                    timeout=httpx.Timeout(left, connect=min(left, 5.0)),
                )
            except httpx.HTTPError as error:
                raise CanaryError(
                    f"{url} gave no transcript of the canary: {str(error) or type(error).__name__}"
                ) from None
            if answer.status_code not in _BUSY or time.monotonic() + _PAUSE_SECONDS > deadline:
                return _text(url, answer)
            time.sleep(_PAUSE_SECONDS)


def _text(url: str, answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    text = body.get("transcription")
    if answer.status_code == httpx.codes.OK and isinstance(text, str):
        return text
    said = body.get("message") or body.get("error") or answer.reason_phrase
    raise CanaryError(f"{url} gave no transcript of the canary: {answer.status_code} {said}")


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
