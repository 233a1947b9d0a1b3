"""A host's facts, as the script `look` prints them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelrack.provider.gpus import Gpu, on_the_bus, with_driver

if TYPE_CHECKING:
    from collections.abc import Iterable

_GIB_IN_KIB = 1024 * 1024


@dataclass(frozen=True)
class Facts:
    """What a host really is; sizes in GiB, as measured."""

    os_id: str
    os_version: str
    os_name: str
    kernel: str
    architecture: str
    cpus: int
    ram_gib: float
    disk_gib: float
    """The size of the file system that holds the checkpoints."""
    disk_free_gib: float
    gpus: tuple[Gpu, ...]
    gpus_on_the_bus: int
    driver_fault: str | None
    """What `nvidia-smi` said when it failed; None also where there is none."""

    @property
    def has_driver(self) -> bool:
        """Whether `nvidia-smi` shows any GPU."""
        return any(gpu.driver for gpu in self.gpus)


def read_facts(lines: Iterable[str]) -> Facts:
    """The facts in the lines of `look`; raises ValueError with a sentence when some are missing."""
    by_kind: dict[str, list[str]] = {}
    for line in lines:
        kind, _, value = line.partition(" ")
        by_kind.setdefault(kind, []).append(value)
    release = dict(_settings(by_kind.get("os", [])))
    try:
        disk = by_kind["disk"][0].split()
        ram_kib, cpus = by_kind["memory"][0].split()[0], by_kind["cpus"][0]
        bus = on_the_bus(by_kind.get("pci", []))
        return Facts(
            os_id=release.get("ID", "unknown"),
            os_version=release.get("VERSION_ID", ""),
            os_name=release.get("PRETTY_NAME", release.get("ID", "unknown")),
            kernel=by_kind["kernel"][0],
            architecture=by_kind["architecture"][0],
            cpus=int(cpus),
            ram_gib=round(int(ram_kib) / _GIB_IN_KIB, 1),
            disk_gib=round(int(disk[1]) / _GIB_IN_KIB, 1),
            disk_free_gib=round(int(disk[3]) / _GIB_IN_KIB, 1),
            gpus=with_driver(bus, by_kind.get("nvidia-smi", [])),
            gpus_on_the_bus=len(bus),
            driver_fault=next(iter(by_kind.get("nvidia-smi-failed", [])), None),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"its facts can't be read ({type(error).__name__}: {error})") from None


def _settings(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Names and values of /etc/os-release, which quotes as a shell does."""
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            try:
                yield name, " ".join(shlex.split(value))
            except ValueError:
                continue
