"""Certificate files into a TLS context, with errors that say which file is wrong. Imported only where TLS is
asked for."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# For TLS 1.2: forward secrecy and authenticated encryption only, which is what HTTP/2 allows there.
_CIPHERS_TLS12 = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(Exception):
    """Certificate files that cannot be used; the text is for the user."""


class Contexts(NamedTuple):
    """Every port offers HTTP/1.1 and HTTP/2; they differ in what a client gets that takes both. HTTP/2 is for
    gRPC only here, so browsers and curl, which take both, must get HTTP/1.1 where they are expected."""

    http_first: ssl.SSLContext
    grpc_first: ssl.SSLContext


class _EncryptedKeyError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """``client_ca``: whose client certificates are required and accepted; None = no client needs one."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def load_contexts(files: TlsFiles) -> Contexts:
    """Reads the files, all of them anew. Raises TlsError."""
    return Contexts(_load(files, ["http/1.1", "h2"]), _load(files, ["h2", "http/1.1"]))


def _load(files: TlsFiles, protocols: list[str]) -> ssl.SSLContext:
    _check(files.certificate, "certificate", b"-----BEGIN CERTIFICATE-----")
    _check(files.key, "key", b"PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client's renegotiation is work for us and none for it; TLS 1.3 has none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS_TLS12)
    context.set_alpn_protocols(protocols)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_passphrase)
    except _EncryptedKeyError:
        raise TlsError(f"TLS key {files.key}: encrypted; give one without a passphrase") from None
    except (ssl.SSLError, OSError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            text = f"TLS key {files.key} does not belong to the certificate {files.certificate}"
        else:
            text = f"TLS certificate {files.certificate} with key {files.key}: {_reason(error)}"
        raise TlsError(text) from error
    if files.client_ca is not None:
        _check(files.client_ca, "client CA", b"-----BEGIN ")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"TLS client CA {files.client_ca}: {_reason(error)}") from error
    return context


def _check(path: Path, what: str, marker: bytes) -> None:
    """Raises TlsError for a file that is not what it should be: OpenSSL's own words do not say which one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsError(f"TLS {what} {path}: {error.strerror}") from error
    if marker not in content:
        raise TlsError(f"TLS {what} {path}: not PEM, or no {what} in it")


def _refuse_passphrase() -> str:
    # Without this OpenSSL would ask at the terminal, and the server would wait.
    raise _EncryptedKeyError


def _reason(error: OSError) -> str:
    reason: str | None = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else str(error.strerror or error)
