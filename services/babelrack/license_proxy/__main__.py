"""`python -m babelrack.license_proxy`."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from babelrack.credentials import CredentialError, read_credential
from babelrack.license_proxy.app import create_app
from babelrack.license_proxy.ledger import LedgerError
from babelrack.license_proxy.settings import Settings
from babelrack.logs import configure_logging
from babelrack.serving import ManagedServer, complain, complain_of_settings

_NAME = "licence proxy"


def main() -> int:
    """Run the licence proxy; 2 when its settings can't work, with a sentence, 1 when its port can't be had."""
    try:
        settings = Settings()
    except ValidationError as error:
        complain_of_settings(_NAME, error)
        return 2
    configure_logging("license_proxy", settings.log_level)
    try:
        app = create_app(settings, _license_key(settings))
    except (CredentialError, LedgerError) as error:
        complain(_NAME, str(error))
        return 2
    server = ManagedServer(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=512,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
        )
    )
    server.run()
    return 0 if server.started else 1


def _license_key(settings: Settings) -> str | None:
    if not settings.upstream_url:
        return None
    license_key = read_credential("license_key", file=settings.license_key_file, env="LICENSE_KEY")
    if license_key is None:
        raise CredentialError("UPSTREAM_URL needs the licence key, to hand usage on with; set LICENSE_KEY_FILE")
    return license_key


if __name__ == "__main__":
    sys.exit(main())
