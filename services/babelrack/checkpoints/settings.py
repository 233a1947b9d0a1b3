"""What a fetch may use: endpoints, credentials, time-outs and bounds. Made once at the edge and passed in."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import httpx
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from babelrack.checkpoints.errors import CheckpointError
from babelrack.credentials import CredentialError, read_credential

_GIB = 1 << 30


class FetchSettings(BaseSettings):
    """Settings of `fetch` and `prepare`, from the environment; sizes in bytes, times in seconds.

    Secrets are looked for in `$CREDENTIALS_DIRECTORY` first (`hf_token`, `aws_credentials`), then in the files that
    `HF_TOKEN_FILE` and `AWS_SHARED_CREDENTIALS_FILE` name, then in `HF_TOKEN` and `AWS_ACCESS_KEY_ID` with
    `AWS_SECRET_ACCESS_KEY`.
    """

    model_config = SettingsConfigDict(populate_by_name=True, env_ignore_empty=True, extra="ignore", frozen=True)

    hub_endpoint: str = Field(
        default="https://huggingface.co", validation_alias=AliasChoices("hub_endpoint", "HF_ENDPOINT")
    )
    hub_token: SecretStr | None = Field(default=None, validation_alias=AliasChoices("hub_token", "HF_TOKEN"))

    s3_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("s3_endpoint", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    )
    s3_region: str = Field(
        default="us-east-1", validation_alias=AliasChoices("s3_region", "AWS_REGION", "AWS_DEFAULT_REGION")
    )
    s3_access_key: str | None = Field(default=None, validation_alias=AliasChoices("s3_access_key", "AWS_ACCESS_KEY_ID"))
    s3_secret_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("s3_secret_key", "AWS_SECRET_ACCESS_KEY")
    )
    s3_session_token: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("s3_session_token", "AWS_SESSION_TOKEN")
    )

    connect_seconds: float = Field(
        default=10.0, gt=0, validation_alias=AliasChoices("connect_seconds", "CHECKPOINT_CONNECT_SECONDS")
    )
    read_seconds: float = Field(
        default=60.0, gt=0, validation_alias=AliasChoices("read_seconds", "CHECKPOINT_READ_SECONDS")
    )
    tries: int = Field(default=6, ge=1, le=100, validation_alias=AliasChoices("tries", "CHECKPOINT_TRIES"))
    backoff_seconds: float = Field(
        default=0.5, ge=0, validation_alias=AliasChoices("backoff_seconds", "CHECKPOINT_BACKOFF_SECONDS")
    )
    largest_download: int = Field(
        default=32 * _GIB, gt=0, validation_alias=AliasChoices("largest_download", "CHECKPOINT_LARGEST_DOWNLOAD")
    )
    largest_unpacked: int = Field(
        default=32 * _GIB, gt=0, validation_alias=AliasChoices("largest_unpacked", "CHECKPOINT_LARGEST_UNPACKED")
    )

    @field_validator("hub_endpoint", "s3_endpoint")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                url = httpx.URL(value)
            except httpx.InvalidURL:
                url = httpx.URL()
            if url.scheme not in {"http", "https"} or not url.host or url.query or url.userinfo:
                raise ValueError("an endpoint is a URL such as https://host:9000")
        return value

    @classmethod
    def from_environment(cls) -> FetchSettings:
        """The settings of this process, with secrets from their files.

        Raises:
            CheckpointError: when a file that is named can't be used.
        """
        try:
            settings = cls()
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            message = fault["msg"].removeprefix("Value error, ")
            raise CheckpointError(f"{_variable(str(fault['loc'][0]))}: {message}; correct it") from None
        found: dict[str, object] = {}
        try:
            token_file = os.environ.get("HF_TOKEN_FILE")
            token = read_credential("hf_token", file=Path(token_file) if token_file else None)
            if token:
                found["hub_token"] = SecretStr(token)
            found |= _s3_credentials(settings)
        except CredentialError as error:
            raise CheckpointError(str(error)) from error
        return settings.model_copy(update=found)


def _variable(name: str) -> str:
    """What the environment calls the setting that pydantic calls by any of its names."""
    for field, info in FetchSettings.model_fields.items():
        choices = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else []
        if name == field or name in choices:
            return " or ".join(str(choice) for choice in choices if choice != field)
    return name


def _s3_credentials(settings: FetchSettings) -> dict[str, object]:
    """What the shared credentials file adds; keys in the environment win over it, as with every S3 client."""
    named = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    usual = Path("~/.aws/credentials").expanduser()
    file = Path(named) if named else (usual if usual.is_file() else None)
    text = read_credential("aws_credentials", file=None if settings.s3_access_key else file)
    if text is None:
        return {}
    profile = os.environ.get("AWS_PROFILE", "default")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        section = parser[profile]
        found: dict[str, object] = {
            "s3_access_key": section["aws_access_key_id"],
            "s3_secret_key": SecretStr(section["aws_secret_access_key"]),
        }
        session = section.get("aws_session_token")
    except (configparser.Error, KeyError):
        # The parser's own message quotes the line that it can't read, which may hold the secret.
        raise CheckpointError(
            f"the S3 credentials file has no readable section [{profile}] with aws_access_key_id and "
            "aws_secret_access_key; fix it or set AWS_PROFILE"
        ) from None
    return found | {"s3_session_token": SecretStr(session) if session else None}
