"""The API server's settings, read from the environment once, at the edge."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """Every knob of the API server, by its environment variable: the field's name in capitals, or its alias."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=7100, ge=0, le=65535, validation_alias="API_SERVER_PORT")
    deployment_name: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The pack's name; the model server must carry the same."
    )
    aggregator: str = Field(
        default="",
        max_length=32,
        description="What a request without a language means; empty: as the model server has it.",
    )
    asr_base_url: str = Field(
        default="http://127.0.0.1:2233",
        pattern=r"^https?://",
        validation_alias=AliasChoices("ASR_BASE_URL", "LIGHTNING_ASR_BASE_URL"),
        description="The paired model server.",
    )
    asr_streaming_base_url: str = Field(
        default="",
        validation_alias=AliasChoices("ASR_STREAMING_BASE_URL", "LIGHTNING_ASR_STREAMING_BASE_URL"),
        description="The paired model server for live audio; one process serves both, so it must be empty or the same.",
    )
    api_base_url: str = Field(default="http://127.0.0.1:6699", pattern=r"^https?://", description="The licence proxy.")
    license_key: SecretStr | None = None
    license_key_file: Path | None = None
    license_grace_seconds: float = Field(default=86_400, ge=0, description="How long a good answer of the proxy holds.")
    redis_url: str = Field(
        default="", description="Shared limits, redis://user@host:port; wins over REDIS_HOST. Empty: limits are local."
    )
    redis_host: str = ""
    redis_password_file: Path | None = None
    keys_file: Path | None = Field(default=None, description="Hashed client keys.")
    state_dir: Path = Field(
        default=Path("/var/lib/babelrack/api-server"), description="Spool, jobs, licence cache, journal."
    )
    webhook_secret_file: Path | None = Field(
        default=None, description="What deliveries to webhooks are signed with; without it webhooks are refused."
    )
    url_allowed_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), description="Comma-separated networks that a URL may point into although they are not public."
    )
    max_live_sessions: int | None = Field(
        default=None, ge=1, description="Live sessions at once; default the model server's concurrency."
    )
    max_live_seconds: float = Field(default=4 * 3600, gt=0, description="The most audio of a live session, in seconds.")
    live_idle_seconds: float = Field(default=60, gt=0, description="The longest that a live client may send nothing.")
    live_usage_seconds: float = Field(default=60, gt=0, description="A live session's usage is counted so often.")
    max_queue: int | None = Field(
        default=None, ge=0, description="Requests that may wait for the model server; default twice its concurrency."
    )
    max_wait_seconds: float = Field(default=60, gt=0, description="The longest that a request waits for a slot.")
    max_body_bytes: int = Field(default=250_000_000, ge=1, description="The largest audio, in bytes.")
    max_audio_seconds: float = Field(default=4 * 3600, gt=0, description="The longest audio, in seconds.")
    body_idle_seconds: float = Field(default=30, gt=0, description="The longest pause within a body.")
    body_seconds: float = Field(default=900, gt=0, description="The longest time that a body may take.")
    max_jobs: int = Field(default=10_000, ge=1, description="Jobs that may wait for their transcript or delivery.")
    max_job_bytes: int = Field(default=4 * 1024**3, ge=1, description="What these may hold on disk, in bytes.")
    stall_seconds: float = Field(default=300, gt=0, description="Without progress for so long a model server is lost.")
    drain_seconds: float = Field(default=120, ge=0, description="How long running requests may finish after SIGTERM.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @field_validator("url_allowed_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        networks = []
        for name in filter(None, (part.strip() for part in value.split(","))):
            try:
                networks.append(ip_network(name))
            except ValueError as error:
                raise ValueError(f"{name!r} is not a network such as 10.1.0.0/16 ({error})") from None
        return tuple(networks)

    @model_validator(mode="after")
    def _one_model_server(self) -> Settings:
        if self.asr_streaming_base_url and self.asr_streaming_base_url.rstrip("/") != self.asr_base_url.rstrip("/"):
            raise ValueError(
                "ASR_STREAMING_BASE_URL names another server than ASR_BASE_URL; "
                "one model server serves both, so give them the same value or leave it out"
            )
        return self

    @property
    def effective_redis_url(self) -> str:
        """REDIS_URL, or one made of REDIS_HOST, or empty."""
        if self.redis_url or not self.redis_host:
            return self.redis_url
        return f"redis://{self.redis_host}" if ":" in self.redis_host else f"redis://{self.redis_host}:6379"
