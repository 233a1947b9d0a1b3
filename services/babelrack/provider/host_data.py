"""`onprem_host`: a machine of the pool, as it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from babelrack.provider.framework import Attribute, DataSource, List, Map, Number, Object, Schema, String
from babelrack.provider.hosts import ClaimError
from babelrack.provider.remote import HostError

if TYPE_CHECKING:
    from babelrack.provider.choice import Sight
    from babelrack.provider.claim import Place
    from babelrack.provider.framework import State
    from babelrack.provider.onprem import Onprem

_OS: Final = Object({name: String() for name in ("id", "version", "name", "kernel", "architecture")})
_GPU: Final = Object(
    {
        "index": Number(),
        "model": String(),
        "memory_gib": Number(),
        "pci_address": String(),
        "uuid": String(),
        "driver": String(),
    }
)
_CLAIM: Final = Object(
    {
        "place": Number(),
        "pack": String(),
        "site": String(),
        "replica": Number(),
        "claimed_at": String(),
        "claimed_by": String(),
    }
)


class HostData(DataSource):
    """Terraform's `data "onprem_host"`."""

    def __init__(self, provider: Onprem) -> None:
        self._provider = provider

    @classmethod
    def get_name(cls) -> str:
        return "host"

    @classmethod
    def get_schema(cls) -> Any:
        return Schema(
            attributes=[
                Attribute("name", String(), "The host's name in the pool.", required=True),
                Attribute("address", String(), "Its address.", computed=True),
                Attribute("labels", Map(String()), "Its labels in the pool.", computed=True),
                Attribute("places", Number(), "How many packs it may carry.", computed=True),
                Attribute("os", _OS, "Its operating system, as /etc/os-release and uname say.", computed=True),
                Attribute("cpus", Number(), "Its processors that are online.", computed=True),
                Attribute("ram_gib", Number(), "Its main memory, measured.", computed=True),
                Attribute("disk_gib", Number(), "The size of the file system for checkpoints.", computed=True),
                Attribute("disk_free_gib", Number(), "What is free there, in whole GiB.", computed=True),
                Attribute("gpus", List(_GPU), "Its GPUs on the PCI bus, with what nvidia-smi says.", computed=True),
                Attribute(
                    "claims", List(_CLAIM), "Who holds its places; a place that isn't listed is free.", computed=True
                ),
            ],
            description="A machine of the pool: what it has and who holds it, asked over SSH.",
        )

    def validate(self, diags: Any, type_name: str, config: State) -> None:
        """Nothing that the schema doesn't say."""

    def read(self, ctx: Any, config: State) -> State | None:
        """The host's facts and claims; one that can't be asked is an error."""
        name = config["name"]
        try:
            hosts = self._provider.hosts
            sight = hosts.look(name)
        except ClaimError as error:
            ctx.diagnostics.add_error(f"Host {name} is not in the pool", f"{error}.", path=["name"])
            return None
        except HostError as error:
            ctx.diagnostics.add_error(f"Host {name} can't be asked", f"{name} {error}.", path=["name"])
            return None
        if sight.facts.driver_fault:
            ctx.diagnostics.add_warning(
                f"Host {name} has a driver that doesn't work", f"nvidia-smi says: {sight.facts.driver_fault}."
            )
        host = hosts.host(name)
        return {
            "name": name,
            "address": host.address,
            "labels": dict(host.labels),
            "places": host.places,
            **_facts(sight),
            "claims": [_claim(place) for place in sight.places],
        }


def _facts(sight: Sight) -> State:
    facts = sight.facts
    return {
        "os": {
            "id": facts.os_id,
            "version": facts.os_version,
            "name": facts.os_name,
            "kernel": facts.kernel,
            "architecture": facts.architecture,
        },
        "cpus": facts.cpus,
        "ram_gib": facts.ram_gib,
        "disk_gib": facts.disk_gib,
        "disk_free_gib": int(facts.disk_free_gib),
        "gpus": [
            {
                "index": gpu.index,
                "model": gpu.model,
                "memory_gib": gpu.memory_gib,
                "pci_address": gpu.pci_address,
                "uuid": gpu.uuid,
                "driver": gpu.driver,
            }
            for gpu in facts.gpus
        ],
    }


def _claim(place: Place) -> State:
    claim = place.claim
    return {
        "place": place.index,
        "pack": claim.owner.pack if claim else None,
        "site": claim.owner.site if claim else None,
        "replica": claim.owner.replica if claim else None,
        "claimed_at": claim.claimed_at if claim else None,
        "claimed_by": claim.claimed_by if claim else None,
    }
