"""TLS with clients that are slow, many, silent, greedy or do not speak it."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import models
from certificates import Authority
from integration.conftest import ServerFactory
from integration.hostile import survives
from integration.raw_http import RawConnection, request
from integration.server_process import Server, wait_until
from integration.tensors import sample
from integration.test_tls import GOOD, TlsConnection, assert_answers, binary_part, large_request

HANDSHAKE_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Iterator[Server]:
    """With a short handshake deadline and room for 60 connections."""
    root = models.save_repository(
        tmp_path / "models",
        {"half_plus_two": models.half_plus_two(), "identity_large": models.identity_large()},
    )
    certificate, key = authority.issue("server")
    config = tmp_path / "servolley.toml"
    config.write_text(
        f"[tls]\ncert = '{certificate}'\nkey = '{key}'\nhandshake_timeout_s = {HANDSHAKE_TIMEOUT_S}\n"
        "[http]\nmax_connections = 60\n"
    )
    with Server(root, "--config", config, tls=authority.client_context()) as server:
        yield server.wait_ready()
        server.assert_alive()
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log, server.log
        assert "exception=" not in server.log, server.log


def client_hello(authority: Authority) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = authority.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_handshakes_that_never_end(server: Server, authority: Authority) -> None:
    """Silent, cut off, or stopped before the client's last words: closed at the deadline."""
    hello = client_hello(authority)
    with survives(server):
        began = time.monotonic()
        silent = [RawConnection(server.address) for _ in range(10)]
        stopped = [RawConnection(server.address).send(hello) for _ in range(10)]
        slow = RawConnection(server.address)
        with TlsConnection(server) as other:
            for i in range(len(hello)):
                try:
                    slow.send(hello[i : i + 1])
                except OSError:
                    break
                assert_answers(other)
                time.sleep(HANDSHAKE_TIMEOUT_S / 100)
            else:
                pytest.fail("a handshake of many small pieces had no end")
        for connection in silent:
            connection.assert_closed()
        for connection in stopped:
            while connection.socket.recv(1 << 16):
                pass  # the server's part of the handshake
        took = time.monotonic() - began
        assert HANDSHAKE_TIMEOUT_S * 0.9 < took < HANDSHAKE_TIMEOUT_S + 2
        for connection in [*silent, *stopped, slow]:
            connection.close()


def test_handshakes_count_as_connections(server: Server) -> None:
    with survives(server):
        crowd = [RawConnection(server.address) for _ in range(59)]
        time.sleep(0.1)  # all of them are accepted well before the first deadline
        with TlsConnection(server) as last:
            assert_answers(last)
            extra = RawConnection(server.address)
            extra.socket.settimeout(HANDSHAKE_TIMEOUT_S * 0.5)
            extra.assert_closed()
            extra.close()
            for connection in crowd:
                connection.close()
            wait_until(lambda: server.get("/v2/health/live").status == 200, 5, "there is room again")


def test_a_crowd_of_handshakes_leaves_the_loop_to_others(server: Server, authority: Authority) -> None:
    hello = client_hello(authority)
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            crowd = []
            for _ in range(25):
                try:
                    crowd.append(RawConnection(server.address))
                    crowd[-1].send(hello)
                except OSError:
                    continue
            for connection in crowd:
                connection.reset()

    with survives(server), TlsConnection(server) as existing:
        storms = [threading.Thread(target=storm) for _ in range(2)]
        for thread in storms:
            thread.start()
        waits = []
        try:
            for _ in range(200):
                began = time.monotonic()
                assert_answers(existing)
                waits.append(time.monotonic() - began)
        finally:
            stop.set()
            for thread in storms:
                thread.join()
    assert sorted(waits)[len(waits) // 2] < 0.05, sorted(waits)[-20:]


def test_other_languages_on_a_tls_port(server: Server) -> None:
    with survives(server):
        with RawConnection(server.address) as connection:
            # Large enough that the server does not read it to the end.
            connection.send_what_is_taken(request("POST", "/v2", b"x" * (4 << 20)))
            answer = connection.read_answer()
            assert (answer.status, answer.error) == (400, "this port speaks TLS: use https")
            connection.assert_closed()
        for nonsense in (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\0" * 64,
            b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
            b"\x80\x2e\x01\x03\x01" + b"\0" * 60,  # SSL 2's hello
        ):
            with RawConnection(server.address) as connection:
                connection.send_what_is_taken(nonsense)
                received = connection.socket.recv(1 << 16)
                assert len(received) < 100, received
                if received:
                    connection.assert_closed()


def test_a_tls_client_on_a_plain_port(serve: ServerFactory, authority: Authority) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    with RawConnection(server.address) as connection:
        connection.send(client_hello(authority))
        assert connection.read_answer().status == 400
        connection.assert_closed()
    server.tls = authority.client_context()
    with pytest.raises(ssl.SSLError):
        TlsConnection(server)
    server.tls = None
    server.assert_live()


def test_a_client_that_does_not_read(server: Server) -> None:
    """Large answers that nobody takes: the server holds what its limits say and reads no more."""
    array = sample("FP32", (8, 150528), 1)
    asked = large_request(array)
    with survives(server):
        before = server.vitals().resident_bytes
        greedy = [TlsConnection(server) for _ in range(4)]
        for connection in greedy:
            connection.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.send(asked * 50)
        server.assert_live()
        assert server.vitals().resident_bytes - before < 256 << 20
        # Who begins to read gets what was asked for.
        greedy[0].socket.settimeout(20)
        assert binary_part(greedy[0].read_answer()) == array.tobytes()
        assert binary_part(greedy[0].read_answer()) == array.tobytes()
        for connection in greedy:
            connection.close()


def test_a_slow_reader_gets_everything(server: Server) -> None:
    array = sample("FP32", (16, 150528), 2)
    with survives(server), TlsConnection(server) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.send(large_request(array))
        received = bytearray()
        with TlsConnection(server) as other:
            while len(received) < array.nbytes:
                received += connection.tls.recv(1 << 16)
                if len(received) % 7 == 0:
                    assert_answers(other)
        assert np.array_equal(np.frombuffer(received[-array.nbytes :], np.float32), array.reshape(-1))


def test_records_that_were_tampered_with(server: Server, authority: Authority) -> None:
    """Ends that connection only."""
    with survives(server):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = authority.client_context()
            context.minimum_version = context.maximum_version = version
            with TlsConnection(server, context) as connection, TlsConnection(server) as other:
                assert_answers(connection)
                record = b"\x17\x03\x03" + struct.pack(">H", 64) + b"\xaa" * 64
                with socket.socket(fileno=os.dup(connection.socket.fileno())) as beneath:
                    beneath.sendall(record * 3)
                with pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)bad.record|reset"):
                    connection.tls.recv(1 << 16)
                assert_answers(other)


def test_connections_that_vanish(server: Server) -> None:
    with survives(server):
        for i in range(200):
            connection = TlsConnection(server)
            if i % 2:
                connection.send(GOOD)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.socket.close()
