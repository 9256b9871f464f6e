"""The open control calls of one connection: events in, answers out through the core's connection. How many
there can be is the core's limit of streams."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servolley._core import GRPC_CANCEL, GRPC_HALF_CLOSE, GRPC_MESSAGE, GRPC_OPEN, PAUSE, RESUME
from servolley.front.attention import merged
from servolley.front.gate import CLOSED, Access, Gate
from servolley.front.grpc.methods import Conversation, ServerStream, Unary
from servolley.status import Code, StatusError, unavailable, unimplemented

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from servolley._core import Connection, ControlCall
    from servolley.front.grpc.methods import Find, Method

# A status message may quote what a client has sent, and travels percent-encoded in a header block, of which
# clients take 8 KiB.
_LONGEST_MESSAGE_BYTES = 1024

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Open:
    """One call. ``headers``: kept where what a request asks for is in the request. ``waiting``: requests of a
    conversation that are not answered yet."""

    target: str
    method: "Method"
    headers: list[tuple[str, str]] | None = None
    has_message: bool = False
    half_closed: bool = False
    task: asyncio.Task[None] | None = None
    stop: "Callable[[], None] | None" = None
    timer: asyncio.TimerHandle | None = None
    waiting: deque[bytes] = field(default_factory=deque)


class GrpcCalls:
    """``act`` takes attention bits that come up outside ``dispatch`` and its like."""

    def __init__(
        self,
        core: "Connection",
        find: "Find",
        loop: asyncio.AbstractEventLoop,
        act: "Callable[[int], None]",
        gate: Gate = CLOSED,
    ) -> None:
        self._core: Connection | None = core
        self._find = find
        self._loop = loop
        self._act = act
        self._gate = gate
        self._open: dict[int, _Open] = {}
        # The client reads too slowly: the core takes no more input until it says RESUME.
        self._held = False
        self._ending = False
        self._gathering = False
        self._bits = 0

    @property
    def count(self) -> int:
        return len(self._open)

    @property
    def busy(self) -> bool:
        """Whether one is being answered; others wait for their client."""
        return any(call.task is not None for call in self._open.values())

    def dispatch(self, event: "ControlCall") -> int:
        """Takes one event in; returns the bits that came of it."""
        return self._gather(lambda: self._take(event))

    def noticed(self, bits: int) -> int:
        """What the core said to the transport: after RESUME, what was held back is answered. Returns bits."""
        self._hold(bits)
        return 0 if self._held else self._gather(self._answer_waiting)

    def end_streams(self) -> None:
        """The server is going: calls that have no end of their own get one, and new ones are not begun."""
        self._ending = True
        streams = [exchange for exchange, call in self._open.items() if not isinstance(call.method, Unary)]

        def end() -> None:
            for exchange in streams:
                self._finish(exchange, _exiting())

        self._gather_and_act(end)

    def close(self) -> None:
        """The connection is gone, and nobody waits for any answer."""
        self._core = None
        for exchange in tuple(self._open):
            self._drop(exchange)

    # --- events ---

    def _take(self, event: "ControlCall") -> None:
        exchange, kind = event.exchange, event.kind
        if kind == GRPC_OPEN:
            self._begin(exchange, event)
            return
        call = self._open.get(exchange)
        if call is None:
            return  # answered already; the client could not know
        if kind == GRPC_CANCEL:
            self._drop(exchange)
        elif kind == GRPC_HALF_CLOSE:
            self._half_close(exchange, call)
        elif kind == GRPC_MESSAGE:
            self._message(exchange, call, event.body)

    def _begin(self, exchange: int, event: "ControlCall") -> None:
        target, timeout_us = event.target, event.timeout_us
        try:
            method = self._find(target)
        except Exception:
            self._fail(exchange, target)
            return
        if method is None:
            self._finish(exchange, unimplemented(f"unknown method {target}"))
        elif self._ending and not isinstance(method, Unary):
            self._finish(exchange, _exiting())
        elif timeout_us == 0:
            self._finish(exchange, _too_late())
        elif (refusal := self._refusal(method, event)) is not None:
            self._finish(exchange, refusal)
        else:
            call = self._open[exchange] = _Open(target, method)
            if isinstance(method, Unary) and not isinstance(method.access, Access):
                call.headers = event.headers
            if timeout_us is not None:
                call.timer = self._loop.call_later(timeout_us / 1e6, self._expire, exchange)

    def _refusal(self, method: "Method", event: "ControlCall") -> StatusError | None:
        """Before a message is taken in."""
        if not isinstance(method, Unary) or not isinstance(method.access, Access):
            return None
        if method.access is Access.OPEN:
            return None
        try:
            self._gate.check(method.access, event.headers)
        except StatusError as error:
            return error
        return None

    def _expire(self, exchange: int) -> None:
        self._gather_and_act(lambda: self._finish(exchange, _too_late()))

    def _half_close(self, exchange: int, call: _Open) -> None:
        call.half_closed = True
        if isinstance(call.method, Conversation):
            if not call.waiting:
                self._finish(exchange)
        elif not call.has_message:
            self._finish(exchange, unimplemented("a call of this method needs one message"))

    def _message(self, exchange: int, call: _Open, body: bytes) -> None:
        if isinstance(call.method, Conversation):
            call.waiting.append(body)
            if not self._held:
                self._converse(exchange, call, call.method)
            return
        if call.has_message:
            self._finish(exchange, unimplemented("a call of this method has one message"))
            return
        call.has_message = True
        try:
            request = call.method.read(body)
            if isinstance(call.method, ServerStream):
                call.stop = call.method.begin(request, _Stream(self, exchange))
                return
            if call.headers is not None and not isinstance(call.method.access, Access):
                self._gate.check(call.method.access(request), call.headers)
            answer = call.method.answer(request)
        except StatusError as error:
            self._finish(exchange, error)
        except Exception:
            self._fail(exchange, call.target)
        else:
            if isinstance(answer, bytes):
                self._answer(exchange, answer)
            else:
                call.task = self._loop.create_task(self._answer_later(exchange, call, answer))

    def _converse(self, exchange: int, call: _Open, method: Conversation) -> None:
        # One read can bring thousands of small requests with large answers: they stop with the reading.
        try:
            while call.waiting and not self._held:
                self._send(exchange, method.answer(method.read(call.waiting.popleft())))
        except StatusError as error:
            self._finish(exchange, error)
        except Exception:
            self._fail(exchange, call.target)
        else:
            if call.half_closed and not call.waiting:
                self._finish(exchange)

    def _answer_waiting(self) -> None:
        for exchange, call in tuple(self._open.items()):
            if self._held:
                return
            if call.waiting and isinstance(call.method, Conversation):
                self._converse(exchange, call, call.method)

    async def _answer_later(self, exchange: int, call: _Open, answer: "Awaitable[bytes]") -> None:
        try:
            message = await answer
        except StatusError as error:
            call.task = None  # what is over needs no cancelling
            self._finish(exchange, error)
        except Exception:
            call.task = None
            self._fail(exchange, call.target)
        else:
            call.task = None
            self._gather_and_act(lambda: self._answer(exchange, message))

    # --- answers ---

    def _answer(self, exchange: int, message: bytes) -> None:
        self._send(exchange, message)
        self._finish(exchange)

    def _send(self, exchange: int, message: bytes) -> None:
        if self._core is not None:
            self._give(self._core.send_message(exchange, message))

    def _finish(self, exchange: int, error: StatusError | None = None) -> None:
        self._drop(exchange)
        if self._core is None:
            return
        if error is None:
            self._give(self._core.finish(exchange, 0))
        else:
            self._give(self._core.finish(exchange, error.code.grpc_number, _message_text(error.message)))

    def _fail(self, exchange: int, target: str) -> None:
        """Inside an exception handler: the log learns why, the client that it was us."""
        _log.exception("a gRPC method failed", extra={"fields": {"method": target}})
        self._finish(exchange, StatusError(Code.INTERNAL, "internal server error"))

    def _drop(self, exchange: int) -> None:
        call = self._open.pop(exchange, None)
        if call is None:
            return
        if call.timer is not None:
            call.timer.cancel()
        if call.task is not None:
            call.task.cancel()
        if call.stop is not None:
            call.stop()

    # --- attention bits ---

    def _hold(self, bits: int) -> None:
        if bits & (PAUSE | RESUME):
            self._held = bool(bits & PAUSE)

    def _give(self, bits: int) -> None:
        self._hold(bits)
        if self._gathering:
            self._bits = merged(self._bits, bits)
        elif bits:
            self._act(bits)

    def _gather(self, work: "Callable[[], None]") -> int:
        self._gathering, self._bits = True, 0
        try:
            work()
        finally:
            self._gathering = False
        return self._bits

    def _gather_and_act(self, work: "Callable[[], None]") -> None:
        bits = self._gather(work)
        if bits:
            self._act(bits)


class _Stream:
    """One call's way back, for whoever sends on it from outside."""

    __slots__ = ("_calls", "_exchange")

    def __init__(self, calls: GrpcCalls, exchange: int) -> None:
        self._calls = calls
        self._exchange = exchange

    def send(self, message: bytes) -> None:
        self._calls._send(self._exchange, message)


def _too_late() -> StatusError:
    return StatusError(Code.DEADLINE_EXCEEDED, "the call's deadline has passed")


def _exiting() -> StatusError:
    return unavailable("Server exiting")


def _message_text(message: str) -> str:
    # What is not Unicode by itself is replaced, never refused.
    text = message[:_LONGEST_MESSAGE_BYTES].encode("utf-8", "replace")
    if len(message) <= _LONGEST_MESSAGE_BYTES and len(text) <= _LONGEST_MESSAGE_BYTES:
        return text.decode()
    return text[:_LONGEST_MESSAGE_BYTES].decode("utf-8", "ignore") + "...TRUNCATED"
