"""The licence proxy's settings, read from the environment once, at the edge."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every knob of the licence proxy; the environment variable's name is the field's, in capitals."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=6699, ge=0, le=65535)
    license_file: Path | None = Field(default=None, description="The signed licence; a renewed one is picked up.")
    license_public_key_file: Path | None = Field(default=None, description="The issuer's public key, PEM.")
    database: Path = Field(
        default=Path("/var/lib/babelrack/license-proxy/usage.sqlite3"), description="Seats and usage."
    )
    seat_seconds: float = Field(default=600, gt=0, description="A server that is not seen for so long loses its seat.")
    usage_id_days: float = Field(default=30, gt=0, description="How long a usage record is known, to count once.")
    upstream_url: str = Field(default="", pattern=r"^(https?://.*)?$", description="A licence proxy above this one.")
    upstream_grace_seconds: float = Field(default=86_400, ge=0, description="How long a good answer from above holds.")
    license_key_file: Path | None = Field(default=None, description="The licence key, to hand usage on with.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @model_validator(mode="after")
    def _has_something_to_go_by(self) -> Settings:
        if (self.license_file is None) != (self.license_public_key_file is None):
            raise ValueError("LICENSE_FILE and LICENSE_PUBLIC_KEY_FILE go together; set both")
        if self.license_file is None and not self.upstream_url:
            raise ValueError("there is no licence; set LICENSE_FILE and LICENSE_PUBLIC_KEY_FILE, or UPSTREAM_URL")
        return self
