"""TLS handshakes under way: how many, how long, and one step of one of them per turn of the loop, so that a
crowd of new clients costs those who are connected one handshake's time at once and not the crowd's."""

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servolley.front.driver import Driver
    from servolley.front.tls import TlsConnection

_log = logging.getLogger(__name__)


class Handshakes:
    """Of one server, on all its ports."""

    def __init__(self, driver: "Driver", timeout_s: float) -> None:
        self.driver = driver
        self._timeout_s = timeout_s
        self._open: dict[TlsConnection, asyncio.TimerHandle] = {}
        self._due: deque[TlsConnection] = deque()

    def begin(self, connection: "TlsConnection") -> bool:
        """False: there are as many connections as there may be."""
        driver = self.driver
        if driver.draining or driver.open_connections + len(self._open) >= driver.max_connections:
            return False
        self._open[connection] = driver.loop.call_later(self._timeout_s, connection.abort)
        return True

    def step_soon(self, connection: "TlsConnection") -> None:
        self._due.append(connection)
        if len(self._due) == 1:
            self.driver.loop.call_soon(self._step)

    def end(self, connection: "TlsConnection") -> None:
        """Done, or failed; may be told twice."""
        timer = self._open.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def abort(self) -> None:
        """The server is going: who has no connection yet gets none."""
        for connection in tuple(self._open):
            connection.abort()

    def _step(self) -> None:
        connection = self._due.popleft()
        if self._due:
            self.driver.loop.call_soon(self._step)
        try:
            connection.handshake()
        except Exception:
            _log.exception("a connection failed")
            connection.abort()
