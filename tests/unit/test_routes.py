"""The routes are one flat map, however they are written."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

from babelrack.cli.packs import app as packs_app
from babelrack.cli.routes import routes as routes_command
from babelrack.packs.faults import PackError
from babelrack.packs.gateway import StandalonePaths, pack_server_name, render_nginx
from babelrack.packs.languages import LANGUAGES
from babelrack.packs.routes import Routes
from babelrack.packs.site import Address, Site, load_site

PROJECT = Path(__file__).parents[2]
LOCAL = PROJECT / "inventories" / "local" / "site.yaml"
routes_app = Typer()
routes_app.command()(routes_command)


def site_of(folder: Path, packs: dict[str, str], **fields: object) -> Site:
    """A site whose packs serve the given languages, each on a host of its own."""
    (folder / "packs").mkdir(exist_ok=True)
    for name, languages in packs.items():
        checkpoint = {"name": name.replace("_", "-"), "url": "hf:a/b", "languages": languages.split()}
        checkpoints = [checkpoint | {"role": "multilingual"}]
        aggregator = f"multi-{name.replace('_', '-')}"
        pack = {"name": name, "aggregator": aggregator, "checkpoints": checkpoints}
        (folder / "packs" / f"{name}.yaml").write_text(yaml.safe_dump(pack))
    hosts = {name: {"addresses": [f"10.0.{n}.1:7100"]} for n, name in enumerate(packs)}
    site = {"packs": list(packs), "deployments": hosts, "packs_dir": "packs"} | fields
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return load_site(folder / "site.yaml")


@pytest.fixture
def routes(tmp_path: Path) -> Routes:
    return Routes.from_site(site_of(tmp_path, {"one": "hi en", "two": "es en"}, routes={"en": "two"}))


def test_a_code_goes_to_the_pack_that_has_it_and_a_shared_one_where_the_site_says(routes: Routes) -> None:
    assert routes.languages == {"hi": "one", "es": "two", "en": "two"}
    assert routes.aggregators == {"multi-one": "one", "multi-two": "two"}
    assert routes.urls("en") == ("http://10.0.1.1:7100",)
    assert routes.urls("multi-one") == ("http://10.0.0.1:7100",)


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("fr", "no pack serves 'fr'; routed are hi, es, en, multi-one, multi-two"),
        ("hindi", "'hindi' is not a language code that Whisper knows; write 'hi' (Hindi)"),
        (None, "no language was given; give one of hi, es, en, multi-one, multi-two"),
    ],
)
def test_what_is_not_routed_is_answered_with_what_is(routes: Routes, language: str | None, sentence: str) -> None:
    with pytest.raises(PackError, match=re.escape(sentence)):
        routes.urls(language)


def test_no_language_means_the_default_pack_when_the_site_has_one(tmp_path: Path) -> None:
    site = site_of(tmp_path, {"one": "hi", "two": "es"}, gateway={"default_pack": "two"})
    assert Routes.from_site(site).pack(None) == "two"


def test_replicas_without_addresses_are_refused_until_someone_knows_them(tmp_path: Path) -> None:
    site = site_of(tmp_path, {"one": "hi"}, deployments={"one": {"replicas": 2}})
    with pytest.raises(PackError, match=r"deployments.one.addresses is missing; list the host:port of each of the 2"):
        Routes.from_site(site)
    known = {"one": [Address("10.0.0.1", 7100), Address("fd00::2", 7100)]}
    assert Routes.from_site(site, known).urls("hi") == ("http://10.0.0.1:7100", "http://[fd00::2]:7100")
    assert "server [fd00::2]:7100 " in render_nginx(site, addresses=known)


def test_a_pack_of_a_fleet_is_routed_once_it_has_a_replica(tmp_path: Path) -> None:
    fleet = {"deployments": {}, "fleet": {"shared": "a", "gateway": "a"}, "gateway": {"default_pack": "two"}}
    site = site_of(tmp_path, {"one": "hi", "two": "es"}, **fleet)
    assert Routes.from_site(site).to_dict() == {"languages": {}, "aggregators": {}, "packs": {}, "default_pack": None}
    assert "no pack of this site has a replica yet" in render_nginx(site)
    one = Routes.from_site(site, {"one": [Address("10.0.0.1", 7100)]})
    assert (one.codes, one.default_pack) == (("hi", "multi-one"), None)
    both = Routes.from_site(site, {"one": [Address("10.0.0.1", 7100)], "two": [Address("10.0.0.2", 7100)]})
    assert (both.languages, both.default_pack) == ({"hi": "one", "es": "two"}, "two")


def test_packs_of_a_fleet_may_have_the_same_ports_since_they_are_on_hosts_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"is port 7100 on 127\.0\.0\.1"):
        site_of(tmp_path, {"one": "hi", "two": "es"}, deployments={})
    site_of(tmp_path, {"one": "hi", "two": "es"}, deployments={}, fleet={"shared": "a", "gateway": "a"})


def test_a_drained_replica_is_down_for_nginx_and_unknown_to_clients(tmp_path: Path) -> None:
    first, second = Address("10.0.0.1", 7100), Address("10.0.0.2", 7100)
    site = site_of(
        tmp_path, {"one": "hi"}, deployments={"one": {"replicas": 2, "addresses": [str(first), str(second)]}}
    )

    def served(*drained: Address) -> tuple[list[str], list[str]]:
        config = render_nginx(site, drained=drained)
        return re.findall(r"server (10\S+) .*;(?<! down;)", config), re.findall(r'"http://([^"]+)"', config)

    assert served() == (["10.0.0.1:7100", "10.0.0.2:7100"],) * 2
    assert served(second) == (["10.0.0.1:7100"],) * 2
    assert served(first, second) == ([], ["10.0.0.1:7100", "10.0.0.2:7100"])  # a pack has some address
    assert served(Address("10.0.0.3", 7100)) == served()


names = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(LANGUAGES)), names),
    st.lists(st.integers(1, 65535), min_size=1, max_size=3, unique=True),
)
def test_routes_are_read_back_as_they_are_written(languages: dict[str, str], ports: list[int]) -> None:
    packs = {name: tuple(f"http://10.0.0.1:{port}" for port in ports) for name in languages.values()}
    routes = Routes(languages, {f"multi-{n}": name for n, name in enumerate(packs)}, packs, next(iter(packs), None))
    assert Routes.from_dict(json.loads(routes.to_json())) == routes
    written: dict[str, dict[str, list[str]]] = {}
    exec(routes.to_python(), written)
    assert written["ROUTES"] == {code: list(routes.urls(code)) for code in routes.codes}
    if routes.codes:
        plain = Routes.from_dict(written["ROUTES"])
        assert {code: plain.urls(code) for code in plain.codes} == {code: routes.urls(code) for code in routes.codes}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["http://h:1", "p"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p", "hi", "x"]), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["languages", "packs", "aggregators", "default_pack", "hi"]), anything) | anything
)
def test_no_routes_raise_anything_but_a_pack_error(data: object) -> None:
    try:
        routes = Routes.from_dict(data)
    except PackError:
        return
    assert all(url.startswith(("http://", "https://")) for code in routes.codes for url in routes.urls(code))


def test_one_template_makes_a_whole_configuration_and_a_part_of_one(tmp_path: Path) -> None:
    site = load_site(LOCAL)
    whole, part = render_nginx(site, standalone=StandalonePaths(tmp_path)), render_nginx(site)
    assert f"pid {tmp_path}/nginx.pid;" in whole
    assert "daemon off;" in whole
    assert not {"daemon", "pid ", "events", "http {"} & set(
        re.findall(r"^(?:daemon|pid |events|http \{)", part, re.MULTILINE)
    )
    assert part[part.index("map $arg_language") :].replace("/var/log/nginx/babelrack.log", "LOG") in (
        whole.replace(str(StandalonePaths(tmp_path).access_log), "LOG")
    )


def test_a_pack_s_own_host_name_is_one_that_a_certificate_can_have() -> None:
    assert pack_server_name("western_sea", "stt.example.org") == "western-sea.stt.example.org"


def test_a_folder_that_nginx_would_read_as_more_than_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="choose a folder without spaces"):
        render_nginx(load_site(LOCAL), standalone=StandalonePaths(tmp_path / "a; include /etc"))


def test_packs_check_prints_a_table_and_is_content_with_the_local_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("COLUMNS", "120")
    done = CliRunner().invoke(packs_app, ["check", "--site", "inventories/local/site.yaml"])
    assert (done.exit_code, done.stderr) == (0, "")
    row = next(line for line in done.stdout.splitlines() if "future-multi" in line)
    assert row.split() == ["future", "future-multi", "ar", "es", "pt", "fr", "de", "128", "1", "7102", "2235", "9092"]
    dedicated = next(line for line in done.stdout.splitlines() if "indic-hi" in line)
    assert dedicated.split() == ["indic", "indic-hi", "hi", "(dedicated)", "64", "1", "7100", "2233", "9090"]


def test_packs_check_says_every_fault_on_stderr_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nreplicas: 0\n")
    done = CliRunner().invoke(packs_app, ["check", str(tmp_path / "bad.yaml"), str(PROJECT / "packs" / "indic.yaml")])
    assert done.exit_code == 1
    assert "indic-multi" in done.stdout
    faults = done.stderr.splitlines()
    assert len(faults) == 3
    assert all(fault.startswith(f"{tmp_path}/bad.yaml: ") for fault in faults)


def test_packs_check_warns_without_failing_and_says_so_in_json(tmp_path: Path) -> None:
    checkpoints = [
        {"name": f"c{n}", "url": "file:///x", "languages": [code], "role": "dedicated"}
        for n, code in enumerate(["es", "pt", "fr"])
    ]
    pack = {"name": "three", "aggregator": "multi-three", "checkpoints": checkpoints}
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(pack))
    done = CliRunner().invoke(packs_app, ["check", str(tmp_path / "three.yaml"), "--format", "json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["faults"] == []
    assert report["packs"][0]["concurrency"] == 48
    assert len(report["warnings"]) == 1
    assert "one language family only (romance)" in done.stderr


def test_packs_model_url_follows_the_site_s_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    done = CliRunner().invoke(packs_app, ["model-url", "future", "--site", "inventories/local/site.yaml"])
    source = f"file://{PROJECT}/.cache/checkpoints/whisper-base"
    assert done.stdout == f"{source}#name=future-multi&role=multilingual&languages=ar+es+pt+fr+de\n"
    assert "hf:openai/" in CliRunner().invoke(packs_app, ["model-url", "future"]).stdout
    unknown = CliRunner().invoke(packs_app, ["model-url", "futre", "--site", "inventories/local/site.yaml"])
    assert unknown.exit_code == 1
    assert "name one of indic, western_sea, future" in unknown.stderr


@pytest.mark.parametrize("form", ["nginx", "json", "python", "table"])
def test_routes_are_printed_in_every_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = CliRunner().invoke(routes_app, ["--site", str(LOCAL), "--format", form])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "127.0.0.1:7102" in done.stdout
    routes = Routes.from_site(load_site(LOCAL))
    if form == "nginx":
        assert done.stdout == render_nginx(load_site(LOCAL))
    if form == "json":
        assert Routes.from_dict(json.loads(done.stdout)) == routes


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    site_of(tmp_path, {"one": "hi", "two": "es"}, deployments={}, fleet={"shared": "a", "gateway": "a"})
    return tmp_path / "site.yaml"


def test_routes_takes_the_replicas_that_terraform_claimed_and_says_which_pack_has_none(fleet: Path) -> None:
    options = ["--site", str(fleet), "--format", "nginx", "--replica", "one=10.0.0.1:7100", "--replica"]
    options += ["one=[fd00::2]:7100", "--drained", "[fd00::2]:7100", "--drained", "10.0.0.9:7100"]
    done = CliRunner().invoke(routes_app, options)
    addresses = {"one": [Address("10.0.0.1", 7100), Address("fd00::2", 7100)]}
    assert done.stdout == render_nginx(load_site(fleet), addresses=addresses, drained=[Address("fd00::2", 7100)])
    assert "server [fd00::2]:7100 max_fails=2 fail_timeout=5s down;" in done.stdout
    assert done.stderr.splitlines() == [
        "the pack two has no replica yet; its languages are not routed until it has one",
        "--drained 10.0.0.9:7100 is no replica of this site; nothing was drained for it",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--replica", "10.0.0.1:7100"], "--replica is '10.0.0.1:7100'; write PACK=HOST:PORT"),
        (["--replica", "tow=a:1"], "--replica names the pack 'tow', which this site doesn't run; did you mean 'two'?"),
        (["--replica", "one=a"], "--replica is 'a'; write host:port, or [address]:port for IPv6"),
        (
            ["--replica", "one=a:1", "--replica", "two=a:1"],
            "--replica gives a:1 to one and again to two; leave one out",
        ),
        (["--drained", "a:0"], "--drained is 'a:0'; write a port from 1 to 65535 after the last colon"),
    ],
)
def test_a_replica_that_can_not_be_meant_is_refused(fleet: Path, options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(routes_app, ["--site", str(fleet), "--format", "nginx", *options])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"{sentence}\n")


def test_routes_of_a_wrong_site_are_a_sentence_and_exit_code_1(tmp_path: Path) -> None:
    done = CliRunner().invoke(routes_app, ["--site", str(tmp_path / "site.yaml")])
    assert done.exit_code == 1
    assert done.stderr == f"{tmp_path}/site.yaml: the file does not exist; check its path\n"
