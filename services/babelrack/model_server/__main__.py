"""`python -m babelrack.model_server`: read the environment, load, serve, drain on SIGTERM, exit 0."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError

from babelrack import __version__
from babelrack.checkpoints import CheckpointError
from babelrack.checkpoints.reference import parse_model_url
from babelrack.credentials import CredentialError, read_credential
from babelrack.licensing import GateSettings, LicenseGate
from babelrack.logs import configure_logging
from babelrack.model_server.app import create_app
from babelrack.model_server.metrics import serve_metrics
from babelrack.model_server.server import ModelServer
from babelrack.model_server.settings import Settings
from babelrack.pairing.messages import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from types import FrameType


class DrainingServer(uvicorn.Server):
    """Goes on listening while it drains, so that `/health` says so."""

    def __init__(self, config: uvicorn.Config, server: ModelServer) -> None:
        super().__init__(config)
        self._model_server = server
        server.on_fault = self._end

    def _end(self) -> None:
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._model_server.draining:
            self.should_exit = self.force_exit = True
        self._model_server.drain()

    async def on_tick(self, counter: int) -> bool:
        """Stop when the drain is over; asked ten times a second."""
        if self._model_server.drained:
            self.should_exit = True
        return await super().on_tick(counter)


def main() -> int:
    """Serve until told to stop; 0 after a drain, 1 when checkpoints can't be loaded, 2 for a bad setting."""
    try:
        settings = Settings()  # type: ignore[call-arg]  # its fields come from the environment
        parse_model_url(settings.model_url)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            name = ".".join(str(part) for part in fault["loc"]).upper() or "settings"
            _complain(f"{name}: {fault['msg'].removeprefix('Value error, ')}")
        return 2
    except CheckpointError as error:
        _complain(f"MODEL_URL: {error}")
        return 2
    configure_logging("model-server", settings.log_level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it notes each socket
    try:
        server = ModelServer(settings, _gate(settings))
        serve_metrics(server, settings.host, settings.metrics_port)
    except CredentialError as error:
        _complain(str(error))
        return 2
    except OSError as error:
        _complain(f"METRICS_PORT {settings.metrics_port} can't be used: {error.strerror}")
        return 2
    uvicorn_server = DrainingServer(
        uvicorn.Config(
            create_app(server),
            host=settings.host,
            port=settings.port,
            ws="websockets-sansio",
            ws_max_size=2 * MAX_FRAME_BYTES,
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
        server,
    )
    uvicorn_server.run()
    if server.fault is not None:
        _complain(server.fault)
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


def _complain(sentence: str) -> None:
    print(f"model server: {sentence}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
