"""A site's life on lab hosts, from nothing to the end of a pack, with requests under way all the time.

The tests follow one another on one site. With `--keep-site` it stays up and is found again, so that a test can be run
alone.
"""

import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from lab import Lab

import lab_site
import speech
from figures import Figures
from lab_site import INDIC_GRACE_S, LabSite, changed, copy_of_project, units_of
from traffic import SHORT_PAUSE_S

KEPT = "kept-site"
# All of it, beside the other tests on hosts.
LONGEST_S = 58 * 60

# A roll takes minutes, everything from nothing up to ten beside other tests.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def figures(request):
    figures = Figures()
    yield figures
    if (file := request.config.getoption("--figures")) and figures.rows:
        figures.write(Path(file))


def seconds_left():
    """Where a run has an end (`BABELRACK_TESTS_UNTIL`, seconds since 1970), how long it has still."""
    return float(os.environ.get("BABELRACK_TESTS_UNTIL", "inf")) - time.time()


@pytest.fixture(autouse=True)
def in_time():
    """No test begins after the run's end."""
    if seconds_left() < 0:
        pytest.skip("this run's time is over; `make site` runs these tests alone")


@pytest.fixture(scope="module")
def site(request, make_lab, lab_or_skip, tmp_path_factory):
    if seconds_left() < LONGEST_S:
        pytest.skip("this machine is too slow for them in the time that the run has left; `make site` runs them alone")
    if not request.config.getoption("--keep-site"):
        site = LabSite(make_lab("site"), tmp_path_factory.mktemp("site") / "project")
        site.make()
        yield site
        return
    lab = Lab(KEPT, say=print)
    with lab_or_skip():
        lab.up(lab_site.HOSTS, lab_site.SUITES)
    site = LabSite(lab, lab_site.ROOT / ".babelrack" / KEPT)
    if not site.serves:
        site.make()
    yield site


@pytest.fixture(scope="module")
def neighbour(site):
    """A client of western_sea that never stops: whatever is done to indic, none of its requests may be lost."""
    with site.traffic("western_sea") as traffic:
        traffic.wait(1)
        before = site.units("western_sea")
        yield traffic
        after = site.units("western_sea")
    assert after == before
    assert set(traffic.count()) == {"answered"}


@pytest.fixture
def untouched(neighbour, figures):
    """Does something, and sees that western_sea's client had all its answers meanwhile."""

    @contextlib.contextmanager
    def untouched(what):
        began = time.time()
        yield began
        neighbour.wait(2)
        figures.add(what, "western_sea", neighbour.count(began))
        assert set(neighbour.count(began)) == {"answered"}, neighbour.since(began)

    return untouched


def test_from_nothing_to_transcripts(site):
    for name in ("en-3s-a", "en-11s-a", "id-11s-a"):
        answer = site.ask(name)
        assert answer.kind == "answered", answer
        assert speech.score([speech.clip(name).text], [answer.said]).wer < 0.25, answer.said


def test_a_second_run_of_everything_changes_nothing(site):
    for root in ("shared", "packs/indic", "packs/western_sea"):
        assert site.plan_is_empty(root), root
    before = {pack: site.units(pack) for pack in ("indic", "western_sea")}
    recap = changed(site.play("site.yml"))
    assert len(recap) > lab_site.HOSTS - 1
    assert set(recap.values()) == {0}, recap
    assert {pack: site.units(pack) for pack in ("indic", "western_sea")} == before


def test_the_doctor_finds_nothing_on_a_site_that_is_well(site):
    code, findings = site.doctor()
    assert [finding for finding in findings if finding["severity"] == "error"] == []
    assert code in (0, 1)


def test_a_pack_grows(site, untouched):
    site.replicas("indic", 1)
    with untouched("indic is scaled from 1 to 2"):
        site.babelrack("scale", "indic", "2")
    assert len(site.hosts("indic")) == 2
    assert set(site.claims().values()) == {"indic", "western_sea"}
    assert site.plan_is_empty("packs/western_sea")


def test_only_the_allowed_ports_answer(site):
    site.replicas("indic", 2)
    address = {host.name: host.address for host in site.lab.hosts}
    replicas = {host.name for pack in ("indic", "western_sea") for host in site.hosts(pack)}

    def scan(source):
        others = [target for name, target in address.items() if name != source.name]
        done = source.run(["/usr/bin/python3", "-", *others], stdin=SCAN, timeout=300, check=True)
        found = (line.split() for line in done.stdout.splitlines())
        return {target: {int(port) for port in ports} for target, *ports in found}

    with ThreadPoolExecutor(len(address)) as pool:
        open_from = dict(zip(address, pool.map(scan, site.lab.hosts), strict=True))
    for source, targets in open_from.items():
        for name in address:
            if name == source:
                continue
            must, may = {22}, set()
            if name == lab_site.GATEWAY:
                must |= {8080}
            if name in replicas and source in {lab_site.GATEWAY, lab_site.SHARED}:
                must |= {7100}
            if name == lab_site.SHARED and source in replicas:
                must |= {6379, 6699}
            if source == lab_site.SHARED:
                # What Prometheus asks.
                may |= {9100} | ({9090} if name in replicas else set())
            answering = targets[address[name]]
            assert must <= answering <= must | may, f"{source} → {name}: {sorted(answering)}"


# Every TCP port of every address: a SYN each, twice, as frames of its own, so that no firewall of the source has a say;
# what is dropped is silent. What answers is connected to.
SCAN = """
import errno, random, socket, struct, sys, time

PORTS = range(1, 65536)

def ones(data):
    return sum(struct.unpack(f"!{len(data) // 2}H", data))

def checksum(total):
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def connects(address, port):
    try:
        with socket.create_connection((address, port), 5) as found:
            return found.getsockname()[0]
    except OSError:
        return None

def scan(address):
    source = connects(address, 22)
    fields = next(line.split() for line in open("/proc/net/arp") if line.startswith(address + " "))
    hardware = (fields[5], 0x0800, 0, 0, bytes.fromhex(fields[3].replace(":", "")))
    here, there = socket.inet_aton(source), socket.inet_aton(address)
    head = struct.pack("!BBHHHBB", 0x45, 0, 40, 0, 0x4000, 64, 6)
    head += struct.pack("!H", checksum(ones(head + here + there))) + here + there
    own = random.randrange(20000, 30000)
    tail = struct.pack("!IIBBH", 1, 0, 0x50, 2, 1024)
    known = ones(here + there + tail) + own + 6 + 20
    found = set()
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
    wire.bind((fields[5], 0x0800))
    wire.setblocking(False)

    def listen():
        while True:
            try:
                packet = wire.recv(64)
            except BlockingIOError:
                return
            if len(packet) >= 40 and packet[9] == 6 and packet[12:16] == there:
                port, to = struct.unpack("!HH", packet[20:24])
                if to == own and packet[33] & 0x12 == 0x12:
                    found.add(port)

    for ports in (PORTS, reversed(PORTS)):
        for port in ports:
            frame = head + struct.pack("!HH", own, port) + tail + struct.pack("!HH", checksum(known + port), 0)
            while True:
                try:
                    wire.sendto(frame, hardware)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                        raise
                    time.sleep(0.001)
            if port % 128 == 0:
                listen()
        until = time.monotonic() + 1
        while time.monotonic() < until:
            listen()
            time.sleep(0.05)
    wire.close()
    return sorted(found)

for address in sys.argv[1:]:
    print(address, *filter(lambda port: connects(address, port), scan(address)))
"""


def test_a_good_roll_loses_no_request_of_two_replicas(site, untouched, figures, tmp_path):
    replicas = site.replicas("indic", 2)
    before = site.units("indic")
    # Another release and another list of checkpoints, in one roll.
    site.build(copy_of_project(tmp_path, f"Release of {time.time():.0f}."))
    site.edit_pack("indic", lambda pack: pack.update(checkpoints=pack["checkpoints"][-1:]))
    what = "indic (2) is rolled: another release, another list of checkpoints"
    with untouched(what), site.traffic("indic", 2) as traffic, site.sessions("indic") as sessions:
        site.babelrack("apply", "indic")
        traffic.wait(2)
    figures.add(what, "indic", traffic.count())
    figures.add(what, "indic, live sessions", sessions.count())
    assert set(traffic.count()) == {"answered"}, traffic.since()
    assert set(sessions.count()) == {"answered"}, sessions.since()
    after = site.units("indic")
    assert all(after[host.name] != before[host.name] for host in replicas)
    assert site.plan_is_empty("packs/western_sea")


def test_rollback_is_one_command(site, untouched, figures):
    replicas = site.replicas("indic", 2)
    current = "readlink -f /opt/babelrack/current/indic"
    previous = "readlink -f /opt/babelrack/previous/indic"
    was = [(host.run(current).stdout, host.run(previous).stdout) for host in replicas]
    with untouched("indic (2) goes back to the release before"), site.traffic("indic", 2) as traffic:
        site.babelrack("rollback", "indic")
        traffic.wait(2)
    figures.add("indic (2) goes back to the release before", "indic", traffic.count())
    assert set(traffic.count()) == {"answered"}, traffic.since()
    assert [(host.run(previous).stdout, host.run(current).stdout) for host in replicas] == was
    # The one that it went back to is the newest again: what is applied from now on must not roll it forward.
    site.build(lab_site.ROOT)


@pytest.mark.parametrize(
    ("what", "source", "said"),
    [
        ("a checkpoint that isn't there", "/srv/babelrack/checkpoints/nothing", "Nothing was touched."),
        ("a checkpoint that loads and fails its canary", "/srv/babelrack/checkpoints/deaf", "came back wrong"),
    ],
)
def test_a_bad_roll_is_stopped_and_the_pack_serves_on(site, untouched, figures, what, source, said):
    replicas = site.replicas("indic", 2)
    before = site.units("indic")
    running = {host.name: host.run("readlink /opt/babelrack/current/indic").stdout for host in replicas}
    name = f"indic (2) is given {what}"
    site.edit_site(lambda content: content["checkpoint_sources"].update({"indic-multi": {"url": f"file://{source}"}}))
    try:
        with untouched(name), site.traffic("indic", 2) as traffic:
            output = site.babelrack("apply", "indic", code=1)
            traffic.wait(2)
    finally:
        site.edit_site(lambda content: content["checkpoint_sources"].pop("indic-multi", None))
    assert said in " ".join(output.split())
    figures.add(name, "indic", traffic.count())
    assert set(traffic.count()) == {"answered"}, traffic.since()
    same = [name for name, unit in site.units("indic").items() if unit == before[name]]
    # The first replica may have been tried; who comes after it is never touched.
    assert replicas[-1].name in same
    if said == "Nothing was touched.":
        assert len(same) == 2
    assert {host.name: host.run("readlink /opt/babelrack/current/indic").stdout for host in replicas} == running


def hit(site, figures, untouched, what, fault, mend, *, clients=4, stands=20.0):
    """Have a fault under load and take it away: every request has an answer or a clean refusal, then all is well."""
    with untouched(what), site.traffic("indic", clients, SHORT_PAUSE_S) as traffic:
        traffic.wait(4)
        fault()
        try:
            time.sleep(stands)
        finally:
            mend()
        traffic.wait(8, seconds=120)
    figures.add(what, "indic", traffic.count())
    assert traffic.count()["lost"] == 0, [answer for answer in traffic.since() if answer.kind == "lost"]
    return traffic


@pytest.mark.parametrize("unit", ["asr", "api-server"])
def test_a_killed_process_costs_clean_refusals_at_most(site, untouched, figures, unit):
    host = site.replicas("indic", 2)[1]
    name = {"asr": "model server", "api-server": "API server"}[unit]

    hit(
        site, figures, untouched, f"the {name} of one of indic's two replicas is killed",
        lambda: host.run(f"systemctl kill --signal KILL {unit}@indic", check=True), lambda: healthy(host), stands=0,
    )  # fmt: skip


@pytest.mark.parametrize("unit", ["asr", "api-server"])
def test_a_live_session_goes_on_when_its_replica_is_lost(site, untouched, figures, unit):
    replicas = site.replicas("indic", 2)
    name = {"asr": "model server", "api-server": "API server"}[unit]
    what = f"the {name} of one of two replicas is killed under live sessions"
    with untouched(what), site.sessions("western_sea") as calm, site.sessions("indic", 2) as sessions:
        sessions.wait(2, seconds=120)
        until = time.monotonic() + 60
        while not (speaking := [host for host in replicas if live_sessions(host)]):
            assert time.monotonic() < until
        host = speaking[0]
        time.sleep(2)
        killed = time.time()
        host.run(f"systemctl kill --signal KILL {unit}@indic", check=True)
        sessions.wait(2, killed, seconds=120)
        calm.wait(1, killed, seconds=120)
    healthy(host)
    figures.add(what, "indic", sessions.count())
    assert set(calm.count()) == {"answered"}, calm.since()
    assert not any(answer.complaint for answer in calm.since())
    assert sessions.count()["lost"] == 0, sessions.since()
    assert any("goes on" in answer.complaint for answer in sessions.since())


@pytest.mark.parametrize(
    ("how", "name"),
    [("pause", "stands still for 20 s"), ("partition", "is cut off for 20 s"), ("kill", "loses its power")],
)
def test_a_machine_that_goes_away_loses_no_request(site, untouched, figures, how, name):
    host = site.replicas("indic", 2)[1]
    hit(
        site, figures, untouched, f"the machine of one of indic's two replicas {name}",
        lambda: host.break_(how), lambda: host.mend(how),
    )  # fmt: skip
    healthy(host)


def test_a_full_disk_stops_nothing_that_serves(site, untouched, figures):
    host = site.replicas("indic", 2)[1]
    traffic = hit(
        site, figures, untouched, "the disk of one of indic's two replicas is full for 20 s",
        lambda: host.break_("disk-full"), lambda: host.mend("disk-full"),
    )  # fmt: skip
    assert traffic.count()["answered"] > 0
    healthy(host)


def live_sessions(host):
    """How many there are at a replica of indic."""
    lines = asked(host, "metrics").stdout.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("api_live_sessions "))


def asked(host, path):
    """What a replica of indic answers on its own host."""
    ask = (
        f"import urllib.request as u; print(u.urlopen('http://{host.address}:7100/{path}', timeout=5).read().decode())"
    )
    return host.run(["/usr/bin/python3", "-c", ask])


def healthy(host, seconds=120):
    """Wait until a replica of indic says so itself."""
    until = time.monotonic() + seconds
    while '"status":"healthy"' not in (said := asked(host, "health")).stdout:
        assert time.monotonic() < until, f"{host.name}: {said.stderr[-500:]}"
        time.sleep(1)


def test_the_gateway_is_reloaded_under_streaming_uploads(site, neighbour, figures):
    body = speech.clip("en-11s-a.flac").path.read_bytes()

    def slowly():
        step = len(body) // 12
        for start in range(0, len(body), step):
            yield body[start : start + step]
            time.sleep(1)

    began = time.time()
    gateway = site.lab.host(lab_site.GATEWAY)
    answers = []

    def upload(_):
        headers = {"Authorization": f"Bearer {neighbour.key}", "Content-Type": "audio/flac"}
        url = f"{site.gateway}/waves/v1/pulse/get_text"
        return httpx.post(url, params={"language": "en"}, content=slowly(), headers=headers, timeout=120)

    with ThreadPoolExecutor(4) as pool:
        uploads = pool.map(upload, range(4))
        for _ in range(3):
            time.sleep(3)
            gateway.run("systemctl reload nginx", check=True)
        answers = list(uploads)
    assert [answer.status_code for answer in answers] == [200] * 4
    neighbour.wait(2)
    count = neighbour.count(began)
    count["answered"] += len(answers)
    figures.add("the gateway is reloaded three times under four uploads that take 12 s", "both", count)
    assert set(count) == {"answered"}


def test_the_shared_host_is_off_for_two_minutes(site, neighbour, figures):
    replicas = site.replicas("indic", 2)
    shared = site.lab.host(lab_site.SHARED)
    began = time.time()
    what = "the shared host is off for two minutes"
    with site.traffic("indic", pause_s=SHORT_PAUSE_S) as traffic:
        traffic.wait(2)
        shared.break_("kill")
        try:
            time.sleep(120)
        finally:
            shared.mend("kill")
        # What was refused past indic's short grace is answered again, without anybody's help.
        traffic.wait(4, seconds=120)
        for host in replicas:
            healthy(host)
    neighbour.wait(2)
    figures.add(f"{what}, less than its grace", "western_sea", neighbour.count(began))
    figures.add(f"{what}, indic's grace is {INDIC_GRACE_S} s", "indic", traffic.count())
    assert set(neighbour.count(began)) == {"answered"}
    assert traffic.count()["lost"] == 0
    refused = [answer for answer in traffic.since() if answer.kind == "refused"]
    assert refused
    assert min(answer.sent for answer in refused) > began + INDIC_GRACE_S / 2
    assert {"licence" in answer.said for answer in refused} == {True}


def test_a_pack_shrinks(site, untouched):
    first = site.replicas("indic", 2)[0]
    before = units_of(first, "indic")
    with untouched("indic is scaled from 2 to 1"), site.traffic("indic") as traffic:
        site.babelrack("scale", "indic", "1")
        traffic.wait(2)
    assert set(traffic.count()) == {"answered"}, traffic.since()
    assert [host.name for host in site.hosts("indic")] == [first.name]
    assert units_of(first, "indic") == before
    assert list(site.claims().values()).count("indic") == 1


def test_a_pack_leaves_and_only_it(site, untouched):
    with untouched("indic is destroyed"):
        site.babelrack("destroy", "indic")
    assert set(site.claims().values()) == {"western_sea"}
    answer = site.ask("en-3s-a")
    assert answer.status == 400
    assert "en" in answer.said
    assert site.plan_is_empty("packs/western_sea")
    gone = [host for host in site.lab.hosts if units_of(host, "indic").count("MainPID=0") == 2]
    assert len(gone) == len(site.lab.hosts)


def test_it_comes_back_and_never_onto_a_host_whose_claim_is_in_no_state(site, untouched):
    if site.hosts("indic"):
        site.babelrack("destroy", "indic")
    # The first that would be taken.
    free = next(host for host in site.lab.hosts if host.name not in {lab_site.SHARED, lab_site.GATEWAY, *site.claims()})
    claim = "/var/lib/babelrack/claims/place-0"
    held = site.hosts("western_sea")[0].run(f"cat {claim}/claim.json", check=True).stdout
    leaked = json.dumps(json.loads(held) | {"pack": "indic", "replica": 7})
    free.run(f"mkdir -p {claim} && cat > {claim}/claim.json", stdin=leaked, check=True)
    try:
        findings = site.doctor()[1]
        assert any(free.name in str(finding) and "claim" in finding["check"] for finding in findings), findings
        with untouched("indic is applied again"):
            site.babelrack("apply", "indic")
    finally:
        free.run(f"rm -r {claim}", check=True)
    assert free.name not in [host.name for host in site.hosts("indic")]
    assert site.ask("en-3s-a").kind == "answered"
