"""What the numbers were measured on."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_SHOWN = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Machine:
    """A host: `flags` are those of its CPU that decide which kernels run; `governor` is None where there is none."""

    cpu: str
    cores: int
    flags: list[str]
    memory_gib: float
    governor: str | None
    system: str
    python: str


def machine() -> Machine:
    """Describe this host."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    has = set(flags.group(1).split()) if flags else set()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Machine(
        cpu=model.group(1) if model else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        flags=[flag for flag in _SHOWN if flag in has],
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        governor=governor.read_text().strip() if governor.exists() else None,
        system=platform.platform(),
        python=platform.python_version(),
    )
