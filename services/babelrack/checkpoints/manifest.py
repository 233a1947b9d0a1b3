"""A checkpoint's own `manifest.json`: what it is called, what it is for, and what its files hash to."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from babelrack.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
Role = Literal["dedicated", "multilingual"]
ROLES: tuple[Role, ...] = ("dedicated", "multilingual")

_LARGEST = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_name(value: str) -> str:
    """A checkpoint's name as it is, or a ValueError that says what a name may be."""
    if not _NAME.fullmatch(value):
        raise ValueError("a name is 1 to 63 letters, digits, dots, dashes or underscores, the first a letter or digit")
    return value


def checked_languages(value: tuple[str, ...]) -> tuple[str, ...]:
    """Language codes as they are, or a ValueError: at least one, none twice, each such as `hi` or `yue`."""
    if not value or any(not _LANGUAGE.fullmatch(code) for code in value):
        raise ValueError("languages are codes of two or three small letters, at least one")
    if len(set(value)) != len(value):
        raise ValueError("a language is listed twice")
    return value


def checked_sha256(value: str) -> str:
    """A SHA-256 in small hexadecimal digits, or a ValueError."""
    if not _SHA256.fullmatch(value.lower()):
        raise ValueError("a sha256 is 64 hexadecimal digits")
    return value.lower()


class Manifest(BaseModel):
    """Every field may be absent; what `MODEL_URL`'s fragment says wins. `files` maps file names to SHA-256 digests."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    name: Annotated[str, AfterValidator(checked_name)] | None = None
    role: Role | None = None
    languages: Annotated[tuple[str, ...], AfterValidator(checked_languages)] | None = None
    files: dict[str, Annotated[str, AfterValidator(checked_sha256)]] | None = None

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest in `directory`, an empty one when there is none.

        Raises:
            CheckpointError: when `manifest.json` is not what a manifest may be.
        """
        path = directory / MANIFEST
        if not path.exists():
            return cls()
        try:
            if path.stat().st_size > _LARGEST:
                raise CheckpointError(f"{path}: larger than 1 MiB, which no manifest is; is it the right file?")
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in fault["loc"]) or "the file"
            message = fault["msg"].removeprefix("Value error, ")
            raise CheckpointError(f"{path}: {field}: {message}; see docs/checkpoints.md") from None
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror}; fix its permissions") from error

    def to_json(self) -> bytes:
        """The manifest as it is written into an archive: the same bytes for the same facts."""
        facts = self.model_dump(exclude_none=True, mode="json")
        return (json.dumps(facts, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
