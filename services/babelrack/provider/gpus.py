"""GPUs: what the PCI bus shows of them, and what `nvidia-smi` adds once the driver is there."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"

# Before the driver is installed the bus shows a number only. These are the PCI IDs of data centre cards, with the
# memory that nvidia-smi shows; of others the pool's own word is taken.
_KNOWN: Final[Mapping[str, tuple[str, float]]] = {
    "0x1db1": ("Tesla V100-SXM2-16GB", 16.0),
    "0x1db4": ("Tesla V100-PCIE-16GB", 16.0),
    "0x1db5": ("Tesla V100-SXM2-32GB", 32.0),
    "0x1db6": ("Tesla V100-PCIE-32GB", 32.0),
    "0x1eb8": ("Tesla T4", 15.0),
    "0x20b0": ("NVIDIA A100-SXM4-40GB", 40.0),
    "0x20b2": ("NVIDIA A100-SXM4-80GB", 80.0),
    "0x20b5": ("NVIDIA A100 80GB PCIe", 80.0),
    "0x20b7": ("NVIDIA A30", 24.0),
    "0x20f1": ("NVIDIA A100-PCIE-40GB", 40.0),
    "0x2235": ("NVIDIA A40", 45.0),
    "0x2236": ("NVIDIA A10", 22.5),
    "0x2237": ("NVIDIA A10G", 22.5),
    "0x2330": ("NVIDIA H100 80GB HBM3", 79.6),
    "0x2331": ("NVIDIA H100 PCIe", 79.6),
    "0x26b5": ("NVIDIA L40", 45.0),
    "0x26b9": ("NVIDIA L40S", 45.0),
    "0x27b8": ("NVIDIA L4", 22.5),
}


@dataclass(frozen=True)
class Gpu:
    """One GPU; what isn't known is None."""

    index: int
    """As CUDA counts with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    pci_address: str
    """As sysfs writes it, `0000:3b:00.0`."""
    model: str | None = None
    memory_gib: float | None = None
    uuid: str | None = None
    driver: str | None = None
    """The driver's version; None: `nvidia-smi` doesn't show this GPU."""
    mig: bool = False
    """Cut into MIG instances: a process that is given the GPU gets one of them, with a part of its memory."""


def on_the_bus(devices: Iterable[str]) -> tuple[Gpu, ...]:
    """NVIDIA's display and 3D controllers among lines of `address class vendor device`; not its switches or audio."""
    found = []
    for line in devices:
        address, kind, vendor, device = [*line.split(), "", "", ""][:4]
        if vendor == NVIDIA and kind.startswith(_DISPLAY):
            found.append((address, *_KNOWN.get(device, (None, None))))
    return tuple(Gpu(index, address, model, memory) for index, (address, model, memory) in enumerate(sorted(found)))


def with_driver(gpus: tuple[Gpu, ...], rows: Iterable[str]) -> tuple[Gpu, ...]:
    """The GPUs of the bus with what `nvidia-smi` says about them.

    Rows are index, name, memory.total in MiB, uuid, pci.bus_id, driver_version, mig.mode.current. A GPU that it doesn't
    list keeps what the bus says, and one that only it lists (a container without the bus) is added.
    """
    known = {gpu.pci_address: gpu for gpu in gpus}
    for fields in csv.reader(rows, skipinitialspace=True):
        if len(fields) != 7 or not fields[0].isdecimal():
            continue
        index, name, memory, uuid, bus, driver, mig = (text.strip() for text in fields)
        address = _sysfs_address(bus)
        known[address] = replace(
            known.get(address, Gpu(int(index), address)),
            index=int(index),
            model=name,
            memory_gib=round(int(memory) / 1024, 1) if memory.isdecimal() else None,
            uuid=uuid,
            driver=driver,
            mig=mig == "Enabled",
        )
    return tuple(sorted(known.values(), key=lambda gpu: (gpu.index, gpu.pci_address)))


def _sysfs_address(bus: str) -> str:
    """`00000000:3B:00.0` as sysfs writes it."""
    domain, colon, rest = bus.lower().partition(":")
    return f"{domain[-4:]}{colon}{rest}"
