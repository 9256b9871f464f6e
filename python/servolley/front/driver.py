"""Turns the engine with the loop: one tick per loop iteration however many connections ask for it,
completions when the core's descriptor says so, expiry when a deadline has come."""

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from servolley.observe.runtime_log import log_runtime_lines

if TYPE_CHECKING:
    from servolley._core import Connection, Engine
    from servolley.front.transport import HttpProtocol

# The engine looks at its connections' deadlines at least that often.
_LONGEST_WAIT_S = 1.0
# What a client may leave unread for that long is not waited for any longer.
WRITE_STALL_S = 60.0
#: While it drains: how long nothing may move, with nothing under way, before what is still open is closed.
QUIET_S = 2.0

_log = logging.getLogger(__name__)


class Driver:
    """Owns the loop's side of one engine, and knows every open connection."""

    def __init__(self, engine: "Engine", loop: asyncio.AbstractEventLoop, max_connections: int) -> None:
        self.engine = engine
        self.loop = loop
        self.max_connections = max_connections
        self.tick_scheduled = False
        self.lingering = 0
        self.draining = False
        self._connections: set[HttpProtocol] = set()
        self._stalled: dict[HttpProtocol, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._no_connections = asyncio.Event()
        self._no_connections.set()

    def start(self) -> None:
        self.loop.add_reader(self.engine.completion_fd, self._drain)

    def stop(self) -> None:
        """After the last connection has gone and before the engine is closed."""
        self.loop.remove_reader(self.engine.completion_fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def schedule_tick(self) -> None:
        """At the end of this loop iteration, when every readable connection has been read."""
        if not self.tick_scheduled:
            self.tick_scheduled = True
            self.loop.call_soon(self._tick)

    def may_open(self) -> bool:
        return len(self._connections) < self.max_connections

    def opened(self, protocol: "HttpProtocol") -> None:
        self._connections.add(protocol)
        self._no_connections.clear()
        if self._timer is None:
            self._arm()

    def lost(self, protocol: "HttpProtocol") -> None:
        self._connections.discard(protocol)
        self._stalled.pop(protocol, None)
        if not self._connections:
            self._no_connections.set()

    def writing_stalled(self, protocol: "HttpProtocol") -> None:
        self._stalled[protocol] = self.loop.time() + WRITE_STALL_S

    def writing_resumed(self, protocol: "HttpProtocol") -> None:
        self._stalled.pop(protocol, None)

    def begin_drain(self) -> None:
        """New inference gets 503, and every connection closes after its pending answers."""
        self.draining = True
        self._attend(self.engine.begin_drain())
        for protocol in tuple(self._connections):
            protocol.end_streams()

    async def drained(self, timeout_s: float) -> bool:
        """Whether everything that was under way has ended within that time; what has not is cut off. So are
        connections that only stay open, such as an idle stream's, when nothing has moved for a while."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while self._connections:
            moved = self._bytes_moved()
            quiet = min(QUIET_S, max(deadline - clock(), 0))
            try:
                await asyncio.wait_for(self._no_connections.wait(), quiet)
            except TimeoutError:
                idle = quiet == QUIET_S and moved == self._bytes_moved() and not self._busy()
                if not idle and clock() < deadline:
                    continue
                for protocol in tuple(self._connections):
                    protocol.abort()
                return idle
        return True

    def _bytes_moved(self) -> int:
        stats = self.engine.front_stats()
        return stats["bytes_received"] + stats["bytes_sent"]

    def _busy(self) -> bool:
        return self.engine.in_flight > 0 or any(protocol.busy for protocol in self._connections)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def _tick(self) -> None:
        self.tick_scheduled = False
        self._attend(self.engine.tick())
        self._arm()

    def _drain(self) -> None:
        self._attend(self.engine.drain())
        self._arm()

    def _expire(self) -> None:
        self._timer = None
        self._timer_due = math.inf
        log_runtime_lines(self.engine.take_runtime_log())
        self._attend(self.engine.expire())
        self._cut_off_stalled()
        self._arm()

    def _attend(self, connections: "list[Connection] | None") -> None:
        if connections is None:
            return
        for connection in connections:
            protocol: HttpProtocol | None = connection.owner  # type: ignore[assignment]
            if protocol is None:
                continue
            try:
                protocol.act(connection.attend())
            except Exception:
                # One connection's trouble is not its neighbours'.
                _log.exception("a connection failed")
                protocol.abort()

    def _cut_off_stalled(self) -> None:
        now = self.loop.time()
        for protocol, deadline in tuple(self._stalled.items()):
            if deadline > now:
                continue
            if protocol.write_progress():
                self._stalled[protocol] = now + WRITE_STALL_S
            else:
                protocol.abort()

    def _arm(self) -> None:
        wait_us = self.engine.next_expiry_us
        if wait_us < 0 and not self._connections:
            return
        wait_s = _LONGEST_WAIT_S if wait_us < 0 else min(wait_us / 1e6, _LONGEST_WAIT_S)
        due = self.loop.time() + wait_s
        # The loop's timers count milliseconds: a timer that is less than one late is left alone.
        if due > self._timer_due - 0.001:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(math.ceil(wait_s * 1000) / 1000, self._expire)
        self._timer_due = due
