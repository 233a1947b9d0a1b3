"""`babelrack license`: make an issuer's keys, issue and inspect licences, show usage."""

from __future__ import annotations

import csv
import os
import re
import sys
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from babelrack.credentials import read_credential, write_private
from babelrack.license_proxy.ledger import DIMENSIONS, Dimension, UsageRow, read_usage
from babelrack.licensing.document import (
    License,
    LicenseError,
    generate_license_key,
    generate_signing_key,
    issue,
    key_sha256,
    load_public_key,
    load_signing_key,
    read,
    unverified,
    verify,
)
from babelrack.licensing.messages import UsageSum

__all__ = ["app"]

app = typer.Typer(help="Issue and inspect licences, show usage.", no_args_is_help=True, pretty_exceptions_enable=False)
_SUMS = TypeAdapter(list[UsageSum])


class Format(StrEnum):
    """How a report is printed."""

    table = "table"
    csv = "csv"


@app.command()
def keygen(
    out: Annotated[Path, typer.Option(help="Folder for issuer.key (private, 0600) and issuer.pub.")],
) -> None:
    """Make an issuer's pair of Ed25519 keys. Keep the private one where licences are issued, and nowhere else."""
    private, public = out / "issuer.key", out / "issuer.pub"
    pair = generate_signing_key()
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(private, pair.as_pem(private=True).decode(), replace=False)
        public.write_bytes(pair.as_pem(private=False))
    except FileExistsError:
        raise LicenseError("key", f"{private} is there already; licences that it signed would be orphaned") from None
    typer.echo(f"{private}  signs licences; keep it secret\n{public}  goes to every licence proxy")


@app.command("issue")
def issue_license(
    customer: Annotated[str, typer.Option(help="Whom the licence is for.")],
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is valid, from now on.")],
    signing_key: Annotated[Path, typer.Option(help="The issuer's private key, PEM.")],
    out: Annotated[Path, typer.Option(help="Where the licence goes.")],
    languages: Annotated[str, typer.Option(help="Comma-separated codes, or `all`.")] = "all",
    seats: Annotated[int, typer.Option(min=1, help="API servers that may run at once.")] = 1,
    key_out: Annotated[
        Path | None, typer.Option(help="Where the new LICENSE_KEY goes (0600); default: beside the licence.")
    ] = None,
    show_key: Annotated[bool, typer.Option("--show-key", help="Print the LICENSE_KEY too.")] = False,
) -> None:
    """Issue a licence and the LICENSE_KEY that goes with it. Only the key's hash is in the licence."""
    codes = None if languages.strip() == "all" else [code for code in re.split(r"[,\s]+", languages) if code]
    key_file = key_out or out.with_name(f"{out.name}.key")
    license_key = generate_license_key()
    now = datetime.now(UTC)
    token = issue(
        customer=customer,
        languages=codes,
        seats=seats,
        not_before=now,
        expires=now + timedelta(days=days),
        license_key_sha256=key_sha256(license_key),
        signing_key=load_signing_key(signing_key),
    )
    for path in (out, key_file):
        if path.exists():
            raise LicenseError("unreadable", f"{path} is there already; move it away or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
    write_private(key_file, license_key + "\n", replace=False)
    write_private(out, token + "\n", replace=False)
    out.chmod(0o644)  # it holds no secret, and the proxy may be another user's process
    typer.echo(f"{out}  the licence, for the licence proxy (LICENSE_FILE)")
    typer.echo(f"{key_file}  the licence key, for every server (LICENSE_KEY_FILE); keep it secret")
    if show_key:
        typer.echo(license_key)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="The licence.")],
    public_key: Annotated[Path | None, typer.Option(help="The issuer's public key, to verify with.")] = None,
) -> None:
    """Show what a licence says, and whether it is good: exit code 1 when it isn't."""
    try:
        token = file.read_text(encoding="ascii")
    except OSError as error:
        raise LicenseError("unreadable", f"the licence {file} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise LicenseError("malformed", f"the licence {file} is malformed: it is not text") from None
    fault: LicenseError | None = None
    if public_key is None:
        license_, verdict = unverified(token), "not verified; give --public-key"
    else:
        issuer = load_public_key(public_key)
        license_, verdict = read(token, issuer), "good"
        try:
            verify(token, issuer, datetime.now(UTC))
        except LicenseError as error:
            fault, verdict = error, str(error)
    Console().print(_described(license_, verdict))
    if fault is not None:
        raise typer.Exit(1)


@app.command()
def usage(
    database: Annotated[Path | None, typer.Option(help="The licence proxy's database, on its own host.")] = None,
    url: Annotated[str | None, typer.Option(help="The licence proxy, from anywhere.")] = None,
    license_key_file: Annotated[
        Path | None, typer.Option(help="With --url: the licence key; or LICENSE_KEY_FILE, LICENSE_KEY.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="First day (UTC), 2026-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day (UTC), itself included.")] = None,
    by: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(DIMENSIONS)}.")] = "pack,language",
    format_: Annotated[Format, typer.Option("--format", help="How it is printed.")] = Format.table,
) -> None:
    """Show requests and audio seconds, summed up by pack, checkpoint, language, key, day, status or feature."""
    dimensions = _dimensions(by)
    first, last = _day(since, "--since"), _day(until, "--until")
    if (database is None) == (url is None):
        raise typer.BadParameter("give either --database or --url")
    if database is not None:
        rows = read_usage(database, dimensions, first, last)
    else:
        rows = _fetch_usage(url or "", license_key_file, dimensions, first, last)
    if format_ is Format.csv:
        report = csv.writer(sys.stdout, lineterminator="\n")
        report.writerow([*dimensions, "requests", "audio_seconds"])
        for row in rows:
            report.writerow([*(_unformula(value) for value in row.group), row.requests, f"{row.audio_seconds:.3f}"])
        return
    table = Table(title="Usage")
    for dimension in dimensions:
        table.add_column(dimension)
    table.add_column("requests", justify="right")
    table.add_column("audio", justify="right")
    for row in rows:
        table.add_row(*row.group, f"{row.requests:,}", _duration(row.audio_seconds))
    table.add_section()
    total = _duration(sum(row.audio_seconds for row in rows))
    table.add_row("total", *[""] * (len(dimensions) - 1), f"{sum(row.requests for row in rows):,}", total)
    Console().print(table)


def _described(license_: License, verdict: str) -> Table:
    table = Table(show_header=False)
    left = license_.expires - datetime.now(UTC)
    for label, value in (
        ("customer", license_.customer),
        ("id", license_.id),
        ("languages", "all" if license_.languages is None else " ".join(license_.languages)),
        ("seats", str(license_.seats)),
        ("valid from", f"{license_.not_before:%Y-%m-%d %H:%M} UTC"),
        ("valid until", f"{license_.expires:%Y-%m-%d %H:%M} UTC ({max(left.days, 0)} days left)"),
        ("key sha256", license_.key_sha256),
        ("verdict", verdict),
    ):
        table.add_row(label, value)
    return table


def _fetch_usage(
    url: str, license_key_file: Path | None, by: list[Dimension], since: str | None, until: str | None
) -> list[UsageRow]:
    configured = os.environ.get("LICENSE_KEY_FILE")
    file = license_key_file or (Path(configured) if configured else None)
    license_key = read_credential("license_key", file=file, env="LICENSE_KEY")
    if license_key is None:
        raise LicenseError("key", "reading usage over HTTP takes the licence key; give --license-key-file")
    asked = {"by": ",".join(by), "since": since, "until": until}
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}/v1/usage",
            params={name: value for name, value in asked.items() if value},
            headers={"Authorization": f"Bearer {license_key}"},
            timeout=30,
            trust_env=False,
        )
        if answer.status_code != httpx.codes.OK:
            message = answer.json().get("message", "")
            raise LicenseError("unreadable", f"the licence proxy at {url} answered {answer.status_code}: {message}")
        sums = _SUMS.validate_json(answer.content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LicenseError("unreadable", f"the licence proxy at {url} can't be reached: {error}") from None
    except (ValidationError, ValueError, AttributeError):
        raise LicenseError("unreadable", f"what answers at {url} is not a licence proxy") from None
    return [UsageRow(tuple(one.group[dimension] for dimension in by), one.requests, one.audio_seconds) for one in sums]


def _dimensions(by: str) -> list[Dimension]:
    asked = list(dict.fromkeys(part.strip() for part in by.split(",")))
    known = sorted((dimension for dimension in DIMENSIONS if dimension in asked), key=asked.index)
    if len(known) != len(asked):
        raise typer.BadParameter(f"--by takes {', '.join(DIMENSIONS)}, separated by commas")
    return known


def _day(value: str | None, option: str) -> str | None:
    try:
        return None if value is None else date.fromisoformat(value).isoformat()
    except ValueError:
        raise typer.BadParameter(f"{option} takes a day such as 2026-01-31, not {value!r}") from None


def _unformula(value: str) -> str:
    # A spreadsheet runs a cell that begins so; names in usage come from outside.
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02d}:{rest:04.1f}"


if __name__ == "__main__":
    app()
