"""The flat map that a client needs: language → pack → the URLs of its replicas."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from babelrack.packs.faults import Fault, PackError, nearest, shown
from babelrack.packs.languages import is_language, unknown_language
from babelrack.packs.site import Address, Site, offered_codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Routes:
    """Which pack serves a language or an aggregator, and where that pack's API servers are."""

    languages: Mapping[str, str]
    """Language code → pack."""
    aggregators: Mapping[str, str]
    """Aggregator (`multi-…`) → pack."""
    packs: Mapping[str, tuple[str, ...]]
    """Pack → base URLs of its replicas, without a closing slash."""
    default_pack: str | None = None
    """The pack that takes requests without a language; None when they are refused."""

    @classmethod
    def from_site(cls, site: Site, addresses: Mapping[str, Sequence[Address]] | None = None) -> Routes:
        """The routes of a site; `addresses` says where packs' API servers are when the site file doesn't.

        A pack of a fleet that has no replica yet is left out. Elsewhere a pack whose addresses are nowhere raises
        `PackError`.
        """
        languages: dict[str, str] = {}
        aggregators: dict[str, str] = {}
        packs: dict[str, tuple[str, ...]] = {}
        faults: list[Fault] = []
        for name, deployment in site.deployments.items():
            replicas = (addresses or {}).get(name) or deployment.addresses
            if not replicas and site.fleet is not None:
                continue
            if not replicas:
                message = f"is missing; list the host:port of each of the {deployment.replicas} replicas"
                faults.append(Fault(f"deployments.{name}.addresses", message))
            packs[name] = tuple(f"http://{address}" for address in replicas)
            for code in offered_codes(deployment.pack):
                table = aggregators if code == deployment.pack.aggregator else languages
                if site.routes.get(code, name) == name:
                    table[code] = name
        if faults:
            raise PackError(faults)
        default = site.gateway.default_pack if site.gateway.default_pack in packs else None
        return cls(languages, aggregators, packs, default)

    @classmethod
    def from_dict(cls, data: Any) -> Routes:
        """Routes from what `to_dict` made, or from a plain map of code → URL or list of URLs.

        Raises `PackError` for anything else.
        """
        if not isinstance(data, dict) or not data:
            raise PackError([Fault("", "the routes are no mapping; write the JSON that `babelrack routes` prints")])
        if not {"languages", "packs"} <= data.keys():
            return cls._from_plain_map(data)
        faults: list[Fault] = []
        packs = {
            name: urls
            for name, value in _mapping(data, "packs", faults).items()
            if (urls := _urls(value, f"packs.{name}", faults))
        }
        languages = _mapping(data, "languages", faults)
        aggregators = _mapping(data, "aggregators", faults) if "aggregators" in data else {}
        faults += [
            Fault(f"{field}.{code}", f"is {shown(pack)}; write a pack that `packs` lists")
            for field, table in (("languages", languages), ("aggregators", aggregators))
            for code, pack in table.items()
            if not isinstance(pack, str) or pack not in packs
        ]
        default = data.get("default_pack")
        if default is not None and (not isinstance(default, str) or default not in packs):
            faults.append(Fault("default_pack", f"is {shown(default)}; write a pack that `packs` lists, or null"))
        if faults:
            raise PackError(faults)
        return cls(languages, aggregators, packs, default)

    @classmethod
    def _from_plain_map(cls, data: dict[Any, Any]) -> Routes:
        faults: list[Fault] = []
        packs: dict[str, tuple[str, ...]] = {}
        codes: dict[str, str] = {}
        for code, value in data.items():
            urls = _urls(value, str(code), faults)
            packs[name := " ".join(urls)] = urls
            codes[str(code)] = name
        if faults:
            raise PackError(faults)
        aggregators = {code: name for code, name in codes.items() if code.startswith("multi-")}
        return cls({code: name for code, name in codes.items() if code not in aggregators}, aggregators, packs)

    def pack(self, language: str | None) -> str:
        """The pack for a language code, an aggregator, or None; raises `PackError` naming what is routed."""
        if language is None:
            if self.default_pack is None:
                raise PackError([Fault("", f"no language was given; give one of {', '.join(self.codes)}")])
            return self.default_pack
        pack = self.languages.get(language) or self.aggregators.get(language)
        if pack is not None:
            return pack
        meant = nearest(language, self.codes)
        reason = f"no pack serves {shown(language)}; routed are {', '.join(self.codes)}"
        if not is_language(language) and meant is None and not language.startswith("multi-"):
            reason = f"{unknown_language(language)}; routed are {', '.join(self.codes)}"
        raise PackError([Fault("", reason)])

    def urls(self, language: str | None) -> tuple[str, ...]:
        """The base URLs that serve a language; raises `PackError` when none does."""
        return self.packs[self.pack(language)]

    @property
    def codes(self) -> tuple[str, ...]:
        """Every code that is routed: languages in the order of the packs, then aggregators."""
        return (*self.languages, *self.aggregators)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it."""
        return {
            "languages": dict(self.languages),
            "aggregators": dict(self.aggregators),
            "packs": {name: list(urls) for name, urls in self.packs.items()},
            "default_pack": self.default_pack,
        }

    def to_json(self) -> str:
        """What `/routes.json` answers."""
        return json.dumps(self.to_dict(), indent=2)

    def to_python(self) -> str:
        """A Python module with one constant: code → base URLs."""
        lines = [f"    {json.dumps(code)}: {json.dumps(self.urls(code))}," for code in self.codes]
        return "\n".join(["ROUTES: dict[str, list[str]] = {", *lines, "}"])


def _mapping(data: dict[Any, Any], field: str, faults: list[Fault]) -> dict[str, Any]:
    value = data[field]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    faults.append(Fault(field, f"is {shown(value)}; write a mapping"))
    return {}


def _urls(value: Any, field: str, faults: list[Fault]) -> tuple[str, ...]:
    urls = [value] if isinstance(value, str) else value
    if not isinstance(urls, (list, tuple)) or not urls or not all(isinstance(url, str) for url in urls):
        faults.append(Fault(field, f"is {shown(value)}; write a base URL or a list of them"))
        return ()
    fix = "write a base URL such as http://127.0.0.1:7100"
    faults += [Fault(field, f"has {shown(url)}; {fix}") for url in urls if not _is_base_url(url)]
    return tuple(url.rstrip("/") for url in urls)


def _is_base_url(url: str) -> bool:
    if re.fullmatch(r"https?://[!-~]+", url) is None:
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        return False
