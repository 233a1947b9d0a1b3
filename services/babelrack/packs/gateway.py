"""The nginx configuration of a site's gateway, from one template."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from babelrack.packs.faults import Fault, PackError, shown
from babelrack.packs.routes import Routes
from babelrack.packs.site import Address

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from babelrack.packs.site import Site

RETRY_AFTER_S: Final = 5
# nginx refuses a token of more than 4,096 bytes.
_LITERAL_BYTES: Final = 2048
_UNSAFE_PATH: Final = re.compile(r"[\x00-\x1f\x7f\"'\\$;{}#\s]")


@dataclass(frozen=True)
class StandalonePaths:
    """Where a gateway of its own keeps everything: run it with `nginx -p <state> -c <config>`, as any user."""

    state: Path

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.state / "nginx.conf"

    @property
    def pid(self) -> Path:
        """The file with the master process's id."""
        return self.state / "nginx.pid"

    @property
    def access_log(self) -> Path:
        """One JSON object a request."""
        return self.state / "logs" / "access.log"

    @property
    def error_log(self) -> Path:
        """nginx's own messages."""
        return self.state / "logs" / "error.log"

    @property
    def temporary(self) -> Path:
        """Scratch space, which streaming leaves empty."""
        return self.state / "temporary"

    def create(self) -> None:
        """Make the folders."""
        for folder in (self.state, self.access_log.parent, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)


def render_nginx(
    site: Site,
    *,
    standalone: StandalonePaths | None = None,
    addresses: Mapping[str, Sequence[Address]] | None = None,
    drained: Collection[Address] = (),
) -> str:
    """The gateway's configuration: a whole nginx.conf with `standalone`, else a file for nginx's `conf.d`.

    `addresses` is `Routes.from_site`'s. Replicas that are `drained` get no new request, and `/routes.json` doesn't name
    them. Raises `PackError` when the site's replicas aren't all known.
    """
    if standalone and _UNSAFE_PATH.search(str(standalone.state)):
        fix = "choose a folder without spaces, quotes, and the signs $ ; { } \\ #"
        raise PackError([Fault("", f"nginx can't keep its files in {shown(str(standalone.state))}; {fix}")])
    routes = Routes.from_site(site, addresses)
    gateway = site.gateway
    down = {f"http://{address}" for address in drained}
    packs = [
        {
            "name": name,
            "server_name": pack_server_name(name, gateway.server_name),
            "replicas": [{"address": url.removeprefix("http://"), "drained": url in down} for url in urls],
            "codes": [code for code in routes.codes if routes.pack(code) == name],
        }
        for name, urls in routes.packs.items()
    ]
    text = _without(routes, down).to_json()
    routes_json = [text[at : at + _LITERAL_BYTES] for at in range(0, len(text), _LITERAL_BYTES)]
    values = _values(site, routes, packs) | {"routes_json": routes_json}
    # Whoever asks for /health learns by it which configuration nginx works with, and so whether a reload is through.
    digest = hashlib.sha256(_TEMPLATE.render(values, standalone=None, digest="").encode()).hexdigest()[:16]
    return _TEMPLATE.render(values, standalone=standalone, digest=digest)


def _without(routes: Routes, down: Collection[str]) -> Routes:
    """The routes without the replicas that are down; a pack that would have none keeps them."""
    packs = {name: tuple(url for url in urls if url not in down) or urls for name, urls in routes.packs.items()}
    return replace(routes, packs=packs)


def _values(site: Site, routes: Routes, packs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the template says about a site, whichever file it becomes."""
    gateway = site.gateway
    listed = ", ".join(routes.codes)
    if packs:
        no_language = (
            "This address serves several packs and needs a language: add ?language=CODE to the URL "
            f"(a language in the form or the JSON body is not seen here), with one of {listed}; "
            f"or call a pack by its own host name, such as {packs[0]['server_name']}."
        )
    else:
        no_language = "No pack of this site has a replica yet."
    return {
        "site": site.name,
        "listen": Address(gateway.address, gateway.listen),
        "server_name": gateway.server_name,
        "tls": gateway.tls,
        "max_body_mb": gateway.max_body_mb,
        "default_pack": routes.default_pack or "",
        "packs": packs,
        "retry_after_s": RETRY_AFTER_S,
        "codes_json": json.dumps(list(routes.codes)),
        "no_language": no_language,
        "use_one_of": f"use one of {listed}" if packs else "no pack of this site has a replica yet",
    }


def pack_server_name(pack: str, gateway: str) -> str:
    """A pack's own host name: `western_sea` behind `stt.example.org` is `western-sea.stt.example.org`."""
    return f"{pack.replace('_', '-')}.{gateway}"


# Every value in the template is checked to need no escaping: names, numbers, addresses and plain paths.
_TEMPLATE = Environment(
    loader=PackageLoader("babelrack.packs"),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - the output is an nginx configuration, not HTML
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
).get_template("gateway.conf.j2")
