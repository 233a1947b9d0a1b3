"""A URL never leads into the private network, however it is spelled and whatever the resolver says."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrack.api_server import outbound, url_input
from babelrack.api_server.errors import BadRequest
from babelrack.api_server.outbound import Outbound, Target, is_allowed, parse_url, resolve
from babelrack.api_server.url_input import Fetcher

LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0x7f.0x0.0x0.0x1",
    "0",
    "0.0.0.0",
    "127.0.0.1.",
    "１２７.０.０.１",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "localhost",
    "LOCALHOST.",
]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "0.1.2.3",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001::1",
    "2001:db8::1",
    "2002:a00:1::",
    "2002:808:808::",
    "64:ff9b::a00:1",
    "64:ff9b:1::808:808",
    "::ffff:10.0.0.1",
    "::10.0.0.1",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:c0a8:101",
    "3fff::1",
    "100::1",
    "4000::1",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


async def refuse_to_write(_chunk: bytes) -> None:
    raise AssertionError("nothing may be fetched")


def any_size(_size: int) -> None: ...


def fetch(url: str, *, resolver=resolve, allowed=()):
    async def run():
        web = Outbound(tuple(map(ip_network, allowed)), resolver=resolver)
        try:
            return await Fetcher(web, 5).fetch(url, any_size, refuse_to_write)
        finally:
            await web.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_spelling_of_this_host_is_refused(host, scheme):
    with pytest.raises(BadRequest, match=r"may not fetch from|can't be found|not a name"):
        fetch(f"{scheme}://{host}:1/x")


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address):
    assert not is_allowed(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_allowed(address):
    assert is_allowed(ip_address(address))


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_ipv4_address_is_allowed_that_python_calls_private(address):
    if (
        address.is_private
        or address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
    ):
        assert not is_allowed(address)


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_no_ipv6_address_is_allowed_that_python_calls_private(address):
    plain = address.ipv4_mapped is None
    if plain and (address.is_private or address.is_multicast or address.is_reserved or address.is_link_local):
        assert not is_allowed(address) or address in outbound._TRANSLATED[1]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0xFFFF << 32, 0x64FF9B << 96]))
def test_an_ipv6_address_that_carries_an_ipv4_one_is_judged_by_it(number, prefix):
    assert is_allowed(IPv6Address(prefix | number)) == is_allowed(IPv4Address(number))


@given(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**64 - 1))
def test_no_tunnel_is_allowed_whatever_it_carries(address, rest):
    assert not is_allowed(IPv6Address(0x2002 << 112 | int(address) << 80 | rest))
    assert not is_allowed(IPv6Address(0x20010000 << 96 | rest))


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_only_the_networks_that_the_site_names_are_opened(address):
    allowed = (ip_network("10.8.0.0/16"),)
    assert is_allowed(address, allowed) == (address in allowed[0] or is_allowed(address))


def test_a_network_that_the_site_allows_may_be_reached_by_ipv4_mapped_addresses_too():
    allowed = (ip_network("10.8.0.0/16"),)
    assert is_allowed(ip_address("::ffff:10.8.0.1"), allowed)
    assert not is_allowed(ip_address("::ffff:10.9.0.1"), allowed)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "empty"),
        ("example.org/a.wav", "not http"),
        ("ftp://example.org/a.wav", "not http"),
        ("file:///etc/passwd", "not http"),
        ("gopher://example.org/", "not http"),
        ("http://user:pass@example.org/", "user name or password"),
        ("http://8.8.8.8@127.0.0.1/", "user name or password"),
        ("http://127.0.0.1\\@example.org/", "backslash"),
        ("http://exa mple.org/", "space"),
        ("http://example.org/\r\nX: y", "control"),
        ("http://[::1%25lo]/", "not an IPv6 address|not well-formed"),
        ("http://[fe80::1%lo]/", "not an IPv6 address|not well-formed"),
        ("http://[::1/", "not well-formed"),
        ("http://example.org:99999/", "not well-formed"),
        ("http://example.org:0/", "no host"),
        ("http:///a.wav", "no host"),
        ("http://%31%32%37.0.0.1/", "not a name"),
        ("http://exa$mple.org/", "not a name"),
        ("http://-example.org/", "not a name"),
        ("http://" + "a" * 300 + "/", "not a name"),
        ("http://example.org/" + "a" * 9000, "longer than"),
    ],
)
def test_a_url_that_is_not_plain_is_refused_with_a_sentence(url, why):
    with pytest.raises(BadRequest, match=why) as refused:
        parse_url(url)
    assert refused.value.param == "url"


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_bad_request(text):
    for url in (text, f"http://{text}", f"https://example.org/{text}"):
        try:
            target = parse_url(url)
        except BadRequest:
            continue
        assert target.path.isascii()
        assert target.path.startswith("/")
        assert not set(target.path + target.host) & set(" \r\n\\@" if "@" not in target.path else " \r\n\\")
        assert parse_url(target.url) == target


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/calls/a%20b.wav?sig=1", "a b.wav"),
        ("https://example.org/", None),
        ("https://example.org", None),
        ("https://example.org/%00%0a.wav", ".wav"),
        ("https://münchen.example/ü.wav#x", "ü.wav"),
    ],
)
def test_the_filename_is_the_last_part_of_the_path(url, name):
    assert parse_url(url).filename == name


def test_an_international_name_is_looked_up_as_what_dns_knows():
    assert parse_url("http://München.example/").host == "xn--mnchen-3ya.example"


class Recorder:
    """Stands in for the sockets: says where a connection would have gone, and makes none."""

    def __init__(self) -> None:
        self.went: list[str] = []

    async def connect_tcp(self, host, *_arguments):
        self.went.append(host)
        raise httpcore.ConnectError


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(outbound, "AnyIOBackend", lambda: recorder)
    return recorder


def test_the_connection_goes_to_the_address_that_was_checked_not_to_a_later_answer(recorder):
    answers = iter([[ip_address("8.8.8.8")], [ip_address("127.0.0.1")]])

    async def rebinding(_host, _port):
        return next(answers)

    with pytest.raises(BadRequest, match="can't be reached"):
        fetch("http://rebinding.example/", resolver=rebinding)
    assert recorder.went == ["8.8.8.8"]


def test_one_private_address_among_public_ones_is_enough_to_refuse(recorder):
    async def mixed(_host, _port):
        return [ip_address("8.8.8.8"), ip_address("10.0.0.1")]

    with pytest.raises(BadRequest, match="may not fetch from"):
        fetch("http://mixed.example/", resolver=mixed)
    assert recorder.went == []


def test_all_public_addresses_are_tried_in_turn(recorder):
    async def several(_host, _port):
        return [ip_address("8.8.8.8"), ip_address("2606:4700::1111")]

    with pytest.raises(BadRequest, match="can't be reached"):
        fetch("http://several.example/", resolver=several)
    assert recorder.went == ["8.8.8.8", "2606:4700::1111"]


def test_a_name_without_addresses_is_a_bad_request(recorder):
    async def none(_host, _port):
        return []

    with pytest.raises(BadRequest):
        fetch("http://nothing.example/", resolver=none)
    assert recorder.went == []


def response(status: int, **headers: str) -> httpcore.Response:
    return httpcore.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("location", "ends_at"),
    [
        ("/b.wav", "https://a.example:443/b.wav"),
        ("//b.example/c", "https://b.example:443/c"),
        ("https://127.0.0.1/x", "https://127.0.0.1:443/x"),
    ],
)
def test_a_redirect_is_taken_apart_like_the_first_url(location, ends_at):
    assert (
        url_input._redirected(Target("https", "a.example", 443, "/a"), response(302, location=location)).url == ends_at
    )


@pytest.mark.parametrize(
    "location", ["http://a.example/", "ftp://a.example/", "file:///etc/passwd", "https://u:p@a.example/"]
)
def test_a_redirect_to_less_than_https_is_refused(location):
    with pytest.raises(BadRequest):
        url_input._redirected(Target("https", "a.example", 443, "/a"), response(302, location=location))
