"""The end of a connection that we close first: what the client still sends is read and thrown away for a
moment. Closing at once would make the kernel answer it with a reset, which can destroy our last answer."""

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from servolley.front.driver import Driver

_LINGER_S = 2.0
_MOST_LINGERING = 256

_scratch = bytearray(64 << 10)


class Linger(asyncio.BaseProtocol):
    """Takes the transport over from ``HttpProtocol``; ``lost`` is called when the socket goes."""

    def __init__(
        self, driver: "Driver", transport: asyncio.Transport, lost: "Callable[[Exception | None], None]"
    ) -> None:
        self._driver = driver
        self._transport = transport
        self._lost = lost
        driver.lingering += 1
        self._timer = driver.loop.call_later(_LINGER_S, transport.abort)

    def get_buffer(self, _sizehint: int) -> bytearray:
        return _scratch

    def buffer_updated(self, _nbytes: int) -> None:
        pass

    def eof_received(self) -> bool:
        return False  # close

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._driver.lingering -= 1
        self._lost(exc)


def close_gently(
    driver: "Driver", transport: asyncio.Transport, lost: "Callable[[Exception | None], None]"
) -> None:
    """Sends what is buffered, then ends the connection; ``lost`` is ``HttpProtocol.connection_lost``."""
    if driver.draining or driver.lingering >= _MOST_LINGERING or transport.is_closing():
        transport.close()
        return
    transport.write_eof()
    if transport.is_closing():  # the socket was broken already
        return
    # uvloop asks a protocol for get_buffer, not for a base class.
    transport.set_protocol(cast("asyncio.BufferedProtocol", Linger(driver, transport, lost)))
    transport.resume_reading()
