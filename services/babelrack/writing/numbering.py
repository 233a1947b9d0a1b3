"""The tokens that stand for what was redacted: the same entity has the same token as long as a session lives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(r"\[[A-Z]+_[1-9][0-9]*\]")


@dataclass
class Numbering:
    """Which number each entity of a session has, counted from 1 for each kind in the order of appearance.

    It holds what it numbers, so that it can know it again, and is never shown.
    """

    _numbers: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)
    _last: dict[str, int] = field(default_factory=dict)

    def token(self, kind: str, value: str) -> str:
        """`[PHONENUMBER_1]` for the phone number `value`, however it was spelled."""
        number = self._numbers.get((kind, value))
        if number is None:
            number = self._last[kind] = self._last.get(kind, 0) + 1
            self._numbers[kind, value] = number
        return f"[{kind}_{number}]"
