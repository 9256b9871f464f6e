"""TLS between a stand-in socket and a stand-in application, with OpenSSL itself as the client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import pytest

from certificates import Authority
from servolley.front import tls as tls_module
from servolley.front.driver import Driver
from servolley.front.handshakes import Handshakes
from servolley.front.linger import Linger
from servolley.front.tls import TlsConnection
from servolley.front.tls_context import Contexts, TlsFiles, load_contexts
from unit.fake_core import Engine
from unit.transport_bench import Loop, Transport

TIMEOUT_S = 5.0


class Application:
    """Keeps what it is told. ``space``: the size of its buffer; ``on_data`` is called with each read."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.received = b""
        self.space = bytearray(1 << 16)
        self.transport: TlsConnection | None = None
        self.on_data: Callable[[], None] = lambda: None

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        self.transport = cast("TlsConnection", base)
        self.log.append("made")

    def get_buffer(self, sizehint: int, /) -> memoryview:
        return memoryview(self.space)

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.space[:nbytes]
        self.log.append(nbytes)
        self.on_data()

    def eof_received(self) -> bool:
        self.log.append("eof")
        return True

    def pause_writing(self) -> None:
        self.log.append("pause_writing")

    def resume_writing(self) -> None:
        self.log.append("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append("lost")


class Bench:
    def __init__(self, authority: Authority, max_connections: int = 10) -> None:
        self.loop = Loop()
        self.driver = Driver(cast("Any", Engine()), cast("Any", self.loop), max_connections)
        self.handshakes = Handshakes(self.driver, TIMEOUT_S)
        self.contexts: Contexts = load_contexts(TlsFiles(*authority.issue("server")))
        self.client_context = authority.client_context(alpn=["h2"])

    def connect(self) -> Peer:
        peer = Peer(self)
        peer.connection.connection_made(peer.socket)
        return peer

    def connected(self) -> Peer:
        peer = self.connect()
        peer.shake_hands()
        return peer


class Peer:
    """Both ends of a connection: the server's over ``socket``, the client's ``tls``."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.app = Application()
        self.socket = Transport([])
        self.connection = TlsConnection(bench.handshakes, bench.contexts.http_first, lambda: self.app)
        self.socket.protocol = self.connection
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = bench.client_context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def give(self, data: bytes) -> None:
        """To the server, as the loop would."""
        while data:
            space = memoryview(self.connection.get_buffer(-1))
            count = min(len(space), len(data))
            space[:count] = data[:count]
            self.connection.buffer_updated(count)
            data = data[count:]

    def take(self) -> bytes:
        """What the server has put into the socket since."""
        data, self.socket.sent = self.socket.sent, b""
        self.incoming.write(data)
        return data

    def shake_hands(self, pieces: int = 1 << 16) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(self.outgoing.read(), pieces)
                continue
            self.send(self.outgoing.read(), pieces)
            return

    def send(self, data: bytes, pieces: int = 1 << 16) -> None:
        for at in range(0, len(data), pieces):
            self.give(data[at : at + pieces])
            self.bench.loop.run_soon()
        self.take()

    def encrypted(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def read(self) -> bytes:
        self.take()
        received = b""
        try:
            while data := self.tls.read(1 << 16):
                received += data
        except ssl.SSLWantReadError:
            pass
        return received


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def bench(authority: Authority) -> Bench:
    return Bench(authority)


# --- the handshake


@pytest.mark.parametrize("pieces", [1, 100, 1 << 16])
def test_the_application_comes_with_the_end_of_the_handshake(bench: Bench, pieces: int) -> None:
    peer = bench.connect()
    assert bench.loop.pending() == [bench.loop.now + TIMEOUT_S]
    peer.shake_hands(pieces)
    assert peer.app.log == ["made"]
    assert bench.loop.pending() == []
    assert peer.app.transport is peer.connection
    assert peer.connection.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    assert peer.connection.get_extra_info("socket").fileno() == 77
    assert peer.tls.version() == "TLSv1.3"


def test_data_behind_the_clients_last_words(bench: Bench) -> None:
    peer = bench.connect()
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.send(peer.outgoing.read())
    peer.tls.do_handshake()
    peer.tls.write(b"early")
    peer.send(peer.outgoing.read())
    assert peer.app.log == ["made", 5]
    assert peer.app.received == b"early"


def test_one_step_of_one_handshake_a_turn(bench: Bench) -> None:
    peers = [bench.connect() for _ in range(3)]
    for peer in peers:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        peer.give(peer.outgoing.read())
    answered = []
    for _ in range(3):
        bench.loop.run_soon()
        answered.append([bool(peer.socket.sent) for peer in peers])
    assert answered == [[True, False, False], [True, True, False], [True, True, True]]
    assert bench.loop.soon == []


def test_what_comes_before_its_turn_is_bounded(bench: Bench) -> None:
    peer = bench.connect()
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.send(peer.outgoing.read())
    peer.tls.do_handshake()
    data = bytes(range(256)) * 1000
    peer.give(peer.outgoing.read() + peer.encrypted(data))
    assert peer.socket.log[-1] != "pause"  # it came at once
    peer.give(peer.encrypted(b"more"))
    assert peer.socket.log[-1] == "pause"
    bench.loop.run_soon()
    assert peer.socket.log[-1] == "resume"
    assert peer.app.received == data + b"more"


def test_a_handshake_has_a_deadline(bench: Bench) -> None:
    peer = bench.connect()
    peer.give(b"\x16\x03")
    bench.loop.advance(TIMEOUT_S)
    assert peer.socket.log[-1] == "abort"
    bench.loop.run_soon()  # its step was due: nothing comes of it
    peer.connection.connection_lost(None)
    assert peer.app.log == []


def test_there_are_only_as_many_as_may_be_connected(authority: Authority) -> None:
    bench = Bench(authority, max_connections=2)
    first, second = bench.connect(), bench.connect()
    assert bench.connect().socket.log[-1] == "abort"
    first.connection.connection_lost(None)
    third = bench.connect()
    assert "abort" not in third.socket.log
    bench.handshakes.abort()
    assert [peer.socket.log[-1] for peer in (second, third)] == ["abort", "abort"]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"\x16\x03\x01\0\x08\x05\0\0\4\0\0\0\0", b"\x15\x03"),  # no hello, so an alert
        (b"SSH-2.0-", b""),
    ],
)
def test_who_does_not_speak_tls(bench: Bench, data: bytes, answer: bytes) -> None:
    peer = bench.connect()
    peer.give(data)
    bench.loop.run_soon()
    assert peer.socket.sent.startswith(answer)
    assert peer.socket.log[-2:] == ["write_eof", "resume"]
    assert isinstance(peer.socket.protocol, Linger)
    peer.socket.protocol.connection_lost(None)
    assert peer.app.log == []
    assert bench.loop.pending() == []


def test_the_end_inside_a_handshake(bench: Bench) -> None:
    assert not bench.connect().connection.eof_received()


# --- reading


def test_reads_fill_the_applications_buffer(bench: Bench) -> None:
    peer = bench.connected()
    peer.app.space = bytearray(40_000)
    data = bytes(range(251)) * 400
    peer.give(peer.encrypted(data))
    assert peer.app.received == data
    assert peer.app.log == ["made", 40_000, 40_000, len(data) - 80_000]


def test_bytes_one_by_one(bench: Bench) -> None:
    peer = bench.connected()
    for byte in peer.encrypted(b"slowly"):
        peer.give(bytes([byte]))
    assert peer.app.log == ["made", 6]


def test_nothing_is_delivered_while_reading_pauses(bench: Bench) -> None:
    peer = bench.connected()
    peer.app.space = bytearray(1000)
    peer.app.on_data = peer.connection.pause_reading
    peer.give(peer.encrypted(b"x" * 2500))
    assert peer.app.log == ["made", 1000]
    peer.connection.eof_received()
    for expected in ([1000], [1000, 500], [1000, 500, "eof"]):
        peer.connection.resume_reading()
        assert peer.socket.log[-1] == "resume"
        bench.loop.run_soon()
        assert peer.app.log[2:] == expected


def test_the_clients_goodbye_is_an_end(bench: Bench) -> None:
    peer = bench.connected()
    data = peer.encrypted(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.give(data + peer.outgoing.read())
    assert peer.app.log == ["made", 10, "eof"]
    peer.give(b"not read any more")
    peer.connection.eof_received()
    assert peer.app.log == ["made", 10, "eof"]
    peer.connection.write(b"an answer")
    assert peer.read() == b"an answer"


def test_noise_ends_the_connection(bench: Bench) -> None:
    peer = bench.connected()
    peer.give(b"\x17\x03\x03\x00\x20" + b"?" * 32)
    assert peer.socket.log[-1] == "close"
    with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
        peer.read()


# --- writing


def test_small_pieces_are_one_record(bench: Bench) -> None:
    peer = bench.connected()
    peer.take()
    peer.connection.writelines([b"HTTP/1.1 ", memoryview(b"200 "), b"OK"])
    record = peer.take()
    assert record[3:5] == (len(b"HTTP/1.1 200 OK") + 17).to_bytes(2, "big")  # type, and the tag's 16 bytes
    assert len(record) == 5 + int.from_bytes(record[3:5], "big")
    assert peer.read() == b"HTTP/1.1 200 OK"


def test_a_socket_that_takes_nothing_holds_one_chunk(bench: Bench) -> None:
    peer = bench.connected()
    peer.take()
    data = bytes(range(256)) * 4096  # 1 MiB
    peer.socket.room = 0
    peer.connection.writelines([memoryview(data), b"tail"])
    assert peer.app.log == ["made", "pause_writing"]
    assert peer.socket.get_write_buffer_size() < tls_module._CHUNK_BYTES * 2
    size = peer.connection.get_write_buffer_size()
    assert len(data) < size < len(data) + 100_000
    # Progress shows, and the application hears of it when everything is out.
    received = b""
    while peer.socket.buffered:
        assert "resume_writing" not in peer.app.log
        peer.socket.drain(10_000)
        before, size = size, peer.connection.get_write_buffer_size()
        assert size < before
        received += peer.read()
    assert received == data + b"tail"
    assert peer.app.log == ["made", "pause_writing", "resume_writing"]
    assert peer.connection.get_write_buffer_size() == 0


def test_closing_says_goodbye_behind_everything(bench: Bench) -> None:
    peer = bench.connected()
    peer.take()
    peer.socket.room = 0
    data = b"y" * 200_000
    peer.connection.write(data)
    peer.connection.close()
    assert "close" not in peer.socket.log
    peer.connection.write(b"ignored")
    received = b""
    while peer.socket.buffered and "close" not in peer.socket.log:
        peer.socket.drain(1 << 20)
        received += peer.read()
    peer.socket.drain(1 << 20)
    received += peer.read()
    assert received == data
    peer.tls.unwrap()  # the goodbye is here
    peer.connection.connection_lost(None)
    assert peer.app.log[-1] == "lost"


def test_write_eof_says_goodbye(bench: Bench) -> None:
    peer = bench.connected()
    peer.connection.write(b"bye")
    peer.connection.write_eof()
    assert peer.socket.log[-1] == "write_eof"
    assert peer.read() == b"bye"
    peer.tls.unwrap()


def test_abort_forgets_everything(bench: Bench) -> None:
    peer = bench.connected()
    peer.socket.room = 0
    peer.connection.write(b"z" * 200_000)
    peer.connection.abort()
    assert peer.socket.log[-1] == "abort"
    assert peer.connection._unsent == 0
    peer.give(b"\x17\x03\x03")
    assert peer.app.log == ["made", "pause_writing"]


def test_a_client_that_asks_openssl_and_never_reads(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TLS itself answers is bounded as well."""
    monkeypatch.setattr(tls_module, "_MOST_UNREAD_BYTES", 20_000)
    peer = bench.connected()
    peer.take()
    peer.socket.room = 0
    peer.connection.write(b"z" * 30_000)
    assert "abort" not in peer.socket.log
    peer.give(peer.encrypted(b"hello"))
    assert "abort" not in peer.socket.log
    peer.connection._outgoing.write(b"?" * 24)  # as OpenSSL would for a key update
    peer.give(peer.encrypted(b"hello"))
    assert peer.socket.log[-1] == "abort"
