"""TLS on the ports: stock clients, mutual TLS, ALPN, renewed certificates, large bodies, drain."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

import models
from certificates import Authority
from integration.raw_http import RawConnection, request
from integration.server_process import Answer, Server, wait_until
from integration.tensors import sample

GOOD = request("POST", "/v1/models/half_plus_two:predict", b'{"instances":[1.0]}')
GOOD_ANSWER = {"predictions": [2.5]}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
SETTINGS_FRAME = 4

TlsServerFactory = Callable[..., Server]


class TlsConnection(RawConnection):
    """A bare TLS connection; ``half_close`` and ``reset`` are the socket's own."""

    def __init__(self, server: Server, context: ssl.SSLContext | None = None) -> None:
        super().__init__(server.address)
        chosen = context or server.tls
        assert chosen is not None
        self.socket = self.tls = chosen.wrap_socket(self.socket, server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_repository(
        tmp_path_factory.mktemp("tls") / "models",
        {
            "half_plus_two": models.half_plus_two(),
            "identity_large": models.identity_large(),
            "slow": models.slow(),
        },
    )


@pytest.fixture(scope="module")
def server(authority: Authority, repository: Path) -> Iterator[Server]:
    certificate, key = authority.issue("server")
    flags = ("--tls-cert", certificate, "--tls-key", key, "--grpc-port", "0")
    with Server(repository, *flags, tls=authority.client_context()) as shared:
        yield shared.wait_ready()
        shared.assert_alive()
        assert shared.stop() == 0, shared.log
        assert "Traceback" not in shared.log


@pytest.fixture
def serve_tls(authority: Authority, repository: Path, tmp_path: Path) -> Iterator[TlsServerFactory]:
    """``serve_tls(*flags, config=..., tls=...)``: a server of one's own, which must end well."""
    running: list[Server] = []

    def start(*flags: str | Path, config: str = "", tls: ssl.SSLContext | None = None) -> Server:
        certificate, key = authority.issue(f"server{len(running)}")
        arguments: list[str | Path] = [repository, "--tls-cert", certificate, "--tls-key", key, *flags]
        if config:
            file = tmp_path / "servolley.toml"
            file.write_text(config)
            arguments += ["--config", file]
        server = Server(*arguments, tls=tls or authority.client_context())
        running.append(server)
        return server.wait_ready()

    try:
        yield start
        for server in running:
            if server.process.poll() is None:
                assert server.stop() == 0, server.log
            assert "Traceback" not in server.log, server.log
            assert "exception=" not in server.log, server.log
    finally:
        for server in running:
            server.__exit__(None, None, None)


def assert_answers(connection: RawConnection) -> None:
    assert connection.send(GOOD).read_answer().json() == GOOD_ANSWER


# --- clients


def test_calls_over_tls(server: Server) -> None:
    assert server.predict("half_plus_two", {"instances": [1.0, 2.0]}).json() == {"predictions": [2.5, 3.0]}
    assert server.get("/v2").json()["name"] == "servolley"
    assert server.metric("servolley_accepted_connections_total") >= 2


def curl(authority: Authority, *arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "30", "--cacert", str(authority.ca)]
    return subprocess.run([*command, *arguments], capture_output=True, check=True).stdout.decode()


@pytest.mark.skipif(subprocess.call(["which", "curl"], stdout=subprocess.DEVNULL) != 0, reason="no curl")
def test_curl(server: Server, authority: Authority) -> None:
    """Offers HTTP/2 by itself, and gets HTTP/1.1, which has the REST routes."""
    base = f"https://127.0.0.1:{server.port}"
    shown = curl(authority, "-i", "-d", '{"instances": [1.0]}', f"{base}/v1/models/half_plus_two:predict")
    assert shown.startswith("HTTP/1.1 200 OK\r\n")
    assert json.loads(shown.partition("\r\n\r\n")[2]) == GOOD_ANSWER
    # Over plain HTTP it is told what is wrong.
    assert "this port speaks TLS" in curl(authority, f"http://127.0.0.1:{server.port}/v2")


def test_tritonclient_http(server: Server, authority: Authority) -> None:
    array = sample("FP32", (3, 150528), 5)
    tensor = tritonclient.http.InferInput("INPUT0", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    options = {"ssl": True, "ssl_options": {"ca_certs": str(authority.ca)}}
    with tritonclient.http.InferenceServerClient(server.url, **options) as client:
        assert client.is_server_ready()
        result = client.infer("identity_large", [tensor])
    assert np.array_equal(result.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize("own_port", [False, True])
def test_tritonclient_grpc(server: Server, authority: Authority, own_port: bool) -> None:
    array = sample("FP32", (3, 150528), 6)
    tensor = tritonclient.grpc.InferInput("INPUT0", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    url = f"127.0.0.1:{server.grpc_port}" if own_port else server.url
    options = {"ssl": True, "root_certificates": str(authority.ca)}
    with tritonclient.grpc.InferenceServerClient(url, **options) as client:
        assert client.is_server_ready()
        for _ in range(3):
            result = client.infer("identity_large", [tensor])
            assert np.array_equal(result.as_numpy("OUTPUT0"), array)


# --- mutual TLS


def test_mutual_tls(serve_tls: TlsServerFactory, authority: Authority, tmp_path: Path) -> None:
    shown = authority.issue("client", "client@example.org")
    context = authority.client_context(shown)
    server = serve_tls("--tls-client-ca", authority.ca, tls=context)
    assert server.predict("half_plus_two", {"instances": [1.0]}).json() == GOOD_ANSWER
    certificate, key = shown
    options = {"ssl": True, "root_certificates": str(authority.ca)}
    files = {"private_key": str(key), "certificate_chain": str(certificate)}
    with tritonclient.grpc.InferenceServerClient(server.url, **options, **files) as client:
        assert client.is_server_ready()
    # Without a certificate, and with another authority's.
    stranger = Authority(tmp_path / "stranger")
    for refused in (
        authority.client_context(),
        authority.client_context(stranger.issue("client", "client@example.org")),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(server, refused)
    with (
        tritonclient.grpc.InferenceServerClient(server.url, **options) as client,
        pytest.raises(tritonclient.grpc.InferenceServerException),
    ):
        client.is_server_ready(client_timeout=2.0)
    server.assert_live()


def ask(server: Server, context: ssl.SSLContext) -> bytes:
    with TlsConnection(server, context) as connection:
        # In TLS 1.3 a client learns with its first read that it was refused.
        connection.send_what_is_taken(GOOD)
        return connection.tls.recv(1 << 16)


# --- ALPN


@pytest.mark.parametrize(
    ("offer", "http_port", "grpc_port"),
    [
        (["h2"], "h2", "h2"),
        (["http/1.1"], "http/1.1", "http/1.1"),
        (["h2", "http/1.1"], "http/1.1", "h2"),
        (["spdy/3"], None, None),
        (None, None, None),
    ],
)
def test_alpn(
    server: Server,
    authority: Authority,
    offer: list[str] | None,
    http_port: str | None,
    grpc_port: str | None,
) -> None:
    context = authority.client_context(alpn=offer)
    chosen = []
    for port in (server.port, server.grpc_port):
        with RawConnection(("127.0.0.1", port)) as connection:
            tls = context.wrap_socket(connection.socket, server_hostname="127.0.0.1")
            chosen.append(tls.selected_alpn_protocol())
            tls.close()
    assert chosen == [http_port, grpc_port]


def test_bytes_that_are_not_what_alpn_said(server: Server, authority: Authority) -> None:
    with TlsConnection(server, authority.client_context(alpn=["h2"])) as connection:
        connection.send(GOOD)
        assert b"HTTP/1.1" not in read_all(connection.tls)
    with TlsConnection(server, authority.client_context(alpn=["http/1.1"])) as connection:
        connection.send(PREFACE)
        assert connection.read_answer().status in {400, 405, 505}
        connection.assert_closed()


def test_without_alpn_the_first_bytes_decide(server: Server) -> None:
    with TlsConnection(server) as connection:
        assert_answers(connection)
    with TlsConnection(server) as connection:
        connection.send(PREFACE)
        assert connection.tls.recv(9)[3] == SETTINGS_FRAME


def read_all(tls: ssl.SSLSocket) -> bytes:
    received = b""
    while True:
        try:
            data = tls.recv(1 << 16)
        except ConnectionResetError:
            return received
        if not data:
            return received
        received += data


def test_old_versions_are_refused(server: Server, authority: Authority) -> None:
    context = authority.client_context()
    with warnings.catch_warnings(action="ignore"):  # that they are old
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        TlsConnection(server, context)
    context = authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TlsConnection(server, context) as connection:
        assert connection.tls.version() == "TLSv1.2"
        assert_answers(connection)


# --- renewed certificates


def test_renewed_certificates(serve_tls: TlsServerFactory, authority: Authority, tmp_path: Path) -> None:
    renewed = Authority(tmp_path / "renewed")
    server = serve_tls()
    folder = authority.folder
    certificate, key = folder / "server0.pem", folder / "server0.key"
    old_context = authority.client_context()
    with TlsConnection(server, old_context) as old:
        assert_answers(old)
        shown = old.tls.getpeercert(binary_form=True)
        # A key that does not belong to the certificate changes nothing, and is complained of.
        before = certificate.read_bytes(), key.read_bytes()
        key.write_bytes(renewed.issue("other")[1].read_bytes())
        server.signal(signal.SIGHUP)
        wait_until(lambda: "the old ones stay" in server.log, 10, "the complaint")
        complaint = next(line for line in server.stderr if "the old ones stay" in line)
        assert " ERROR " in complaint
        assert "does not belong to the certificate" in complaint
        with TlsConnection(server, old_context) as again:
            assert again.tls.getpeercert(binary_form=True) == shown
            assert_answers(again)
        # A pair of another authority's: seen by new connections, the old one goes on.
        for path, source in zip((certificate, key), renewed.issue("server"), strict=True):
            path.write_bytes(source.read_bytes())
        server.signal(signal.SIGHUP)
        wait_until(lambda: "were read again" in server.log, 10, "the certificates are read again")
        server.tls = renewed.client_context()
        with TlsConnection(server) as new:
            assert new.tls.getpeercert(binary_form=True) != shown
            assert_answers(new)
            with pytest.raises(ssl.SSLCertVerificationError):
                TlsConnection(server, old_context)
            assert_answers(old)
    certificate.write_bytes(before[0])
    key.write_bytes(before[1])


def test_tensorflow_servings_ssl_config_file(repository: Path, authority: Authority, tmp_path: Path) -> None:
    """With the text in it, as its own has to have, and client certificates."""
    certificate, key = authority.issue("in-text")
    file = tmp_path / "ssl.pbtxt"

    def write(certificate: Path, key: Path) -> None:
        fields = {"server_cert": certificate, "server_key": key, "custom_ca": authority.ca}
        lines = [f"{name}: {json.dumps(path.read_text())}\n" for name, path in fields.items()]
        file.write_text("".join(lines) + "client_verify: true\n")

    write(certificate, key)
    with Server(
        repository, "--ssl_config_file", file, tls=authority.client_context((certificate, key))
    ) as server:
        server.wait_ready()
        with TlsConnection(server) as connection:
            assert_answers(connection)
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            TlsConnection(server, authority.client_context()) as no,
        ):
            no.send(GOOD).read_answer()
        file.write_text("server_key: 1")
        server.signal(signal.SIGHUP)
        wait_until(lambda: "the old ones stay" in server.log, 10, "the complaint")
        write(*authority.issue("renewed-in-text"))
        server.signal(signal.SIGHUP)
        wait_until(lambda: "were read again" in server.log, 10, "the certificates are read again")
        with TlsConnection(server) as connection:
            assert_answers(connection)
        assert server.stop() == 0, server.log


# --- what goes through


def large_request(array: np.ndarray[Any, Any]) -> bytes:
    tensor = {
        "name": "INPUT0",
        "datatype": "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return request("POST", "/v2/models/identity_large/infer", head + array.tobytes(), headers)


def binary_part(answer: Answer) -> bytes:
    assert answer.status == 200, answer.body[:300]
    return answer.body[int(answer.headers["inference-header-content-length"]) :]


def test_large_bodies_both_ways(server: Server) -> None:
    array = sample("FP32", (16, 150528), 3)
    with TlsConnection(server) as connection:
        for _ in range(3):
            assert binary_part(connection.send(large_request(array)).read_answer()) == array.tobytes()


def test_keep_alive_and_pipelining(server: Server) -> None:
    with TlsConnection(server) as connection:
        for _ in range(20):
            assert_answers(connection)
        calls = [
            request("POST", "/v1/models/half_plus_two:predict", b'{"instances":[%d]}' % i) for i in range(300)
        ]
        writer = threading.Thread(target=connection.send, args=(b"".join(calls),))
        writer.start()
        for i in range(300):
            assert connection.read_answer().json() == {"predictions": [i / 2 + 2]}
        writer.join()


def test_byte_by_byte(server: Server) -> None:
    with TlsConnection(server) as connection:
        for i in range(len(GOOD)):
            connection.send(GOOD[i : i + 1])
        assert connection.read_answer().json() == GOOD_ANSWER


def test_answers_come_after_the_clients_end(server: Server, authority: Authority) -> None:
    with TlsConnection(server) as connection:  # TCP's end, without TLS's
        connection.send(GOOD)
        with socket.socket(fileno=os.dup(connection.socket.fileno())) as beneath:
            beneath.shutdown(socket.SHUT_WR)
        assert connection.read_answer().json() == GOOD_ANSWER
        assert connection.tls.recv(1) == b""
    with RawConnection(server.address) as raw:  # TLS's end
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = authority.client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        until_done(raw, incoming, outgoing, tls.do_handshake)
        tls.write(GOOD)
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        answer = until_done(raw, incoming, outgoing, lambda: tls.read(1 << 16))
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == GOOD_ANSWER
        until_done(raw, incoming, outgoing, tls.unwrap)
        raw.assert_closed()


def until_done(
    raw: RawConnection, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, step: Callable[[], Any]
) -> Any:
    """Moves bytes until ``step`` has what it wants."""
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            raw.send(outgoing.read())
            data = raw.socket.recv(1 << 16)
            assert data, "the connection ended"
            incoming.write(data)


def test_other_listeners(serve_tls: TlsServerFactory, tmp_path: Path, authority: Authority) -> None:
    """The metrics port speaks TLS, too; the UNIX socket does not."""
    path = tmp_path / "s"
    server = serve_tls("--metrics-port", "0", "--unix-socket", path)
    wait_until(lambda: "metrics on" in server.log, 10, "the metrics port")
    found = re.search(r"metrics on https://127\.0\.0\.1:(\d+)/metrics", server.log)
    assert found, server.log
    client = http.client.HTTPSConnection("127.0.0.1", int(found[1]), context=authority.client_context())
    client.request("GET", "/metrics")
    assert b"servolley_" in client.getresponse().read()
    client.close()
    with RawConnection(str(path)) as connection:
        assert_answers(connection)


# --- the end


def test_drain_finishes_what_is_in_flight(serve_tls: TlsServerFactory) -> None:
    server = serve_tls()
    body = json.dumps({"instances": [[0.5] * 512]}).encode()
    slow = request("POST", "/v1/models/slow:predict", body)
    idle = RawConnection(server.address)  # in the middle of a handshake that never ends
    idle.send(b"\x16\x03\x01\x02")
    connections = [TlsConnection(server).send(slow) for _ in range(3)]
    wait_until(
        lambda: server.metric("servolley_received_bytes_total") > 3 * len(slow), 5, "the requests arrived"
    )
    server.signal(signal.SIGTERM)
    for connection in connections:
        answer = connection.read_answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert connection.tls.recv(1) == b""  # TLS's end: raises if only TCP's came
        connection.close()
    idle.assert_closed()
    idle.close()
    assert server.wait_exit(10) == 0, server.log


def test_grpc_calls_end_with_the_drain(serve_tls: TlsServerFactory, authority: Authority) -> None:
    server = serve_tls()
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    with grpc.secure_channel(server.url, credentials) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=10) == b"\x08\x01"
        server.signal(signal.SIGTERM)
        assert server.wait_exit(10) == 0, server.log
