"""Gathering: what a host's probe sees and says, the gateway, certificates, licences, and the ssh command line."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from babelrack.fleet import FleetError, gathering, host_probe
from babelrack.fleet.facts import ClaimFacts
from babelrack.licensing.document import generate_signing_key, issue
from babelrack.packs.pool import load_pool
from babelrack.packs.site import load_site
from babelrack.packs.ssh import ssh_command

GOOD_CLAIM = {"pack": "indic", "site": "lab", "replica": 0, "place": 0, "gpu_ids": [0], "claimed_by": "op@control"}


@pytest.fixture
def server():
    """Answers any path with the JSON and status that were set for it."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_):
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    running.answers = answers
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def host(tmp_path):
    """The file system of a host that carries indic."""
    folder = tmp_path / "etc/babelrack/packs/indic"
    folder.mkdir(parents=True)
    (tmp_path / "var/lib/babelrack/claims").mkdir(parents=True)
    (tmp_path / "opt/babelrack/current").mkdir(parents=True)
    (tmp_path / "opt/babelrack/current/indic").symlink_to("../releases/0.1.0-abc")
    return tmp_path


def write_settings(host, port):
    folder = host / "etc/babelrack/packs/indic"
    (folder / "model.env").write_text(
        f"# written by Ansible\nPORT={port}\nDEPLOYMENT_NAME=indic\nMODEL_URL='file:///x#name=a&languages=hi+ta'\n"
        "LICENSE_KEY=swordfish\n"
    )
    (folder / "api.env").write_text(f'HOST=0.0.0.0\nAPI_SERVER_PORT="{port}"\nREDIS_URL=redis://api:swordfish@x\n')


def seen(host):
    said = json.loads(json.dumps(host_probe.look(host)))
    return gathering.parse_host("gpu-1", "10.0.0.1", said, began=said["began"], ended=said["ended"])


def test_the_probe_asks_both_servers_where_their_settings_say(host, server):
    write_settings(host, server.server_port)
    server.answers["/health"] = 503, {"status": "starting", "deployment": "indic"}
    server.answers["/health?verbose=true"] = 200, {"status": "healthy", "deployment": "indic"}
    pair = seen(host).pairs["indic"]
    assert (pair.model.health, pair.model.status) == ("starting", 503)
    assert (pair.api.health, pair.api.body["deployment"]) == ("healthy", "indic")
    assert pair.model_environment["MODEL_URL"] == "file:///x#name=a&languages=hi+ta"
    assert pair.release == "0.1.0-abc"


def test_no_secret_leaves_the_host(host, server):
    write_settings(host, server.server_port)
    assert "swordfish" not in json.dumps(host_probe.look(host))


@pytest.mark.parametrize("body", [b"<html>", b""])
def test_a_server_that_answers_with_something_else_is_told(host, server, body):
    write_settings(host, server.server_port)
    server.answers["/health"] = 200, body
    model = seen(host).pairs["indic"].model
    assert (model.health, model.reason) == ("unreachable", "answers with something that isn't JSON")


def test_a_server_that_is_down_is_told(host, server):
    write_settings(host, server.server_port)
    server.shutdown()
    server.server_close()
    assert seen(host).pairs["indic"].api.reason == "doesn't answer (Connection refused)"


def test_claims_are_seen_with_their_owners(host):
    claims = host / "var/lib/babelrack/claims"
    for place, text in ((0, json.dumps(GOOD_CLAIM)), (1, "{"), (2, None), (3, "[]")):
        (claims / f"place-{place}").mkdir()
        if text is not None:
            (claims / f"place-{place}" / "claim.json").write_text(text)
    (claims / "lost+found").mkdir()
    assert seen(host).claims == (
        ClaimFacts(0, "indic", "lab", 0, "op@control"),
        ClaimFacts(1),
        # place 2 has no claim: it is free
        ClaimFacts(3),
    )


def test_the_probe_runs_on_a_bare_python_and_prints_one_json(host):
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-I", "-"],
        input=Path(host_probe.__file__).read_bytes(),
        capture_output=True,
        env=environment,
        check=True,
    )
    said = json.loads(done.stdout)
    assert said["ended"] >= said["began"]
    assert said["file_systems"][0]["path"] == "/"


@pytest.mark.parametrize(
    ("there", "here", "ahead"),
    [
        ((100.5, 100.9), (100.0, 101.0), 0),  # within our own interval: nothing is certain
        ((100.0, 130.0), (100.0, 110.0), 20),
        ((90.0, 90.4), (100.0, 101.0), -10),
    ],
)
def test_only_what_is_certain_about_a_clock_is_told(there, here, ahead):
    said = {"began": there[0], "ended": there[1], "file_systems": [], "claims": [], "packs": {}, "license_proxy": None}
    said["drained"] = ["10.0.0.2:7100"]
    assert gathering.parse_host("a", "10.0.0.1", said, began=here[0], ended=here[1]).clock_ahead_s == ahead


@pytest.fixture
def site(tmp_path):
    def make(port, pool="hosts: {gw: {address: 127.0.0.1, ram_gib: 1, disk_gib: 1}}"):
        folder = tmp_path / "p/inventories/lab"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p/packs").mkdir(exist_ok=True)
        (tmp_path / "p/packs/sea.yaml").write_text(
            "name: sea\naggregator: multi-sea\n"
            'checkpoints: [{name: sea, role: multilingual, languages: [id], url: "file:///store/sea"}]\n'
        )
        (folder / "site.yaml").write_text(
            f"packs: [sea]\nfleet: {{shared: gw, gateway: gw}}\ngateway: {{listen: {port}}}\n"
        )
        (folder / "hosts.yaml").write_text(pool)
        return load_site(folder / "site.yaml"), load_pool(folder / "hosts.yaml"), folder

    return make


def test_the_gateways_map_is_the_one_that_it_serves(site, server):
    document = {"languages": {"id": "sea"}, "aggregators": {"multi-sea": "sea"}, "packs": {}, "default_pack": None}
    server.answers["/routes.json"] = 200, document
    answer, routes, certificate = gathering.look_at_gateway(site(server.server_port)[0], "127.0.0.1")
    assert (answer.error, routes, certificate) == ("", {"id": "sea", "multi-sea": "sea"}, None)


@pytest.mark.parametrize("answer", [(404, {}), (200, b"hello"), (200, {"languages": None})])
def test_a_gateway_without_a_map_is_told(site, server, answer):
    server.answers["/routes.json"] = answer
    told, routes, _ = gathering.look_at_gateway(site(server.server_port)[0], "127.0.0.1")
    assert told.error
    assert routes is None


def test_a_licence_is_told_with_its_end(tmp_path):
    key = generate_signing_key()
    file, public_key = tmp_path / "license.jws", tmp_path / "license-public.pem"
    assert gathering.look_at_license(file, public_key) is None
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    file.write_text(
        issue(
            customer="Acme",
            languages=None,
            seats=1,
            not_before=ends - timedelta(days=9),
            expires=ends,
            license_key_sha256="0" * 64,
            signing_key=key,
        )
    )
    assert gathering.look_at_license(file, public_key).ends == ends
    public_key.write_bytes(generate_signing_key().as_pem(private=False))
    assert "another issuer" in gathering.look_at_license(file, public_key).fault


def test_a_host_that_is_not_reached_leaves_the_others_their_facts(site, server):
    pool = "\n".join(
        [
            "ssh: {known_hosts: inventories/lab/known_hosts}",
            "hosts:",
            "  gw: {address: 127.0.0.1, ssh_port: 1, ram_gib: 1, disk_gib: 1}",
        ]
    )
    checked, pool, folder = site(server.server_port, pool)
    facts = gathering.gather(checked, pool, folder)
    assert "Connection refused" in facts.hosts["gw"].fault
    assert facts.states == {"sea": ()}
    assert facts.gaps == ()


def test_a_fleet_that_names_a_host_which_the_pool_has_not_is_refused(site):
    checked, pool, folder = site(1, "hosts: {other: {address: 127.0.0.1, ram_gib: 1, disk_gib: 1}}")
    with pytest.raises(FleetError, match="has no host 'gw', which the site's fleet names"):
        gathering.gather(checked, pool, folder)


def test_host_keys_are_always_checked_and_nothing_of_the_pool_is_an_option(site):
    text = "\n".join(
        [
            "ssh: {user: operator, port: 2222, private_key: keys/id, known_hosts: known hosts}",
            "hosts: {gw: {address: 10.0.0.1, ssh_port: 2022, ram_gib: 1, disk_gib: 1}}",
        ]
    )
    _, pool, _ = site(1, text)
    command = ssh_command(pool, pool.hosts["gw"], connect_timeout_s=6)
    assert "StrictHostKeyChecking=yes" in command
    assert f'UserKnownHostsFile="{pool.root}/known hosts"' in command
    assert command[command.index("-p") + 1] == "2022"
    assert command[command.index("-i") + 1] == f"{pool.root}/keys/id"
    assert command[-4:] == ["-l", "operator", "--", "10.0.0.1"]
