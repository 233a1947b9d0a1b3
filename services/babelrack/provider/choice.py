"""Which host of a pool a replica gets: policy over declared hosts, measured facts and places; no host is asked here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelrack.provider.needs import NOMINAL, Wish, is_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from babelrack.packs.pool import PoolHost
    from babelrack.provider.claim import Place
    from babelrack.provider.facts import Facts


@dataclass(frozen=True)
class Sight:
    """What was seen of a host: its facts, its taken places, and the mark that a change of them would change."""

    facts: Facts
    places: tuple[Place, ...]
    mark: str


@dataclass(frozen=True)
class Choice:
    """A free place that a replica may take."""

    host: str
    place: int
    gpu_ids: tuple[int, ...]


def choose(hosts: Mapping[str, PoolHost], sights: Mapping[str, Sight], wish: Wish) -> Choice | None:
    """The first host in the pool's order that fits and has a place; one that the wish avoids only as a last resort."""
    for name in sorted(hosts, key=lambda name: name in wish.avoid):
        host, sight = hosts[name], sights.get(name)
        if sight is None or any(misfits(host, wish, sight)) or any(occupied(host, wish, sight.places)):
            continue
        taken = {place.index for place in sight.places}
        place = next(index for index in range(host.places) if index not in taken)
        return Choice(name, place, gpu_ids(host, place, wish))
    return None


def gpu_ids(host: PoolHost, place: int, wish: Wish) -> tuple[int, ...]:
    """The GPUs of a place, none for a pack that runs on the CPU."""
    count = host.gpus_per_place if wish.needs.gpus else 0
    return tuple(range(place * count, (place + 1) * count))


def reasons(host: PoolHost, wish: Wish, sight: Sight) -> list[str]:
    """Why a host can't be chosen, one clause each; empty when it can."""
    return [*misfits(host, wish, sight), *occupied(host, wish, sight.places)]


def misfits(host: PoolHost, wish: Wish, sight: Sight, *, holding: int | None = None) -> Iterator[str]:
    """Why a host, as declared and as measured, isn't what the wish needs, whoever holds its places.

    `holding` is the place that the replica has there already: what it put on the disk is no longer asked for.
    """
    yield from undeclared(host, wish)
    yield from _too_little_left(host, wish, sight, holding)
    if wish.needs.gpus:
        yield from _gpus_amiss(host, wish, sight.facts, holding)


def undeclared(host: PoolHost, wish: Wish) -> Iterator[str]:
    """What the pool file doesn't promise of the host."""
    needs = wish.needs
    for name, value in wish.labels.items():
        if host.labels.get(name) != value:
            has = f"{name}={host.labels[name]}" if name in host.labels else f"no {name}"
            yield f"its labels have {has}, not {name}={value}"
    if needs.gpus > host.gpus_per_place:
        shared = f" for each of its {host.places} places" if host.places > 1 else ""
        yield f"it is listed with {_count(host.gpus_per_place, 'GPU')}{shared}, {needs.gpus} needed"
        return
    if needs.gpus and wish.gpu_model and not (host.gpu_model and is_model(wish.gpu_model, host.gpu_model)):
        yield f"its GPUs are listed as {host.gpu_model or 'no model'}, {wish.gpu_model} wanted"
    for listed, need, what in (
        (host.gpu_memory_gib, needs.gpu_memory_gib if needs.gpus else 0, "GiB a GPU"),
        (host.ram_gib, needs.ram_gib, "GiB of memory"),
        (host.disk_gib, needs.disk_gib, "GiB of disk"),
    ):
        if need > listed:
            yield f"it is listed with {listed} {what}, {need} needed"


def occupied(host: PoolHost, wish: Wish, places: Sequence[Place], *, holding: int | None = None) -> Iterator[str]:
    """Why the packs that are on a host leave the wish no room there."""
    others = [place for place in places if place.index != holding]
    taken = [place for place in others if place.index < host.places]
    if holding is None and len(taken) >= host.places:
        holders = ", ".join(place.holder for place in taken)
        yield f"{'its place is' if host.places == 1 else f'its {host.places} places are'} taken by {holders}"
        return
    for place in others:
        if place.claim is None:
            continue
        if place.claim.owner.pack == wish.owner.pack and place.claim.owner.site == wish.owner.site:
            yield f"it carries {place.claim.owner} already, and a pack has one place on a host"
        elif clash := sorted(set(place.claim.ports.values()) & set(wish.ports.values())):
            ports = ", ".join(map(str, clash))
            yield f"{place.holder} has port {ports} there; give one of the packs other ports in the site file"


def _too_little_left(host: PoolHost, wish: Wish, sight: Sight, holding: int | None) -> Iterator[str]:
    facts = sight.facts
    others = [place.claim.needs for place in sight.places if place.claim and place.index != holding]
    ram = sum(needs.ram_gib for needs in others if needs)
    disk = sum(needs.disk_gib for needs in others if needs)
    beside = " beside the packs that are there" if others else ""
    ram_needed, disk_needed = ram + wish.needs.ram_gib, disk + wish.needs.disk_gib
    if facts.ram_gib < NOMINAL * ram_needed:
        yield f"it has {facts.ram_gib:g} GiB of memory, {wish.needs.ram_gib} needed{beside}"
    elif host.ram_gib < ram_needed and ram:
        yield f"it is listed with {host.ram_gib} GiB of memory, {wish.needs.ram_gib} needed{beside}"
    if facts.disk_gib < NOMINAL * disk_needed:
        yield f"its disk has {facts.disk_gib:g} GiB, {wish.needs.disk_gib} needed{beside}"
    elif host.disk_gib < disk_needed and disk:
        yield f"it is listed with {host.disk_gib} GiB of disk, {wish.needs.disk_gib} needed{beside}"
    elif holding is None and facts.disk_free_gib < wish.needs.disk_gib:
        yield f"its disk has {facts.disk_free_gib:g} GiB free, {wish.needs.disk_gib} needed"


def _gpus_amiss(host: PoolHost, wish: Wish, facts: Facts, holding: int | None) -> Iterator[str]:
    if len(facts.gpus) < host.gpus:
        yield f"it is listed with {_count(host.gpus, 'GPU')}, its PCI bus shows {len(facts.gpus)}"
        return
    if facts.has_driver and (lost := [gpu for gpu in facts.gpus if gpu.driver is None]):
        addresses = ", ".join(gpu.pci_address for gpu in lost)
        yield f"nvidia-smi does not show the GPU at {addresses}, which is on its PCI bus"
        return
    if holding is not None and host.gpus_per_place:
        first = holding * host.gpus_per_place
        gpus = facts.gpus[first : first + host.gpus_per_place]
    else:
        gpus = facts.gpus[: host.gpus]
    for gpu in gpus:
        if gpu.mig:
            yield f"its GPU {gpu.index} is cut into MIG instances; to use it whole: nvidia-smi -i {gpu.index} -mig 0"
        if wish.gpu_model and gpu.model and not is_model(wish.gpu_model, gpu.model):
            yield f"its GPU {gpu.index} is an {gpu.model}, {wish.gpu_model} wanted"
        if gpu.memory_gib is not None and gpu.memory_gib < NOMINAL * wish.needs.gpu_memory_gib:
            yield (
                f"its GPU {gpu.index} ({gpu.model or 'unknown model'}) has {gpu.memory_gib:g} GiB, "
                f"{wish.needs.gpu_memory_gib} needed"
            )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
