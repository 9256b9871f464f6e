"""The driver over the stand-in connection: completions, timers, stalled writers, draining."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from typing import Any, cast

import pytest

from servolley.front import driver
from servolley.front.driver import WRITE_STALL_S
from servolley.front.grpc.calls import GrpcCalls, _Open
from unit.fake_core import CLOSE, OUTPUT
from unit.transport_bench import Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_completions_reach_their_connections(bench: Bench) -> None:
    _, core, transport = bench.connect(OUTPUT, 0)
    core.output = [[b"done"]]
    bench.engine.attention = [core]
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


async def test_who_only_keeps_a_connection_open_holds_nobody_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "QUIET_S", 0.02)
    _, core, _ = bench.connect()
    assert await bench.driver.drained(60)
    assert core.log[-2:] == ["closed", "abort"]


@pytest.mark.parametrize("what", ["request", "REST call", "gRPC call", "slow reader", "bytes"])
async def test_what_is_under_way_gets_its_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(driver, "QUIET_S", 0.02)
    protocol, _, transport = bench.connect()
    if what == "request":
        bench.engine.in_flight = 1
    elif what == "REST call":
        protocol._tasks = {asyncio.create_task(asyncio.sleep(60))}
    elif what == "gRPC call":
        calls = GrpcCalls(cast("Any", None), lambda _: None, asyncio.get_running_loop(), lambda _: None)
        calls._open[1] = _Open("/s/m", cast("Any", None), task=asyncio.create_task(asyncio.sleep(60)))
        protocol._grpc = calls
        monkeypatch.setattr(calls, "close", lambda: None)
    elif what == "slow reader":
        transport.buffered = b"an answer"
    else:
        moved = itertools.count()
        bench.engine.front_stats = lambda: {"bytes_received": next(moved), "bytes_sent": 0}  # type: ignore[method-assign]
    began = time.monotonic()
    assert not await bench.driver.drained(0.2)
    assert time.monotonic() - began >= 0.2
