"""A server's TLS: its certificates as last read, reading them again, and the handshakes under way."""

import asyncio
import logging
from typing import TYPE_CHECKING

from servolley.front.handshakes import Handshakes
from servolley.front.tls import TlsConnection
from servolley.front.tls_context import TlsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from servolley.front.driver import Driver
    from servolley.front.tls import Application
    from servolley.front.tls_context import Contexts

_log = logging.getLogger(__name__)


class TlsDoor:
    """``load`` reads the certificates; raises TlsError if they cannot be used."""

    def __init__(self, driver: "Driver", load: "Callable[[], Contexts]", handshake_timeout_s: float) -> None:
        self._loop = driver.loop
        self._load = load
        self._contexts = load()
        self._handshakes = Handshakes(driver, handshake_timeout_s)
        self._reload: asyncio.Task[None] | None = None
        self._again = False

    def behind(
        self, make: "Callable[[], Application]", *, grpc_first: bool = False
    ) -> "Callable[[], TlsConnection]":
        """A listener's factory; ``make`` is called for connections whose handshake is done."""

        def connection() -> TlsConnection:
            contexts = self._contexts
            return TlsConnection(
                self._handshakes, contexts.grpc_first if grpc_first else contexts.http_first, make
            )

        return connection

    def reload_soon(self) -> None:
        """New handshakes use the files as they are now; files that cannot be used change nothing."""
        if self._reload is not None and not self._reload.done():
            self._again = True  # the files may have changed since they were read
            return
        self._reload = self._loop.create_task(self._reload_files())

    async def close(self) -> None:
        self._handshakes.abort()
        if self._reload is not None:
            self._again = False
            await self._reload

    async def _reload_files(self) -> None:
        while True:
            self._again = False
            try:
                self._contexts = await asyncio.to_thread(self._load)
            except TlsError as error:
                _log.error("the certificates were not read again, the old ones stay: %s", error)
            else:
                _log.info("the certificates were read again")
            if not self._again:
                return
