"""Claims on real hosts over SSH: one place is one replica's, whatever happens."""

import json
import os
import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import loopback
from babelrack.packs.pool import load_pool
from babelrack.provider.claim import read_places
from babelrack.provider.hosts import ClaimError, Hosts
from babelrack.provider.needs import Needs, Owner, Wish
from babelrack.provider.remote import HostError, Remote
from babelrack.provider.scripts import WRITE

RECORDED = Path(__file__).parents[1] / "fixtures" / "hosts"
PORTS = {"api": 7100, "model": 2233, "metrics": 9090}
RACES = 20


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    loopback.require()
    with loopback.LoopbackHosts(tmp_path_factory.mktemp("hosts"), 4) as hosts:
        yield hosts


@pytest.fixture
def pool(machines):
    """A function that gives the pool as a Terraform run of its own sees it; claims of earlier tests are gone."""
    machines.forget_claims()

    def make(**listed):
        loaded = load_pool(machines.pool(machines.folder / "hosts.yaml", **listed))
        return Hosts(loaded, Remote(loaded, connect_timeout_s=2))

    return make


def wish(pack="indic", replica=0, *, site="lab", ports=None, **needs):
    sizes = {"gpus": 0, "gpu_memory_gib": 0, "ram_gib": 1, "disk_gib": 1} | needs
    return Wish(Owner(pack, site, replica), Needs(**sizes), ports or PORTS)


def test_a_host_tells_what_it_is(pool):
    facts = pool().look("a").facts
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    assert facts.os_id == release["ID"].strip('"')
    assert facts.kernel == os.uname().release
    assert facts.cpus == os.sysconf("SC_NPROCESSORS_ONLN")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert facts.ram_gib == pytest.approx(total, abs=0.1)
    assert 0 < facts.disk_free_gib <= facts.disk_gib


def test_a_claim_is_a_file_on_the_host_that_says_whose_it_is(pool, machines):
    held = pool().claim(wish())
    assert held.host == "a"
    assert list(machines.claims) == [("a", "place-0")]
    said = json.loads(machines.claims["a", "place-0"])
    assert said.pop("claimed_at") == held.claim.claimed_at
    assert said.pop("claimed_by").partition("@")[2] == os.uname().nodename
    assert said == {
        "pack": "indic", "site": "lab", "replica": 0, "place": 0, "gpu_ids": [], "ports": PORTS,
        "needs": {"gpus": 0, "gpu_memory_gib": 0, "ram_gib": 1, "disk_gib": 1},
    }  # fmt: skip


def test_gpus_are_seen_over_ssh_on_the_bus_and_by_nvidia_smi(tmp_path):
    loopback.require()
    hosts = loopback.LoopbackHosts(tmp_path, 3)
    for name, recorded in {"a": "h100-8-no-driver", "b": "l40s-2", "c": "l4"}.items():
        hosts[name].with_facts(RECORDED / f"{recorded}.txt")
    gpu = {"ram_gib": 4, "disk_gib": 4}
    listed = {
        "a": gpu | {"gpus": 8, "gpu_memory_gib": 80, "gpu_model": "H100"},
        "b": gpu | {"gpus": 2, "gpu_memory_gib": 48, "gpu_model": "L40S", "places": 2},
        "c": gpu | {"gpus": 1, "gpu_memory_gib": 80, "gpu_model": "H100"},
    }
    with hosts:
        loaded = load_pool(hosts.pool(tmp_path / "hosts.yaml", **listed))
        pool = Hosts(loaded, Remote(loaded))
        assert [len(pool.look(name).facts.gpus) for name in "abc"] == [8, 2, 1]
        assert pool.look("b").facts.gpus[1].pci_address == "0000:91:00.0"
        first = pool.claim(wish("future", gpus=1, gpu_memory_gib=40, ports={"api": 1, "model": 2, "metrics": 3}))
        assert (first.host, first.claim.gpu_ids) == ("a", tuple(range(8)))
        second = pool.claim(wish("indic", gpus=1, gpu_memory_gib=40))
        assert (second.host, second.claim.gpu_ids) == ("b", (0,))
        with pytest.raises(ClaimError, match=r"c: its GPU 0 \(NVIDIA L4\) has 22.5 GiB, 60 needed"):
            pool.claim(wish("indic", 1, gpus=1, gpu_memory_gib=60))


def test_each_replica_gets_a_host_of_its_own_until_none_is_left(pool, machines):
    hosts = pool()
    assert [hosts.claim(wish(replica=index)).host for index in range(4)] == ["a", "b", "c", "d"]
    with pytest.raises(ClaimError) as caught:
        hosts.claim(wish(replica=4))
    assert "a: its place is taken by indic replica 0 of site lab" in str(caught.value)
    assert len(machines.claims) == 4


def test_a_plan_says_that_the_pool_has_no_room_and_claims_nothing(pool, machines):
    hosts = pool(c=None, d=None)
    hosts.plan(wish(replica=0))
    hosts.plan(wish(replica=1))
    hosts.plan(wish(replica=1))
    with pytest.raises(ClaimError, match=r"No host of .* is free and fits indic replica 2 of site lab"):
        hosts.plan(wish(replica=2))
    assert not machines.claims


def test_a_host_that_does_not_answer_is_passed_over_with_a_warning(pool, machines):
    machines["a"].stop()
    try:
        held = pool().claim(wish())
        assert held.host == "b"
        assert held.warnings[0].summary == "a is passed over"
        assert held.warnings[0].detail.startswith("a does not answer at 127.0.0.1 port ")
        with pytest.raises(ClaimError, match=r"a: does not answer at 127.0.0.1"):
            pool(b=None, c=None, d=None).claim(wish())
    finally:
        machines["a"].start()


def test_a_host_with_another_key_is_never_talked_to(pool, machines):
    machines.trust(a=machines["b"])
    try:
        with pytest.raises(HostError, match=r"has a host key that .* does not know; compare it at the machine itself"):
            pool().look("a")
        assert pool().claim(wish()).host == "b"
    finally:
        machines.trust()


def test_a_key_that_the_host_does_not_know_is_named(pool, machines):
    key = machines.key.read_text()
    other = machines.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    try:
        machines.key.write_text(other.read_text())
        with pytest.raises(HostError, match=r"does not let root in with .*client_key; put the public key in"):
            pool().look("a")
    finally:
        machines.key.write_text(key)


def test_only_the_owner_releases(pool, machines):
    held = pool().claim(wish())
    for other in (wish("future"), wish(replica=1), wish(site="production")):
        assert "is held by indic replica 0 of site lab, so it is left" in pool().release("a", 0, other.owner)
    assert len(machines.claims) == 1
    assert pool().release("a", 0, held.claim.owner) is None
    assert not (machines["a"].lib / "claims/place-0").exists()
    assert pool().release("a", 0, held.claim.owner) == "a/place-0 was free already"


def test_a_claim_that_is_in_no_state_is_taken_over_by_its_own_replica_alone(pool, machines):
    before = pool().claim(wish()).claim
    other = pool().claim(wish("future"))
    assert other.host == "b"
    again = pool().claim(wish(ports=PORTS | {"api": 7200}))
    assert (again.host, again.claim.claimed_at) == ("a", before.claimed_at)
    assert again.warnings[0].summary == "a/place-0 is taken over by indic replica 0 of site lab"
    assert f"already, since {before.claimed_at} by {before.claimed_by}" in again.warnings[0].detail
    assert json.loads(machines.claims["a", "place-0"])["ports"]["api"] == 7200
    assert pool().claim(wish(site="production", ports={"api": 1, "model": 2, "metrics": 3})).host == "c"


def test_a_claim_that_was_cut_short_leaves_a_free_place(pool, machines):
    folder = machines["a"].lib / "claims" / "place-0"
    folder.mkdir(parents=True)
    (folder / "claim.json.new").write_text('{"pack": "fut')
    assert pool().claim(wish()).host == "a"
    assert [path.name for path in folder.iterdir()] == ["claim.json"]


def test_what_is_not_a_claim_is_neither_taken_nor_removed(pool, machines):
    folder = machines["a"].lib / "claims" / "place-0"
    folder.mkdir(parents=True)
    (folder / "claim.json").write_text("not JSON")
    assert pool().claim(wish()).host == "b"
    assert "somebody whose claim.json can't be read" in pool().release("a", 0, wish().owner)
    assert (folder / "claim.json").read_text() == "not JSON"


def test_a_disk_that_takes_no_claim_is_passed_over_and_left_clean(pool, machines, tmp_path):
    claims = machines["a"].lib / "claims"
    claims.mkdir()
    (claims / "place-0").mkdir()
    (claims / "place-0" / "somebody-elses-file").write_text("")
    held = pool().claim(wish())
    assert held.host == "b"
    assert held.warnings[0].summary == "a is passed over"
    assert "has no claim.json but other files" in held.warnings[0].detail
    assert (claims / "place-0" / "somebody-elses-file").exists()


def test_what_a_write_was_decided_on_must_still_be_so(pool, machines):
    hosts = pool()
    mark = hosts.look("a").mark
    claim = hosts._new_claim(wish(), _choice())
    assert pool().claim(wish("future")).host == "a"
    assert hosts._write("take", "a", claim, mark) is False
    assert json.loads(machines.claims["a", "place-0"])["pack"] == "future"
    assert hosts._write("release", "a", claim, mark) is False
    assert len(machines.claims) == 1


def _choice():
    from babelrack.provider.choice import Choice

    return Choice("a", 0, ())


@pytest.mark.parametrize("place", ["../place-0", "place-", "place-0/..", "place-100", "", "."])
def test_a_script_writes_nothing_but_places(pool, machines, place):
    hosts = pool()
    mark = hosts.look("a").mark
    with pytest.raises(HostError, match="there is no place of that name"):
        hosts._remote.run("a", WRITE, loopback.CLAIMS, "take", mark, place, "{}")
    assert not machines.claims


def test_values_reach_a_host_as_they_are(pool, machines, tmp_path):
    bad = f"lab'; touch {tmp_path}/owned; $(touch {tmp_path}/owned) `x` \\ \" é"
    held = pool().claim(wish(site=bad))
    assert json.loads(machines.claims["a", "place-0"])["site"] == bad
    assert pool().release("a", 0, held.claim.owner) is None
    assert not (tmp_path / "owned").exists()


def race(views, rivals):
    """Let the rivals claim at one moment, each in a view of its own, as terraform runs are; what each got, or None."""
    first = views[0]._look_around()
    for view in views:
        view._seen = dict(first)  # everybody saw the pool free, so that all want the same host
    start = threading.Barrier(len(rivals))

    def claim(number):
        start.wait()
        try:
            return views[number].claim(rivals[number])
        except ClaimError:
            return None

    with ThreadPoolExecutor(len(rivals)) as threads:
        return dict(zip((rival.owner for rival in rivals), threads.map(claim, range(len(rivals))), strict=True))


def test_two_packs_that_race_for_a_pool_never_get_one_place(pool, machines):
    rivals = [wish(pack, index) for pack in ("indic", "future") for index in range(2)]
    few = {"c": None, "d": None}
    for _ in range(RACES):
        machines.forget_claims()
        random.shuffle(rivals)
        results = race([pool(**few) for _ in rivals], rivals)
        winners = {owner: held for owner, held in results.items() if held}
        assert sorted(held.host for held in winners.values()) == ["a", "b"], results
        assert len(machines.claims) == 2
        for owner, held in winners.items():
            said = json.loads(machines.claims[held.host, "place-0"])
            assert (said["pack"], said["replica"]) == (owner.pack, owner.replica)


def test_two_packs_with_the_same_ports_never_share_a_host_however_they_race(pool, machines):
    listed = {name: {"places": 2} for name in "ab"} | {"c": None, "d": None}
    for _ in range(5):
        machines.forget_claims()
        rivals = [wish("indic"), wish("future"), wish("nordic")]
        results = race([pool(**listed) for _ in rivals], rivals)
        assert sorted(held.host for held in results.values() if held) == ["a", "b"]
        assert len(machines.claims) == 2


def test_a_claimer_that_is_killed_anywhere_leaves_a_claim_or_a_free_place(pool, machines):
    """The script is cut at random moments; whatever is left, the next look says the truth and the next claim works."""
    environment = {"PATH": os.environ["PATH"]}
    few = {"c": None, "d": None}
    claims = machines["a"].lib / "claims"
    claim, mark = pool()._new_claim(wish("future"), _choice()).to_json(), pool().look("a").mark
    lines = "\n".join([str(claims), "take", mark, "place-0", claim, ""])
    ended = set()
    for attempt in range(16):
        machines.forget_claims()
        script = subprocess.Popen(
            ["sh", "-c", WRITE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,
        )
        with script:
            script.stdin.write(lines)
            script.stdin.close()
            try:
                script.wait(2 * attempt / 1000 if attempt < 15 else 60)
            except subprocess.TimeoutExpired:
                os.killpg(script.pid, 9)
        hosts = pool(**few)
        places = hosts.look("a").places
        assert [place.claim.owner.pack for place in places] in ([], ["future"])
        assert hosts.claim(wish()).host == ("b" if places else "a")
        ended.add(bool(places))
    assert True in ended


def test_a_listing_is_read_under_the_claimers_lock(pool, machines):
    pool().claim(wish())
    lock = machines["a"].lib / "claims" / ".lock"
    with subprocess.Popen(["flock", "-x", lock, "sleep", "60"], start_new_session=True) as holder:
        try:
            look = threading.Thread(target=pool().look, args=("a",), daemon=True)
            look.start()
            look.join(1.5)
            assert look.is_alive(), "it did not wait for the claimer"
        finally:
            os.killpg(holder.pid, 15)
        look.join(30)
        assert not look.is_alive()


def test_a_place_beyond_those_listed_is_not_the_claims_any_more(pool):
    held = pool(a={"places": 2}).claim(wish())
    hosts = pool(a={"places": 1})
    assert hosts.unsuitable("a", 1, wish(), hosts.look("a")) == [
        "it is listed with 1 places now, and place-1 is beyond them"
    ]
    assert hosts.unsuitable(held.host, held.claim.place, wish(), hosts.look("a")) == []


def test_a_place_is_read_only_from_its_own_name():
    assert read_places(["claim place-01 e30=", "claim place-x e30=", "claim place--1 e30="]) == ()
