"""The table of open control calls over the stand-in connection: events in, answers and bits out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from servolley.front.attention import merged
from servolley.front.grpc.calls import GrpcCalls
from servolley.front.grpc.methods import Conversation, Method, ServerStream, Stream, Unary
from servolley.status import invalid_argument, not_found
from unit.fake_core import (
    CLOSE,
    GRPC_CANCEL,
    GRPC_HALF_CLOSE,
    GRPC_MESSAGE,
    GRPC_OPEN,
    OUTPUT,
    PAUSE,
    RESUME,
    Connection,
    ControlCall,
    Engine,
)

OK = (0, "")


def read(body: bytes) -> bytes:
    if body == b"malformed":
        raise invalid_argument("not a message")
    return body


class Bench:
    """Methods: /echo answers at once, /later when its future says so, /fail and /refuse do not, /watch sends
    on request, /talk answers everything twice over."""

    def __init__(self) -> None:
        self.core = Connection(Engine())
        self.acted: list[int] = []
        self.streams: list[Stream] = []
        self.stopped = 0
        self.futures: dict[bytes, asyncio.Future[bytes]] = {}
        self.methods: dict[str, Method] = {
            "/echo": Unary(read, lambda request: request),
            "/later": Unary(read, self.later),
            "/fail": Unary(read, self.fail),
            "/refuse": Unary(read, self.refuse),
            "/watch": ServerStream(read, self.watch),
            "/talk": Conversation(read, lambda request: request * 2),
            "/talk/fail": Conversation(read, self.fail),
        }
        self.calls = GrpcCalls(
            cast("Any", self.core),
            self.methods.get,
            cast("Any", _RunningLoop()),
            self.acted.append,
        )

    async def later(self, request: bytes) -> bytes:
        self.futures[request] = asyncio.get_running_loop().create_future()
        return await self.futures[request]

    def fail(self, _: bytes) -> bytes:
        raise KeyError("/secret/path")

    def refuse(self, _: bytes) -> bytes:
        raise not_found("no such thing")

    def watch(self, request: bytes, stream: Stream) -> Callable[[], None]:
        self.streams.append(stream)
        stream.send(b"first")
        if request == b"refused":
            raise invalid_argument("not that")

        def stop() -> None:
            self.stopped += 1

        return stop

    def event(
        self, kind: int, exchange: int, target: str = "", body: bytes = b"", timeout_us: int | None = None
    ) -> int:
        event = ControlCall(exchange, "POST", target, [], body, kind, timeout_us)
        return self.calls.dispatch(cast("Any", event))

    def begin(self, exchange: int, target: str, *bodies: bytes, end: bool = True) -> int:
        bits = self.event(GRPC_OPEN, exchange, target)
        for body in bodies:
            bits = merged(bits, self.event(GRPC_MESSAGE, exchange, body=body))
        return merged(bits, self.event(GRPC_HALF_CLOSE, exchange)) if end else bits


class _RunningLoop:
    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def call_later(self, delay_s: float, work: Any, *arguments: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, work, *arguments)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_unary_call_is_answered_at_once(bench: Bench) -> None:
    bench.begin(1, "/echo", b"hello")
    assert bench.core.messages == [(1, b"hello")]
    assert bench.core.finished == {1: OK}
    assert bench.calls.count == 0


def test_the_bits_of_answers_are_handed_back(bench: Bench) -> None:
    bench.core.flags = [OUTPUT, PAUSE]  # of send_message and finish
    assert bench.begin(1, "/echo", b"x") == OUTPUT | PAUSE
    assert bench.acted == []


def test_of_pausing_and_resuming_the_last_word_counts() -> None:
    assert merged(PAUSE | OUTPUT, RESUME) == RESUME | OUTPUT
    assert merged(RESUME, PAUSE | CLOSE) == PAUSE | CLOSE
    assert merged(PAUSE, OUTPUT) == PAUSE | OUTPUT
    assert merged(0, 0) == 0


@pytest.mark.parametrize(
    ("target", "body", "code", "text"),
    [
        ("/nobody", b"", 12, "unknown method /nobody"),
        ("/echo", b"malformed", 3, "not a message"),
        ("/refuse", b"", 5, "no such thing"),
        ("/talk", b"malformed", 3, "not a message"),
        ("/watch", b"malformed", 3, "not a message"),
        ("/watch", b"refused", 3, "not that"),
    ],
)
def test_errors_have_their_codes(bench: Bench, target: str, body: bytes, code: int, text: str) -> None:
    bench.begin(1, target, body)
    assert bench.core.finished == {1: (code, text)}
    assert bench.calls.count == 0


@pytest.mark.parametrize("target", ["/fail", "/talk/fail"])
def test_failures_tell_the_log_and_not_the_client(
    bench: Bench, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        bench.begin(1, target, b"x")
    assert bench.core.finished == {1: (13, "internal server error")}
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None


def test_a_broken_registry_is_our_fault(caplog: pytest.LogCaptureFixture) -> None:
    def find(_: str) -> Method | None:
        raise FileNotFoundError("/secret/path")

    core = Connection(Engine())
    calls = GrpcCalls(cast("Any", core), find, cast("Any", None), lambda _: None)
    with caplog.at_level(logging.ERROR):
        calls.dispatch(cast("Any", ControlCall(1, target="/x", kind=GRPC_OPEN)))
    assert core.finished == {1: (13, "internal server error")}
    assert "a gRPC method failed" in caplog.text


def test_texts_are_cut_and_are_unicode(bench: Bench) -> None:
    bench.begin(1, "/" + "x" * 5000)
    bench.begin(2, "/\udcff")
    bench.begin(3, "/" + "\N{EURO SIGN}" * 1000)
    _, text = bench.core.finished[1]
    assert len(text) == 1024 + len("...TRUNCATED")
    assert text.endswith("x...TRUNCATED")
    assert bench.core.finished[2] == (12, "unknown method /?")
    _, text = bench.core.finished[3]
    assert 1022 <= len(text.removesuffix("...TRUNCATED").encode()) <= 1024


def test_a_unary_call_has_exactly_one_message(bench: Bench) -> None:
    bench.begin(1, "/echo")
    assert bench.core.finished[1][0] == 12
    bench.begin(2, "/echo", b"a", b"b")  # answered by the first
    assert bench.core.finished[2] == OK
    bench.begin(3, "/watch", b"a", b"b")
    assert bench.core.finished[3][0] == 12
    assert bench.stopped == 1
    assert bench.calls.count == 0


def test_events_after_the_answer_are_late(bench: Bench) -> None:
    bench.begin(1, "/echo", b"x")
    for kind in (GRPC_MESSAGE, GRPC_HALF_CLOSE, GRPC_CANCEL):
        assert bench.event(kind, 1) == 0
    assert len(bench.core.messages) == 1


# --- answers that come later ---


async def test_a_slow_answer(bench: Bench) -> None:
    bench.begin(1, "/later", b"a")
    bench.begin(2, "/later", b"b")
    bench.begin(3, "/later", b"c")
    await settle()
    assert bench.core.finished == {}
    bench.core.flags = [OUTPUT, 0]
    bench.futures[b"b"].set_result(b"B")
    await settle()
    assert bench.core.messages == [(2, b"B")]
    assert bench.acted == [OUTPUT]
    bench.futures[b"a"].set_exception(invalid_argument("late"))
    bench.futures[b"c"].set_exception(RuntimeError("secret"))
    await settle()
    assert bench.core.finished == {2: OK, 1: (3, "late"), 3: (13, "internal server error")}
    assert bench.calls.count == 0


async def test_a_cancelled_call_cancels_its_work(bench: Bench) -> None:
    bench.begin(1, "/later", b"a")
    await settle()
    bench.event(GRPC_CANCEL, 1)
    await settle()
    assert bench.futures[b"a"].cancelled()
    assert bench.core.finished == {}
    assert bench.calls.count == 0


async def test_a_lost_connection_cancels_everything(bench: Bench) -> None:
    bench.begin(1, "/later", b"a")
    bench.begin(2, "/watch", b"w")
    bench.begin(3, "/talk", b"t", end=False)
    await settle()
    bench.calls.close()
    await settle()
    assert bench.futures[b"a"].cancelled()
    assert bench.stopped == 1
    assert bench.core.finished == {}
    assert bench.calls.count == 0
    before = list(bench.core.messages)
    bench.streams[0].send(b"nobody listens")
    assert bench.core.messages == before


async def test_a_call_that_ends_on_its_own_is_not_cancelled(bench: Bench) -> None:
    bench.begin(1, "/later", b"a")
    await settle()
    call = bench.calls._open[1]
    task = call.task
    assert task is not None
    bench.futures[b"a"].set_result(b"A")
    await settle()
    assert task.done()
    assert not task.cancelled()


# --- deadlines ---

TOO_LATE = (4, "the call's deadline has passed")


async def test_a_deadline_ends_a_call_and_cancels_its_work(bench: Bench) -> None:
    bench.event(GRPC_OPEN, 1, "/later", timeout_us=1)
    bench.event(GRPC_MESSAGE, 1, body=b"a")
    bench.event(GRPC_OPEN, 3, "/watch", timeout_us=1)
    bench.event(GRPC_MESSAGE, 3, body=b"w")
    bench.event(GRPC_OPEN, 5, "/echo", timeout_us=1)  # whose message does not come
    bench.event(GRPC_OPEN, 7, "/talk", timeout_us=3_600_000_000)
    bench.core.flags = [OUTPUT] * 3
    await asyncio.sleep(0.01)
    assert bench.core.finished == {1: TOO_LATE, 3: TOO_LATE, 5: TOO_LATE}
    assert bench.acted == [OUTPUT] * 3
    assert bench.futures[b"a"].cancelled()
    assert bench.stopped == 1
    bench.event(GRPC_MESSAGE, 7, body=b"t")
    bench.event(GRPC_HALF_CLOSE, 7)
    assert bench.core.finished[7] == OK


async def test_a_call_that_comes_too_late_is_not_begun(bench: Bench) -> None:
    bench.event(GRPC_OPEN, 1, "/echo", timeout_us=0)
    bench.event(GRPC_MESSAGE, 1, body=b"a")
    bench.event(GRPC_HALF_CLOSE, 1)
    assert bench.core.finished == {1: TOO_LATE}
    assert bench.core.messages == []


async def test_an_answered_call_has_no_deadline_any_more(bench: Bench) -> None:
    bench.event(GRPC_OPEN, 1, "/echo", timeout_us=3_600_000_000)
    timer = bench.calls._open[1].timer
    assert timer is not None
    bench.event(GRPC_MESSAGE, 1, body=b"a")
    assert bench.core.finished == {1: OK}
    assert timer.cancelled()


# --- server streams ---


def test_a_stream_sends_until_the_client_cancels(bench: Bench) -> None:
    bench.begin(1, "/watch", b"x")
    assert bench.core.messages == [(1, b"first")]
    bench.core.flags = [OUTPUT]
    bench.streams[0].send(b"second")
    assert bench.core.messages[1:] == [(1, b"second")]
    assert bench.acted == [OUTPUT]  # nobody was there to hand it back to
    bench.event(GRPC_CANCEL, 1)
    assert bench.stopped == 1
    assert bench.core.finished == {}


def test_streams_end_with_the_server(bench: Bench) -> None:
    exiting = (14, "Server exiting")
    bench.begin(1, "/watch", b"x")
    bench.begin(3, "/talk", b"y", end=False)
    bench.begin(5, "/echo", end=False)
    bench.core.flags = [OUTPUT, CLOSE]
    bench.calls.end_streams()
    assert bench.core.finished == {1: exiting, 3: exiting}
    assert bench.acted == [OUTPUT | CLOSE]
    assert bench.stopped == 1
    bench.begin(7, "/watch", b"too late")
    assert bench.core.finished[7] == exiting
    bench.event(GRPC_MESSAGE, 5, body=b"in time")
    assert bench.core.finished[5] == OK


# --- conversations ---


def test_a_conversation(bench: Bench) -> None:
    bench.begin(1, "/talk", b"a", b"b", end=False)
    bench.event(GRPC_MESSAGE, 1, body=b"c")
    assert bench.core.messages == [(1, b"aa"), (1, b"bb"), (1, b"cc")]
    assert bench.core.finished == {}
    bench.event(GRPC_HALF_CLOSE, 1)
    assert bench.core.finished == {1: OK}
    bench.begin(3, "/talk")
    assert bench.core.finished[3] == OK


def test_a_client_that_does_not_read_gets_no_more_answers(bench: Bench) -> None:
    bench.event(GRPC_OPEN, 1, "/talk")
    bench.event(GRPC_OPEN, 3, "/talk")
    bench.core.flags = [0, PAUSE]
    bits = 0
    for number in range(100):
        bits = merged(bits, bench.event(GRPC_MESSAGE, 1, body=b"%d." % number))
    assert bits == PAUSE
    bench.event(GRPC_HALF_CLOSE, 1)
    bench.event(GRPC_MESSAGE, 3, body=b"x")
    assert bench.core.messages == [(1, b"0.0."), (1, b"1.1.")]

    bench.core.flags = [0, 0, PAUSE]
    assert bench.calls.noticed(RESUME) == PAUSE
    assert len(bench.core.messages) == 5
    assert bench.calls.noticed(PAUSE) == 0
    assert len(bench.core.messages) == 5

    assert bench.calls.noticed(RESUME) == 0
    assert [body for exchange, body in bench.core.messages if exchange == 1] == [
        b"%d.%d." % (number, number) for number in range(100)
    ]
    assert bench.core.messages[-1] == (3, b"xx")
    assert bench.core.finished == {1: OK}


def test_a_pause_that_others_caused_holds_conversations_too(bench: Bench) -> None:
    bench.event(GRPC_OPEN, 1, "/talk")
    assert bench.calls.noticed(PAUSE) == 0
    bench.event(GRPC_MESSAGE, 1, body=b"a")
    bench.begin(3, "/echo", b"one answer to one request is no flood")
    assert [exchange for exchange, _ in bench.core.messages] == [3]
    bench.event(GRPC_CANCEL, 1)
    assert bench.calls.noticed(RESUME) == 0
    assert len(bench.core.messages) == 1
