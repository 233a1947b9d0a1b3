"""The provider: its configuration, and what it offers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelrack.packs.faults import PackError
from babelrack.packs.pool import load_pool
from babelrack.provider.claim import CLAIMS_DIR
from babelrack.provider.claim_resource import HostClaim
from babelrack.provider.framework import Attribute, Number, Schema, String, Unknown
from babelrack.provider.host_data import HostData
from babelrack.provider.hosts import ClaimError, Hosts
from babelrack.provider.pack_data import PackData
from babelrack.provider.remote import CONNECT_TIMEOUT_S, Remote

if TYPE_CHECKING:
    from babelrack.provider.framework import State

ADDRESS = "registry.terraform.io/babelrack/onprem"


class Onprem:
    """Terraform's `provider "onprem"`."""

    def __init__(self) -> None:
        self._config: State = {}
        self._hosts: Hosts | None = None
        self._loading = threading.Lock()

    @property
    def hosts(self) -> Hosts:
        """The hosts of the configured pool; raises `ClaimError` when there is none or it can't be read."""
        with self._loading:
            if self._hosts is None:
                self._hosts = self._load()
            return self._hosts

    def _load(self) -> Hosts:
        file = self._config.get("pool")
        if not isinstance(file, str):
            raise ClaimError('The provider has no pool; write pool = "…/hosts.yaml" in provider "onprem"')
        try:
            pool = load_pool(Path(file))
        except PackError as error:
            raise ClaimError(str(error)) from None
        timeout = self._config.get("connect_timeout_s") or CONNECT_TIMEOUT_S
        return Hosts(pool, Remote(pool, int(timeout)), self._config.get("claims_dir") or CLAIMS_DIR)

    def get_model_prefix(self) -> str:
        return "onprem_"

    def full_name(self) -> str:
        return ADDRESS

    def get_provider_schema(self, diags: Any) -> Any:  # noqa: ARG002, RUF100 - the framework's signature
        return Schema(
            attributes=[
                Attribute("pool", String(), "The pool file of the site, inventories/<site>/hosts.yaml.", required=True),
                Attribute(
                    "claims_dir",
                    String(),
                    f"The folder of the claims on each host; {CLAIMS_DIR} when left out. Everything else looks there, "
                    "so change it in tests only.",
                    optional=True,
                ),
                Attribute(
                    "connect_timeout_s",
                    Number(),
                    f"Seconds to wait for a host's SSH server; {CONNECT_TIMEOUT_S} when left out.",
                    optional=True,
                ),
            ],
            description="The machines of a site's pool, over SSH.",
        )

    def validate_config(self, diags: Any, config: State) -> None:
        claims_dir = config.get("claims_dir")
        if isinstance(claims_dir, str) and (not claims_dir.startswith("/") or not claims_dir.isprintable()):
            diags.add_error(
                "claims_dir is not an absolute path", f"It is {claims_dir!r}; start it with /.", path=["claims_dir"]
            )
        timeout = config.get("connect_timeout_s")
        if isinstance(timeout, (int, float)) and not 1 <= timeout <= 300:
            diags.add_error(
                "connect_timeout_s is out of range", f"It is {timeout}; write 1 to 300.", path=["connect_timeout_s"]
            )

    def configure_provider(self, diags: Any, config: State) -> None:
        if config.get("pool") is Unknown:
            diags.add_error("The pool isn't known yet", "Give a path that doesn't depend on a resource.", path=["pool"])
        # The file is read when a host is first needed, so that packs can be validated without one.
        self._config = config

    def get_data_sources(self) -> list[type]:
        return [PackData, HostData]

    def get_resources(self) -> list[type]:
        return [HostClaim]

    def get_functions(self) -> list[type]:
        return []

    def new_data_source(self, kind: type) -> Any:
        return kind(self)

    def new_resource(self, kind: type) -> Any:
        return kind(self)
