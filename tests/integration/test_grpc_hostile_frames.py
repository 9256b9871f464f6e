"""Hostile HTTP/2 against a live server: floods, windows that stay closed, header tables as bombs. Frames are
made by hand; the conditions of hostile.py hold around each."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from integration.grpc_calls import MODEL_INFER, STREAM_INFER, small_request
from integration.h2_client import H2Client, Reply, call_fields, with_prefix
from integration.server_process import Server

pytestmark = pytest.mark.usefixtures("hostile_conditions")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PROTOCOL_ERROR, STREAM_CLOSED, ENHANCE_YOUR_CALM = 1, 5, 11
TIMEOUT_S = 20.0


def head_block(path: str = MODEL_INFER, *extra: tuple[str, str]) -> bytes:
    fields = [
        *call_fields(path),
        *extra,
    ]
    # Nothing goes into the table, so that the block can be sent again and again.
    return b"".join(Encoder().encode([(name, value, True)], huffman=False) for name, value in fields)


HEAD = head_block()
MESSAGE = with_prefix(small_request().SerializeToString())


def headers(stream: int, block: bytes = HEAD, *flags: str) -> bytes:
    data: bytes = HeadersFrame(stream, data=block, flags=["END_HEADERS", *flags]).serialize()
    return data


def data(stream: int, payload: bytes = MESSAGE, *flags: str) -> bytes:
    frame: bytes = DataFrame(stream, data=payload, flags=list(flags)).serialize()
    return frame


class Flood:
    """A connection that writes as long as it is let, and reads on the side."""

    def __init__(self, server: Server, greeting: bytes | None = None) -> None:
        self.socket = socket.create_connection(server.address, TIMEOUT_S)
        self.socket.sendall(PREFACE + SettingsFrame().serialize() if greeting is None else greeting)
        self.received = bytearray()

    def send(self, data: bytes) -> bool:
        """Whether the server still takes anything."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def read_until_closed(self) -> None:
        while True:
            try:
                piece = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return
            if not piece:
                return
            self.received += piece

    def goaway_error(self) -> int | None:
        """Of the last GOAWAY in what was read."""
        found = None
        rest = bytes(self.received)
        while len(rest) >= 9:
            size = int.from_bytes(rest[:3], "big")
            if rest[3] == GoAwayFrame.type and len(rest) >= 9 + 8:
                found = int.from_bytes(rest[13:17], "big")
            rest = rest[9 + size :]
        return found


@contextmanager
def flood(server: Server, greeting: bytes | None = None) -> Iterator[Flood]:
    connection = Flood(server, greeting)
    try:
        yield connection
    finally:
        connection.socket.close()


def assert_right(server: Server) -> None:
    with H2Client(server.address) as client:
        assert client.unary(MODEL_INFER, small_request().SerializeToString()).status == 0


def cpu_seconds(server: Server) -> float:
    with open(f"/proc/{server.pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


FLOODS: dict[str, Callable[[int], bytes]] = {
    # Opened and reset at once, with and without a request under way.
    "rapid reset": lambda i: headers(2 * i + 1) + RstStreamFrame(2 * i + 1, error_code=8).serialize(),
    "rapid reset of requests": lambda i: (
        headers(2 * i + 1) + data(2 * i + 1) + RstStreamFrame(2 * i + 1, error_code=8).serialize()
    ),
    # The server is made to reset: windows that overflow or grow by nothing, data behind the end.
    "provoked resets": lambda i: (
        headers(2 * i + 1) + WindowUpdateFrame(2 * i + 1, window_increment=2**31 - 1).serialize() * 2
    ),
    "windows that grow by nothing": lambda i: (
        headers(2 * i + 1) + WindowUpdateFrame(2 * i + 1).serialize()[:9] + b"\0\0\0\0"
    ),
    "data behind the end": lambda i: headers(2 * i + 1, HEAD, "END_STREAM") + data(2 * i + 1),
    "pings": lambda i: PingFrame(opaque_data=struct.pack(">Q", i)).serialize(),
    "settings": lambda _: SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100}).serialize(),
    "empty data": lambda i: (headers(1) if i == 0 else b"") + data(1, b""),
    "window updates": lambda _: WindowUpdateFrame(0, window_increment=1).serialize(),
    "continuations": lambda i: (
        HeadersFrame(1, data=HEAD).serialize() if i == 0 else ContinuationFrame(1, data=b"").serialize()
    ),
    "long continuations": lambda i: (
        HeadersFrame(1, data=HEAD).serialize()
        if i == 0
        else ContinuationFrame(1, data=head_block("/x", ("x", "y" * 15_000))).serialize()
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods(server: Server, kind: str) -> None:
    """Of 100,000 not all are looked at: the server closes the connection, at little cost."""
    make = FLOODS[kind]
    before = cpu_seconds(server)
    with flood(server) as connection:
        for first in range(0, 100_000, 500):
            if not connection.send(b"".join(make(i) for i in range(first, first + 500))):
                break
        connection.read_until_closed()
        # A reset may have overtaken the GOAWAY.
        error = connection.goaway_error()
        assert error in {None, ENHANCE_YOUR_CALM, PROTOCOL_ERROR, STREAM_CLOSED}, error
    assert cpu_seconds(server) - before < 3
    assert_right(server)


def test_priorities_cost_nothing(server: Server) -> None:
    """They are obsolete, and ignored."""
    before = cpu_seconds(server)
    with flood(server) as connection:
        for stream in range(1, 200_000, 2):
            connection.send(PriorityFrame(stream, depends_on=0, stream_weight=1).serialize())
        connection.send(headers(200_001) + data(200_001, MESSAGE, "END_STREAM"))
        connection.socket.shutdown(socket.SHUT_WR)
        connection.read_until_closed()
    assert cpu_seconds(server) - before < 3
    assert_right(server)


@pytest.mark.parametrize("kind", ["rapid reset", "provoked resets", "pings", "settings"])
def test_floods_are_named(server: Server, kind: str) -> None:
    """GOAWAY says ENHANCE_YOUR_CALM to who reads it."""
    make = FLOODS[kind]
    with flood(server) as connection:
        connection.socket.settimeout(0.01)
        for first in range(0, 20_000, 100):
            if not connection.send(b"".join(make(i) for i in range(first, first + 100))):
                break
            try:
                connection.received += connection.socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                break
            if connection.goaway_error() is not None:
                break
        assert connection.goaway_error() == ENHANCE_YOUR_CALM


def test_a_header_table_bomb(server: Server) -> None:
    """One large field in the table, and references to it: kilobytes that would be gigabytes."""
    encoder = Encoder()
    encoder.header_table_size = 4096
    first = HEAD + encoder.encode([("x", "y" * 4000)], huffman=False)
    reference = b"\xbe"  # the newest entry
    with flood(server) as connection:
        connection.send(headers(1, first))
        for i in range(1, 200):
            if not connection.send(headers(2 * i + 1, HEAD + reference * 16_000)):
                break
        connection.send(headers(401, HEAD, "END_STREAM"))
        connection.socket.shutdown(socket.SHUT_WR)
        connection.read_until_closed()
    assert_right(server)


def test_windows_that_stay_closed(server: Server) -> None:
    """1,000 answers wait for a window of zero; when their client has gone they are forgotten."""
    greeting = PREFACE + SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}).serialize()
    with flood(server, greeting) as connection:
        for i in range(1000):
            assert connection.send(headers(2 * i + 1) + data(2 * i + 1, MESSAGE, "END_STREAM"))
        for _ in range(10):
            server.assert_live()
        assert_right(server)


def test_windows_that_overflow(server: Server) -> None:
    for stream in (0, 1):
        with flood(server) as connection:
            connection.send(headers(1, head_block(STREAM_INFER)))
            for _ in range(3):
                connection.send(WindowUpdateFrame(stream, window_increment=2**31 - 1).serialize())
            connection.socket.shutdown(socket.SHUT_WR)
            connection.read_until_closed()
    assert_right(server)


def test_a_greeting_that_does_not_come(server: Server) -> None:
    """The preface alone, byte by byte, and what is none; others are served meanwhile."""
    for beginning in (
        PREFACE[:3],
        PREFACE[:-1],
        PREFACE,
        PREFACE + b"\0" * 9,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ):
        with flood(server, b"") as connection:
            for at in range(len(beginning)):
                if not connection.send(beginning[at : at + 1]):
                    break
            assert_right(server)
            connection.socket.shutdown(socket.SHUT_WR)
            connection.read_until_closed()


MALFORMED: dict[str, bytes] = {
    "a frame larger than announced": b"\x00\x80\x01\x00\x00\x00\x00\x00\x01" + b"x" * 40_000,
    "data on stream zero": b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
    "data on an idle stream": data(7),
    "headers on an even stream": headers(2),
    "headers on a lower stream": headers(5) + headers(3),
    "headers that depend on themselves": b"\x00\x00\x05\x01\x24\x00\x00\x00\x01\x00\x00\x00\x01\x10",
    "padding beyond the frame": b"\x00\x00\x01\x00\x08\x00\x00\x00\x01\xff",
    "continuation without headers": ContinuationFrame(1, data=b"", flags=["END_HEADERS"]).serialize(),
    "data between headers and continuation": HeadersFrame(1, data=HEAD).serialize() + data(1),
    "a header block that is none": headers(1, b"\xff" * 100),
    "a table size above the announced": headers(1, b"\x3f\xff\xff\x7f" + HEAD),
    "settings of a wrong size": b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + b"\0" * 5,
    "settings on a stream": b"\x00\x00\x00\x04\x00\x00\x00\x00\x01",
    "a ping of a wrong size": b"\x00\x00\x07\x06\x00\x00\x00\x00\x00" + b"\0" * 7,
    "a reset of an idle stream": RstStreamFrame(9).serialize(),
    "a push": b"\x00\x00\x05\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02\x88",
    "an unknown frame": b"\x00\x00\x04\xee\xff\x00\x00\x00\x03abcd"
    + headers(1)
    + data(1, MESSAGE, "END_STREAM"),
    "goaway": GoAwayFrame(last_stream_id=0, error_code=0).serialize() + headers(1),
    "no method": headers(1, head_block()[len(Encoder().encode([(":method", "POST", True)])) :]),
    "upper-case names": headers(1, HEAD + b"\x10\x01X\x01y"),
    "a field of the connection": headers(1, head_block(MODEL_INFER, ("connection", "close"))),
    "a path that is none": headers(1, head_block("")),
    "GET": headers(1, HEAD.replace(b"POST", b"GET!")),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_frames(server: Server, what: str) -> None:
    """Alone, and with a call under way."""
    for before in (b"", headers(1, head_block(STREAM_INFER)) + data(1)):
        frames = MALFORMED[what]
        with flood(server) as connection:
            connection.send(before + frames)
            connection.socket.shutdown(socket.SHUT_WR)
            began = time.monotonic()
            connection.read_until_closed()
            assert time.monotonic() - began < 10
    assert_right(server)


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("GET", "application/grpc", "405"),
        ("PUT", "application/grpc", "405"),
        ("POST", "application/json", "415"),
        ("POST", "application/grpcx", "415"),
        ("POST", "", "415"),
    ],
)
def test_http2_that_is_not_grpc(server: Server, method: str, content_type: str, status: str) -> None:
    with H2Client(server.address) as client:
        connection = client.connection
        stream = client.head(MODEL_INFER)
        del client.replies[stream]
        other = connection.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":path", MODEL_INFER), (":authority", "t")]
        connection.send_headers(
            other, [*fields, *([("content-type", content_type)] if content_type else [])], True
        )
        client.replies[other] = Reply()
        (reply,) = client.finish(other)
        assert reply.fields[":status"] == status
