"""Client keys and their limits."""

from babelrack.keys.file import ClientKey, KeyFile, KeyFileError
from babelrack.keys.limiter import Limiter, LimitExceeded

__all__ = ["ClientKey", "KeyFile", "KeyFileError", "LimitExceeded", "Limiter"]
