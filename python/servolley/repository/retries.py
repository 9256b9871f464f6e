"""When versions that failed are tried again. Loop thread only."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servolley.config.settings import Repository as RepositorySettings
    from servolley.repository.records import ModelRecord, VersionRecord

# Retries wait twice as long each time, up to this or to the first wait, whichever is longer.
_LONGEST_WAIT_S = 300.0
# What has served for so long has not failed again, but anew.
_WELL_AGAIN_S = 600.0


class Retries:
    """``again``: is told of a failed life when it is time for the next one, whose number is one higher."""

    def __init__(
        self,
        settings: "RepositorySettings",
        loop: asyncio.AbstractEventLoop,
        again: "Callable[[ModelRecord, VersionRecord], None]",
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._again = again
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._closed = False

    def schedule(self, model: "ModelRecord", life: "VersionRecord") -> None:
        """Unless it has been tried often enough."""
        if self._closed or life.attempt >= self._settings.load_retries:
            return
        self.cancel(model.name, life.version)
        delay = retry_delay_s(self._settings.load_retry_interval_s, life.attempt)
        timer = self._loop.call_later(delay, self._due, model, life)
        self._timers[model.name, life.version] = timer

    def cancel(self, model: str, version: int) -> None:
        timer = self._timers.pop((model, version), None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, model: "ModelRecord", life: "VersionRecord") -> None:
        self._timers.pop((model.name, life.version), None)
        self._again(model, life)


def retry_delay_s(first_s: float, attempt: int) -> float:
    """How long to wait before life number ``attempt`` + 1."""
    return min(first_s * 2.0 ** min(attempt, 60), max(first_s, _LONGEST_WAIT_S))


def earlier_failures(life: "VersionRecord", now: float) -> int:
    """Those that count if ``life``, which was available, fails now."""
    served_long = life.available_since is not None and now - life.available_since >= _WELL_AGAIN_S
    return 0 if served_long else life.attempt
