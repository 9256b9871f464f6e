"""Certificate files: what is accepted, and that complaints name the file and the reason."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from certificates import Authority
from servolley.front.tls_context import TlsError, TlsFiles, load_contexts


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def complaint(certificate: Path, key: Path, client_ca: Path | None = None) -> str:
    with pytest.raises(TlsError) as raised:
        load_contexts(TlsFiles(certificate, key, client_ca))
    return str(raised.value)


def test_contexts(authority: Authority) -> None:
    certificate, key = authority.issue("server")
    for context in load_contexts(TlsFiles(certificate, key)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.verify_mode == ssl.CERT_NONE
        weak = [cipher["name"] for cipher in context.get_ciphers() if not cipher["aead"]]
        assert weak == []
    for context in load_contexts(TlsFiles(certificate, key, authority.ca)):
        assert context.verify_mode == ssl.CERT_REQUIRED


def test_files_that_are_not_there(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    absent = tmp_path / "absent.pem"
    assert complaint(absent, key) == f"TLS certificate {absent}: No such file or directory"
    assert complaint(certificate, absent) == f"TLS key {absent}: No such file or directory"
    assert complaint(certificate, key, absent) == f"TLS client CA {absent}: No such file or directory"
    assert complaint(tmp_path, key) == f"TLS certificate {tmp_path}: Is a directory"


def test_files_of_another_kind(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_bytes(bytes(range(256)))
    assert complaint(nonsense, key) == f"TLS certificate {nonsense}: not PEM, or no certificate in it"
    assert complaint(key, certificate) == f"TLS certificate {key}: not PEM, or no certificate in it"
    assert complaint(certificate, certificate) == f"TLS key {certificate}: not PEM, or no key in it"
    assert (
        complaint(certificate, key, nonsense) == f"TLS client CA {nonsense}: not PEM, or no client CA in it"
    )


def test_broken_files(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    cut = tmp_path / "cut.pem"
    cut.write_bytes(certificate.read_bytes()[:300])
    assert complaint(cut, key).startswith(f"TLS certificate {cut} with key {key}: ")
    assert complaint(certificate, key, cut).startswith(f"TLS client CA {cut}: ")
    cut.write_bytes(key.read_bytes()[:100])
    assert complaint(certificate, cut).startswith(f"TLS certificate {certificate} with key {cut}: ")


def test_a_key_of_another_certificate(authority: Authority) -> None:
    certificate, _ = authority.issue("server")
    _, other = authority.issue("other")
    assert (
        complaint(certificate, other) == f"TLS key {other} does not belong to the certificate {certificate}"
    )


def test_a_key_with_a_passphrase(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:x", "-in", str(key), "-out", str(encrypted)]
    subprocess.run(command, check=True)
    expected = f"TLS key {encrypted}: encrypted; give one without a passphrase"
    assert complaint(certificate, encrypted) == expected
