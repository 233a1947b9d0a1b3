"""The POSIX shell scripts that run on a host. They are fixed; values reach them as lines on standard input."""

from importlib.resources import files
from typing import Final

_CLAIMS: Final = (files(__name__) / "claims.sh").read_text(encoding="utf-8")

LOOK: Final = _CLAIMS + (files(__name__) / "look.sh").read_text(encoding="utf-8")
"""Says what the host is and who holds its places; reads the claims' folder."""
WRITE: Final = _CLAIMS + (files(__name__) / "write.sh").read_text(encoding="utf-8")
"""Takes, amends or releases a place; reads folder, verb, mark, place and the claim's JSON."""
