"""`babelrack doctor`: what is wrong with a live site, and how to put it right."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from babelrack.cli.rack import STATE, StateOption
from babelrack.cli.rack_facts import gather_rack
from babelrack.fleet import FleetError
from babelrack.fleet.diagnosis import CHECKS, diagnose
from babelrack.fleet.gathering import gather
from babelrack.packs.faults import PackError
from babelrack.packs.pool import load_pool
from babelrack.packs.site import load_site

if TYPE_CHECKING:
    from babelrack.fleet.diagnosis import Finding
    from babelrack.fleet.facts import SiteFacts

SITE = Path("inventories/local/site.yaml")
FOUND, BLIND = 1, 2
_STYLES = {"error": "bold red", "warning": "yellow"}


class Format(enum.StrEnum):
    """How the answer is written."""

    TEXT = "text"
    JSON = "json"


def doctor(
    site: Annotated[Path, typer.Option("--site", help="The site file.", metavar="FILE")] = SITE,
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TEXT,
    state: StateOption = STATE,
) -> None:
    """Look at a live site and name what is wrong, each with its fix; changes nothing.

    Exit code 0 when all is well, 1 when something was found, 2 when it couldn't look everywhere and found nothing.
    """
    try:
        facts = _look(site, state)
    except (PackError, FleetError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(BLIND) from None
    findings = diagnose(facts)
    code = FOUND if findings else BLIND if facts.gaps else 0
    if format_ is Format.JSON:
        report = {
            "site": facts.site.name,
            "looked_at": facts.now.isoformat(timespec="seconds"),
            "findings": [asdict(finding) for finding in findings],
            "not_looked_at": list(facts.gaps),
            "exit_code": code,
        }
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print(facts, findings)
    raise typer.Exit(code)


def _look(file: Path, state: Path) -> SiteFacts:
    site = load_site(file)
    if site.fleet is None:
        return gather_rack(site, state)
    return gather(site, load_pool(file.with_name("hosts.yaml")), file.absolute().parent)


def _print(facts: SiteFacts, findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        head = Text(f"{finding.severity:<8} ", style=_STYLES[finding.severity])
        head.append(f"{finding.check}  ", style="bold")
        head.append(finding.where, style="default")
        console.print(head)
        console.print(Text(f"         {finding.what}"))
        console.print(Text(f"         fix: {finding.fix}", style="dim"))
    for gap in facts.gaps:
        console.print(Text(f"not seen {gap}", style="yellow"))
    hosts = sum(not host.fault for host in facts.hosts.values())
    seen = f"{hosts} of {len(facts.hosts)} host{'s' if len(facts.hosts) != 1 else ''}, {len(CHECKS)} checks"
    console.print(Text(f"{facts.site.name}: {seen}: {_count(findings)}."))


def _count(findings: list[Finding]) -> str:
    if not findings:
        return "nothing found"
    errors = sum(finding.severity == "error" for finding in findings)
    parts = [(errors, "error"), (len(findings) - errors, "warning")]
    return ", ".join(f"{number} {word}{'s' if number > 1 else ''}" for number, word in parts if number)
