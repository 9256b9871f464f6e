"""The protocol and its driver over the stand-in connection: which core calls are made, in which order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from servolley import _core
from servolley.front import transport as transport_module
from servolley.front.calls import Call, Reply
from servolley.front.driver import WRITE_STALL_S, Driver
from servolley.front.grpc.methods import Conversation, ServerStream
from servolley.front.linger import Linger
from servolley.front.router import Router
from servolley.front.transport import HttpProtocol
from servolley.status import invalid_argument
from unit import fake_core
from unit.fake_core import CALLS, CLOSE, OUTPUT, PAUSE, RESUME, TICK

if TYPE_CHECKING:
    from servolley._core import Engine


def test_the_flags_are_the_cores() -> None:
    assert (_core.TICK, _core.CALLS, _core.OUTPUT) == (TICK, CALLS, OUTPUT)
    assert (_core.PAUSE, _core.RESUME, _core.CLOSE) == (PAUSE, RESUME, CLOSE)
    kinds = (_core.HTTP, _core.GRPC_OPEN, _core.GRPC_MESSAGE, _core.GRPC_HALF_CLOSE, _core.GRPC_CANCEL)
    assert kinds == tuple(range(5))


class Loop:
    """Records what is scheduled; ``now`` stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Any] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any) -> None:
        self.soon.append(lambda: callback(*args))

    def call_later(self, delay: float, callback: Any) -> Timer:
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def run_soon(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def pending(self) -> list[float]:
        return [timer.when for timer in self.timers if not timer.over]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in list(self.timers):
            if not timer.over and timer.when <= self.now:
                timer.over = True
                timer.callback()


class Timer:
    def __init__(self, when: float, callback: Any) -> None:
        self.when, self.callback, self.over = when, callback, False

    def cancel(self) -> None:
        self.over = True


class Socket:
    def fileno(self) -> int:
        return 77


class Tls:
    def __init__(self, alpn: str | None) -> None:
        self.alpn = alpn

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn


class Transport(asyncio.Transport):
    """Takes ``room`` bytes, then pauses its protocol."""

    def __init__(self, log: list[str], room: int = 1 << 30) -> None:
        super().__init__()
        self.log, self.room = log, room
        self.protocol: Any = None
        self.sent = b""
        self.buffered = b""
        self.closing = False
        self.tls: Tls | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": Socket(), "ssl_object": self.tls}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.log.append(f"limits {high}")

    def get_write_buffer_size(self) -> int:
        return len(self.buffered)

    def write(self, data: Any) -> None:
        self.writelines([data])

    def writelines(self, pieces: Any) -> None:
        data = self.buffered + b"".join(pieces)
        self.sent += data[: self.room]
        self.buffered, self.room = data[self.room :], max(0, self.room - len(data))
        if self.buffered:
            self.protocol.pause_writing()

    def drain(self, count: int) -> None:
        self.sent += self.buffered[:count]
        self.buffered = self.buffered[count:]
        if not self.buffered:
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def write_eof(self) -> None:
        self.log.append("write_eof")

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.log.append("close")
        self.closing = True

    def abort(self) -> None:
        self.log.append("abort")
        self.closing = True


class Bench:
    """A driver, and connections on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_connections: int = 10) -> None:
        monkeypatch.setattr(transport_module, "Connection", fake_core.Connection)
        self.loop = Loop()
        self.engine = fake_core.Engine()
        self.driver = Driver(cast("Engine", self.engine), cast("Any", self.loop), max_connections)
        self.router = Router()

    def connect(
        self, *flags: int, room: int = 1 << 30
    ) -> tuple[HttpProtocol, fake_core.Connection, Transport]:
        protocol = HttpProtocol(self.driver, self.router)
        core = cast("fake_core.Connection", protocol._core)
        transport = Transport(core.log, room)
        transport.protocol = protocol
        protocol.connection_made(transport)
        core.flags = list(flags)
        return protocol, core, transport


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_opening(bench: Bench) -> None:
    protocol, core, _ = bench.connect()
    assert core.log == ["limits 0", "opened", "attend"]
    assert (core.fd, core.owner) == (77, protocol)
    assert protocol.get_buffer == core.get_buffer  # the core's own, no frame of ours
    assert bench.driver.open_connections == 1


@pytest.mark.parametrize(("chosen", "told"), [("h2", "h2"), ("http/1.1", "http/1.1"), (None, "")])
def test_opening_over_tls(bench: Bench, chosen: str | None, told: str) -> None:
    """The core gets no descriptor to write past TLS, and hears what the handshake agreed on."""
    protocol = HttpProtocol(bench.driver, bench.router)
    core = cast("fake_core.Connection", protocol._core)
    transport = Transport(core.log)
    transport.tls = Tls(chosen)
    protocol.connection_made(transport)
    assert (core.fd, core.alpn) == (-1, told)


def test_the_core_is_told_which_connections_may_not_infer(bench: Bench) -> None:
    for control_only in (False, True):
        protocol = HttpProtocol(bench.driver, bench.router, control_only=control_only)
        assert cast("fake_core.Connection", protocol._core).control_only is control_only


def test_one_tick_for_all_connections_of_an_iteration(bench: Bench) -> None:
    for _ in range(3):
        protocol, _, _ = bench.connect(TICK, TICK)
        protocol.buffer_updated(10)
        protocol.buffer_updated(10)
    assert bench.engine.ticks == 0
    assert len(bench.loop.soon) == 1
    bench.loop.run_soon()
    assert bench.engine.ticks == 1
    protocol, _, _ = bench.connect(TICK)
    protocol.buffer_updated(10)
    bench.loop.run_soon()
    assert bench.engine.ticks == 2


def test_a_read_without_flags_costs_one_core_call(bench: Bench) -> None:
    protocol, core, _ = bench.connect(0)
    core.log.clear()
    protocol.buffer_updated(10)
    assert core.log == ["received"]
    assert bench.loop.soon == []


def test_tick_and_other_flags_together(bench: Bench) -> None:
    protocol, core, _ = bench.connect(TICK | PAUSE)
    protocol.buffer_updated(10)
    assert core.log[-1] == "pause"
    assert len(bench.loop.soon) == 1


def test_a_control_call_is_answered_at_once(bench: Bench) -> None:
    bench.router.add(
        "/x", {"GET": lambda call: Reply(200, call.body, "text/plain", (("A", "b"), ("C", "d")))}
    )
    protocol, core, _ = bench.connect(CALLS)
    core.calls = [fake_core.ControlCall(5, "GET", "/x?q", [], b"hi"), fake_core.ControlCall(6, "GET", "/y")]
    protocol.buffer_updated(10)
    assert core.replies == [
        (5, 200, b"hi", "text/plain", "A: b\r\nC: d\r\n"),
        (6, 404, b'{"error":"Not Found"}', "application/json", ""),
    ]


def test_flags_of_an_answer_are_acted_on(bench: Bench) -> None:
    protocol, core, transport = bench.connect(CALLS, OUTPUT, 0)
    core.calls, core.output = [fake_core.ControlCall()], [[b"answer"]]
    protocol.buffer_updated(10)
    assert transport.sent == b"answer"
    assert core.log[-4:] == ["received", "respond", "take_output", "writable"]


def test_failing_handlers_tell_the_log_and_not_the_client(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Call) -> Reply:
        raise KeyError("/secret/path")

    def refuse(_: Call) -> Reply:
        raise invalid_argument("no such thing")

    bench.router.add("/fail", {"GET": fail})
    bench.router.add("/refuse", {"GET": refuse})
    protocol, core, _ = bench.connect(CALLS)
    core.calls = [fake_core.ControlCall(1, "GET", "/fail"), fake_core.ControlCall(2, "GET", "/refuse")]
    with caplog.at_level(logging.ERROR):
        protocol.buffer_updated(10)
    assert [(status, orjson.loads(body)) for _, status, body, _, _ in core.replies] == [
        (500, {"error": "internal server error"}),
        (400, {"error": "no such thing"}),
    ]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None


async def test_slow_handlers_are_tasks_that_answer_later(bench: Bench) -> None:
    gates = {path: asyncio.Event() for path in ("/a", "/b", "/c")}

    async def handler(call: Call) -> Reply:
        await gates[call.path].wait()
        if call.path == "/b":
            raise invalid_argument("late")
        if call.path == "/c":
            raise RuntimeError("secret")
        return Reply(200)

    bench.router.add("/[abc]", {"GET": handler})
    protocol, core, _ = bench.connect(CALLS)
    core.calls = [fake_core.ControlCall(i, "GET", path) for i, path in enumerate(gates)]
    protocol.buffer_updated(10)
    assert core.replies == []
    for path in ("/c", "/a", "/b"):
        gates[path].set()
        for _ in range(3):
            await asyncio.sleep(0)
    assert [(exchange, status) for exchange, status, *_ in core.replies] == [(2, 500), (0, 200), (1, 400)]
    assert not protocol._tasks


async def test_slow_handlers_end_with_their_connection(bench: Bench) -> None:
    cancelled = asyncio.Event()

    async def handler(_: Call) -> Reply:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Reply(200)

    bench.router.add("/a", {"GET": handler})
    protocol, core, _ = bench.connect(CALLS)
    core.calls = [fake_core.ControlCall(1, "GET", "/a")]
    protocol.buffer_updated(10)
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.wait_for(cancelled.wait(), 1)
    assert core.replies == []


def test_output_that_the_kernel_does_not_take(bench: Bench) -> None:
    protocol, core, transport = bench.connect(OUTPUT, OUTPUT | RESUME, 0, room=4)
    core.output = [[b"abcd", b"efgh"], [b"ijkl"]]
    protocol.buffer_updated(10)
    assert transport.sent == b"abcd"
    assert core.log[-1] == "take_output"  # not writable() before the transport is empty again
    transport.room = 100
    transport.drain(2)
    assert core.log[-1] == "take_output"
    transport.drain(2)
    assert transport.sent == b"abcdefghijkl"
    assert core.log[-4:] == ["writable", "resume", "take_output", "writable"]


def test_output_is_written_before_the_connection_closes(bench: Bench) -> None:
    protocol, core, transport = bench.connect(OUTPUT | CLOSE, 0)
    core.output = [[b"last words"]]
    protocol.eof_received()
    assert transport.sent == b"last words"
    assert core.log[-3:] == ["writable", "closed", "close"]


def test_a_connection_that_we_close_first_lingers(bench: Bench) -> None:
    protocol, core, transport = bench.connect(CLOSE)
    protocol.buffer_updated(10)
    assert core.log[-3:] == ["closed", "write_eof", "resume"]
    assert core.owner is None
    linger = transport.protocol
    assert isinstance(linger, Linger)
    assert len(linger.get_buffer(1)) > 0
    linger.buffer_updated(100)
    assert linger.eof_received() is False
    assert (bench.driver.open_connections, bench.driver.lingering) == (1, 1)
    linger.connection_lost(None)
    assert (bench.driver.open_connections, bench.driver.lingering) == (0, 0)
    assert core.log.count("closed") == 1


def test_a_client_that_will_not_go_is_cut_off(bench: Bench) -> None:
    protocol, core, _ = bench.connect(CLOSE)
    protocol.buffer_updated(10)
    bench.loop.advance(1.9)
    assert "abort" not in core.log
    bench.loop.advance(0.2)
    assert core.log[-1] == "abort"


def test_lost_connections_are_forgotten(bench: Bench) -> None:
    protocol, core, _ = bench.connect()
    protocol.connection_lost(ConnectionResetError())
    protocol.connection_lost(None)
    assert core.log.count("closed") == 1
    assert core.owner is None
    assert bench.driver.open_connections == 0


def test_reading_is_not_resumed_after_the_end(bench: Bench) -> None:
    protocol, core, _ = bench.connect(RESUME)
    protocol.eof_received()
    assert "resume" not in core.log


def test_too_many_connections_are_refused_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, max_connections=1)
    bench.connect()
    _, core, transport = bench.connect()
    assert transport.sent.startswith(b"HTTP/1.1 503 ")
    head, _, body = transport.sent.partition(b"\r\n\r\n")
    assert b"Retry-After: 1" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert orjson.loads(body) == {"error": "too many connections"}
    assert "opened" not in core.log
    assert bench.driver.open_connections == 1


# --- gRPC ---


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


# --- the driver ---


def test_completions_reach_their_connections(bench: Bench) -> None:
    _, core, transport = bench.connect(OUTPUT, 0)
    core.output = [[b"done"]]
    bench.engine.attention = [core]
    import os

    os.write(bench.engine.completions, b"x")
    bench.driver._drain()
    assert bench.engine.drains == 1
    assert transport.sent == b"done"


def test_a_failing_connection_does_not_take_its_neighbours_along(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = bench.connect(OUTPUT), bench.connect(OUTPUT, 0)
    good[1].output = [[b"fine"]]  # bad[1] has no output to take: IndexError
    bench.engine.attention = [bad[1], good[1]]
    bench.driver.schedule_tick()
    bench.loop.run_soon()
    assert good[2].sent == b"fine"
    assert bad[2].closing
    assert "a connection failed" in caplog.text


def test_the_timer_runs_once_a_second_while_there_are_connections(bench: Bench) -> None:
    assert bench.loop.pending() == []
    protocol, _, _ = bench.connect()
    for _ in range(3):
        bench.loop.advance(1)
    assert bench.engine.expiries == 3
    protocol.connection_lost(None)
    bench.loop.advance(1)
    assert bench.engine.expiries == 4
    assert bench.loop.pending() == []


def test_an_earlier_deadline_moves_the_timer_forward(bench: Bench) -> None:
    bench.connect()
    bench.engine.next_expiry_us = 20_300
    bench.driver.schedule_tick()
    bench.loop.run_soon()
    assert bench.loop.pending() == [pytest.approx(100.021)]
    # A later one leaves it alone, and so does one within its grain.
    bench.engine.next_expiry_us = 19_500
    bench.driver.schedule_tick()
    bench.loop.run_soon()
    assert len(bench.loop.timers) == 2
    bench.engine.next_expiry_us = -1
    bench.loop.advance(0.021)
    assert bench.engine.expiries == 1
    assert bench.loop.pending() == [pytest.approx(101.021)]


def test_a_client_that_does_not_read_is_cut_off_unless_it_makes_progress(bench: Bench) -> None:
    protocol, core, transport = bench.connect(OUTPUT, room=0)
    core.output = [[b"x" * 100]]
    protocol.buffer_updated(1)
    bench.loop.advance(WRITE_STALL_S / 2)
    transport.drain(10)
    for _ in range(int(WRITE_STALL_S) - 1):
        bench.loop.advance(1)
    assert "abort" not in core.log  # 10 bytes were progress
    for _ in range(int(WRITE_STALL_S) + 2):
        bench.loop.advance(1)
    assert core.log[-1] == "abort"


async def test_drained_waits_for_the_last_connection(bench: Bench) -> None:
    assert await bench.driver.drained(0)
    protocol, core, _ = bench.connect(CLOSE)
    bench.engine.attention = [core]
    bench.driver.begin_drain()
    assert core.log[-1] == "close"  # at once, without lingering
    asyncio.get_running_loop().call_soon(protocol.connection_lost, None)
    assert await bench.driver.drained(1)


async def test_drained_cuts_off_what_remains(bench: Bench) -> None:
    _, core, _ = bench.connect()
    assert not await bench.driver.drained(0)
    assert core.log[-2:] == ["closed", "abort"]
