"""Sizes as people write them: `512m`, `2g`."""

from __future__ import annotations

import re

from lab.trouble import LabError

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str, *, least: int, what: str) -> int:
    """Bytes; raises `LabError` where the text is no size or less than `least` bytes."""
    parts = re.fullmatch(r"(\d+)([kmgt]?)(i?b)?", text.strip().lower())
    if not parts:
        raise LabError(f"{what} {text!r} is not a size; write it like 512m or 2g")
    number = int(parts[1]) * UNITS[parts[2]]
    if number < least:
        raise LabError(f"{what} {text!r} is too small; take {least >> 20}m or more")
    return number
