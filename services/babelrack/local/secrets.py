"""The secrets of a local rack: made on the first run, kept for the next ones, each in a file of its owner's alone."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from babelrack.credentials import write_private
from babelrack.keys.file import add_key
from babelrack.licensing.document import self_issue
from babelrack.local import RackError

CLIENT = "local"
_LICENSE_DAYS = 365
_SEATS = 100


@dataclass(frozen=True)
class Secrets:
    """Where each secret is."""

    folder: Path

    @classmethod
    def beside(cls, file: str) -> Secrets:
        """The secrets that this file is one of."""
        return cls(Path(file).parent)

    @property
    def redis_password(self) -> Path:
        """The password of Redis, alone."""
        return self.folder / "redis.password"

    @property
    def redis_config(self) -> Path:
        """Redis's configuration, which has the password too, so that it is in no command line."""
        return self.folder / "redis.conf"

    @property
    def webhook_secret(self) -> Path:
        """What deliveries to webhooks are signed with; the packs of a local rack share it."""
        return self.folder / "webhook.secret"

    @property
    def license(self) -> Path:
        """The signed licence."""
        return self.folder / "license.jws"

    @property
    def license_public_key(self) -> Path:
        """The public key that the licence is signed for."""
        return self.folder / "license-issuer.pem"

    @property
    def license_key(self) -> Path:
        """The licence key that servers show to the licence proxy."""
        return self.folder / "license.key"

    @property
    def keys(self) -> Path:
        """The hashed client keys."""
        return self.folder / "keys.yaml"

    @property
    def client_key(self) -> Path:
        """A client's key, in the clear, for `babelrack transcribe`."""
        return self.folder / "client.key"

    @property
    def client_header(self) -> Path:
        """The same as a header line, for `curl --header @FILE`."""
        return self.folder / "client.header"

    def make(self, customer: str) -> None:
        """Make what is missing; a licence of your own in the place of the demo's stays as it is.

        Raises:
            RackError: when a file can't be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file in (self.redis_password, self.webhook_secret):
                if not file.exists():
                    write_private(file, secrets.token_urlsafe(32) + "\n")
            self._make_license(customer)
            self._make_client_key()
        except OSError as error:
            raise RackError(f"{self.folder}: secrets can't be written there ({error.strerror or error}).") from error

    def _make_license(self, customer: str) -> None:
        """A licence for every language, whose signing key is forgotten at once."""
        if self.license.exists():
            return
        licence = self_issue(customer, seats=_SEATS, days=_LICENSE_DAYS)
        write_private(self.license_key, licence.license_key + "\n")
        write_private(self.license_public_key, licence.public_key)
        write_private(self.license, licence.token + "\n")  # last: it says that all three are there

    def _make_client_key(self) -> None:
        if self.client_key.exists() and self.keys.exists():
            return
        self.keys.unlink(missing_ok=True)
        key = add_key(self.keys, CLIENT, requests_per_minute=None, concurrency=None)
        write_private(self.client_header, f"Authorization: Bearer {key}\n")
        write_private(self.client_key, key + "\n")
