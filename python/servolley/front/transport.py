"""One asyncio protocol for connections under uvloop, HTTP/1.1 or gRPC as the core finds out. The core parses,
answers and writes to the socket; this moves bytes and flags, with one bound core call per read."""

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from servolley._core import CALLS, CLOSE, HTTP, OUTPUT, PAUSE, RESUME, TICK, Connection
from servolley.front.attention import merged
from servolley.front.calls import Call, Reply, error_reply, status_reply
from servolley.front.gate import CLOSED, Gate
from servolley.front.grpc.calls import GrpcCalls
from servolley.front.grpc.services import no_services
from servolley.front.linger import close_gently
from servolley.status import StatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from servolley._core import ControlCall
    from servolley.front.driver import Driver
    from servolley.front.grpc.methods import Find
    from servolley.front.router import Router

_log = logging.getLogger(__name__)

_REFUSAL_BODY = b'{"error":"too many connections"}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_REFUSAL_BODY), _REFUSAL_BODY)
)


class HttpProtocol(asyncio.BaseProtocol):
    """A connection. uvloop reads into ``get_buffer(sizehint)``, the core's own method, no frame of ours."""

    __slots__ = (
        "_core",
        "_driver",
        "_eof",
        "_find_method",
        "_gate",
        "_grpc",
        "_received",
        "_router",
        "_tasks",
        "_transport",
        "_unwritten",
        "_writing_paused",
        "get_buffer",
    )

    get_buffer: "Callable[[int], memoryview]"

    def __init__(
        self,
        driver: "Driver",
        router: "Router",
        find_method: "Find" = no_services,
        gate: Gate = CLOSED,
        *,
        control_only: bool = False,
    ) -> None:
        """``router`` answers HTTP calls, ``find_method`` knows the methods of gRPC's; ``gate`` says who may
        change the server by either."""
        core = Connection(driver.engine, control_only)
        core.owner = self
        self._core: Connection | None = core
        self.get_buffer, self._received = core.read_calls()
        self._driver = driver
        self._router = router
        self._find_method = find_method
        self._gate = gate
        self._grpc: GrpcCalls | None = None  # made by the first gRPC call that is not hot
        self._transport: asyncio.Transport | None = None
        self._writing_paused = False
        self._unwritten = 0
        self._eof = False
        self._tasks: set[asyncio.Task[None]] | None = None

    # --- asyncio ---

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        assert self._core is not None
        transport = cast("asyncio.Transport", base)  # uvloop's transports are not registered as such
        self._transport = transport
        if not self._driver.may_open():
            self._refuse(transport)
            return
        # Nothing may stay in the transport unnoticed: the core writes to the same socket.
        transport.set_write_buffer_limits(high=0)
        self._driver.opened(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is None:
            self._core.opened(transport.get_extra_info("socket").fileno())
        else:
            # The core may not write past TLS: everything goes through the transport.
            self._core.opened(-1, tls.selected_alpn_protocol() or "")
        self.act(self._core.attend())

    def buffer_updated(self, nbytes: int) -> None:
        flags = self._received(nbytes)
        if flags:
            if flags != TICK:
                self.act(flags)
            elif not self._driver.tick_scheduled:
                self._driver.schedule_tick()

    def eof_received(self) -> bool:
        self._eof = True
        if self._core is None:
            return False
        self.act(self._core.eof_received())
        return True  # answers under way may still be sent; the core says when to close

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.write_progress()
        self._driver.writing_stalled(self)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._driver.writing_resumed(self)
        if self._core is not None:
            self.act(self._core.writable())

    def connection_lost(self, exc: Exception | None) -> None:
        self._detach()
        self._transport = None
        self._driver.lost(self)

    # --- the driver ---

    def act(self, flags: int) -> None:
        """Does what the core asks for, until it asks for nothing."""
        transport, core = self._transport, self._core
        while flags and core is not None and transport is not None:
            more = 0
            if flags & TICK:
                self._driver.schedule_tick()
            if flags & PAUSE:
                transport.pause_reading()
            if flags & RESUME and not self._eof:
                transport.resume_reading()
            if flags & (PAUSE | RESUME) and self._grpc is not None:
                more = self._grpc.noticed(flags)
            if flags & CALLS:
                for call in core.take_calls():
                    more = merged(more, self._dispatch(core, call))
            if flags & OUTPUT:
                more = merged(more, self._write(core, transport))
            if flags & CLOSE and not more:
                self._close(transport)
                return
            flags = more | (flags & CLOSE if more else 0)

    def abort(self) -> None:
        self._detach()
        if self._transport is not None:
            self._transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a control call is under way, or an answer on its way to a client that reads slowly."""
        if self._tasks or (self._grpc is not None and self._grpc.busy):
            return True
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def end_streams(self) -> None:
        """The server is going: gRPC calls without an end of their own are ended."""
        if self._grpc is not None:
            self._grpc.end_streams()

    def write_progress(self) -> bool:
        """Whether the transport holds less than when this was asked before."""
        assert self._transport is not None
        before, self._unwritten = self._unwritten, self._transport.get_write_buffer_size()
        return self._unwritten < before

    # --- this room ---

    def _write(self, core: Connection, transport: asyncio.Transport) -> int:
        transport.writelines(core.take_output())
        # With a high-water mark of 0 the transport pauses us exactly if something is left over.
        return 0 if self._writing_paused else core.writable()

    def _dispatch(self, core: Connection, call: "ControlCall") -> int:
        if call.kind != HTTP:
            if self._grpc is None:
                self._grpc = GrpcCalls(core, self._find_method, self._driver.loop, self._act_late, self._gate)
                if self._driver.draining:
                    self._grpc.end_streams()
            return self._grpc.dispatch(call)
        try:
            answer = self._router.answer(Call.from_core(call), self._gate)
        except StatusError as error:
            answer = status_reply(error)
        except Exception:
            answer = _internal_error(call)
        if isinstance(answer, Reply):
            return _respond(core, call.exchange, answer)
        task = self._driver.loop.create_task(self._answer_later(call, answer))
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return 0

    async def _answer_later(self, call: "ControlCall", answer: "Awaitable[Reply]") -> None:
        try:
            reply = await answer
        except StatusError as error:
            reply = status_reply(error)
        except Exception:
            reply = _internal_error(call)
        if self._core is not None:
            self.act(_respond(self._core, call.exchange, reply))

    def _act_late(self, flags: int) -> None:
        """``act`` for answers whose sender serves other connections, too."""
        try:
            self.act(flags)
        except Exception:
            _log.exception("a connection failed")
            self.abort()

    def _close(self, transport: asyncio.Transport) -> None:
        self._detach()
        if self._eof:
            transport.close()
        else:
            close_gently(self._driver, transport, self.connection_lost)

    def _refuse(self, transport: asyncio.Transport) -> None:
        self._detach()
        transport.write(_REFUSAL)
        close_gently(self._driver, transport, self.connection_lost)

    def _detach(self) -> None:
        """The core lets go of the connection, while the descriptor is still ours; handlers are cancelled."""
        core, self._core = self._core, None
        if core is None:
            return
        core.closed()
        core.owner = None
        if self._grpc is not None:
            self._grpc.close()
        for task in tuple(self._tasks or ()):
            task.cancel()


def _respond(core: Connection, exchange: int, reply: Reply) -> int:
    return core.respond(exchange, reply.status, reply.body, reply.content_type, reply.extra_headers)


def _internal_error(call: "ControlCall") -> Reply:
    _log.exception("a handler failed", extra={"fields": {"method": call.method, "target": call.target}})
    return error_reply(500, "internal server error")
