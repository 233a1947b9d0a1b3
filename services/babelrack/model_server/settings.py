"""The model server's settings, read from the environment once, at the edge."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from babelrack.engine import Precision  # noqa: TC001 - pydantic reads the annotation


class Settings(BaseSettings):
    """Every knob of the model server, by its environment variable: the field's name in capitals, or its alias."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=2233, ge=0, le=65535)
    metrics_host: str = Field(default="", description="Address of the metrics; default the same.")
    metrics_port: int = Field(default=9090, ge=0, le=65535)
    deployment_name: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The pack's name; its API servers must carry the same."
    )
    aggregator: str = Field(pattern=r"^multi(-[a-z0-9_-]{1,26})?$", description="The code that means: detect it.")
    model_url: str = Field(description="One to three checkpoint URLs, comma-separated; read once.")
    speaker_model_url: str = Field(default="", description="A speaker model's URL; without one nothing is diarized.")
    model_cache_dir: Path = Path("/var/cache/babelrack/checkpoints")
    state_dir: Path = Field(default=Path("/var/lib/babelrack/model-server"), description="The cached licence answer.")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda)$", description="auto: CUDA where there is any.")
    gpu_device_id: int = Field(default=0, ge=0, description="Which of the visible GPUs.")
    precision: Precision = "auto"
    threads: int | None = Field(default=None, ge=1, description="CPU threads of the engine; default all cores.")
    kv_memory_mib: int | None = Field(default=None, ge=1, description="For keys and values of all checkpoints.")
    max_queue: int | None = Field(
        default=None, ge=0, description="Requests that may wait for each checkpoint; default twice its concurrency."
    )
    idle_seconds: float = Field(default=120, gt=0, description="The longest that a client may send nothing.")
    stream_idle_seconds: float = Field(default=60, gt=0, description="The same, for a client of a live stream.")
    drain_seconds: float = Field(default=120, ge=0, description="How long running requests may finish after SIGTERM.")
    api_base_url: str = Field(default="", description="The licence proxy, such as http://shared:6699.")
    license_key: SecretStr | None = None
    license_key_file: Path | None = None
    license_grace_seconds: float = Field(default=86_400, ge=0)
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
