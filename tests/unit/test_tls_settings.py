"""TensorFlow Serving's ssl_config_file: PEM text in it, or the names of files."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from certificates import Authority
from servolley.config.settings import Tls
from servolley.front.tls_context import TlsError
from servolley.front.tls_settings import loader


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def quoted(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_text_and_names(tmp_path: Path, authority: Authority, inline: bool, verify: bool) -> None:
    certificate, key = authority.issue("server")

    def value(path: Path) -> str:
        return quoted(path.read_text() if inline else str(path))

    file = tmp_path / "ssl.pbtxt"
    file.write_text(
        f"server_cert: {value(certificate)} server_key: {value(key)} custom_ca: {value(authority.ca)}"
        + (" client_verify: true" if verify else "")
    )
    before = open_files()
    load = loader(Tls(ssl_config_file=str(file)))
    for _ in range(2):
        for context in load():
            assert context.verify_mode is (ssl.CERT_REQUIRED if verify else ssl.CERT_NONE)
    assert open_files() == before
    file.write_text("server_cert: 7")
    with pytest.raises(TlsError, match="SSLConfig"):
        load()


def test_what_cannot_be_used(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("server")
    other, _ = authority.issue("other")
    file = tmp_path / "ssl.pbtxt"
    load = loader(Tls(ssl_config_file=str(file)))
    with pytest.raises(TlsError, match=r"ssl\.pbtxt: No such file"):
        load()
    pem = {"server_cert": certificate.read_text(), "server_key": key.read_text()}
    for change, complaint in (
        ({"server_key": ""}, "has no server_key"),
        ({"server_cert": ""}, "has no server_cert"),
        ({"server_cert": other.read_text()}, "server_key of .*ssl.pbtxt does not belong to the certificate"),
        ({"server_key": "/absent/key"}, "TLS key /absent/key: No such file"),
        ({"server_key": "-----BEGIN NONSENSE"}, "TLS key server_key of .*: not PEM"),
    ):
        file.write_text(" ".join(f"{name}: {quoted(text)}" for name, text in (pem | change).items()))
        with pytest.raises(TlsError, match=complaint) as refused:
            load()
        assert "/proc" not in str(refused.value)
    file.write_text(
        " ".join(f"{name}: {quoted(text)}" for name, text in pem.items()) + " client_verify: true"
    )
    with pytest.raises(TlsError, match="has no custom_ca"):
        load()
