"""Inference from inside the process: a control route awaits what a model makes of its tensors, which wait and
run with everybody's in the core."""

import asyncio
from typing import TYPE_CHECKING

from servolley import _core
from servolley._core import OUTPUT, TICK, CoreError
from servolley.status import core_failure, unavailable

if TYPE_CHECKING:
    from servolley._core import Engine, Lease
    from servolley.front.driver import Driver


class InnerCalls:
    """One engine's, driven as a connection is. Loop thread only."""

    def __init__(self, engine: "Engine", driver: "Driver") -> None:
        self._engine = engine
        self._core = _core.InnerCalls(engine)
        self._core.owner = self
        self._driver = driver
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._last = 0

    def choose(self, model: str, version: int | None, label: str | None, *, rest: bool) -> "Lease":
        """Where a call goes, kept for it until the lease is released. ``rest``: whether the client came over
        REST. Raises StatusError."""
        try:
            return self._engine.choose(model, version, label, rest)
        except CoreError as error:
            raise core_failure(error) from None

    async def predict(self, request: bytes, lease: "Lease", *, timeout_us: int = 0) -> bytes:
        """The PredictResponse of what was leased to a PredictRequest. ``timeout_us``: 0 = none. Raises
        StatusError. Cancelling takes the request out of its queue."""
        self._last += 1
        exchange = self._last
        future: asyncio.Future[bytes] = self._driver.loop.create_future()
        self._waiting[exchange] = future
        try:
            self.act(self._core.predict(exchange, request, lease, timeout_us))
            return await future
        finally:
            if self._waiting.pop(exchange, None) is not None:
                self._core.cancel(exchange)

    def act(self, flags: int) -> None:
        """What the core asks for; the driver calls it, too."""
        if flags & TICK:
            self._driver.schedule_tick()
        if flags & OUTPUT:
            for exchange, response, error in self._core.take_results():
                future = self._waiting.pop(exchange, None)
                if future is None or future.done():
                    continue
                if error is None:
                    future.set_result(response)
                else:
                    future.set_exception(core_failure(error))

    def abort(self) -> None:
        """Something failed that concerns all of them."""
        waiting, self._waiting = self._waiting, {}
        for exchange, future in waiting.items():
            self._core.cancel(exchange)
            if not future.done():
                future.set_exception(unavailable("Server exiting"))

    def close(self) -> None:
        """Before the engine is closed."""
        self.abort()
        self._core.closed()
        self._core.owner = None
