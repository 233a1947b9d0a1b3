"""Requests to what a client names by URL, without becoming a way into the private network.

A name is resolved here and the connection goes to an address that was checked, so an answer of the resolver that
changes between check and use (DNS rebinding) changes nothing. What counts is the address, whatever its spelling:
decimal, octal and hexadecimal IPv4, IPv4 inside IPv6, full-width digits and trailing dots all end at the same check.
Redirects are not followed here: whoever follows one asks again.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlsplit

import httpcore
import idna
from httpcore import AnyIOBackend

from babelrack import __version__
from babelrack.api_server.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from babelrack.api_server.settings import Network

Address = IPv4Address | IPv6Address

_LONGEST_URL = 8192
_CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 15.0
_TRIED_ADDRESSES = 4
_KEPT = "/%:@!$&'()*+,;=~-._"  # RFC 3986's characters of a path; the rest is percent-encoded
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\.?")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")

# The IANA special-purpose registries, and what else never is a public web server.
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved and broadcast
        "2001::/23",  # Teredo, ORCHID, benchmarking and the other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_TRANSLATED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
_TUNNELLED = IPv6Network("2002::/16")
_IPV4_COMPATIBLE = IPv6Network("::/96")


def carried_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address at which packets to an IPv4-mapped, -compatible, NAT64, 6to4 or ISATAP address end."""
    number = int(address)
    if address in _TUNNELLED:
        return IPv4Address(number >> 80 & 0xFFFFFFFF)
    if address in _IPV4_COMPATIBLE or any(address in network for network in _TRANSLATED):
        return IPv4Address(number & 0xFFFFFFFF)
    if number >> 32 & 0xFDFFFFFF == 0x00005EFE:
        return IPv4Address(number & 0xFFFFFFFF)
    return None


def is_allowed(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether a URL may lead to `address`: it is public, or in a network that the site allows.

    An IPv6 address that carries an IPv4 one is good only when that one is, too. Tunnels (6to4, Teredo) are refused
    whatever they carry: no public web server is reached only by them.
    """
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv6Address):
        carried = carried_ipv4(address)
        if carried is not None and not is_allowed(carried, allowed):
            return False
        if any(address in network for network in _TRANSLATED):
            return True
        if address not in _GLOBAL_UNICAST:
            return False
    return not any(address in network for network in _NOT_PUBLIC)


@dataclass(frozen=True)
class Target:
    """A URL, taken apart once: nothing else parses it again."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL again, without credentials or fragment."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def filename(self) -> str | None:
        """The last segment of the path, decoded; None where there is none."""
        name = unquote(self.path.partition("?")[0].rpartition("/")[2], errors="replace")
        return "".join(character for character in name if character.isprintable())[:255] or None


def parse_url(url: str) -> Target:
    """Take `url` apart. Raises BadRequest unless it is a plain http(s) URL without credentials."""
    if len(url) > _LONGEST_URL:
        raise bad_url(f"the url is longer than {_LONGEST_URL} characters.")
    if not url or _FORBIDDEN.search(url):
        raise bad_url("the url is empty, or has a space, a backslash or a control character; percent-encode them.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise bad_url("the url is not well-formed; send http://host/path or https://host/path.") from None
    if parts.scheme not in _PORTS:
        raise bad_url("the url is not http or https.")
    if "@" in parts.netloc:
        raise bad_url("the url carries a user name or password; give a URL that needs none, such as a signed one.")
    if port == 0 or not parts.hostname:
        raise bad_url("the url has no host; send http://host/path or https://host/path.")
    path = quote(parts.path or "/", safe=_KEPT) + (f"?{quote(parts.query, safe=_KEPT + '?')}" if parts.query else "")
    return Target(
        parts.scheme, _host(parts.hostname, bracketed="[" in parts.netloc), port or _PORTS[parts.scheme], path
    )


def _host(host: str, *, bracketed: bool) -> str:
    address: IPv6Address | None
    if bracketed:
        try:
            address = IPv6Address(host)
        except ValueError:
            address = None
        if address is None or address.scope_id is not None:  # a zone (%eth0) is not for clients to choose
            raise bad_url("the url's host is not an IPv6 address.")
        return str(address)
    try:
        name = idna.encode(host.rstrip("."), uts46=True).decode() if not host.isascii() else host.lower()
    except (idna.IDNAError, UnicodeError):
        raise bad_url("the url's host is not a name that can be looked up.") from None
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise bad_url("the url's host is not a name that can be looked up.")
    return name.rstrip(".")


def bad_url(message: str) -> BadRequest:
    """A 400 for the sender of a URL."""
    return BadRequest(message, code="URL", param="url")


class Resolver(Protocol):
    """Finds the addresses of a host."""

    async def __call__(self, host: str, port: int) -> list[Address]: ...


async def resolve(host: str, port: int) -> list[Address]:
    """The system's answer, in its order. Raises BadRequest when there is none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        raise bad_url(f"the url's host {host[:100]} can't be found.") from None
    return list(dict.fromkeys(ip_address(str(info[4][0]).partition("%")[0]) for info in found))


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked a moment ago, and to nothing else."""

    def __init__(self, allowed: tuple[Network, ...], resolver: Resolver) -> None:
        self._allowed = allowed
        self._resolver = resolver
        self._sockets = AnyIOBackend()

    async def find(self, host: str, port: int) -> list[Address]:
        """The host's addresses, all of them good. Raises BadRequest."""
        addresses = await self._resolver(host, port)
        # One private address among public ones is what an attack looks like, so all must pass.
        if not addresses or not all(is_allowed(address, self._allowed) for address in addresses):
            raise bad_url(
                "the url points into a network that this server may not fetch from; use a public address, "
                "or let the operator add the network to URL_ALLOWED_NETWORKS."
            )
        return addresses

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self.find(host, port)
        lost: Exception = httpcore.ConnectError()
        for address in addresses[:_TRIED_ADDRESSES]:
            try:
                return await self._sockets.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                lost = error
        raise lost

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol(path)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Outbound:
    """Sends single requests; every one looks its name up and is checked for itself."""

    def __init__(self, allowed: tuple[Network, ...], *, resolver: Resolver = resolve) -> None:
        self._backend = _CheckedBackend(allowed, resolver)
        # No connection is kept, because a kept one would go on after its name leads elsewhere.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            network_backend=self._backend,
            max_connections=None,
            max_keepalive_connections=0,
        )

    async def aclose(self) -> None:
        """Close what is open."""
        await self._pool.aclose()

    async def check(self, url: str) -> Target:
        """Take `url` apart and look its host up. Raises BadRequest when it is wrong or points where it may not."""
        target = parse_url(url)
        await self._backend.find(target.host, target.port)
        return target

    @asynccontextmanager
    async def exchange(
        self, method: str, target: Target, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpcore.Response]:
        """Send a request; within the context its answer may be read.

        Raises:
            BadRequest: when the URL points where it may not, or its server can't be reached or breaks off.
        """
        default_port = target.port == _PORTS[target.scheme]
        host = f"[{target.host}]" if ":" in target.host else target.host
        own = {"Host": host if default_port else f"{host}:{target.port}", "User-Agent": f"babelrack/{__version__}"}
        if content is not None:
            own["Content-Length"] = str(len(content))
        request = httpcore.Request(
            method,
            httpcore.URL(
                scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
            ),
            headers=list((own | dict(headers)).items()),
            content=content,
            extensions={"timeout": {"connect": _CONNECT_SECONDS, "read": _IDLE_SECONDS, "write": _IDLE_SECONDS}},
        )
        where = f"{target.host}:{target.port}"
        try:
            response = await self._pool.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        except (httpcore.TimeoutException, httpcore.NetworkError):
            raise bad_url(f"the url's server {where} can't be reached, broke off, or has a bad certificate.") from None
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, httpcore.ProxyError):
            raise bad_url(f"the url's server {where} broke off its answer, or does not speak HTTP.") from None


def header(response: httpcore.Response, name: bytes) -> str:
    """A header's value, or nothing; `name` in lower case."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
