"""Carries out what versions.py decides: loads and unloads on threads, keeps the core's routes up to date,
tries failures again. One bad model never stops another, nor the server. Loop thread only."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from servolley._core import CoreError, Servable
from servolley.config.model import servable_options
from servolley.config.settings import Repository as RepositorySettings
from servolley.config.strict import ConfigError
from servolley.repository.layout import ModelOnDisk, read_class_labels
from servolley.repository.records import Failure, ModelRecord, VersionRecord
from servolley.repository.versions import Load, State, aspired_versions, next_actions
from servolley.status import Code

if TYPE_CHECKING:
    from servolley._core import ServableOptions

_REMEMBERED_ENDS = 16  # versions at END that a model keeps showing

_log = logging.getLogger(__name__)


class Loader(Protocol):
    """What the manager needs of servolley._core.Engine."""

    def load(self, name: str, version: int, path: str, options: "ServableOptions") -> Servable: ...

    def set_routes(
        self, model: str, versions: dict[int, Servable], default: int | None, labels: dict[str, int]
    ) -> None: ...

    def remove_routes(self, model: str) -> None: ...


class Manager:
    """The models of one repository and their way to what is aspired."""

    def __init__(self, engine: Loader, settings: RepositorySettings, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._settings = settings
        self._loop = loop
        self._models: dict[str, ModelRecord] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._retries: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._loaders = ThreadPoolExecutor(settings.load_threads, thread_name_prefix="load")
        self._unloaders = ThreadPoolExecutor(settings.load_threads, thread_name_prefix="unload")
        self._closing = False
        self._first_loads_over = False

    @property
    def models(self) -> Mapping[str, ModelRecord]:
        return self._models

    @property
    def ready(self) -> bool:
        """Whether the server may be sent requests; see config.settings.Repository.strict_readiness."""
        if not self._first_loads_over or self._closing:
            return False
        return not self._settings.strict_readiness or all(m.available() for m in self._models.values())

    def failures(self) -> list[tuple[str, int | None, Failure]]:
        """(model, version, why) of everything that is wanted and failed."""
        found: list[tuple[str, int | None, Failure]] = []
        for model in self._models.values():
            if model.failure is not None:
                found.append((model.name, None, model.failure))
            for version, record in sorted(model.versions.items()):
                if record.failure is not None and version in model.aspired:
                    found.append((model.name, version, record.failure))
        return found

    async def load_first(self, found: Mapping[str, ModelOnDisk]) -> None:
        """The loads of the start: returns when each has succeeded or failed."""
        self.apply(found)
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._first_loads_over = True

    def apply(self, found: Mapping[str, ModelOnDisk]) -> None:
        """Makes ``found`` what is aspired, and begins what follows from it. For every later scan, too."""
        for name in self._models.keys() - found.keys():
            model = self._models[name]
            model.aspired, model.failure = frozenset(), None
            self._step(model)
        for name, model_on_disk in found.items():
            model = self._models.setdefault(name, ModelRecord(name, model_on_disk))
            model.found = model_on_disk
            self._aspire(model)
            self._publish(model)
            self._step(model)

    async def close(self) -> None:
        """Unloads everything; waits for loads that have begun, which nothing can interrupt."""
        self._closing = True
        for timer in self._retries.values():
            timer.cancel()
        self._retries.clear()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        for model in self._models.values():
            for record in model.versions.values():
                if record.state is State.AVAILABLE:
                    self._begin_unload(model, record)
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._loaders.shutdown(wait=False)
        self._unloaders.shutdown(wait=False)

    def _aspire(self, model: ModelRecord) -> None:
        on_disk = model.found
        if on_disk.error is not None:
            # What is loaded keeps serving under the configuration that it was loaded with.
            model.failure = Failure(Code.INVALID_ARGUMENT.canonical, on_disk.error)
            self._log_failure(model.name, None, model.failure)
            return
        model.aspired = aspired_versions(on_disk.config.versions, on_disk.versions.keys())
        model.failure = None
        if not model.aspired:
            model.failure = Failure(
                Code.FAILED_PRECONDITION.canonical,
                "at least one version must be available under the version policy",
            )
            self._log_failure(model.name, None, model.failure)

    def _step(self, model: ModelRecord) -> None:
        if self._closing:
            return
        states = {version: record.state for version, record in model.versions.items()}
        failed = [version for version, record in model.versions.items() if record.failure is not None]
        for action in next_actions(model.aspired, states, failed):
            if isinstance(action, Load):
                self._begin_load(model, action.version, attempt=0)
            else:
                self._begin_unload(model, model.versions[action.version])
        self._forget(model)

    def _begin_load(self, model: ModelRecord, version: int, attempt: int) -> None:
        record = VersionRecord(version, model.found.versions[version], attempt)
        model.versions[version] = record
        self._start(self._load(model, record))

    async def _load(self, model: ModelRecord, record: VersionRecord) -> None:
        record.advance(State.LOADING)
        fields = {"model": model.name, "version": record.version}
        _log.info("loading", extra={"fields": fields})
        found, path = model.found, str(record.path)

        def work() -> Servable:
            options = servable_options(found.config, read_class_labels(found))
            return self._engine.load(model.name, record.version, path, options)

        try:
            servable = await self._loop.run_in_executor(self._loaders, work)
        except CoreError as error:
            record.fail(Failure(error.code, str(error)))
        except ConfigError as error:
            record.fail(Failure(Code.INVALID_ARGUMENT.canonical, str(error)))
        except Exception:
            _log.exception("loading failed unexpectedly", extra={"fields": fields})
            record.fail(Failure(Code.INTERNAL.canonical, "internal error while loading"))
        else:
            record.servable = servable
            record.advance(State.AVAILABLE)
            self._publish(model)
            _log.info("available", extra={"fields": fields | _describe(servable)})
        if record.failure is not None:
            self._log_failure(model.name, record.version, record.failure)
            self._schedule_retry(model, record)
        self._step(model)

    def _begin_unload(self, model: ModelRecord, record: VersionRecord) -> None:
        record.advance(State.UNLOADING)
        servable, record.servable = record.servable, None
        self._publish(model)
        self._start(self._unload(model, record, servable))

    async def _unload(self, model: ModelRecord, record: VersionRecord, servable: Servable | None) -> None:
        fields = {"model": model.name, "version": record.version}
        if servable is not None:
            try:
                await self._loop.run_in_executor(self._unloaders, servable.close)
            except Exception:
                _log.exception("unloading failed", extra={"fields": fields})
        record.advance(State.END)
        _log.info("unloaded", extra={"fields": fields})
        self._step(model)

    def _schedule_retry(self, model: ModelRecord, record: VersionRecord) -> None:
        if self._closing or record.attempt >= self._settings.load_retries:
            return
        key = (model.name, record.version)
        delay = self._settings.load_retry_interval_s
        self._retries[key] = self._loop.call_later(delay, self._retry, model, record)

    def _retry(self, model: ModelRecord, record: VersionRecord) -> None:
        self._retries.pop((model.name, record.version), None)
        still_wanted = record.version in model.aspired and self._models.get(model.name) is model
        if still_wanted and model.versions.get(record.version) is record:
            self._begin_load(model, record.version, record.attempt + 1)

    def _publish(self, model: ModelRecord) -> None:
        self._engine.set_routes(model.name, model.available(), model.default_version(), model.labels())

    def _forget(self, model: ModelRecord) -> None:
        ended = [v for v, r in model.versions.items() if r.state is State.END and v not in model.aspired]
        for version in sorted(ended)[:-_REMEMBERED_ENDS]:
            del model.versions[version]
        if not model.aspired and model.failure is None and len(ended) == len(model.versions):
            # Gone from disk, and everything of it has ended.
            del self._models[model.name]
            self._engine.remove_routes(model.name)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a repository task failed", exc_info=error)

    def _log_failure(self, model: str, version: int | None, failure: Failure) -> None:
        fields = {"model": model, "version": version, "code": failure.code, "error": failure.message}
        _log.error("cannot load", extra={"fields": fields})


def _describe(servable: Servable) -> dict[str, object]:
    return {
        "max_batch_size": servable.max_batch_size,
        "execution": servable.execution,
        "instances": servable.instances,
        "load_ms": servable.load_ns // 1_000_000,
    }
