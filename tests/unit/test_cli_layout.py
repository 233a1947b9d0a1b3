"""From a site file to the processes of a rack."""

import os
from pathlib import Path

import httpx
import pytest

from babelrack.keys import KeyFile
from babelrack.licensing.document import key_sha256, load_public_key, verify
from babelrack.local import RackError
from babelrack.local.checks import check
from babelrack.local.layout import Blueprint, local_site, setting
from babelrack.local.redis import redis_config
from babelrack.local.secrets import Secrets
from babelrack.local.service import Role
from babelrack.local.state import StateFolder
from babelrack.packs.site import load_site
from rack import PROJECT, write_site

SITE = PROJECT / "inventories/local/site.yaml"


@pytest.fixture
def layout(tmp_path):
    def make(packs=(), *, site=SITE, threads=None, settings=None):
        chosen = local_site(load_site(site), packs)
        state = StateFolder(tmp_path / "rack")
        return Blueprint(
            chosen, state, httpx.AsyncClient(verify=False, trust_env=False), threads=threads, settings=settings or {}
        ).layout()

    return make


def named(layout, name):
    return next(service for service in layout.services if service.name == name)


def test_each_pack_has_its_own_pair_and_the_rest_is_shared(layout):
    names = [service.name for service in layout(["indic", "future"]).services]
    assert names == [
        "redis", "license-proxy", "asr@indic", "api-server@indic", "asr@future", "api-server@future", "nginx",
    ]  # fmt: skip


def test_the_pair_knows_itself(layout):
    rack = layout(["future"])
    model, api = named(rack, "asr@future").environment, named(rack, "api-server@future").environment
    assert model["DEPLOYMENT_NAME"] == api["DEPLOYMENT_NAME"] == "future"
    assert model["AGGREGATOR"] == api["AGGREGATOR"] == rack.site.deployments["future"].pack.aggregator
    assert api["ASR_BASE_URL"] == f"http://127.0.0.1:{model['PORT']}"
    assert api["API_SERVER_PORT"] != model["PORT"] != model["METRICS_PORT"]
    assert model["MODEL_URL"].startswith(f"file://{PROJECT}/.cache/checkpoints/whisper-base#name=future-multi")


def test_the_cores_are_shared_out_among_model_servers_and_each_has_one(layout, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert named(layout(["indic", "future"]), "asr@indic").environment["THREADS"] == "4"
    assert named(layout(), "asr@indic").environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    few = named(layout(), "asr@indic").environment
    assert (few["THREADS"], few["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")
    assert named(layout(threads=3), "asr@indic").environment["THREADS"] == "3"


def test_servers_inherit_neither_secrets_nor_settings_that_were_meant_for_something_else(layout, monkeypatch):
    for name in ("PORT", "HOST", "LICENSE_KEY", "DATABASE_URL", "HF_TOKEN", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "from-outside")
    rack = layout(["indic"])
    for service in rack.services:
        outside = {name for name, value in service.environment.items() if value == "from-outside"}
        assert outside == ({"HF_TOKEN", "SSL_CERT_FILE"} if service.role is Role.MODEL_SERVER else {"SSL_CERT_FILE"})


def test_a_setting_reaches_every_server_of_its_role_and_no_other(layout):
    role, name, value = setting("api_server.max_queue=0")
    rack = layout(["indic", "future"], settings={role: {name: value}})
    assert {service.role for service in rack.services if "MAX_QUEUE" in service.environment} == {Role.API_SERVER}


@pytest.mark.parametrize("text", ["", "THREADS=1", "model_server.=1", "model_server.THREADS", "torch.N=1", "=", "."])
def test_a_setting_that_is_written_wrongly_is_refused(text):
    with pytest.raises(RackError, match=r"write ROLE\.NAME=VALUE"):
        setting(text)


def test_a_pack_that_the_site_does_not_have_is_refused_with_those_it_has(layout):
    with pytest.raises(RackError, match="has no pack 'nordic'; its packs are indic, western_sea, future"):
        layout(["nordic"])


def test_a_pack_that_runs_elsewhere_is_not_started_here(tmp_path):
    site = write_site(["future"], tmp_path, deployments={"future": {"addresses": ["10.20.0.11:7100"]}})
    with pytest.raises(RackError, match="future has no replica on this machine"):
        local_site(load_site(site), [])


def test_routes_and_default_of_packs_that_are_not_started_are_left_out(tmp_path):
    gateway = {"address": "127.0.0.1", "listen": 8080, "default_pack": "indic"}
    site = load_site(write_site(["indic", "future"], tmp_path, gateway=gateway, routes={"hi": "indic", "es": "future"}))
    assert local_site(site, ["future"]).gateway.default_pack is None
    assert local_site(site, ["future"]).routes == {"es": "future"}
    assert local_site(site, ["indic"]).gateway.default_pack == "indic"


def test_a_shared_service_that_is_elsewhere_is_used_and_not_started(layout, tmp_path):
    site = write_site(["future"], tmp_path, redis={"address": "shared.example", "port": 6379})
    rack = layout(site=site)
    assert "redis" not in [service.name for service in rack.services]
    assert named(rack, "api-server@future").environment["REDIS_URL"] == "redis://shared.example:6379/0"


def test_a_port_that_two_services_need_is_named(layout):
    rack = layout(["future"])
    doubled = type(rack)(rack.site, rack.state, rack.secrets, (rack.services[0], rack.services[0]), "", rack.nginx)
    with pytest.raises(RackError, match="is needed by redis and by redis"):
        check(doubled)


def test_secrets_are_made_once_kept_private_and_fit_together(tmp_path):
    from datetime import UTC, datetime

    secrets = Secrets(tmp_path / "secrets")
    secrets.make("demo")
    before = {file.name: file.read_text() for file in secrets.folder.iterdir()}
    assert {file.stat().st_mode & 0o077 for file in secrets.folder.iterdir()} == {0}
    licence = verify(secrets.license.read_text(), load_public_key(secrets.license_public_key), datetime.now(UTC))
    assert licence.key_sha256 == key_sha256(secrets.license_key.read_text().strip())
    assert licence.languages is None
    key = secrets.client_key.read_text().strip()
    assert KeyFile(secrets.keys).find(key).name == "local"
    assert secrets.client_header.read_text() == f"Authorization: Bearer {key}\n"
    secrets.make("demo")
    assert {file.name: file.read_text() for file in secrets.folder.iterdir()} == before


def test_redis_is_bounded_keeps_nothing_and_asks_for_the_password(tmp_path):
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    lines = redis_config("127.0.0.1", 6379, Path('/a "b" folder'), password).splitlines()
    assert 'requirepass "s3cret"' in lines
    assert 'save ""' in lines
    assert 'appendonly "no"' in lines
    assert 'dir "/a \\"b\\" folder"' in lines
    assert any(line.startswith("maxmemory ") for line in lines)
