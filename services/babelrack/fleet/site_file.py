"""Changing one number in a site file that people write: everything else of it, comments included, stays as it is."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from babelrack.fleet import FleetError
from babelrack.packs.document import parse_document

_REPLICAS: Final = "replicas"


@dataclass(frozen=True)
class Edit:
    """A site file before and after; nothing is written before `write`."""

    file: Path
    before: str
    after: str

    @property
    def empty(self) -> bool:
        """Whether the file says so already."""
        return self.before == self.after

    def diff(self) -> str:
        """The difference, as `diff -u` shows it."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            str(self.file),
            str(self.file),
            n=2,
        )
        return "".join(lines)

    def write(self) -> None:
        """Put the new text in the place of the old one, in one step.

        Raises:
            FleetError: when somebody has changed the file meanwhile.
        """
        self._replace(self.before, self.after)

    def undo(self) -> None:
        """Put the old text back.

        Raises:
            FleetError: when somebody has changed the file meanwhile.
        """
        self._replace(self.after, self.before)

    def _replace(self, expected: str, text: str) -> None:
        if _read(self.file) != expected:
            raise FleetError(f"{self.file} was changed while this ran; look at it, and try again.")
        handle, name = tempfile.mkstemp(dir=self.file.parent, prefix=f".{self.file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            shutil.copymode(self.file, name)
            Path(name).replace(self.file)
        finally:
            Path(name).unlink(missing_ok=True)


def set_replicas(file: Path, pack: str, replicas: int) -> Edit:
    """The edit that gives a pack another number of replicas at a site.

    Raises:
        FleetError: when the file isn't written in a way that one number can be changed in.
    """
    before = _read(file)
    after = _with_replicas(before, pack, replicas)
    if parse_document(after.encode()) != _expected(parse_document(before.encode()), pack, replicas):
        raise FleetError(
            f"{file} can't be changed by a program without changing more of it; "
            f"write `replicas: {replicas}` under deployments.{pack} yourself, then run `babelrack apply {pack}`."
        )
    return Edit(file, before, after)


def _read(file: Path) -> str:
    with file.open(encoding="utf-8", newline="") as text:  # line ends as they are
        return text.read()


def _expected(document: object, pack: str, replicas: int) -> object:
    if not isinstance(document, dict):
        return document
    deployments = dict(document.get("deployments") or {})
    deployments[pack] = dict(deployments.get(pack) or {}) | {_REPLICAS: replicas}
    return document | {"deployments": deployments}


def _with_replicas(text: str, pack: str, replicas: int) -> str:
    """The text with the number where YAML's own parser says that it belongs; unchanged in forms that aren't handled."""
    root = yaml.compose(text, yaml.SafeLoader)
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{_REPLICAS}: {replicas}"
    key, deployments = _entry(root, "deployments")
    if key is None or not isinstance(deployments, yaml.MappingNode) or not deployments.value:
        return _without_empty(text, key, deployments, end) + f"deployments:{end}  {pack}:{end}    {line}{end}"
    name, deployment = _entry(deployments, pack)
    if name is None and not deployments.flow_style:
        margin = _margin(deployments)
        return _below(text, key, f"{margin}{pack}:{end}{margin}  {line}{end}")
    if name is None or not isinstance(deployment, yaml.MappingNode) or not deployment.value:
        return text  # `{other: {}}`, `indic: {}`
    _, number = _entry(deployment, _REPLICAS)
    if number is not None:
        return text[: number.start_mark.index] + str(replicas) + text[number.end_mark.index :]
    if deployment.flow_style:
        at = deployment.value[0][0].start_mark.index
        return f"{text[:at]}{line}, {text[at:]}"
    return _below(text, name, f"{_margin(deployment)}{line}{end}")


def _below(text: str, key: yaml.Node, inserted: str) -> str:
    """The text with lines added below a key's own, above the comments of what comes first there."""
    at = text.index("\n", key.end_mark.index) + 1
    return text[:at] + inserted + text[at:]


def _margin(mapping: yaml.MappingNode) -> str:
    first: yaml.Node = mapping.value[0][0]
    return " " * int(first.start_mark.column)


def _without_empty(text: str, key: yaml.Node | None, value: yaml.Node | None, end: str) -> str:
    """The text without a `deployments: {}`, ending in a line end."""
    if key is not None and value is not None:
        text = text[: key.start_mark.index] + text[value.end_mark.index :].lstrip(" \r\n")
    return re.sub(r"\s*\Z", end, text)


def _entry(node: yaml.Node | None, key: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next(((name, value) for name, value in entries if name.value == key), (None, None))
