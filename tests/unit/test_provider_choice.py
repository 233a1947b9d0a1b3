"""Choosing a host by GPU model, count and memory, on facts of real machines."""

from dataclasses import replace
from pathlib import Path

import pytest

from babelrack.packs.pool import PoolHost
from babelrack.provider.choice import Sight, choose, misfits, reasons
from babelrack.provider.claim import Claim, Place, read_places
from babelrack.provider.facts import read_facts
from babelrack.provider.needs import Needs, Owner, Wish

RECORDED = Path(__file__).parents[1] / "fixtures" / "hosts"
PORTS = {"api": 7100, "model": 2233, "metrics": 9090}
LISTED = {
    "t4": {"gpus": 1, "gpu_model": "NVIDIA T4", "gpu_memory_gib": 16, "ram_gib": 15, "disk_gib": 90},
    "l4": {"gpus": 1, "gpu_model": "NVIDIA L4", "gpu_memory_gib": 24, "ram_gib": 16, "disk_gib": 90},
    "rtx-a5000-2": {"gpus": 2, "gpu_model": "RTX A5000", "gpu_memory_gib": 24, "ram_gib": 512, "disk_gib": 1500},
    "l40s-2": {"gpus": 2, "gpu_model": "NVIDIA L40S", "gpu_memory_gib": 48, "ram_gib": 512, "disk_gib": 1500},
    "a100-80gb-8": {"gpus": 8, "gpu_model": "A100 80GB", "gpu_memory_gib": 80, "ram_gib": 2048, "disk_gib": 1000},
    "h100-8": {"gpus": 8, "gpu_model": "H100 80GB", "gpu_memory_gib": 80, "ram_gib": 2048, "disk_gib": 2000},
    "rtx-pro-6000": {"gpus": 1, "gpu_model": "RTX PRO 6000", "gpu_memory_gib": 96, "ram_gib": 512, "disk_gib": 1500},
}


def host(**fields):
    return PoolHost(**({"address": "10.0.0.1", "ram_gib": 16, "disk_gib": 100} | fields))


def sight(name, *places, **changes):
    facts = read_facts((RECORDED / f"{name}.txt").read_text().splitlines())
    return Sight(replace(facts, **changes), places, "mark")


def wish(gpus=1, memory=8, ram=8, disk=20, *, pack="indic", replica=0, **more):
    return Wish(Owner(pack, "lab", replica), Needs(gpus, memory, ram, disk), more.pop("ports", PORTS), **more)


def taken(index, pack, *, ports=None, ram=8, disk=20, replica=0):
    owner, needs = Owner(pack, "lab", replica), Needs(1, 8, ram, disk)
    return Place(index, Claim(owner, index, (0,), ports or PORTS, needs, "2026-01-01T00:00:00+00:00", "me@here"))


POOL = {name: host(**fields) for name, fields in LISTED.items()}
SIGHTS = {name: sight(name) for name in LISTED}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (wish(memory=8), "t4"),
        (wish(memory=16), "t4"),
        (wish(memory=17), "l4"),
        (wish(memory=24), "l4"),
        (wish(memory=25), "l40s-2"),
        (wish(memory=48), "l40s-2"),
        (wish(memory=80), "a100-80gb-8"),
        (wish(memory=81), "rtx-pro-6000"),
        (wish(memory=97), None),
        (wish(gpus=2), "rtx-a5000-2"),
        (wish(gpus=2, memory=25), "l40s-2"),
        (wish(gpus=3), "a100-80gb-8"),
        (wish(gpus=8, memory=80), "a100-80gb-8"),
        (wish(gpus=9), None),
        (wish(gpu_model="L4"), "l4"),
        (wish(gpu_model="L40S"), "l40s-2"),
        (wish(gpu_model="H100"), "h100-8"),
        (wish(gpu_model="A100 80GB", gpus=4), "a100-80gb-8"),
        (wish(gpu_model="RTX A5000", gpus=2, memory=24), "rtx-a5000-2"),
        (wish(gpu_model="RTX PRO 6000", memory=96), "rtx-pro-6000"),
        (wish(gpu_model="V100"), None),
        (wish(ram=64), "rtx-a5000-2"),
        (wish(disk=1800), "h100-8"),
        (wish(gpus=0, memory=400, ram=16), "l4"),
    ],
)
def test_the_first_host_that_has_what_is_needed_is_chosen(wanted, chosen):
    choice = choose(POOL, SIGHTS, wanted)
    assert (choice and choice.host) == chosen


def test_a_hosts_own_word_is_not_enough():
    boasting = {"x": host(gpus=2, gpu_memory_gib=80, gpu_model="H100", ram_gib=64, disk_gib=200)}
    assert choose(boasting, {"x": sight("l4")}, wish(gpus=1, memory=80, ram=64)) is None
    assert list(misfits(boasting["x"], wish(gpus=1, memory=80, ram=64), sight("l4"))) == [
        "it has 15.6 GiB of memory, 64 needed",
        "it is listed with 2 GPUs, its PCI bus shows 1",
    ]
    one = host(gpus=1, gpu_memory_gib=80, gpu_model="H100")
    assert list(misfits(one, wish(memory=80, gpu_model="H100"), sight("l4"))) == [
        "its GPU 0 is an NVIDIA L4, H100 wanted",
        "its GPU 0 (NVIDIA L4) has 22.5 GiB, 80 needed",
    ]


def test_what_a_host_has_but_its_owner_does_not_offer_is_not_taken():
    modest = host(gpus=1, gpu_memory_gib=24, ram_gib=16, disk_gib=50)
    assert (
        list(misfits(modest, wish(gpus=2, ram=32), sight("h100-8")))
        == [
            "it is listed with 1 GPU, 2 needed",
            "it has 2000 GiB of memory, 32 needed",
        ][:1]
    )
    assert list(misfits(modest, wish(memory=80, ram=32), sight("h100-8"))) == [
        "it is listed with 24 GiB a GPU, 80 needed",
        "it is listed with 16 GiB of memory, 32 needed",
    ]


def test_nominal_sizes_are_met_by_the_machines_that_are_sold_under_them():
    for name, listed in LISTED.items():
        assert not list(misfits(POOL[name], wish(memory=listed["gpu_memory_gib"]), SIGHTS[name])), name
    assert not list(misfits(POOL["l4"], wish(memory=24, ram=16), SIGHTS["l4"]))


def test_a_host_without_its_driver_yet_is_chosen_by_its_pci_bus():
    pool, bare = {"h": POOL["h100-8"]}, {"h": sight("h100-8-no-driver")}
    assert choose(pool, bare, wish(gpus=8, memory=80, gpu_model="H100")).gpu_ids == tuple(range(8))
    assert next(misfits(pool["h"], wish(gpu_model="A100"), bare["h"])).endswith("A100 wanted")


def test_a_host_that_lost_a_gpu_is_passed_over_by_name():
    (why,) = misfits(POOL["h100-8"], wish(), sight("h100-8-one-lost"))
    assert why == "nvidia-smi does not show the GPU at 0000:df:00.0, which is on its PCI bus"
    assert not list(misfits(POOL["h100-8"], wish(gpus=0), sight("h100-8-one-lost")))


def test_a_gpu_that_is_cut_into_mig_instances_is_passed_over_with_the_way_out():
    cut = host(gpus=1, gpu_model="A100 80GB", gpu_memory_gib=80)
    assert list(misfits(cut, wish(memory=80), sight("a100-80gb-mig"))) == [
        "its GPU 0 is cut into MIG instances; to use it whole: nvidia-smi -i 0 -mig 0"
    ]
    assert not list(misfits(cut, wish(gpus=0), sight("a100-80gb-mig")))


def test_labels_are_matched():
    pool = {"a": host(labels={"room": "b"}), "b": host(labels={"room": "a"}), "c": host()}
    sights = dict.fromkeys(pool, sight("l4"))
    asking = wish(gpus=0, labels={"room": "a"})
    assert choose(pool, sights, asking).host == "b"
    assert reasons(pool["a"], asking, sights["a"]) == ["its labels have room=b, not room=a"]
    assert reasons(pool["c"], asking, sights["c"]) == ["its labels have no room, not room=a"]


def test_a_place_has_its_share_of_the_gpus():
    pool = {"a": host(gpus=8, places=4, gpu_memory_gib=80, ram_gib=512, disk_gib=500)}
    first = choose(pool, {"a": sight("a100-80gb-8")}, wish(gpus=2, memory=80))
    assert (first.place, first.gpu_ids) == (0, (0, 1))
    other = {"api": 7101, "model": 2234, "metrics": 9091}
    full = sight("a100-80gb-8", taken(0, "future", ports=other), taken(2, "nordic", ports={"api": 7200}))
    second = choose(pool, {"a": full}, wish(gpus=2, memory=80))
    assert (second.place, second.gpu_ids) == (1, (2, 3))
    assert choose(pool, {"a": full}, wish(gpus=0)).gpu_ids == ()
    assert choose(pool, {"a": full}, wish(gpus=3, memory=80)) is None
    assert reasons(pool["a"], wish(gpus=3), full) == ["it is listed with 2 GPUs for each of its 4 places, 3 needed"]


def test_a_taken_host_is_passed_over_with_its_holder():
    pool = {"a": POOL["l4"], "b": POOL["t4"]}
    sights = {"a": sight("l4", taken(0, "future")), "b": sight("t4")}
    assert choose(pool, sights, wish()).host == "b"
    assert reasons(pool["a"], wish(), sights["a"]) == ["its place is taken by future replica 0 of site lab"]


def test_a_pack_never_has_two_places_on_a_host():
    pool = {"a": host(gpus=8, places=2, gpu_memory_gib=80, ram_gib=512, disk_gib=500)}
    sights = {"a": sight("a100-80gb-8", taken(0, "indic", replica=0))}
    assert choose(pool, sights, wish(replica=1, ports={"api": 1, "model": 2, "metrics": 3})) is None
    (why,) = reasons(pool["a"], wish(replica=1), sights["a"])
    assert why == "it carries indic replica 0 of site lab already, and a pack has one place on a host"


def test_two_packs_on_a_host_have_ports_of_their_own():
    pool = {"a": host(gpus=8, places=2, gpu_memory_gib=80, ram_gib=512, disk_gib=500)}
    sights = {"a": sight("a100-80gb-8", taken(0, "future"))}
    assert reasons(pool["a"], wish(ports=PORTS | {"api": 7101}), sights["a"]) == [
        "future replica 0 of site lab has port 2233, 9090 there; give one of the packs other ports in the site file"
    ]
    assert choose(pool, sights, wish(ports={"api": 7101, "model": 2234, "metrics": 9091})).place == 1


def test_packs_that_share_a_host_share_its_memory_and_disk():
    pool = {"a": host(places=3, ram_gib=15, disk_gib=60)}
    others = (
        taken(0, "future", ports={"api": 1}, ram=6, disk=20),
        taken(1, "nordic", ports={"api": 2}, ram=4, disk=20),
    )
    assert choose(pool, {"a": sight("l4", *others)}, wish(gpus=0, ram=5, disk=20)).place == 2
    assert reasons(pool["a"], wish(gpus=0, ram=6, disk=21), sight("l4", *others)) == [
        "it is listed with 15 GiB of memory, 6 needed beside the packs that are there",
        "it is listed with 60 GiB of disk, 21 needed beside the packs that are there",
    ]


def test_a_full_disk_is_no_place_for_checkpoints_but_those_that_are_there_count_for_their_holder():
    full = sight("l4", taken(0, "indic"), disk_free_gib=3.0)
    assert (
        list(misfits(POOL["l4"], wish(), full))
        == [
            "it is listed with 16 GiB of memory, 8 needed beside the packs that are there",
            "its disk has 3 GiB free, 20 needed",
        ][1:]
    )
    assert not list(misfits(POOL["l4"], wish(), full, holding=0))


def test_a_host_to_be_avoided_is_taken_last():
    pool = dict.fromkeys("abc", POOL["l4"])
    sights = dict.fromkeys(pool, sight("l4"))
    assert choose(pool, sights, wish(avoid=("a", "b"))).host == "c"
    assert choose(pool, sights | {"c": sight("l4", taken(0, "future"))}, wish(avoid=("a", "b"))).host == "a"


def test_a_host_that_was_not_seen_is_never_chosen():
    assert choose({"a": POOL["l4"]}, {}, wish()) is None


def test_a_place_whose_claim_can_not_be_read_is_taken():
    places = read_places(["claim place-0 bm90IGpzb24=", "claim place-1 ", "claim other e30=", "claim place-2 e30="])
    assert [(place.index, place.claim) for place in places] == [(0, None), (2, None)]
    assert reasons(POOL["l4"], wish(), Sight(SIGHTS["l4"].facts, places, "")) == [
        "its place is taken by somebody whose claim.json can't be read"
    ]


def test_a_claim_is_read_as_it_was_written():
    import base64

    claim = taken(3, "indic").claim
    line = f"claim place-3 {base64.b64encode(claim.to_json().encode()).decode()}"
    assert read_places([line]) == (Place(3, claim),)
