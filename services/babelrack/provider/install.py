"""Telling Terraform where the provider is: a local mirror with a launcher in it, no registry."""

from __future__ import annotations

import json
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

SOURCE: Final = "registry.terraform.io/babelrack/onprem"
IMPLIED_MIRROR: Final = Path("~/.terraform.d/plugins")
"""Where Terraform looks by itself, without any configuration."""

_INTERPRETER: Final = "babelrack-python"
# Terraform's lock file holds the launcher's checksum. The interpreter's path is in a file of its own, so that the
# launcher, and with it the checksum, is the same on every machine and after every move of the virtual environment.
_LAUNCHER: Final = f"""\
#!/bin/sh
# Terraform starts this. The interpreter that has the package is named in a file beside the mirror's host folders.
mirror=$(dirname "$(readlink -f "$0")")/../../../../..
python=$(cat "$mirror/{_INTERPRETER}") || exit 1
exec "$python" -P -m babelrack.provider "$@"
"""
_MACHINES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class InstallError(Exception):
    """The provider can't be installed; the message says why and what to do."""


@dataclass(frozen=True)
class Installed:
    """What an installation has made."""

    launcher: Path
    changed: bool
    """False: everything was there already."""


def install(mirror: Path | None = None) -> Installed:
    """Put the launcher of this package's version into a mirror, the one that Terraform implies when none is given."""
    mirror = (mirror or IMPLIED_MIRROR).expanduser().absolute()
    number = provider_version()
    launcher = mirror / SOURCE / number / _platform() / f"terraform-provider-onprem_v{number}"
    try:
        launcher.parent.mkdir(parents=True, exist_ok=True)
        changed = _write(mirror / _INTERPRETER, f"{sys.executable}\n", 0o644)
        changed = _write(launcher, _LAUNCHER, 0o755) or changed
    except OSError as error:
        raise InstallError(f"{error.filename}: {error.strerror}; choose another folder with --dir") from None
    return Installed(launcher, changed)


def install_in_project(project: Path) -> Path:
    """Install for one project, without a trace in the home folder.

    The result is a Terraform CLI configuration, for `TF_CLI_CONFIG_FILE`.
    """
    folder = project.absolute() / ".babelrack" / "terraform"
    install(folder / "plugins")
    ours = json.dumps([f"{SOURCE.rpartition('/')[0]}/*"])
    configuration = (
        "provider_installation {\n"
        f"  filesystem_mirror {{\n    path    = {json.dumps(str(folder / 'plugins'))}\n    include = {ours}\n  }}\n"
        f"  direct {{\n    exclude = {ours}\n  }}\n"
        "}\n"
    )
    file = folder / "terraform.rc"
    _write(file, configuration, 0o644)
    return file


def provider_version() -> str:
    """The package's version, in the form that Terraform asks for."""
    number = version("babelrack")
    if re.fullmatch(r"\d+\.\d+\.\d+", number) is None:
        raise InstallError(f"the package's version is {number}, and Terraform wants three numbers; install a release")
    return number


def _platform() -> str:
    system, machine = sys.platform, platform.machine().lower()
    if system not in ("linux", "darwin") or machine not in _MACHINES:
        raise InstallError(f"there is no launcher for {system} on {machine}; run Terraform on Linux or macOS")
    return f"{system}_{_MACHINES[machine]}"


def _write(file: Path, content: str, mode: int) -> bool:
    """Whether the file had to be written; a Terraform that starts it meanwhile sees the old or the new one."""
    if file.is_file() and file.read_text(encoding="utf-8") == content and file.stat().st_mode & 0o777 == mode:
        return False
    new = file.with_name(f"{file.name}.new")
    new.write_text(content, encoding="utf-8")
    new.chmod(mode)
    new.replace(file)
    return True
