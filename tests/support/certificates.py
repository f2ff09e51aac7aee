"""An authority, and certificates that it signs."""

from __future__ import annotations

from pathlib import Path

import trustme


class Authority:
    """A certificate authority of the tests.

    Args:
        folder: Where its files are written; created if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, *names: str) -> tuple[Path, Path]:
        """The files of a certificate for these host names and addresses, and of its key."""
        issued = self._authority.issue_cert(*names)
        certificate, key = self._folder / f"{names[0]}.pem", self._folder / f"{names[0]}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def settings(self, *names: str) -> dict[str, str]:
        """The settings of a Redis that has these names."""
        certificate, key = self.issue(*names)
        return {"REDIS_TLS_CERT": str(certificate), "REDIS_TLS_KEY": str(key), "REDIS_TLS_CA": str(self.ca)}
