"""`python -m babelrack.api_server`: read the environment, serve, drain on SIGTERM, exit 0."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError

from babelrack.api_server.app import Secrets, create_app
from babelrack.api_server.drain import Drain
from babelrack.api_server.protocol import BoundedHttpProtocol
from babelrack.api_server.settings import Settings
from babelrack.credentials import CredentialError, read_credential
from babelrack.keys import KeyFileError
from babelrack.licensing import JournalError
from babelrack.logs import configure_logging

if TYPE_CHECKING:
    from types import FrameType

# Above nginx's 60 seconds, so that it is nginx that closes an idle connection: the other way round a request can meet
# a connection that is just being closed, and a POST is not tried again.
_KEEP_ALIVE_SECONDS = 75
_LAST_SECONDS = 5


class DrainingServer(uvicorn.Server):
    """Goes on listening while it drains, so that `/health` and new requests are answered instead of refused."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._drain.draining:
            self.should_exit = self.force_exit = True
        self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        """Stop when the drain is over; asked ten times a second."""
        if self._drain.over():
            self.should_exit = True
        return await super().on_tick(counter)


def main() -> int:
    """Serve until told to stop; 0 after a drain, 2 for a setting that can't be used."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # its fields come from the environment
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            name = ".".join(str(part) for part in fault["loc"]).upper() or "settings"
            print(f"api server: {name}: {fault['msg'].removeprefix('Value error, ')}", file=sys.stderr)  # noqa: T201
        return 2
    configure_logging("api-server", settings.log_level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a client's bad form is not news
    drain = Drain(settings.drain_seconds)
    try:
        (settings.state_dir / "spool").mkdir(mode=0o700, parents=True, exist_ok=True)
        app = create_app(settings, _secrets(settings), drain)
    except OSError as error:
        print(f"api server: STATE_DIR {settings.state_dir} can't be used: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    except (CredentialError, KeyFileError, ValueError) as error:
        print(f"api server: {error}", file=sys.stderr)  # noqa: T201
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = DrainingServer(config, drain)
    try:
        server.run()
    except JournalError as error:
        print(f"api server: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0 if server.started else 1


def _secrets(settings: Settings) -> Secrets:
    inline = settings.license_key.get_secret_value() if settings.license_key else None
    return Secrets(
        license_key=read_credential("license_key", file=settings.license_key_file) or inline,
        redis_password=read_credential("redis_password", file=settings.redis_password_file),
    )


if __name__ == "__main__":
    sys.exit(main())
