"""`python -m babelrack.model_server`: read the environment, load, serve, drain on SIGTERM, exit 0."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from babelrack import __version__
from babelrack.checkpoints import CheckpointError
from babelrack.checkpoints.reference import parse_model_url
from babelrack.checkpoints.speaker_model import parse_speaker_model_url
from babelrack.credentials import CredentialError, read_credential
from babelrack.licensing import GateSettings, LicenseGate
from babelrack.logs import configure_logging
from babelrack.model_server.app import create_app
from babelrack.model_server.metrics import serve_metrics
from babelrack.model_server.server import ModelServer
from babelrack.model_server.settings import Settings
from babelrack.pairing.messages import MAX_TEXT_BYTES
from babelrack.serving import DrainingServer, complain, complain_of_settings

_NAME = "model server"


def main() -> int:
    """Serve until told to stop; 0 after a drain, 1 when checkpoints can't be loaded, 2 for a bad setting."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # its fields come from the environment
        parse_model_url(settings.model_url)
        if settings.speaker_model_url:
            parse_speaker_model_url(settings.speaker_model_url)
    except ValidationError as error:
        complain_of_settings(_NAME, error)
        return 2
    except CheckpointError as error:
        complain(_NAME, str(error))
        return 2
    configure_logging("model-server", settings.log_level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it notes each socket
    try:
        server = ModelServer(settings, _gate(settings))
        serve_metrics(server, settings.metrics_host or settings.host, settings.metrics_port)
    except CredentialError as error:
        complain(_NAME, str(error))
        return 2
    except OSError as error:
        complain(_NAME, f"METRICS_PORT {settings.metrics_port} can't be used: {error.strerror}")
        return 2
    uvicorn_server = DrainingServer(
        uvicorn.Config(
            create_app(server),
            host=settings.host,
            port=settings.port,
            ws="websockets-sansio",
            ws_max_size=MAX_TEXT_BYTES,
            ws_per_message_deflate=False,
            # A client that is held back reads and answers nothing, pings included.
            ws_ping_interval=None,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        ),
        drain=server.drain,
        drained=lambda: server.drained,
        ready=lambda: server.loaded is not None,
        alive=lambda: server.loaded is None or server.loaded.engine.alive,
    )

    def end() -> None:
        uvicorn_server.should_exit = True

    server.on_fault = end
    uvicorn_server.run()
    if server.fault is not None:
        complain(_NAME, server.fault)
        return 1
    return 0 if uvicorn_server.started else 1


def _gate(settings: Settings) -> LicenseGate | None:
    """The licence is watched and reported here; refusing for it is the API server's part."""
    if not settings.api_base_url:
        return None
    inline = settings.license_key.get_secret_value() if settings.license_key else None
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LicenseGate(
        GateSettings(
            proxy_url=settings.api_base_url,
            license_key=read_credential("license_key", file=settings.license_key_file) or inline,
            deployment=settings.deployment_name,
            role="model",
            version=__version__,
            state_folder=settings.state_dir,
            grace=settings.license_grace_seconds,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
