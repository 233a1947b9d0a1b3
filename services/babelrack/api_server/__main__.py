"""`python -m babelrack.api_server`: read the environment, serve, drain on SIGTERM, exit 0."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from babelrack.api_server.app import Secrets, create_app
from babelrack.api_server.drain import Drain
from babelrack.api_server.protocol import BoundedHttpProtocol, QuietWebSocketProtocol
from babelrack.api_server.settings import Settings
from babelrack.credentials import CredentialError, read_credential
from babelrack.keys import KeyFileError
from babelrack.licensing import JournalError
from babelrack.logs import configure_logging
from babelrack.serving import DrainingServer, complain, complain_of_settings

# Above nginx's 60 seconds, so that it is nginx that closes an idle connection: the other way round a request can meet
# a connection that is just being closed, and a POST is not tried again.
_KEEP_ALIVE_SECONDS = 75
_LAST_SECONDS = 5
# Of a WebSocket message, which is read as a whole.
_LARGEST_MESSAGE = 1024 * 1024
_NAME = "api server"


def main() -> int:
    """Serve until told to stop; 0 after a drain, 2 for a setting that can't be used."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # its fields come from the environment
    except ValidationError as error:
        complain_of_settings(_NAME, error)
        return 2
    configure_logging("api-server", settings.log_level)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a client's bad form is not news
    drain = Drain(settings.drain_seconds)
    try:
        (settings.state_dir / "spool").mkdir(mode=0o700, parents=True, exist_ok=True)
        app = create_app(settings, _secrets(settings), drain)
    except OSError as error:
        complain(_NAME, f"STATE_DIR {settings.state_dir} can't be used: {error.strerror}")
        return 2
    except (CredentialError, KeyFileError, ValueError) as error:
        complain(_NAME, str(error))
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedHttpProtocol,
        ws=QuietWebSocketProtocol,
        ws_max_size=_LARGEST_MESSAGE,
        ws_per_message_deflate=False,
        # A client that is held back answers no ping, and one that says nothing is left after LIVE_IDLE_SECONDS.
        ws_ping_interval=None,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = DrainingServer(config, drain=drain.begin, drained=drain.over)
    try:
        server.run()
    except JournalError as error:
        complain(_NAME, str(error))
        return 2
    return 0 if server.started else 1


def _secrets(settings: Settings) -> Secrets:
    inline = settings.license_key.get_secret_value() if settings.license_key else None
    return Secrets(
        license_key=read_credential("license_key", file=settings.license_key_file) or inline,
        redis_password=read_credential("redis_password", file=settings.redis_password_file),
        webhook_secret=read_credential("webhook_secret", file=settings.webhook_secret_file),
    )


if __name__ == "__main__":
    sys.exit(main())
