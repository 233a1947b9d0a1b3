"""Print the Debian archives that this host uses with the components beside main; nothing if it has non-free already.

Options are those of the entry for main: apt refuses two entries for one archive that differ in their key.
"""

import re
import subprocess
import sys
from pathlib import Path

OURS = "babelrack-nvidia.sources"
COMPONENTS = "contrib non-free non-free-firmware"
FIELDS = {"arch": "Architectures", "signed-by": "Signed-By", "trusted": "Trusted"}


def targets() -> list[list[str]]:
    """[origin, component, file:line of the entry] of each package index."""
    form = "$(ORIGIN)|$(COMPONENT)|$(SOURCESENTRY)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("|") for line in said.splitlines()]


def from_line(line: str) -> str:
    """`deb [options] uri suite components` as a stanza."""
    options, uri, suite = re.match(r"deb\s+(?:\[([^]]*)]\s+)?(\S+)\s+(\S+)", line.strip()).groups()
    fields = [("Types", "deb"), ("URIs", uri), ("Suites", suite), ("Components", COMPONENTS)]
    for option in (options or "").split():
        name, _, value = option.partition("=")
        fields.append((FIELDS.get(name, name.title()), value.replace(",", " ")))
    return "".join(f"{name}: {value}\n" for name, value in fields)


def from_stanza(text: str, number: int) -> str:
    """The stanza around a line, with the other components."""
    lines = text.splitlines()
    first = last = number - 1
    while first > 0 and lines[first - 1].strip():
        first -= 1
    while last + 1 < len(lines) and lines[last + 1].strip():
        last += 1
    stanza = "\n".join(line for line in lines[first : last + 1] if not line.startswith("#")) + "\n"
    return re.sub(r"(?mi)^components:.*(\n[ \t].*)*", f"Components: {COMPONENTS}", stanza)


entries = [(component, entry) for origin, component, entry in targets() if origin == "Debian" and OURS not in entry]
if not any(component == "non-free" for component, _ in entries):
    for entry in dict.fromkeys(entry for component, entry in entries if component == "main"):
        file, _, number = entry.rpartition(":")
        text = Path(file).read_text(encoding="utf-8")
        one_line = not file.endswith(".sources")
        stanza = from_line(text.splitlines()[int(number) - 1]) if one_line else from_stanza(text, int(number))
        sys.stdout.write(f"{stanza}\n")
