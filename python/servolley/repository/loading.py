"""The threads on which models are loaded and unloaded, and what a failure there is called."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from servolley._core import CoreError, Servable, Shadow
from servolley.config.model import servable_options
from servolley.config.strict import ConfigError
from servolley.repository.layout import ModelOnDisk, files_by_compute_capability, read_class_labels
from servolley.repository.records import Failure, VersionRecord
from servolley.repository.unloading import Unloading
from servolley.status import Code, StatusError

if TYPE_CHECKING:
    from servolley._core import ServableOptions
    from servolley.config.settings import Repository as RepositorySettings

_log = logging.getLogger(__name__)


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
    """``settings.load_threads`` loads at once, and as many unloads; those that take long do not count."""

    def __init__(
        self,
        engine: Loader,
        settings: "RepositorySettings",
        loop: asyncio.AbstractEventLoop,
        warm_up: WarmUp | None = None,
    ) -> None:
        self._engine = engine
        self._warm_up = warm_up
        self._loop = loop
        self._drain_timeout_s = settings.drain_timeout_s
        self._loaders = ThreadPoolExecutor(settings.load_threads, thread_name_prefix="load")
        self._unloading = Unloading(settings.load_threads, loop)
        self._overdue: set[asyncio.Task[None]] = set()

    async def load(
        self, found: ModelOnDisk, life: VersionRecord, over: Servable | None
    ) -> Servable | Failure:
        """``over``: a servable whose weights are taken, instead of reading them again."""

        def work() -> Servable:
            options = servable_options(found.config, read_class_labels(found))
            options["files_by_compute_capability"] = files_by_compute_capability(found, life.path)
            if over is not None:
                servable = self._engine.reconfigure(over, options)
            else:
                servable = self._engine.load(found.name, life.version, str(life.path), options)
            try:
                if self._warm_up is not None:
                    self._warm_up(found, life, servable)
            except BaseException:
                servable.close()
                raise
            return servable

        try:
            servable = await self._loop.run_in_executor(self._loaders, work)
            if servable.rows_depend:
                _log.warning(
                    "what the model makes of a row depends on the rows beside it: "
                    "its requests are not batched ([batching] max_batch_size overrides this)",
                    extra={"fields": {"model": found.name, "version": life.version}},
                )
            return servable
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

    async def unload(self, servable: Servable, gone_at_last: Callable[[], None] = lambda: None) -> bool:
        """Returns when the last request has been answered and the memory is free: True. Or when that takes
        longer than anybody waits: False, and ``gone_at_last`` is called when it is so."""
        closing = self._loop.create_task(self._close(servable))
        try:
            async with asyncio.timeout_at(self._loop.time() + self._drain_timeout_s):
                await asyncio.shield(closing)
        except TimeoutError:
            if closing.done():
                return True

            def ended(task: asyncio.Task[None]) -> None:
                self._overdue.discard(task)
                gone_at_last()

            self._overdue.add(closing)
            closing.add_done_callback(ended)
            return False
        return True

    async def _close(self, servable: Servable) -> None:
        try:
            await self._unloading.run(servable.name, servable.close)
        except Exception:
            fields = {"model": servable.name, "version": servable.version}
            _log.exception("unloading failed", extra={"fields": fields})

    async def close_shadow(self, model: str, shadow: Shadow) -> None:
        """Returns when what it was running is over."""
        try:
            await self._unloading.run(model, shadow.close)
        except Exception:
            _log.exception("closing a shadow failed")

    async def close(self) -> None:
        """Returns when unloads that took longer have ended, too."""
        self._loaders.shutdown(wait=False)
        while self._overdue:
            await asyncio.wait([*self._overdue])
