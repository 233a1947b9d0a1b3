"""How this machine reaches Debian's packages: its hosts do it the same way."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.commands import environment
from lab.trouble import LabUnavailable

APT = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
POCKETS = ("", "-updates", "-security", "/updates")


@dataclass(frozen=True)
class Source:
    """One archive: where it is, which part of a release it has, and the sections to take."""

    url: str
    suite: str
    sections: str

    def __str__(self) -> str:
        return f"deb [signed-by={KEYRING}] {self.url} {self.suite} {self.sections}"


def sources(suite: str) -> str:
    """This machine's own Debian sources, turned to a release; raises `LabUnavailable` when it has none.

    `BABELRACK_LAB_MIRROR` names a mirror for a machine that is no Debian.
    """
    if mirror := os.environ.get("BABELRACK_LAB_MIRROR"):
        return f"{Source(mirror, suite, 'main')}\n"
    codename = _codename()
    found: dict[Source, None] = {}
    for source in [*_one_line(), *_stanzas()]:
        for pocket in POCKETS:
            if codename and source.suite == codename + pocket and "main" in source.sections.split():
                found[Source(source.url, suite + pocket, "main")] = None
    if not found:
        raise LabUnavailable(
            "this machine's apt has no Debian source to make hosts from; name a mirror: BABELRACK_LAB_MIRROR=URL"
        )
    return "".join(f"{source}\n" for source in found)


def settings() -> str:
    """This machine's settings for getting packages (proxy, dates, which indexes), as an apt.conf."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False, env=environment())
    lines = [line for line in done.stdout.splitlines() if re.match(r'Acquire::\S+ ".+";$', line)]
    for scheme in ("http", "https", "ftp"):
        proxy = os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme}_proxy".upper())
        if proxy and not any(line.startswith(f"Acquire::{scheme}::Proxy ") for line in lines):
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return "".join(f"{line}\n" for line in lines)


def own_certificates(public: str) -> list[str]:
    """Certificates that this machine trusts beyond the `public` ones, each as PEM."""
    file = Path(os.environ.get("SSL_CERT_FILE") or CERTIFICATES)
    trusted = _certificates(file.read_text() if file.is_file() else "")
    known = {_body(certificate) for certificate in _certificates(public)}
    return [certificate for certificate in trusted if _body(certificate) not in known]


def _codename() -> str:
    facts = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return facts.get("VERSION_CODENAME", "").strip('"') if facts.get("ID", "").strip('"') == "debian" else ""


def _one_line() -> list[Source]:
    files = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*.list"))]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    entries = re.findall(r"^deb[ \t]+(?:\[[^]]*\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+([^#\n]+)", text, re.MULTILINE)
    return [Source(url, suite, sections.strip()) for url, suite, sections in entries]


def _stanzas() -> list[Source]:
    found: list[Source] = []
    for file in sorted((APT / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields = {
                key.lower(): value.strip()
                for key, value in re.findall(r"^([A-Za-z-]+):((?:.*(?:\n[ \t].*)*))", stanza, re.MULTILINE)
            }
            if fields.get("enabled", "yes").lower() in {"no", "false"} or "deb" not in fields.get("types", "").split():
                continue
            found.extend(
                Source(url, suite, " ".join(fields.get("components", "").split()))
                for url in fields.get("uris", "").split()
                for suite in fields.get("suites", "").split()
            )
    return found


def _certificates(text: str) -> list[str]:
    return re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL)


def _body(certificate: str) -> str:
    return "".join(certificate.split())
