"""The tokens that stand for what was redacted: the same entity has the same token as long as a session lives."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN = re.compile(r"\[[A-Z]+_[1-9][0-9]*\]")


@dataclass
class Numbering:
    """Which number each entity of a session has, counted from 1 for each kind in the order of appearance.

    It holds what it numbers, so that it can know it again, and is never shown. With a `secret` it holds only digests
    that nobody without the secret can try values against, so that its `state` may be kept elsewhere for a while.
    """

    secret: bytes | None = field(default=None, repr=False)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)
    _last: dict[str, int] = field(default_factory=dict)

    def token(self, kind: str, value: str) -> str:
        """`[PHONENUMBER_1]` for the phone number `value`, however it was spelled."""
        known = value if self.secret is None else hmac.digest(self.secret, value.encode(), "sha256").hex()
        number = self._numbers.get((kind, known))
        if number is None:
            number = self._last[kind] = self._last.get(kind, 0) + 1
            self._numbers[kind, known] = number
        return f"[{kind}_{number}]"

    def copy(self) -> Numbering:
        """One that goes on alone, for a text that isn't final: what it numbers may turn out to be something else."""
        return Numbering(self.secret, dict(self._numbers), dict(self._last))

    @property
    def state(self) -> list[tuple[str, str]]:
        """Kind and value, or digest, of each entity, in the order of appearance."""
        return list(self._numbers)

    @classmethod
    def of(cls, state: Iterable[tuple[str, str]], secret: bytes | None = None) -> Numbering:
        """The numbering that had this `state`, with the same secret."""
        numbering = cls(secret)
        for kind, known in state:
            numbering._last[kind] = numbering._numbers[kind, known] = numbering._last.get(kind, 0) + 1
        return numbering
