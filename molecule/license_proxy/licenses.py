"""Issues the scenario's licences into a folder: the site's, one that has ended; with `renew` the site's once more."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from joserfc.jwk import OKPKey

from babelrack.credentials import write_private
from babelrack.licensing.document import generate_license_key, generate_signing_key, issue, key_sha256


def main(folder: Path, *, renew: bool) -> None:
    """The issuer's own key stays in `issuer.key` beside them, for the renewal."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not renew:
        pair = generate_signing_key()
        write_private(folder / "issuer.key", pair.as_pem(private=True).decode())
        (folder / "license-public.pem").write_bytes(pair.as_pem(private=False))
        write_private(folder / "license-key", generate_license_key() + "\n")
        write_private(folder / "another-key", generate_license_key() + "\n")
    signing_key = OKPKey.import_key((folder / "issuer.key").read_text())
    now = datetime.now(UTC)
    license_key = (folder / "license-key").read_text().strip()
    for name, begin, end in (
        ("license.jws", now, now + timedelta(days=300 if renew else 10)),
        ("ended.jws", now - timedelta(days=9), now - timedelta(days=2)),
    ):
        token = issue(
            customer="Renewed" if renew else "Scenario",
            languages=["hi", "en"],
            seats=2,
            not_before=begin,
            expires=end,
            license_key_sha256=key_sha256(license_key),
            signing_key=signing_key,
        )
        write_private(folder / name, token + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), renew=sys.argv[2:] == ["renew"])
