"""Takes memory in a host's name until the kernel has killed something there: `eater.py GROUP MOST_BYTES`.

The memory is a file's and not a process's, so that the kernel doesn't choose this program; by ending it gives all back.
"""

import os
import sys
from pathlib import Path

BITE = b"\xff" * (1 << 20)


def killed() -> int:
    """How many processes this machine's kernel has killed for memory."""
    facts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(facts["oom_kill"])


def main(group: str, most: str) -> int:
    """Eat; 0 once something was killed, else 1."""
    Path(group, "cgroup.procs").write_text("0")
    before = killed()
    plate = os.memfd_create("lab-oom")
    eaten = 0
    while killed() == before:
        if eaten > int(most):
            return 1
        eaten += os.write(plate, BITE)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
