"""A gRPC client that is no good citizen: it sends what it is told, reads when it is told, and opens its
windows only if it wants to."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

CONNECTION_WINDOW_BYTES = 1 << 30

Fields = Iterable[tuple[str, str]]


def with_prefix(message: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """gRPC's frame around a message; ``length``: what it claims."""
    size = len(message) if length is None else length
    return bytes([compressed]) + size.to_bytes(4, "big") + message


@dataclass
class Reply:
    """What has come back on one stream."""

    fields: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> int | None:
        """grpc-status; None for a stream without one."""
        return int(self.fields["grpc-status"]) if "grpc-status" in self.fields else None

    @property
    def text(self) -> str:
        return unquote(self.fields.get("grpc-message", ""))

    @property
    def messages(self) -> list[bytes]:
        found = []
        rest = bytes(self.data)
        while rest:
            assert rest[0] == 0, "a compressed message that nobody asked for"
            size = int.from_bytes(rest[1:5], "big")
            assert len(rest) >= 5 + size, "half a message"
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


def call_fields(path: str) -> list[tuple[str, str]]:
    """The head of a gRPC call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


class H2Client:
    """One connection. ``window``: what the client lets each stream receive; ``acknowledges``: whether it
    gives windows back as it reads."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        timeout_s: float = 20.0,
        window: int = 1 << 24,
        acknowledges: bool = True,
    ) -> None:
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout_s = timeout_s
        self.acknowledges = acknowledges
        self.replies: dict[int, Reply] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.closed = False
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
            },
        )
        self.connection.initiate_connection()
        if acknowledges:
            self.connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    # --- sending ---

    def flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def head(self, path: str, fields: Fields = ()) -> int:
        """Opens a call; queued, not sent."""
        stream: int = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, [*call_fields(path), *fields])
        self.replies[stream] = Reply()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Waits for the server's windows; queued, not sent, as far as they are open."""
        while data and not self.replies[stream].over:
            room = min(
                self.connection.local_flow_control_window(stream),
                self.connection.max_outbound_frame_size,
                len(data),
            )
            if room:
                self.connection.send_data(stream, data[:room])
                data = data[room:]
            else:
                self.flush()
                self.read()
        if end and not self.replies[stream].over:
            self.connection.end_stream(stream)

    def begin(self, path: str, message: bytes, fields: Fields = ()) -> int:
        """A unary call; queued, not sent."""
        stream = self.head(path, fields)
        self.data(stream, with_prefix(message), end=True)
        return stream

    def reset(self, stream: int) -> None:
        self.connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.replies[stream].reset = int(h2.errors.ErrorCodes.CANCEL)

    # --- receiving ---

    def read(self) -> None:
        """One read from the socket, and what the connection has to say to it."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            for reply in self.replies.values():
                reply.reset = -1 if not reply.over else reply.reset
            return
        for event in self.connection.receive_data(data):
            self._take(event)
        if pending := self.connection.data_to_send():
            try:
                self.socket.sendall(pending)
            except OSError:
                self.closed = True

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                for name, value in event.headers:
                    self.replies[event.stream_id].fields[name.decode()] = value.decode()
            case h2.events.DataReceived():
                self.replies[event.stream_id].data += event.data
                if self.acknowledges and event.flow_controlled_length:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.replies[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.replies[event.stream_id].reset = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goaway = event
            case _:
                pass

    def wait(self, condition: Callable[[], object]) -> None:
        """Reads until ``condition()`` or the connection is closed."""
        deadline = time.monotonic() + self.timeout_s
        while not condition() and not self.closed:
            assert time.monotonic() < deadline, f"not within {self.timeout_s} s"
            self.read()

    def finish(self, *streams: int) -> list[Reply]:
        """Sends what is queued and waits for the calls' ends."""
        self.flush()
        replies = [self.replies[stream] for stream in streams]
        self.wait(lambda: all(reply.over for reply in replies))
        return [self.replies.pop(stream) for stream in streams]

    def unary(self, path: str, message: bytes, fields: Fields = ()) -> Reply:
        (reply,) = self.finish(self.begin(path, message, fields))
        return reply
