"""A claim: the file on a host that says whose a place is."""

from __future__ import annotations

import base64
import binascii
import getpass
import json
import re
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from babelrack.provider.needs import Needs, Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLAIMS_DIR: Final = "/var/lib/babelrack/claims"
_NAME: Final = re.compile(r"place-(0|[1-9][0-9]?)")


@dataclass(frozen=True)
class Claim:
    """`claim.json` of a place."""

    owner: Owner
    place: int
    gpu_ids: tuple[int, ...]
    ports: Mapping[str, int]
    needs: Needs | None
    """What the replica needs, so that another pack on this host knows what is left; None: the file doesn't say."""
    claimed_at: str
    claimed_by: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "pack": self.owner.pack,
                "site": self.owner.site,
                "replica": self.owner.replica,
                "place": self.place,
                "gpu_ids": list(self.gpu_ids),
                "ports": dict(self.ports),
                "needs": self.needs.as_data() if self.needs else None,
                "claimed_at": self.claimed_at,
                "claimed_by": self.claimed_by,
            }
        )

    def amended(self, needs: Needs, ports: Mapping[str, int], gpu_ids: tuple[int, ...]) -> Claim:
        """The same claim with other needs, ports and GPUs."""
        return replace(self, needs=needs, ports=ports, gpu_ids=gpu_ids)


@dataclass(frozen=True)
class Place:
    """A place of a host that isn't free."""

    index: int
    claim: Claim | None
    """None: its claim.json can't be read, so it is left alone."""

    @property
    def holder(self) -> str:
        """Whose it is, for a sentence."""
        return str(self.claim.owner) if self.claim else "somebody whose claim.json can't be read"


def place_name(index: int) -> str:
    """The name of a place's folder."""
    return f"place-{index}"


def place_index(name: str) -> int | None:
    """The index in a folder's name, None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def now() -> str:
    """The time, as a claim writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def claimant() -> str:
    """Who claims: user@control."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def read_places(lines: Iterable[str]) -> tuple[Place, ...]:
    """The taken places in lines of `claim place-<k> BASE64`; a place without a file is free."""
    places = []
    for line in lines:
        kind, name, content = [*line.split(" "), "", ""][:3]
        index = place_index(name)
        if kind == "claim" and index is not None and content:
            places.append(Place(index, _read_claim(content, index)))
    return tuple(sorted(places, key=lambda place: place.index))


def _read_claim(content: str, place: int) -> Claim | None:
    try:
        data: Any = json.loads(base64.b64decode(content, validate=True))
        needs = data.get("needs")
        return Claim(
            owner=Owner(_text(data["pack"]), _text(data["site"]), int(data["replica"])),
            place=place,
            gpu_ids=tuple(int(gpu) for gpu in data["gpu_ids"]),
            ports={str(name): int(port) for name, port in data["ports"].items()},
            needs=Needs.of(needs) if needs else None,
            claimed_at=_text(data["claimed_at"]),
            claimed_by=_text(data["claimed_by"]),
        )
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError):
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
