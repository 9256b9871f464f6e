"""HTTP/1.1 over a bare socket, for bytes that no client library would send; answers are read strictly."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from integration.server_process import Answer

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\x20-\x7e]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x20-\x7e\x80-\xff]*)")


class ConnectionEnded(Exception):  # noqa: N818 - an end, not necessarily an error
    """The peer closed before the first byte of an answer."""


class RawConnection:
    """A connection to ``address``: (host, port), or the path of a UNIX socket."""

    def __init__(self, address: tuple[str, int] | str, timeout_s: float = 20.0) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout_s)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout=timeout_s)
        self._received = bytearray()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def send_what_is_taken(self, data: bytes) -> Self:
        """For a peer that may answer and close before it has read everything."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)
        return self

    def half_close(self) -> Self:
        with contextlib.suppress(OSError):  # a reset connection: reading says so
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Closes with a reset: whatever is unsent or unread is gone."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read_answer(self, *, to_head: bool = False) -> Answer:
        """One answer. Raises ConnectionEnded if there is none, AssertionError if it is malformed."""
        while b"\r\n\r\n" not in self._received:
            self._more(expected=bool(self._received))
        head, _, _ = bytes(self._received).partition(b"\r\n\r\n")
        del self._received[: len(head) + 4]
        first, *lines = head.split(b"\r\n")
        status = _STATUS_LINE.fullmatch(first)
        assert status, f"malformed status line {first!r}"
        headers: dict[str, str] = {}
        for line in lines:
            match = _HEADER.fullmatch(line)
            assert match, f"malformed header line {line!r}"
            name = match[1].decode().lower()
            value = match[2].decode("latin-1")
            if name == "connection" and name in headers:  # a list, which may take several lines
                value = f"{headers.pop(name)}, {value}"
            assert name not in headers, f"header {name} twice"
            headers[name] = value
        if status[1] == b"100":
            return Answer(100, headers, b"")
        assert "transfer-encoding" not in headers
        length = 0 if to_head else int(headers["content-length"])
        while len(self._received) < length:
            self._more(expected=True)
        body = bytes(self._received[:length])
        del self._received[:length]
        return Answer(int(status[1]), headers, body)

    def read_until_closed(self) -> list[Answer]:
        """Every answer that still comes before the peer closes the connection."""
        answers = []
        while True:
            try:
                answers.append(self.read_answer())
            except ConnectionEnded:
                return answers

    def assert_closed(self) -> None:
        """The peer sends nothing more and closes (a reset counts)."""
        assert not self._received, bytes(self._received)
        with contextlib.suppress(ConnectionResetError):
            assert self.socket.recv(1) == b""

    def _more(self, *, expected: bool) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            assert not expected, f"the connection ended inside an answer: {bytes(self._received)!r}"
            raise ConnectionEnded
        self._received += data

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def request(
    method: str,
    target: str | bytes,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    length: bool = True,
) -> bytes:
    """The bytes of a request; Content-Length is added if there is a body or the method is POST."""
    raw_target = target if isinstance(target, bytes) else target.encode("latin-1")
    lines = [method.encode() + b" " + raw_target + b" HTTP/1.1", b"Host: test"]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in (headers or {}).items()]
    if length and (body or method == "POST"):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def exchange(address: tuple[str, int], data: bytes, timeout_s: float = 20.0) -> list[Answer]:
    """Sends ``data`` on a new connection, ends the sending side, and returns every answer until the close."""
    with RawConnection(address, timeout_s) as connection:
        connection.send_what_is_taken(data).half_close()
        return connection.read_until_closed()
