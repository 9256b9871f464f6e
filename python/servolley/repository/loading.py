"""The threads on which models are loaded and unloaded, and what a failure there is called."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from servolley._core import CoreError, Servable, Shadow
from servolley.config.model import servable_options
from servolley.config.strict import ConfigError
from servolley.repository.layout import ModelOnDisk, read_class_labels
from servolley.repository.records import Failure, VersionRecord
from servolley.status import Code, StatusError

if TYPE_CHECKING:
    from servolley._core import ServableOptions

_log = logging.getLogger(__name__)

# Retries wait twice as long each time, up to this or to the first wait, whichever is longer.
_LONGEST_WAIT_S = 300.0


WarmUp = Callable[[ModelOnDisk, VersionRecord, Servable], None]
"""Runs what is declared to be run before a version is available. Blocking. Raises StatusError."""


class Loader(Protocol):
    """What is needed of servolley._core.Engine."""

    def load(self, name: str, version: int, path: str, options: "ServableOptions") -> Servable: ...

    def reconfigure(self, servable: Servable, options: "ServableOptions") -> Servable: ...

    def set_routes(
        self,
        model: str,
        versions: dict[int, Servable],
        default: int | None,
        labels: dict[str, int],
        split: dict[int, int] = ...,
        shadow: Shadow | None = None,
    ) -> None: ...

    def shadow(self, servable: Servable, fraction_ppm: int, max_in_flight: int, max_bytes: int) -> Shadow: ...

    def remove_routes(self, model: str) -> None: ...


class Loading:
    """``threads`` loads at once, and as many unloads."""

    def __init__(
        self, engine: Loader, threads: int, loop: asyncio.AbstractEventLoop, warm_up: WarmUp | None = None
    ) -> None:
        self._engine = engine
        self._warm_up = warm_up
        self._loop = loop
        self._loaders = ThreadPoolExecutor(threads, thread_name_prefix="load")
        self._unloaders = ThreadPoolExecutor(threads, thread_name_prefix="unload")

    async def load(
        self, found: ModelOnDisk, life: VersionRecord, over: Servable | None
    ) -> Servable | Failure:
        """``over``: a servable whose weights are taken, instead of reading them again."""

        def work() -> Servable:
            options = servable_options(found.config, read_class_labels(found))
            if over is not None:
                return self._engine.reconfigure(over, options)
            servable = self._engine.load(found.name, life.version, str(life.path), options)
            try:
                if self._warm_up is not None:
                    self._warm_up(found, life, servable)
            except BaseException:
                servable.close()
                raise
            return servable

        try:
            return await self._loop.run_in_executor(self._loaders, work)
        except CoreError as error:
            return Failure(error.code, str(error))
        except StatusError as error:
            return Failure(error.code.canonical, error.message)
        except ConfigError as error:
            return Failure(Code.INVALID_ARGUMENT.canonical, str(error))
        except Exception:
            fields = {"model": found.name, "version": life.version}
            _log.exception("loading failed unexpectedly", extra={"fields": fields})
            return Failure(Code.INTERNAL.canonical, "internal error while loading")

    async def unload(self, servable: Servable) -> None:
        """Returns when the last request has been answered and the memory is free."""
        try:
            await self._loop.run_in_executor(self._unloaders, servable.close)
        except Exception:
            fields = {"model": servable.name, "version": servable.version}
            _log.exception("unloading failed", extra={"fields": fields})

    async def close_shadow(self, shadow: Shadow) -> None:
        """Returns when what it was running is over."""
        try:
            await self._loop.run_in_executor(self._unloaders, shadow.close)
        except Exception:
            _log.exception("closing a shadow failed")

    def close(self) -> None:
        self._loaders.shutdown(wait=False)
        self._unloaders.shutdown(wait=False)


def retry_delay_s(first_s: float, attempt: int) -> float:
    """How long to wait before life number ``attempt`` + 1."""
    return min(first_s * 2.0 ** min(attempt, 60), max(first_s, _LONGEST_WAIT_S))
