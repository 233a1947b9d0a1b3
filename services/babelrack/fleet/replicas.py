"""Where a pack's replicas are, as the outputs of its Terraform root say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from babelrack.fleet import FleetError
from babelrack.fleet.terraform import Root

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CLAIM: Final = "onprem_host_claim"
"""The resource that takes a place on a host; its index is the replica's."""
SHARED: Final = "shared"
"""What is applied like a pack and is none: the shared host and the gateway."""


@dataclass(frozen=True, order=True)
class Replica:
    """One replica of a pack: a place on a host of the pool, and its part of that host's GPUs."""

    index: int
    host: str
    address: str
    place: int
    gpu_ids: tuple[int, ...] = ()


def root_of(project: Path, name: str, site: str) -> Root:
    """The Terraform root of a pack, or of `shared`, at a site.

    Raises:
        FleetError: when there is none.
    """
    return Root(_folder(project, name), site, configuration=project / ".babelrack" / "terraform" / "terraform.rc")


def _folder(project: Path, name: str) -> Path:
    return project / "terraform" / SHARED if name == SHARED else project / "terraform" / "packs" / name


def inventory_name(pack: str, index: int) -> str:
    """The name that Ansible knows a replica by: `western-sea-0`."""
    return f"{pack.replace('_', '-')}-{index}"


def claimed_replicas(project: Path, pack: str, site: str) -> tuple[Replica, ...]:
    """The replicas that the pack's state at a site has; none when it was never applied there.

    Raises:
        FleetError: when the state can't be read, or isn't what this version writes.
    """
    if not (_folder(project, pack) / "main.tf").is_file():
        return ()
    return parse_replicas(root_of(project, pack, site).outputs(), f"the state of {pack} at {site}")


def parse_replicas(outputs: Mapping[str, Any], whose: str) -> tuple[Replica, ...]:
    """The replicas in a pack root's outputs.

    Raises:
        FleetError: naming `whose` outputs they are, when they have another form.
    """
    if "deployment" not in outputs:
        return ()
    try:
        return tuple(sorted(_replica(index, entry) for index, entry in outputs["deployment"]["replicas"].items()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{whose} has no readable output `deployment` ({error}); apply the pack with this version first."
        raise FleetError(f"{message[:1].upper()}{message[1:]}") from None


def _replica(index: str, entry: Mapping[str, Any]) -> Replica:
    gpu_ids = tuple(int(gpu) for gpu in entry.get("gpu_ids") or ())
    return Replica(int(index), str(entry["host"]), str(entry["address"]), int(entry["place"]), gpu_ids)
