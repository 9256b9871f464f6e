"""Looks for versions whose devices have failed, while there are any on devices that can. Loop thread only."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from servolley.repository.versions import State

if TYPE_CHECKING:
    from servolley._core import Servable
    from servolley.repository.records import ModelRecord, VersionRecord

_INTERVAL_S = 1.0


class DeviceWatch:
    """``broken``: is told of each version that answers nothing any more."""

    def __init__(
        self,
        models: "Mapping[str, ModelRecord]",
        loop: asyncio.AbstractEventLoop,
        broken: "Callable[[ModelRecord, VersionRecord], None]",
    ) -> None:
        self._models = models
        self._loop = loop
        self._broken = broken
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def begin(self, servable: "Servable") -> None:
        """To be called with every servable that has become available."""
        if servable.devices != ["cpu"] and self._timer is None and not self._closed:
            self._timer = self._loop.call_later(_INTERVAL_S, self._look)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._closed:
            return
        for model in list(self._models.values()):
            for life in list(model.versions.values()):
                if life.state is not State.AVAILABLE or life.servable is None:
                    continue
                if life.servable.broken:
                    self._broken(model, life)
                else:
                    self.begin(life.servable)
