"""A lab as a site's pool: `python -m lab.site` writes `inventories/lab/hosts.yaml` for the hosts that are up."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lab import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

SITE = Path(__file__).parents[1] / "inventories" / "lab"


def write_site_pool(lab: Lab, folder: Path = SITE) -> Path:
    """The lab's pool as `folder`/hosts.yaml, its keys by absolute paths; raises OSError when the lab isn't up."""
    pool = yaml.safe_load(lab.pool_file.read_text())
    for name in ("private_key", "known_hosts"):
        pool["ssh"][name] = str(lab.pool_file.absolute().parent / pool["ssh"][name])
    file = folder / "hosts.yaml"
    heading = f"# The hosts of the lab {lab.name}; `python -m lab.site` writes this file.\n"
    content = heading + yaml.safe_dump(pool, sort_keys=False)
    if not file.exists() or file.read_text() != content:
        file.write_text(content)
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 with a sentence when there is no such lab."""
    parser = argparse.ArgumentParser(prog="python -m lab.site", description=__doc__)
    parser.add_argument("--name", default="default", help="which lab (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=SITE, help="the site's folder (default: inventories/lab)")
    options = parser.parse_args(arguments)
    try:
        file = write_site_pool(Lab(options.name), options.folder)
    except FileNotFoundError:
        sys.stderr.write(f"The lab {options.name} is not up; run: python -m lab up --name {options.name}\n")
        return 1
    sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
