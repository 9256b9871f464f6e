"""gRPC on the protocol: which streams begin, write, stop and end with their connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from servolley.front.calls import Reply
from servolley.front.grpc.methods import Conversation, ServerStream
from servolley.front.transport import HttpProtocol
from unit import fake_core
from unit.fake_core import CALLS, OUTPUT, PAUSE, RESUME
from unit.transport_bench import Bench, Transport

if TYPE_CHECKING:
    pass


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def grpc_event(kind: int, exchange: int = 1, target: str = "", body: bytes = b"") -> fake_core.ControlCall:
    return fake_core.ControlCall(exchange, "POST", target, [], body, kind)


class Watch:
    """A method whose one stream a test sends on."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.stopped = 0

    def begin(self, _: bytes, stream: Any) -> Any:
        self.stream = stream
        return self.stop

    def stop(self) -> None:
        self.stopped += 1

    def find(self, target: str) -> ServerStream | Conversation | None:
        methods: dict[str, ServerStream | Conversation] = {
            "/watch": ServerStream(bytes, self.begin),
            "/talk": Conversation(bytes, lambda request: request),
        }
        return methods.get(target)


def watched(bench: Bench, *flags: int) -> tuple[HttpProtocol, fake_core.Connection, Transport, Watch]:
    """A connection on which /watch is open."""
    watch = Watch()
    protocol = HttpProtocol(bench.driver, bench.router, watch.find)
    core = cast("fake_core.Connection", protocol._core)
    transport = Transport(core.log)
    transport.protocol = protocol
    protocol.connection_made(transport)
    core.calls = [grpc_event(fake_core.GRPC_OPEN, target="/watch"), grpc_event(fake_core.GRPC_MESSAGE)]
    core.flags = [CALLS]
    protocol.buffer_updated(10)
    core.flags = list(flags)
    return protocol, core, transport, watch


def test_grpc_calls_and_http_calls_go_their_ways(bench: Bench) -> None:
    bench.router.add("/x", {"POST": lambda _: Reply(200)})
    protocol, core, _ = bench.connect(CALLS)
    core.calls = [grpc_event(fake_core.GRPC_OPEN, 7, "/x"), fake_core.ControlCall(8, "POST", "/x")]
    protocol.buffer_updated(10)
    assert core.finished == {7: (12, "unknown method /x")}  # this port has no services
    assert [(exchange, status) for exchange, status, *_ in core.replies] == [(8, 200)]


def test_what_a_stream_sends_is_written(bench: Bench) -> None:
    _, core, transport, watch = watched(bench, OUTPUT, 0)
    core.output = [[b"news"]]
    watch.stream.send(b"n")
    assert core.messages == [(1, b"n")]
    assert transport.sent == b"news"


def test_a_stream_that_fails_takes_its_own_connection_down_only(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, transport, watch = watched(bench, OUTPUT)  # there is no output to take: IndexError
    watch.stream.send(b"n")
    assert transport.closing
    assert watch.stopped == 1
    assert "a connection failed" in caplog.text


def test_streams_end_with_their_connection(bench: Bench) -> None:
    protocol, core, _, watch = watched(bench)
    protocol.connection_lost(None)
    assert watch.stopped == 1
    assert core.finished == {}
    watch.stream.send(b"n")
    assert core.messages == []


def test_a_drain_ends_streams(bench: Bench) -> None:
    protocol, core, _, watch = watched(bench)
    bench.driver.begin_drain()
    assert core.finished == {1: (14, "Server exiting")}
    assert watch.stopped == 1
    # What comes before the client has heard of the drain, on this connection and on another one:
    core.calls = [grpc_event(fake_core.GRPC_OPEN, 3, "/watch")]
    core.flags = [CALLS]
    protocol.buffer_updated(10)
    assert core.finished[3] == (14, "Server exiting")
    assert watched(bench)[1].finished == {1: (14, "Server exiting")}


def test_conversations_stop_and_go_on_with_the_reading(bench: Bench) -> None:
    protocol, core, _, _ = watched(bench)
    core.calls = [
        grpc_event(fake_core.GRPC_OPEN, 3, "/talk"),
        *(grpc_event(fake_core.GRPC_MESSAGE, 3, body=b"%d" % number) for number in range(5)),
    ]
    core.flags = [CALLS, 0, PAUSE]
    protocol.buffer_updated(10)
    assert [body for _, body in core.messages] == [b"0", b"1"]
    assert core.log[-1] == "pause"
    core.flags = [0, PAUSE]
    protocol.act(RESUME)
    assert [body for _, body in core.messages] == [b"0", b"1", b"2", b"3"]
    assert core.log[-4:] == ["resume", "send_message", "send_message", "pause"]
    protocol.act(RESUME)
    assert [body for _, body in core.messages] == [b"0", b"1", b"2", b"3", b"4"]
