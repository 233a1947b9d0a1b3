"""`onprem_host_claim`: a place on one host of the pool, for one replica of a pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from babelrack.provider.claim import place_index, place_name
from babelrack.provider.framework import Attribute, List, Map, Number, Resource, Schema, String, Unknown
from babelrack.provider.hosts import ClaimError
from babelrack.provider.needs import Needs, Owner, Wish
from babelrack.provider.pack_data import NEEDS, PORTS
from babelrack.provider.remote import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from babelrack.provider.choice import Sight
    from babelrack.provider.claim import Claim
    from babelrack.provider.framework import State
    from babelrack.provider.hosts import Hosts
    from babelrack.provider.onprem import Onprem

_IDENTITY: Final = ("pack", "site", "replica")
_WISHES: Final = ("needs", "ports", "gpu_model", "labels")


class HostClaim(Resource):
    """Terraform's `resource "onprem_host_claim"`."""

    def __init__(self, provider: Onprem) -> None:
        self._provider = provider

    @classmethod
    def get_name(cls) -> str:
        return "host_claim"

    @classmethod
    def get_schema(cls) -> Any:
        return Schema(
            version=1,
            attributes=[
                Attribute(
                    "pack", String(), "The pack that the host is for. A claim never changes hands.", required=True
                ),
                Attribute("site", String(), "The site of the pack.", required=True),
                Attribute("replica", Number(), "The replica's number, from 0.", required=True),
                Attribute(
                    "needs",
                    NEEDS,
                    "What the host must have, as its owner lists it and as it measures. "
                    "More than the claimed host has replaces the claim.",
                    required=True,
                ),
                Attribute(
                    "ports", PORTS, "The replica's ports; no other pack on the host may have them.", required=True
                ),
                Attribute(
                    "gpu_model", String(), "The GPUs' model, such as L4 or A100 80GB; any when left out.", optional=True
                ),
                Attribute("labels", Map(String()), "Labels that the host must have in the pool.", optional=True),
                Attribute("avoid", List(String()), "Hosts to take only when no other fits.", optional=True),
                Attribute("id", String(), "HOST/place-K, as for import.", computed=True),
                Attribute("host", String(), "The host's name in the pool.", computed=True),
                Attribute("address", String(), "The host's address.", computed=True),
                Attribute("place", Number(), "Which of the host's places it is.", computed=True),
                Attribute("gpu_ids", List(Number()), "The GPUs of that place.", computed=True),
                Attribute("claimed_at", String(), "When it was claimed.", computed=True),
                Attribute("claimed_by", String(), "Who claimed it: user@control.", computed=True),
            ],
            description="One place on one host of the pool, held for one replica until it is destroyed.",
        )

    def validate(self, diags: Any, type_name: str, config: State) -> None:  # noqa: ARG002, RUF100
        for name in ("pack", "site"):
            if config.get(name) == "":
                diags.add_error(f"{name} is empty", f"Name the {name}.", path=[name])
        replica = config.get("replica")
        if isinstance(replica, (int, float)) and (replica < 0 or replica != int(replica)):
            diags.add_error("replica is not a number of a replica", f"It is {replica}; count from 0.", path=["replica"])
        for name in ("needs", "ports"):
            for field, number in (config.get(name) or {}).items() if isinstance(config.get(name), dict) else ():
                if number is not Unknown and (number is None or number < 0 or number != int(number)):
                    diags.add_error(
                        f"{name}.{field} is not a size",
                        f"It is {number}; write a whole number, 0 or more.",
                        path=[name],
                    )

    def plan(self, ctx: Any, current: State | None, planned: State) -> State:  # noqa: ARG002, RUF100
        """What an update leaves open: the GPUs of a pack that moves to them or to the CPU."""
        if current is None or not _has_value(planned["needs"]):
            return planned
        before, after = ((state["needs"] or {}).get("gpus", 0) for state in (current, planned))
        return planned | {"gpu_ids": Unknown} if bool(before) != bool(after) else planned

    def plan_create(self, diags: Any, planned: State) -> None:
        """Say at plan time that the pool has no room, and which hosts don't answer.

        No room is a warning here and an error when applied: Terraform plans creations before it destroys, too, and a
        pack that lacks a replica must still be destroyed.
        """
        if not _is_known(planned):
            return
        try:
            hosts = self._hosts
        except ClaimError as error:
            diags.add_error("The pool can't be used", f"{error}.")
            return
        try:
            for notice in hosts.plan(_wish(planned)):
                diags.add_warning(*notice)
        except ClaimError as error:
            diags.add_warning(f"There will be no host for {_owner(planned)}", f"An apply will fail. {error}")

    def replaced_by(self, diags: Any, current: State, planned: State) -> Iterable[str]:
        """The changes that the claimed host can't take in its stride."""
        owner = _owner(current)
        if any(current[name] != planned[name] for name in _IDENTITY):
            diags.add_error(
                f"A claim never changes hands: {current['id']} is for {owner}",
                f"The configuration says {_owner(planned)}. Select the workspace of the right site, or destroy the "
                "one claim and make the other; a claim that was imported by mistake leaves with `terraform state rm`.",
                path=[next(name for name in _IDENTITY if current[name] != planned[name])],
            )
            return ()
        changed = [name for name in _WISHES if current[name] != planned[name]]
        # After an import the state has no wishes yet, and a host that doesn't fit shows here, too.
        if not changed or not _is_known(planned):
            return ()
        name, place = current["host"], int(current["place"])
        try:
            why = self._hosts.unsuitable(name, place, _wish(planned), self._hosts.look(name))
        except (ClaimError, HostError) as error:
            _add_host_error(diags, current, error)
            return ()
        if not why:
            return ()
        diags.add_warning(f"{name} doesn't fit {owner} any more", f"{name}: {'; '.join(why)}. The claim is replaced.")
        self._hosts.is_in_state(name, place)
        return changed

    def create(self, ctx: Any, planned: State) -> State | None:
        """Take a place on the first host that fits."""
        try:
            held = self._hosts.claim(_wish(planned))
        except ClaimError as error:
            ctx.diagnostics.add_error(f"No host for {_owner(planned)}", f"{error}")
            return None
        except HostError as error:
            ctx.diagnostics.add_error(f"No host for {_owner(planned)}", f"A host of the pool {error}.")
            return None
        for notice in held.warnings:
            ctx.diagnostics.add_warning(*notice)
        return planned | self._computed(held.host, held.claim)

    def read(self, ctx: Any, current: State) -> State | None:
        """The claim as the host has it; None when it is gone or another's, so that the plan shows what is missing."""
        name, place, owner = current["host"], int(current["place"]), _owner(current)
        try:
            sight = self._hosts.look(name)
        except (ClaimError, HostError) as error:
            _add_host_error(ctx.diagnostics, current, error)
            return current
        held = next((taken for taken in sight.places if taken.index == place), None)
        if held and held.claim and held.claim.owner == owner:
            self._hosts.is_in_state(name, place)
            self._warn_of_misfits(ctx.diagnostics, current, sight)
            return current | self._computed(name, held.claim) | _wishes_of(current, held.claim)
        if held:
            ctx.diagnostics.add_warning(
                f"{current['id']} is not {owner}'s any more",
                f"{held.holder} holds it. It is left alone; the plan looks for another host.",
            )
        else:
            ctx.diagnostics.add_warning(
                f"{current['id']} is not claimed any more",
                f"Somebody released the claim of {owner} on {name}. The plan claims a host again.",
            )
        return None

    def _warn_of_misfits(self, diags: Any, current: State, sight: Sight) -> None:
        """A GPU that fell off the bus, a pool file that promises less: worth a word, not worth an outage."""
        if current["needs"] is None or current["ports"] is None:
            return
        if why := self._hosts.unsuitable(current["host"], int(current["place"]), _wish(current), sight):
            diags.add_warning(
                f"{current['host']} is not what {_owner(current)} needs any more",
                f"{current['host']}: {'; '.join(why)}. The claim stays; to move, apply with -replace.",
            )

    def update(self, ctx: Any, current: State, planned: State) -> State:
        """Write other needs and ports into the claim."""
        try:
            if all(current[name] == planned[name] for name in ("needs", "ports")):
                return planned
            claim = self._hosts.amend(current["host"], int(current["place"]), _wish(planned))
        except (ClaimError, HostError) as error:
            _add_host_error(ctx.diagnostics, current, error)
            return current
        return planned | {"gpu_ids": list(claim.gpu_ids)}

    def delete(self, ctx: Any, current: State) -> State | None:
        """Give the place back if it is this claim's; a host that doesn't answer keeps the claim in the state."""
        try:
            left = self._hosts.release(current["host"], int(current["place"]), _owner(current))
        except (ClaimError, HostError) as error:
            _add_host_error(ctx.diagnostics, current, error)
            return current
        if left:
            ctx.diagnostics.add_warning("Nothing was released", f"{left}.")
        return None

    def import_(self, ctx: Any, id: str) -> State | None:  # noqa: A002 - the framework's name
        """Take up a claim that is on a host already, by HOST/place-K."""
        name, _, folder = id.rpartition("/")
        place = place_index(folder)
        if not name or place is None:
            ctx.diagnostics.add_error("That is not the ID of a claim", f"It is {id!r}; write HOST/place-0.")
            return None
        try:
            taken = {taken.index: taken for taken in self._hosts.look(name).places}
        except ClaimError as error:
            ctx.diagnostics.add_error(f"{id} can't be imported", f"{error}.")
            return None
        except HostError as error:
            ctx.diagnostics.add_error(f"{id} can't be imported", f"{name} {error}.")
            return None
        if place not in taken:
            has = ", ".join(place_name(index) for index in taken) or "none"
            ctx.diagnostics.add_error(
                f"{id} can't be imported", f"{name} has no claim at {place_name(place)}; its claims are {has}."
            )
            return None
        claim = taken[place].claim
        if claim is None:
            ctx.diagnostics.add_error(f"{id} can't be imported", f"Its claim.json on {name} is not that of a claim.")
            return None
        owner = claim.owner
        identity = {"pack": owner.pack, "site": owner.site, "replica": owner.replica}
        nothing = {"gpu_model": None, "labels": None, "avoid": None}
        return identity | nothing | self._computed(name, claim) | _wishes_of({"needs": None, "ports": None}, claim)

    @property
    def _hosts(self) -> Hosts:
        return self._provider.hosts

    def _computed(self, name: str, claim: Claim) -> State:
        return {
            "id": f"{name}/{place_name(claim.place)}",
            "host": name,
            "address": self._hosts.host(name).address,
            "place": claim.place,
            "gpu_ids": list(claim.gpu_ids),
            "claimed_at": claim.claimed_at,
            "claimed_by": claim.claimed_by,
        }


def _owner(state: State) -> Owner:
    return Owner(state["pack"], state["site"], int(state["replica"]))


def _wish(state: State) -> Wish:
    return Wish(
        owner=_owner(state),
        needs=Needs.of(state["needs"]),
        ports={name: int(port) for name, port in state["ports"].items()},
        gpu_model=state.get("gpu_model"),
        labels=state.get("labels") or {},
        avoid=tuple(state.get("avoid") or ()),
    )


def _wishes_of(current: State, claim: Claim) -> State:
    """What the claim's file says of needs and ports; an old file that doesn't say leaves the state's."""
    return {
        "needs": claim.needs.as_data() if claim.needs else current["needs"],
        "ports": dict(claim.ports) or current["ports"],
    }


def _is_known(state: State) -> bool:
    """Whether Terraform knows all that a host is chosen by."""
    return all(map(_has_value, (state.get(name) for name in (*_IDENTITY, *_WISHES, "avoid"))))


def _has_value(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return all(map(_has_value, value.values() if isinstance(value, dict) else value))
    return value is not Unknown


def _add_host_error(diags: Any, current: State, error: ClaimError | HostError) -> None:
    subject = f"{current['host']} " if isinstance(error, HostError) else ""
    diags.add_error(
        f"The claim {current['id']} can't be looked after",
        f"{subject}{error}. The claim stays in the state: run this again when the host is back. If the machine is gone "
        "for good, take its claim out with `terraform state rm`, and the next plan looks for another host.",
    )
