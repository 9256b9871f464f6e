"""Certificates for the tests: authorities and what they issue, made when they are needed."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Authority:
    """One authority with its files in ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *identities: str) -> tuple[Path, Path]:
        """(certificate, key) for ``identities``, by default this machine; written over what was there."""
        issued = self._authority.issue_cert(*(identities or ("127.0.0.1", "localhost")))
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def client_context(
        self, certificate: tuple[Path, Path] | None = None, alpn: list[str] | None = None
    ) -> ssl.SSLContext:
        """A client's: trusts this authority, shows ``certificate``."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        if alpn is not None:
            context.set_alpn_protocols(alpn)
        return context
