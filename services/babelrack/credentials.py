"""Where a secret comes from: systemd's credentials folder, a file, or the environment variable of the wire reference.

Never argv. A secret that is read here is returned and kept nowhere else.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["CredentialError", "read_credential", "write_private"]

LARGEST_SECRET = 64 * 1024

# The standard library's, which goes to stderr also where nobody has set up logging, such as in a command.
log = logging.getLogger(__name__)


class CredentialError(Exception):
    """A secret's file is named but can't be used; the message says which file and what to do."""


def read_credential(name: str, *, file: Path | None = None, env: str | None = None) -> str | None:
    """Return the secret `name` without its line end, or None when nobody provides it.

    Looked at in this order: `$CREDENTIALS_DIRECTORY/<name>` (systemd's LoadCredential), `file`, the environment
    variable `env`. A file that others may read is used with a warning. Raises CredentialError when `file` is named
    but missing, unreadable, empty, larger than 64 KiB or not UTF-8.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        credential = Path(folder) / name
        if credential.is_file():
            return _read(name, credential, warn=False)  # systemd sets the mode of what it puts there
    if file is not None:
        return _read(name, file, warn=True)
    if env is not None:
        return os.environ.get(env, "").strip() or None
    return None


def write_private(path: Path, content: str, *, replace: bool = True) -> None:
    """Put `content` at `path` in one step, readable by its owner alone (mode 0600), on disk when this returns.

    Raises OSError; FileExistsError when the file is there and `replace` is False.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _read(name: str, path: Path, *, warn: bool) -> str:
    try:
        with path.open("rb") as secret:
            mode = os.fstat(secret.fileno()).st_mode
            content = secret.read(LARGEST_SECRET + 1)
    except OSError as error:
        raise CredentialError(f"the {name} file {path} can't be read: {error.strerror or error}") from None
    if len(content) > LARGEST_SECRET:
        raise CredentialError(f"the {name} file {path} is larger than 64 KiB; is it the right file?")
    try:
        value = content.decode().strip()
    except UnicodeDecodeError:
        raise CredentialError(f"the {name} file {path} is not text; is it the right file?") from None
    if not value:
        raise CredentialError(f"the {name} file {path} is empty; put the secret on its first line")
    if warn and stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        log.warning("the %s file %s can be read by everyone; chmod 600 %s", name, path, path)
    return value
