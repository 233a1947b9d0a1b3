"""What a pack's replica needs of its host, and how much less a machine may measure than its owner says."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

NOMINAL: Final = 0.92
"""The least share of a nominal size that is measured: error correction takes 1/16 of a GPU's memory (a 24 GiB L4 shows
22.5), firmware and kernel some per cent of the main memory."""

_MAKERS: Final = {"nvidia", "tesla", "corporation"}


@dataclass(frozen=True)
class Needs:
    """Sizes in GiB, as in a pack file's `host`."""

    gpus: int
    gpu_memory_gib: int
    ram_gib: int
    disk_gib: int

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Needs:
        """The needs in plain data; raises KeyError, TypeError or ValueError for anything else."""
        return cls(**{name: int(data[name]) for name in cls.__dataclass_fields__})

    def as_data(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Owner:
    """Whose a claim is: one replica of a pack at a site."""

    pack: str
    site: str
    replica: int

    def __str__(self) -> str:
        return f"{self.pack} replica {self.replica} of site {self.site}"


@dataclass(frozen=True)
class Wish:
    """What a replica asks of the pool."""

    owner: Owner
    needs: Needs
    ports: Mapping[str, int]
    gpu_model: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()
    """Hosts that are taken only when no other fits."""


def is_model(wanted: str, model: str) -> bool:
    """Whether a GPU's model is the wanted one: all its words are there. `L4` is no `L40S`; `A100` is any A100."""
    return _words(wanted) <= _words(model)


def _words(model: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", model.lower())) - _MAKERS
