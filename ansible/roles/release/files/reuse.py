"""What a release that is installed here has of the next one: most wheels stay the same from release to release.

reuse.py look RELEASES <SHA256SUMS       says, as JSON, the newest release of this Python that has any of them and which
                                         it has as they were installed: all their files are whole.
reuse.py link BASE RELEASE WHEEL...      links what these wheels have in the release BASE into RELEASE.
"""

import base64
import csv
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SITE = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
INTERPRETER = re.compile(rb"#!.*/bin/python[0-9.]*\n")


def rows(site: Path, wheel: str) -> list[tuple[Path, str]]:
    """Each file of an installed wheel with its checksum, as it was recorded; OSError when it isn't installed.

    Scripts have none: each release's begin with its own Python.
    """
    record = site / ("-".join(wheel.split("-")[:2]) + ".dist-info") / "RECORD"
    with record.open(newline="") as file:
        return [
            (site / name, "" if name.startswith("../../../bin/") else checksum)
            for name, checksum, _ in csv.reader(file)
        ]


def is_whole(site: Path, wheel: str) -> bool:
    """Whether all files of an installed wheel are what they were."""
    try:
        found = rows(site, wheel)
        return bool(found) and all(matches(file, checksum) for file, checksum in found)
    except (OSError, ValueError):
        return False


def matches(file: Path, checksum: str) -> bool:
    """Whether a file has the checksum that was recorded; what has none must be there."""
    if not checksum:
        return file.is_file()
    algorithm, _, expected = checksum.partition("=")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, algorithm).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == expected


def look(releases: Path, wanted: set[str]) -> dict[str, object]:
    """The newest release that has some of the wanted wheels, and which."""
    for record in sorted(releases.glob("*/release.json"), key=lambda found: found.stat().st_mtime, reverse=True):
        base = record.parent
        try:
            has = wanted & set((base / "SHA256SUMS").read_text().splitlines())
        except OSError:
            continue
        wheels = sorted(name for name in (line.split()[1] for line in has) if name.endswith(".whl"))
        if whole := [name for name in wheels if is_whole(base / SITE, name)]:
            return {"base": base.name, "wheels": whole}
    return {"base": "", "wheels": []}


def link(base: Path, release: Path, wheels: list[str]) -> None:
    """Give a release the files that wheels have in another; a script gets its own release's Python."""
    for wheel in wheels:
        for file, _ in rows(base / SITE, wheel):
            for name in (file, *byte_code(file)):
                source = Path(os.path.normpath(name))
                target = release / source.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                begin = source.read_bytes() if source.parent == base / "bin" else b""
                if INTERPRETER.match(begin):
                    target.write_bytes(INTERPRETER.sub(f"#!{release}/bin/python\n".encode(), begin, count=1))
                    target.chmod(0o755)
                else:
                    target.hardlink_to(source)


def byte_code(file: Path) -> Iterator[Path]:
    """What Python has left beside a module."""
    if file.suffix == ".py" and (code := Path(importlib.util.cache_from_source(str(file)))).is_file():
        yield code


def main() -> None:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["look", releases]:
            print(json.dumps(look(Path(releases), set(sys.stdin.read().splitlines()))))
        case ["link", base, release, *wheels]:
            link(Path(base), Path(release), wheels)
        case _:
            sys.exit(__doc__)


main()
