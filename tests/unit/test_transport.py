"""The protocol over the stand-in connection: which core calls are made, in which order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

import orjson
import pytest

from servolley import _core
from servolley.front.calls import Call, Reply
from servolley.front.linger import Linger
from servolley.front.transport import HttpProtocol
from servolley.status import invalid_argument
from unit import fake_core
from unit.fake_core import CALLS, CLOSE, OUTPUT, PAUSE, RESUME, TICK
from unit.transport_bench import Bench, Tls, Transport

if TYPE_CHECKING:
    pass


def test_the_flags_are_the_cores() -> None:
    assert (_core.TICK, _core.CALLS, _core.OUTPUT) == (TICK, CALLS, OUTPUT)
    assert (_core.PAUSE, _core.RESUME, _core.CLOSE) == (PAUSE, RESUME, CLOSE)
    kinds = (_core.HTTP, _core.GRPC_OPEN, _core.GRPC_MESSAGE, _core.GRPC_HALF_CLOSE, _core.GRPC_CANCEL)
    assert kinds == tuple(range(5))


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
