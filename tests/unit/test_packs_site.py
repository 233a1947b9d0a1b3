"""A site file is checked together with its packs, and says where everything is."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrack.packs.faults import PackError
from babelrack.packs.site import Address, Site, SiteFile, load_site

PROJECT = Path(__file__).parents[2]


def pack(name: str, languages: str, **fields: object) -> dict:
    checkpoint = {"name": f"{name}-all", "url": "hf:a/b", "sha256": "ab" * 32, "languages": languages.split()}
    return {
        "name": name,
        "aggregator": f"multi-{name}",
        "checkpoints": [checkpoint | {"role": "multilingual"}],
    } | fields


PACKS = {
    "one": pack("one", "hi en"),
    "two": pack("two", "es en", ports={"api": 7101, "model": 2234, "metrics": 9091}),
}
SITE = {"packs": ["one", "two"], "routes": {"en": "one"}}


def load(folder: Path, site: dict, packs: dict = PACKS) -> Site:
    (folder / "packs").mkdir(exist_ok=True)
    for name, fields in packs.items():
        (folder / "packs" / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    file = folder / "inventories" / "here" / "site.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(site))
    return load_site(file)


def faults_of(folder: Path, site: dict, packs: dict = PACKS) -> list[str]:
    with pytest.raises(PackError) as caught:
        load(folder, site, packs)
    assert all(fault.file for fault in caught.value.faults)
    return [f"{fault.field} {fault.message}" for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("site", "sentence"),
    [
        ({"routes": {}}, "routes doesn't say which pack serves 'en', which one, two have; add 'en: one' or 'en: two'"),
        ({"routes": {"en": "one", "hi": "two"}}, "routes.hi is 'two', which doesn't cover 'hi' but es, en, multi-two"),
        ({"routes": {"en": "three"}}, "routes.en names the pack 'three', which this site doesn't run"),
        ({"packs": ["one", "tow"]}, "packs[1] is 'tow', which no pack file is named for; did you mean 'two'?"),
        ({"packs": ["one", "one"]}, "packs[1] lists 'one' a second time"),
        ({"packs": []}, "packs is empty; list at least 1"),
        ({"deployments": {"three": {}}}, "deployments.three names the pack 'three', which this site doesn't run"),
        (
            {"deployments": {"two": {"ports": {"api": 7100}}}},
            "deployments.two.ports.api is port 7100 on 127.0.0.1, which deployments.one.ports.api has already",
        ),
        ({"deployments": {"two": {"ports": {"model": 9091}}}}, "deployments.two.ports with the pack's make"),
        ({"deployments": {"two": {"ports": {"apo": 9}}}}, "deployments.two.ports.apo is not a field here"),
        ({"deployments": {"two": {"ports": {"api": 0}}}}, "deployments.two.ports.api is 0; write 1 or more"),
        ({"deployments": {"two": {"host": {"ram_gib": 0}}}}, "deployments.two.host.ram_gib is 0; write 1 or more"),
        ({"deployments": {"two": {"addresses": ["h:1", "i:1"]}}}, "deployments.two.addresses lists 2 for 1 replicas"),
        ({"deployments": {"two": {"addresses": ["h"]}}}, "addresses[0] is 'h'; write host:port"),
        ({"deployments": {"two": {"addresses": ["h;x:1"]}}}, "addresses[0] is 'h;x:1'; write host:port"),
        ({"deployments": {"two": {"addresses": ["h:70000"]}}}, "write a port from 1 to 65535"),
        ({"redis": {"port": 7100}}, "deployments.one.ports.api is port 7100 on 127.0.0.1, which redis.port has"),
        (
            {"gateway": {"listen": 9090}},
            "deployments.one.ports.metrics is port 9090 on 127.0.0.1, which gateway",
        ),
        ({"gateway": {"default_pack": "six"}}, "gateway.default_pack names the pack 'six'"),
        ({"gateway": {"server_name": "a b"}}, "gateway.server_name is 'a b'; write a host name"),
        ({"gateway": {"tls": {"certificate": "x.pem"}}}, "gateway.tls.key is missing; add it: PEM file"),
        ({"gateway": {"tls": {"certificate": "x;y", "key": "z"}}}, "gateway.tls.certificate is 'x;y'; write a path"),
        ({"gatway": {}}, "gatway is not a field here; did you mean 'gateway'?"),
        ({"checkpoint_sources": {"nine": {"url": "file:x"}}}, "checkpoint_sources.nine is for a checkpoint that none"),
        ({"checkpoint_sources": {"*": {"url": "gopher:x"}}}, "checkpoint_sources.*.url is 'gopher:x'"),
        ({"checkpoint_sources": {"*": {"url": "file:x", "sha256": "1"}}}, "write the 64 hexadecimal digits"),
        ({"url_input": {"allowed_networks": ["10.0.0.1/8"]}}, "write a network such as 10.20.0.0/16"),
    ],
)
def test_a_fault_of_a_site_is_named_with_its_fix(tmp_path: Path, site: dict, sentence: str) -> None:
    faults = faults_of(tmp_path, SITE | site)
    assert any(sentence in fault for fault in faults), faults


def test_faults_of_the_site_and_of_its_packs_come_together(tmp_path: Path) -> None:
    packs = PACKS | {"two": PACKS["two"] | {"replicas": 0}, "three": pack("three", "hi")}
    with pytest.raises(PackError) as caught:
        load(tmp_path, SITE | {"packs": ["one", "two", "three"], "gateway": {"default_pack": "six"}}, packs)
    files = {(Path(fault.file or "").name, fault.field) for fault in caught.value.faults}
    assert {("two.yaml", "replicas"), ("site.yaml", "routes"), ("site.yaml", "gateway.default_pack")} <= files


def test_two_packs_may_use_the_same_ports_on_different_hosts(tmp_path: Path) -> None:
    deployments = {
        "one": {"addresses": ["10.0.0.1:7100", "10.0.0.2:7100"], "replicas": 2},
        "two": {"addresses": ["[fd00::3]:7100"], "ports": {"api": 7100, "model": 2233, "metrics": 9090}},
    }
    site = load(tmp_path, SITE | {"deployments": deployments})
    assert list(map(str, site.deployments["one"].addresses)) == ["10.0.0.1:7100", "10.0.0.2:7100"]
    assert site.deployments["two"].addresses == (Address("fd00::3", 7100),)
    deployments["two"]["addresses"] = ["10.0.0.2:7100"]
    assert len(faults_of(tmp_path, SITE | {"deployments": deployments})) == 3


def test_an_override_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    override = {"ports": {"api": 7200}, "host": {"gpus": 4}}
    deployment = load(tmp_path, SITE | {"deployments": {"one": override}}).deployments["one"]
    assert deployment.ports.model_dump() == {"api": 7200, "model": 2233, "metrics": 9090}
    assert deployment.host.model_dump() == {"gpus": 4, "gpu_memory_gib": 0, "ram_gib": 8, "disk_gib": 20}
    assert deployment.addresses == (Address("127.0.0.1", 7200),)
    assert deployment.pack.ports.api == 7100


def test_a_source_replaces_url_and_checksum_and_relative_files_start_at_the_project(tmp_path: Path) -> None:
    sources = {"*": {"url": "file:.cache/a%20b,c"}, "two-all": {"url": "https://store/two.zip", "sha256": "CD" * 32}}
    site = load(tmp_path, SITE | {"checkpoint_sources": sources})
    one, two = (site.deployments[name].pack.model_url(site) for name in ("one", "two"))
    assert one == f"file://{tmp_path}/.cache/a%20b%2Cc#name=one-all&role=multilingual&languages=hi+en"
    assert two == f"https://store/two.zip#name=two-all&role=multilingual&languages=es+en&sha256={'cd' * 32}"
    plain = load(tmp_path, SITE)
    assert f"hf:a/b#name=one-all&role=multilingual&languages=hi+en&sha256={'ab' * 32}" in (
        plain.deployments["one"].pack.model_url(plain)
    )


def test_the_local_site_runs_the_reference_packs_on_one_machine() -> None:
    site = load_site(PROJECT / "inventories" / "local" / "site.yaml")
    assert {name: tuple(deployment.ports.model_dump().values()) for name, deployment in site.deployments.items()} == {
        "indic": (7100, 2233, 9090),
        "western_sea": (7101, 2234, 9091),
        "future": (7102, 2235, 9092),
    }
    assert (site.gateway.address, site.gateway.listen, site.redis.port, site.license_proxy.port) == (
        "127.0.0.1",
        8080,
        16379,
        6699,
    )
    for deployment in site.deployments.values():
        for checkpoint in deployment.pack.checkpoints:
            assert site.source(checkpoint) == (f"file://{PROJECT}/.cache/checkpoints/whisper-base", None)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["one", "en", "*", "a:1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["one", "*", "url", "ports", "tls", "listen", "api"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(SiteFile.model_fields)) | st.text(max_size=5), plain, max_size=8))
def test_no_site_raises_anything_but_a_pack_error(site: dict) -> None:
    for document in (site, SITE | site):
        with contextlib.suppress(PackError):
            SiteFile.model_validate(document)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_an_address_is_read_back_as_it_is_written_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        address = Address.parse(text)
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["10.0.0.1:1", "stt.example.org:65535", "[::1]:7100", "[fd00::3]:80"])
def test_every_kind_of_address_is_read(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_a_sites_speaker_model_is_one_url_with_its_sha256(tmp_path):
    assert load(tmp_path, SITE).speaker_model_url == ""
    site = load(tmp_path, SITE | {"speaker_model": {"url": "file:voices", "sha256": "ab" * 32}})
    assert site.speaker_model_url == f"file://{site.root}/voices#sha256={'ab' * 32}"
    site = load(tmp_path, SITE | {"speaker_model": {"url": "https://store.test/voices/"}})
    assert site.speaker_model_url == "https://store.test/voices/"
