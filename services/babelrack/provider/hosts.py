"""The hosts of a pool: looking at them, and taking, amending and releasing their places."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from babelrack.packs.faults import nearest
from babelrack.provider.choice import Choice, Sight, choose, gpu_ids, misfits, occupied, reasons, undeclared
from babelrack.provider.claim import CLAIMS_DIR, Claim, Place, claimant, now, place_name, read_places
from babelrack.provider.facts import read_facts
from babelrack.provider.remote import HostError, Remote
from babelrack.provider.scripts import LOOK, WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from babelrack.packs.pool import Pool, PoolHost
    from babelrack.provider.needs import Owner, Wish

_AT_ONCE: Final = 16
_TRIES: Final = 100


class ClaimError(Exception):
    """A claim can't be made, read or released; the message says why and what to do."""


class Notice(NamedTuple):
    """A warning: Terraform shows one of all that have the same summary, so the summary names what it is about."""

    summary: str
    detail: str


@dataclass(frozen=True)
class Held:
    """A claim that the pool's host really holds, and what is worth a warning about it."""

    host: str
    claim: Claim
    warnings: tuple[Notice, ...] = ()

    @property
    def name(self) -> str:
        """The place, as for import."""
        return f"{self.host}/{place_name(self.claim.place)}"


class Hosts:
    """The hosts of one pool, for the length of one Terraform run. Safe to use from several threads."""

    def __init__(self, pool: Pool, remote: Remote, claims_dir: str = CLAIMS_DIR) -> None:
        self.pool = pool
        self._remote = remote
        self._claims_dir = claims_dir
        self._seen: dict[str, Sight | HostError] = {}
        self._planned: dict[Owner, Wish] = {}
        self._in_state: set[tuple[str, int]] = set()
        self._warned: set[str] = set()
        # One claim at a time is chosen in this process; other processes are held off on the hosts themselves.
        self._choosing = threading.Lock()

    def host(self, name: str) -> PoolHost:
        """A host as the pool file lists it; raises `ClaimError` for one that it doesn't."""
        if name not in self.pool.hosts:
            meant = nearest(name, self.pool.hosts)
            fix = f"did you mean {meant}?" if meant else f"its hosts are {', '.join(self.pool.hosts)}"
            raise ClaimError(f"{self.pool.file} lists no host {name}; {fix}")
        return self.pool.hosts[name]

    def look(self, name: str) -> Sight:
        """What a host is and holds now; raises `ClaimError` for an unlisted one, `HostError` when it can't be asked."""
        self.host(name)
        try:
            sight = _sight(self._remote.run(name, LOOK, self._claims_dir))
        except HostError as error:
            self._seen[name] = error
            raise
        self._seen[name] = sight
        return sight

    def plan(self, wish: Wish) -> list[Notice]:
        """Warnings about a claim that is to be made; raises `ClaimError` when the pool has no room for it.

        Counts all claims that this process was asked to plan, so that two of them don't count on one host.
        """
        with self._choosing:
            sights = self._look_around()
            self._planned[wish.owner] = wish
            for name, seen in sights.items():
                sights[name] = Sight(seen.facts, tuple(self._staying(name, seen)), seen.mark)
            warnings = []
            for planned in self._planned.values():
                if own := self._own(planned, sights):
                    if planned is wish:
                        warnings.append(Notice(f"{own.name} will be taken over by {wish.owner}", f"{_already(own)}."))
                    continue
                choice = choose(self.pool.hosts, sights, planned)
                if choice is None:
                    raise self._no_room(wish, sights)
                claim = self._new_claim(planned, choice)
                seen = sights[choice.host]
                sights[choice.host] = Sight(seen.facts, (*seen.places, Place(choice.place, claim)), seen.mark)
            return [*warnings, *self._silent(wish)]

    def is_in_state(self, name: str, place: int) -> None:
        """Note that Terraform knows a claim: when it plans to make that replica's again, it replaces this one."""
        self._in_state.add((name, place))

    def claim(self, wish: Wish) -> Held:
        """Take a place for a replica, atomically, on the first host that fits; raises `ClaimError` when none does.

        A claim of this very replica that is on a host already, because an earlier run was cut short, is taken over.
        """
        with self._choosing:
            warnings: list[Notice] = []
            for _ in range(_TRIES):
                sights = self._look_around()
                if own := self._own(wish, sights):
                    claim = own.claim.amended(wish.needs, wish.ports, self._gpu_ids(own.host, own.claim.place, wish))
                    if claim != own.claim and not self._write("amend", own.host, claim, sights[own.host].mark):
                        continue
                    taken_over = Notice(f"{own.name} is taken over by {wish.owner}", f"{_already(own)}.")
                    return Held(own.host, claim, (*warnings, taken_over))
                choice = choose(self.pool.hosts, sights, wish)
                if choice is None:
                    raise self._no_room(wish, sights)
                claim = self._new_claim(wish, choice)
                try:
                    if self._write("take", choice.host, claim, sights[choice.host].mark):
                        return Held(choice.host, claim, (*warnings, *self._silent(wish)))
                except HostError as error:
                    warnings += self._given_up(choice, wish, error)
            raise ClaimError(f"{wish.owner} lost the race for a host {_TRIES} times; apply again when others are done")

    def amend(self, name: str, place: int, wish: Wish) -> Claim:
        """Write other needs and ports into a replica's claim; raises `ClaimError` or `HostError`."""
        with self._choosing:
            for _ in range(_TRIES):
                sight = self.look(name)
                held = next((taken for taken in sight.places if taken.index == place), None)
                if held is None or held.claim is None or held.claim.owner != wish.owner:
                    holder = held.holder if held else "nobody"
                    raise ClaimError(
                        f"{name}/{place_name(place)} is held by {holder}, not by {wish.owner}; plan again to see it"
                    )
                if why := self.unsuitable(name, place, wish, sight):
                    raise ClaimError(f"{name} no longer fits {wish.owner}: {'; '.join(why)}; plan again")
                claim = held.claim.amended(wish.needs, wish.ports, self._gpu_ids(name, place, wish))
                if self._write("amend", name, claim, sight.mark):
                    return claim
            raise ClaimError(f"the claims of {name} changed {_TRIES} times while one was amended; apply again")

    def release(self, name: str, place: int, owner: Owner) -> str | None:
        """Give a place back if it is the owner's; the sentence says why nothing was released, None that it was.

        Raises `ClaimError` or `HostError`.
        """
        with self._choosing:
            for _ in range(_TRIES):
                sight = self.look(name)
                held = next((taken for taken in sight.places if taken.index == place), None)
                if held is None:
                    return f"{name}/{place_name(place)} was free already"
                if held.claim is None or held.claim.owner != owner:
                    return f"{name}/{place_name(place)} is held by {held.holder}, so it is left as it is"
                if self._write("release", name, held.claim, sight.mark):
                    return None
            raise ClaimError(f"the claims of {name} changed {_TRIES} times while one was released; apply again")

    def unsuitable(self, name: str, place: int, wish: Wish, sight: Sight) -> list[str]:
        """Why a host that a replica has a place on isn't what the wish needs; empty when it is."""
        host = self.host(name)
        if place >= host.places:
            return [f"it is listed with {host.places} places now, and {place_name(place)} is beyond them"]
        return [
            *misfits(host, wish, sight, holding=place),
            *occupied(host, wish, sight.places, holding=place),
        ]

    def _look_around(self) -> dict[str, Sight]:
        """What was seen of every host that answers; those that weren't asked yet are asked now, side by side."""
        missing = [name for name in self.pool.hosts if name not in self._seen]
        if missing:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                list(threads.map(self._glance, missing))
        return {name: sight for name, sight in self._seen.items() if isinstance(sight, Sight)}

    def _staying(self, name: str, sight: Sight) -> Iterator[Place]:
        for place in sight.places:
            replaced = place.claim and place.claim.owner in self._planned and (name, place.index) in self._in_state
            if not replaced:
                yield place

    def _glance(self, name: str) -> None:
        try:
            self.look(name)
        except HostError:
            return  # kept in self._seen, for the sentence that says why the host wasn't chosen

    def _own(self, wish: Wish, sights: Mapping[str, Sight]) -> Held | None:
        """The claim of this very replica that a host holds; raises `ClaimError` when that host doesn't fit any more."""
        for name, sight in sights.items():
            for place in sight.places:
                if place.claim is None or place.claim.owner != wish.owner:
                    continue
                own = Held(name, place.claim)
                if why := self.unsuitable(name, place.index, wish, sight):
                    raise ClaimError(
                        f"{_already(own)}; but the host doesn't fit ({'; '.join(why)}). Import the claim as "
                        f"{own.name}, then apply: the plan will replace it"
                    )
                return own
        return None

    def _given_up(self, choice: Choice, wish: Wish, error: HostError) -> list[Notice]:
        """Warnings about a host that failed while a place was being taken, which isn't chosen again by this process."""
        try:
            # The claim may have been made before the answer was lost: look, don't guess.
            sight = self.look(choice.host)
        except HostError:
            folder = f"{self._claims_dir}/{place_name(choice.place)}"
            unsure = f"If {folder} is there when it is back, it is a claim without a state."
            return [Notice(f"{choice.host} may be claimed for {wish.owner}", f"{choice.host} {error}. {unsure}")]
        if any(place.claim and place.claim.owner == wish.owner for place in sight.places):
            return []
        self._seen[choice.host] = error
        return []

    def _new_claim(self, wish: Wish, choice: Choice) -> Claim:
        return Claim(wish.owner, choice.place, choice.gpu_ids, dict(wish.ports), wish.needs, now(), claimant())

    def _gpu_ids(self, name: str, place: int, wish: Wish) -> tuple[int, ...]:
        return gpu_ids(self.host(name), place, wish)

    def _write(self, verb: str, name: str, claim: Claim, mark: str) -> bool:
        """Whether the claims were still as marked, and so are now as wanted; raises `HostError`."""
        place = place_name(claim.place)
        lines = self._remote.run(name, WRITE, self._claims_dir, verb, mark, place, claim.to_json())
        results = [line for line in lines if line.startswith("result ")]
        if not results:
            raise HostError("broke off in the middle of an answer")
        known = self._seen.get(name)
        if isinstance(known, Sight):
            self._seen[name] = Sight(known.facts, read_places(lines), _mark(lines))
        return results[0] == "result done"

    def _silent(self, wish: Wish) -> list[Notice]:
        """A warning, once, for each host that would have been considered and can't be asked."""
        silent = [
            name
            for name, seen in self._seen.items()
            if isinstance(seen, HostError) and name not in self._warned and not any(undeclared(self.host(name), wish))
        ]
        self._warned.update(silent)
        return [Notice(f"{name} is passed over", f"{name} {self._seen[name]}.") for name in silent]

    def _no_room(self, wish: Wish, sights: Mapping[str, Sight]) -> ClaimError:
        lines = []
        for name, host in self.pool.hosts.items():
            seen = self._seen[name]
            clauses = [str(seen)] if isinstance(seen, HostError) else reasons(host, wish, sights[name])
            lines.append(f"  {name}: {'; '.join(clauses or ['taken by another replica of this plan'])}")
        return ClaimError(
            f"No host of {self.pool.file} is free and fits {wish.owner}. Add a host, release one, or change what the "
            "pack needs:\n" + "\n".join(lines)
        )


def _already(own: Held) -> str:
    claim = own.claim
    return (
        f"{own.name} is claimed for {claim.owner} already, since {claim.claimed_at} by "
        f"{claim.claimed_by}, and is in no state: an apply was cut short, or its state was lost"
    )


def _sight(lines: Iterable[str]) -> Sight:
    lines = list(lines)
    if "result done" not in lines:
        raise HostError("broke off in the middle of an answer")
    try:
        return Sight(read_facts(lines), read_places(lines), _mark(lines))
    except ValueError as error:
        raise HostError(f"answers, but {error}") from None


def _mark(lines: Iterable[str]) -> str:
    return next((line.partition(" ")[2] for line in lines if line.startswith("mark ")), "")
