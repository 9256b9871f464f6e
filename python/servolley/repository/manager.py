"""Carries out what versions.py decides: loads and unloads on threads, keeps the core's routes up to date,
tries failures again. One bad model never stops another, nor the server. Loop thread only."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from servolley._core import Servable
from servolley.config.settings import Repository as RepositorySettings
from servolley.repository.content import content_of, same_weights
from servolley.repository.decisions import Decisions
from servolley.repository.device_watch import DeviceWatch
from servolley.repository.labels import wanted_labels
from servolley.repository.layout import ModelOnDisk
from servolley.repository.loading import Loader, Loading, WarmUp
from servolley.repository.records import Failure, ModelRecord, VersionRecord
from servolley.repository.retries import Retries, earlier_failures
from servolley.repository.traffic import TrafficRecord
from servolley.repository.versions import (
    NO_VERSION,
    UNKEPT_VERSION,
    Load,
    Reload,
    Situation,
    State,
    aspired_versions,
    next_actions,
    routable_labels,
)
from servolley.status import Code

_REMEMBERED_ENDS = 16  # versions at END that a model keeps showing
#: Models that have been unloaded on request and stay known.
MOST_KEPT = 1024

_log = logging.getLogger(__name__)


class Manager:
    """The models of one repository and their way to what is aspired."""

    def __init__(
        self,
        engine: Loader,
        settings: RepositorySettings,
        loop: asyncio.AbstractEventLoop,
        warm_up: WarmUp | None = None,
        decisions: Decisions | None = None,
        *,
        gpus: bool = True,
    ) -> None:
        """``decisions``: what is decided about traffic is kept there. ``gpus``: whether the runtime knows
        any."""
        self._gpus = gpus
        self._decisions = decisions
        self._engine = engine
        self._settings = settings
        self._loop = loop
        self._models: dict[str, ModelRecord] = {}
        self._kept: dict[str, ModelRecord] = {}  # the latest last
        self._loads: dict[asyncio.Task[None], str] = {}  # -> the model's name
        self._unloads: dict[asyncio.Task[None], str] = {}
        self._retries = Retries(settings, loop, self._retry)
        self._loading = Loading(engine, settings, loop, warm_up)
        self._devices = DeviceWatch(self._models, loop, self._begin_break)
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
        return not self._settings.strict_readiness or all(
            model.available() for model in self._models.values() if model.expected
        )

    def failures(self) -> list[tuple[str, int | None, Failure]]:
        """(model, version, why) of everything that is wanted and failed."""
        found: list[tuple[str, int | None, Failure]] = []
        for model in self._models.values():
            found += self.failures_of(model)
        return found

    def failures_of(self, model: ModelRecord) -> list[tuple[str, int | None, Failure]]:
        found: list[tuple[str, int | None, Failure]] = []
        if model.failure is not None:
            found.append((model.name, None, model.failure))
        for lives in (model.versions, model.refused):
            for version, life in sorted(lives.items()):
                if life.failure is not None and version in model.aspired:
                    found.append((model.name, version, life.failure))
        return found

    async def load_first(self, found: Mapping[str, ModelOnDisk]) -> None:
        """The loads of the start: returns when each has succeeded or failed."""
        self.apply(found)
        for model in self._models.values():
            model.expected = True
        await self._wait_for_all()
        self._first_loads_over = True

    def apply(self, found: Mapping[str, ModelOnDisk], *, again: bool = False) -> None:
        """Makes ``found`` what is aspired, and begins what follows from it. For every later look, too: models
        that are as they were cost next to nothing. ``again``: also what has failed before."""
        for name in self._models.keys() - found.keys():
            self.withdraw(name)
        for name, on_disk in found.items():
            model = self._models.get(name)
            if not again and model is not None and model.is_aspired_as(on_disk):
                continue
            try:
                self.apply_model(on_disk, again=again)
            except Exception:
                _log.exception("applying failed unexpectedly", extra={"fields": {"model": name}})
                why = Failure(Code.INTERNAL.canonical, "internal error while applying what is on disk")
                self._models[name].failure = why  # so that it is neither forgotten nor taken for applied

    def apply_model(self, on_disk: ModelOnDisk, *, again: bool = False) -> ModelRecord:
        """The same for one model, whatever becomes of the others. ``again``: also what has failed before."""
        model = self._models.get(on_disk.name)
        if model is None:
            before = None if self._decisions is None else self._decisions.of(on_disk.name)
            model = ModelRecord(on_disk.name, on_disk, traffic=TrafficRecord(before))
            self._models[on_disk.name] = model
        model.kept = False
        self._kept.pop(model.name, None)
        if again:
            model.refused.clear()
            for life in model.versions.values():
                life.content = None if life.failure is not None else life.content
        self._aspire(model, on_disk)
        self._publish(model)
        self._step(model)
        return model

    def traffic_changed(self, model: ModelRecord) -> None:
        """Carries out what was decided about the model's traffic."""
        self._publish(model)
        if model.aspired:
            model.aspired = self._wanted(model, model.found)
        self._step(model)

    def withdraw(self, name: str, *, keep: bool = False) -> None:
        """Nothing of the model is wanted any more. ``keep``: it stays known, as the last MOST_KEPT do."""
        model = self._models[name]
        model.aspired, model.failure, model.expected, model.kept = frozenset(), None, False, keep
        self._kept.pop(name, None)
        if keep:
            self._kept[name] = model
        self._step(model)
        if len(self._kept) > MOST_KEPT:
            self.withdraw(next(iter(self._kept)))

    def labels_moved(self, model: ModelRecord) -> None:
        """``model.label_moves`` has changed."""
        self._publish(model)

    async def settle(self, name: str) -> None:
        """Returns when what is wanted of the model is there or has failed. Later retries do not count."""
        while (model := self._models.get(name)) is not None:
            tasks = {task for task, loading in self._loads.items() if loading == name}
            if not tasks:
                # What is going has to be gone before it can come again.
                states = {life.state for life in map(model.versions.get, model.aspired) if life is not None}
                if State.UNLOADING in states or not model.aspired <= model.versions.keys():
                    tasks = {task for task, unloading in self._unloads.items() if unloading == name}
            if not tasks:
                return
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Unloads everything; waits for loads that have begun, which nothing can interrupt."""
        self._closing = True
        self._retries.close()
        self._devices.close()
        if self._decisions is not None:
            await self._decisions.written()  # before what may take longer than anybody waits
        await self._wait_for_all()
        for model in self._models.values():
            for life in model.versions.values():
                if life.state is State.AVAILABLE:
                    self._begin_unload(model, life)
        await self._wait_for_all()
        if self._decisions is not None:
            self._decisions.close()
        await self._loading.close()

    # --- what is aspired ---

    def _aspire(self, model: ModelRecord, on_disk: ModelOnDisk) -> None:
        if on_disk.error is not None and not on_disk.empty:
            # What is loaded keeps serving under the configuration that it was loaded with.
            self._fail_model(model, Failure(Code.INVALID_ARGUMENT.canonical, on_disk.error))
            return
        kept = aspired_versions(on_disk.config.versions, on_disk.versions.keys())
        if unkept := sorted(on_disk.config.named_versions() & on_disk.versions.keys() - kept):
            why = f"{UNKEPT_VERSION}: {unkept[0]}"
            self._fail_model(model, Failure(Code.INVALID_ARGUMENT.canonical, why))
            return
        if on_disk.config.versions.labels != model.found.config.versions.labels:
            model.label_moves.clear()
        model.found = on_disk
        model.traffic.configured(on_disk.config, on_disk.versions.keys())
        model.aspired = self._wanted(model, on_disk)
        if model.aspired:
            model.failure = None
            return
        self._fail_model(model, Failure(Code.FAILED_PRECONDITION.canonical, on_disk.error or NO_VERSION))

    def _wanted(self, model: ModelRecord, on_disk: ModelOnDisk) -> frozenset[int]:
        versions = on_disk.versions.keys()
        kept = aspired_versions(on_disk.config.versions, versions)
        return kept | model.traffic.needs(on_disk.config, versions)

    def _fail_model(self, model: ModelRecord, failure: Failure) -> None:
        if model.failure != failure:
            self._log_failure(model.name, None, failure)
        model.failure = failure

    def _step(self, model: ModelRecord) -> None:
        if self._closing:
            return
        wanted = {version: content_of(model.found, version) for version in model.aspired}
        lives, refused = model.versions, model.refused
        situation = Situation(
            model.aspired,
            {version: life.state for version, life in lives.items()},
            {v for v, life in lives.items() if life.failure and life.content == wanted.get(v, life.content)},
            {
                v
                for v, content in wanted.items()
                if v in lives
                and lives[v].content != content
                and not (v in refused and refused[v].content == content)
            },
            model.replacements,
        )
        spare = model.found.config.versions.preserve == "memory"
        for action in next_actions(situation, spare_memory=spare):
            if isinstance(action, Load):
                self._begin_load(model, action.version, attempt=0)
            elif isinstance(action, Reload):
                self._begin_reload(model, action.version, attempt=0)
            else:
                self._begin_unload(model, lives[action.version])
        self._forget(model)

    # --- loading ---

    def _new_life(self, model: ModelRecord, version: int, attempt: int) -> VersionRecord:
        self._retries.cancel(model.name, version)
        content = content_of(model.found, version)
        return VersionRecord(version, model.found.versions[version], content, attempt)

    def _begin_load(self, model: ModelRecord, version: int, attempt: int) -> None:
        life = model.versions[version] = self._new_life(model, version, attempt)
        self._start(self._loads, model, self._load(model, life, model.found))

    async def _load(self, model: ModelRecord, life: VersionRecord, found: ModelOnDisk) -> None:
        result = await self._run_load(found, life, None)
        if isinstance(result, Failure):
            life.fail(result)
            self._retries.schedule(model, life)
            self._publish(model)  # nobody waits for it any more
        else:
            model.refused.pop(life.version, None)
            life.servable = result
            life.advance(State.AVAILABLE)
            self._became_available(model, life, result)
        self._step(model)

    def _begin_reload(self, model: ModelRecord, version: int, attempt: int) -> None:
        life = model.replacements[version] = self._new_life(model, version, attempt)
        self._start(self._loads, model, self._reload(model, life, model.found))

    async def _reload(self, model: ModelRecord, life: VersionRecord, found: ModelOnDisk) -> None:
        """Beside the one that serves, whose place it takes when it is there."""
        version, current = life.version, model.versions[life.version]
        over = current.servable if same_weights(current.content, life.content, gpus=self._gpus) else None
        result = await self._run_load(found, life, over)
        del model.replacements[version]
        if isinstance(result, Failure):
            life.fail(result)
            model.refused[version] = life
            self._retries.schedule(model, life)
        elif self._closing:
            await self._loading.unload(result)
        else:
            model.refused.pop(version, None)
            life.servable = result
            life.advance(State.AVAILABLE)
            model.versions[version] = life
            self._became_available(model, life, result)
            if current.state is State.AVAILABLE:  # and not going or gone already, for its device has failed
                current.advance(State.UNLOADING)
                self._start(self._unloads, model, self._unload(model, current))
        self._step(model)

    async def _run_load(
        self, found: ModelOnDisk, life: VersionRecord, over: Servable | None
    ) -> Servable | Failure:
        life.advance(State.LOADING)
        what = "loading" if over is None else "reconfiguring"
        _log.info(what, extra={"fields": {"model": found.name, "version": life.version}})
        result = await self._loading.load(found, life, over)
        if isinstance(result, Failure):
            self._log_failure(found.name, life.version, result)
        elif self._decisions is not None and over is None:
            life.fingerprint = await self._decisions.recognize(found, life.version)
        return result

    def _became_available(self, model: ModelRecord, life: VersionRecord, servable: Servable) -> None:
        life.available_since = self._loop.time()
        model.expected = model.expected or bool(model.aspired)
        fields = {"model": model.name, "version": life.version}
        if life.fingerprint is not None and life.content is not None:
            known = model.traffic.recognized(life.version, life.content.weights, life.fingerprint)
            if known is not None:
                _log.info("known from before", extra={"fields": fields | {"canary": known.value}})
        self._publish(model)
        _log.info("available", extra={"fields": fields | _describe(servable)})
        self._devices.begin(servable)

    def _begin_break(self, model: ModelRecord, life: VersionRecord) -> None:
        """Takes what answers nothing any more out, and tries it again later."""
        life.failure = Failure(Code.INTERNAL.canonical, "the device that it runs on has failed")
        life.attempt = earlier_failures(life, self._loop.time())
        fields = {"model": model.name, "version": life.version, "error": life.failure.message}
        _log.error("broken", extra={"fields": fields})
        self._begin_unload(model, life)

    # --- unloading ---

    def _begin_unload(self, model: ModelRecord, life: VersionRecord) -> None:
        life.advance(State.UNLOADING)
        self._publish(model)
        self._start(self._unloads, model, self._unload(model, life))

    async def _unload(self, model: ModelRecord, life: VersionRecord) -> None:
        fields = {"model": model.name, "version": life.version}

        def gone_at_last() -> None:
            life.overdue = None
            _log.info("the last requests have ended", extra={"fields": fields})
            self._step(model)

        servable, life.servable = life.servable, None
        if servable is None or await self._loading.unload(servable, gone_at_last):
            _log.info("unloaded", extra={"fields": fields})
        else:
            why = f"requests still run after {self._settings.drain_timeout_s:g} s: its memory is not free"
            life.overdue = Failure(Code.DEADLINE_EXCEEDED.canonical, why)
            _log.warning("unloaded, but %s", why, extra={"fields": fields})
        life.advance(State.END)
        current = model.versions.get(life.version) is life
        if current and life.failure is not None and life.version in model.aspired:
            self._retries.schedule(model, life)
        self._step(model)

    # --- trying again ---

    def _retry(self, model: ModelRecord, life: VersionRecord) -> None:
        version = life.version
        if self._models.get(model.name) is not model or version not in model.aspired:
            return
        if life.content != content_of(model.found, version):
            return  # another content has been begun, or is about to be
        if model.versions.get(version) is life:
            if version not in model.replacements:
                self._begin_load(model, version, life.attempt + 1)
        elif (
            model.refused.get(version) is life
            and version not in model.replacements
            and model.versions[version].state is State.AVAILABLE
        ):
            self._begin_reload(model, version, life.attempt + 1)

    # --- bookkeeping ---

    def _publish(self, model: ModelRecord) -> None:
        available = model.available()
        config = model.found.config
        wanted = wanted_labels(config.versions.labels, model.label_moves)
        model.labels = routable_labels(wanted, available, model.labels)
        routing, retired = model.traffic.carry_out(
            self._engine, config, available, model.weights(), self._loop.time(), arriving=model.arriving()
        )
        routes = (available, routing.default, model.labels, dict(routing.split), model.traffic.shadow)
        if routes != model.routes:
            # Not otherwise: every set of routes begins its split anew.
            model.routes = routes
            self._engine.set_routes(model.name, *routes)
        if retired is not None:
            self._start(self._unloads, model, self._loading.close_shadow(model.name, retired))
        if self._decisions is not None and model.aspired and not self._closing:
            # What is routed while all of it goes was decided by nobody.
            self._decisions.note(model)

    def _forget(self, model: ModelRecord) -> None:
        for version in [v for v in model.refused if v not in model.aspired]:
            del model.refused[version]
        ended = [
            v for v, life in model.versions.items() if life.state is State.END and v not in model.aspired
        ]
        for version in sorted(ended)[:-_REMEMBERED_ENDS]:
            del model.versions[version]
        gone = not model.aspired and model.failure is None and not model.kept
        gone = gone and not any(life.overdue for life in model.versions.values())
        if gone and len(ended) == len(model.versions) and self._models.get(model.name) is model:
            # Gone from disk, and everything of it has ended.
            del self._models[model.name]
            self._engine.remove_routes(model.name)

    async def _wait_for_all(self) -> None:
        while tasks := {*self._loads, *self._unloads}:
            await asyncio.wait(tasks)

    def _start(
        self, tasks: dict[asyncio.Task[None], str], model: ModelRecord, work: Coroutine[Any, Any, None]
    ) -> None:
        def finished(task: asyncio.Task[None]) -> None:
            del tasks[task]
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a repository task failed", exc_info=error)

        task = self._loop.create_task(work)
        tasks[task] = model.name
        task.add_done_callback(finished)

    def _log_failure(self, model: str, version: int | None, failure: Failure) -> None:
        fields = {"model": model, "version": version, "code": failure.code, "error": failure.message}
        _log.error("cannot load", extra={"fields": fields})


def _describe(servable: Servable) -> dict[str, object]:
    return {
        "max_batch_size": servable.max_batch_size,
        "execution": servable.execution,
        "device": ",".join(servable.devices),
        "instances": servable.instances,
        "load_ms": servable.load_ns // 1_000_000,
    }
