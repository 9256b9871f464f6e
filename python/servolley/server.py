"""The composition root: engine, repository, routes, listeners, signals, drain."""

import asyncio
import gc
import importlib
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from servolley import _core
from servolley.config.strict import ConfigError
from servolley.front import listeners
from servolley.front.context import ServerContext
from servolley.front.driver import Driver
from servolley.front.entrances import Entrances
from servolley.front.example_calls import ExampleCalls
from servolley.front.gate import AdminError, AdminToken
from servolley.front.grpc.services import GrpcServices, built_messages
from servolley.front.inner import InnerCalls
from servolley.front.label_routes import LabelRoutes
from servolley.front.metrics_routes import MetricsRoutes
from servolley.front.oip_routes import OipRoutes
from servolley.front.router import Router
from servolley.front.shared_memory import SharedMemory
from servolley.front.tfs_routes import TfsRoutes
from servolley.front.traffic_routes import TrafficRoutes
from servolley.front.warm_up import WarmUp
from servolley.observe.runtime_log import log_runtime_lines
from servolley.observe.trace_settings import TraceSettings
from servolley.observe.tracing import Tracing
from servolley.ort_library import find_cuda_libraries, find_ort_library, knows_gpus
from servolley.repository.decisions import Decisions
from servolley.repository.discovery import Poller, keep_going
from servolley.repository.inotify import FolderWatch
from servolley.repository.layout import RepositoryError
from servolley.repository.manager import Manager
from servolley.repository.model_list import ReplaceableSource
from servolley.repository.reload import ReloadControl
from servolley.repository.state_file import StateFile
from servolley.repository.traffic_control import TrafficControl
from servolley.sources import Sources, override

if TYPE_CHECKING:
    from collections.abc import Mapping

    from servolley.config.settings import ServerSettings
    from servolley.front.tls_door import TlsDoor
    from servolley.mirror.repository import RemoteRepository
    from servolley.repository.config_file import ConfigFile
    from servolley.repository.layout import ModelOnDisk, Scanner
    from servolley.repository.several import SeveralRepositories

_log = logging.getLogger(__name__)

_ZLIB_LEVELS = {"none": 0, "low": 1, "medium": 6, "high": 9}

# For unloading after the connections have gone, where the drain has used its time up.
_LEAST_CLOSE_S = 5.0

# timeout(1) sends its signal to the process and to the group that the process is in.
_SAME_SIGNAL_S = 1.0


class StartError(Exception):
    """The server cannot start; the text is for the user."""


def serve(settings: "ServerSettings") -> int:
    """Runs until a signal; returns the exit code.

    Raises StartError, RuntimeNotFoundError and RepositoryError.
    """
    try:
        sources = Sources(settings)
    except ConfigError as error:
        raise StartError(str(error)) from error
    remote = _remote(settings)
    source = sources.first() if remote is None else sources.repository(remote.folder)
    found = source.look() if remote is None else {}
    engine = _make_engine(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(settings, engine, sources, source, found, remote).run())


def _remote(settings: "ServerSettings") -> "RemoteRepository | None":
    """Raises RepositoryError."""
    if settings.repository.path is None or "://" not in settings.repository.path:
        return None
    from servolley.mirror.repository import RemoteRepository

    return RemoteRepository(settings.remote, settings.repository)


def _make_engine(settings: "ServerSettings") -> _core.Engine:
    limits, shared = settings.limits, settings.shared_memory
    optional: dict[str, Any] = {
        "pool_bytes": limits.pool_size,
        "gpu_pool_bytes": limits.gpu_pool_size,
        "decoded_bytes": limits.max_decoded_size,
        "queue_size": limits.queue_size,
        "inline_threshold_us": settings.engine.inline_threshold_us,
        "busy_poll_us": settings.engine.busy_poll_us,
        "grpc_compression_level": _ZLIB_LEVELS[settings.http.grpc_compression],
        "shared_memory_regions": shared.max_regions if shared.allow else None,
        "shared_memory_bytes": shared.max_size if shared.allow else None,
    }
    try:
        return _core.Engine(
            ort_library=find_ort_library(settings.engine.ort_library),
            cuda_libraries=find_cuda_libraries(),
            body_bytes=limits.max_body_size,
            request_timeout_us=limits.request_timeout_ms * 1000,
            load_niceness=settings.repository.load_niceness,
            **{key: value for key, value in optional.items() if value is not None},
        )
    except _core.CoreError as error:
        raise StartError(str(error)) from error


class Server:
    """One run of the server, inside its loop."""

    def __init__(
        self,
        settings: "ServerSettings",
        engine: _core.Engine,
        sources: Sources,
        source: "Scanner | SeveralRepositories | ConfigFile",
        found: "Mapping[str, ModelOnDisk]",
        remote: "RemoteRepository | None" = None,
    ) -> None:
        """``remote``: where what is to be found has to be copied from first."""
        self._settings = settings
        self._engine = engine
        self._sources = sources
        self._source = source
        repository = settings.repository
        listed = repository.model_config_file is not None
        self._served = ReplaceableSource(source, repository.model_config_poll_interval_s if listed else 0.0)
        self._found = found
        self._remote = remote
        self._wanted = self._wanted_at_start() if remote is None else {}
        self._polling: list[asyncio.Task[None]] = []
        self._poller: Poller | None = None
        self._tls: TlsDoor | None = None
        self._token: AdminToken | None = None
        self._rereading: set[asyncio.Future[None]] = set()
        self._stop = asyncio.Event()
        self._serving = False
        self._signalled: tuple[signal.Signals, float] | None = None
        self._delay: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        # Always, since without a handler the signal ends the process.
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        http = self._settings.http
        limit = listeners.connection_limit(http.max_connections)
        if limit < http.max_connections:
            _log.warning(
                "fewer connections than configured: the file limit", extra={"fields": {"limit": limit}}
            )
        self._driver = Driver(self._engine, loop, limit)
        repository = self._settings.repository
        decisions = Decisions(StateFile.of(repository))
        gpus = knows_gpus(find_ort_library(self._settings.engine.ort_library))
        self._manager = Manager(self._engine, repository, loop, self._warm_up(), decisions, gpus=gpus)
        self._traffic = TrafficControl(self._manager)
        self._context = ServerContext(
            _core.__version__,
            self._manager,
            shared_memory=SharedMemory(self._engine) if self._settings.shared_memory.allow else None,
        )
        if self._settings.repository.control_mode == "explicit":
            from servolley.repository.explicit import ExplicitControl, Repository

            assert isinstance(self._source, Repository)  # a list decides by itself: the settings say so
            limit = self._settings.repository.max_override_size
            self._context.control = ExplicitControl(self._manager, self._source, override, limit)
            if self._remote is not None:
                from servolley.mirror.repository import RemoteControl

                self._context.control = RemoteControl(self._remote, self._context.control)
        else:
            self._context.reload = ReloadControl(
                self._manager, self._served, self._sources.listed, self._adopt
            )
        self._context.inner = InnerCalls(self._engine, self._driver)
        self._context.examples = ExampleCalls(
            self._context, built_messages, self._settings.limits.request_timeout_ms * 1000
        )
        self._context.tracing = self._make_tracing()
        self._grpc = GrpcServices(self._context, loop)
        self._doors = self._entrances()
        self._driver.start()
        try:
            self._tls = self._open_tls()
            self._token = self._read_token()
            # Before any model is loaded: live at once, ready when they are.
            await self._doors.open(self._tls, self._token)
        except OSError as error:
            await self._shut_down(drain_timeout_s=0)
            raise StartError(f"cannot listen: {error.strerror or error}") from error
        except AdminError as error:
            await self._shut_down(drain_timeout_s=0)
            raise StartError(str(error)) from error
        except StartError:
            await self._shut_down(drain_timeout_s=0)
            raise
        try:
            code = await self._load_models()
        except (RepositoryError, StartError):
            await self._shut_down(drain_timeout_s=0)
            raise
        if code is None:
            self._poll()
            judging = asyncio.create_task(self._traffic.run())
            self._serving = True
            await self._stop.wait()
            judging.cancel()
            code = 0
        await self._shut_down(self._settings.limits.drain_timeout_s)
        return code

    def _make_tracing(self) -> "Tracing":
        trace = self._settings.trace
        file = None if trace.file is None else Path(trace.file)
        if file is not None and not file.parent.is_dir():
            raise StartError(f"--trace-file: no folder {file.parent}")
        start = TraceSettings(trace.level != "OFF", trace.rate, trace.count, trace.log_frequency)
        return Tracing(self._engine, file, trace.max_size, start)

    def _warm_up(self) -> WarmUp | None:
        repository = self._settings.repository
        if not repository.warmup:
            return None
        return WarmUp(self._engine, built_messages, repository.warmup_iterations)

    def _entrances(self) -> Entrances:
        everything, only_metrics = Router(), Router()
        entrances = Entrances(self._settings, self._driver, everything, only_metrics, self._grpc.find)
        metrics = MetricsRoutes(
            self._engine,
            self._manager,
            _core.__version__,
            self._sources.metrics_path,
            entrances.refusals.by_word,
            None if self._remote is None else self._remote.stats,
        )
        OipRoutes(self._context).register(everything)
        LabelRoutes(self._context).register(everything)
        TfsRoutes(self._context).register(everything)
        TrafficRoutes(self._context, self._traffic).register(everything)
        for router in (everything, only_metrics):
            metrics.register(router)
        return entrances

    def _read_token(self) -> AdminToken | None:
        """Raises AdminError."""
        file = self._settings.admin.token_file
        return None if file is None else AdminToken(Path(file))

    def _open_tls(self) -> "TlsDoor | None":
        """The certificates, if there are to be any."""
        tls = self._settings.tls
        if tls.cert is None and tls.ssl_config_file is None:
            return None
        # Only who wants TLS pays for it.
        from servolley.front.tls_context import TlsError
        from servolley.front.tls_door import TlsDoor
        from servolley.front.tls_settings import loader

        try:
            return TlsDoor(self._driver, loader(tls), tls.handshake_timeout_s)
        except TlsError as error:
            raise StartError(str(error)) from error

    def _poll(self) -> None:
        repository = self._settings.repository
        folders_s = repository.poll_interval_s if repository.control_mode == "poll" else 0.0
        listed = repository.model_config_file is not None
        # A list is read again whether or not its folders are looked at.
        intervals_s = [folders_s, repository.model_config_poll_interval_s if listed else 0.0]
        if any(intervals_s):
            watch = FolderWatch.open(self._served.folders) if repository.watch and folders_s > 0 else None
            interval_s = min(interval_s for interval_s in intervals_s if interval_s > 0)
            self._poller = Poller(self._served, self._found, interval_s, self._manager.apply, watch)
            self._polling.append(asyncio.create_task(self._poller.run()))
            if self._remote is not None and self._settings.remote.poll_interval_s > 0:
                watching = partial(self._remote.watch, self._poller.nudge)
                self._polling.append(
                    asyncio.create_task(keep_going("watching the remote repository", watching))
                )

    def _adopt(self, models: "Mapping[str, ModelOnDisk]") -> None:
        self._found = models
        if self._poller is not None:
            self._poller.adopt(models)

    def _wanted_at_start(self) -> "Mapping[str, ModelOnDisk]":
        """Raises StartError."""
        repository = self._settings.repository
        if not self._found:
            _log.warning("the repository has no models")
        if repository.control_mode != "explicit" or "*" in repository.load_models:
            return self._found
        for name in set(repository.load_models) - self._found.keys():
            raise StartError(f"--load-model: no model '{name}' in the repository")
        return {name: self._found[name] for name in repository.load_models}

    async def _load_models(self) -> int | None:
        """The first loads; the exit code if the server is to end. Raises RepositoryError and StartError."""
        if self._remote is not None:
            copy = asyncio.create_task(self._copy(self._remote))
            if not await self._done_unless_stopped(copy):
                copy.cancel()
                await asyncio.gather(copy, return_exceptions=True)
                return 0
            await copy  # its exception, if it had one
        loads = asyncio.create_task(self._manager.load_first(self._wanted))
        if not await self._done_unless_stopped(loads):
            return 0
        await loads
        log_runtime_lines(self._engine.take_runtime_log())
        failures = self._manager.failures()
        if failures and self._settings.repository.exit_on_error:
            _log.error("ending: a model cannot be loaded")
            return 1
        fields = {
            "models": len(self._wanted) - len({name for name, _, _ in failures}),
            "failed": len(failures),
        }
        if self._manager.ready:
            _log.info("ready", extra={"fields": fields})
        else:
            _log.warning("not ready: a model has no available version", extra={"fields": fields})
        # The first scrape shall not stop the loop for an import, nor the start wait for it.
        importlib.import_module("servolley.observe.metrics")
        if self._settings.http.grpc_port is not None:
            await self._grpc.prepare()
        # What exists now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        return None

    async def _copy(self, remote: "RemoteRepository") -> None:
        """What is to be served, at the start. Raises RepositoryError and StartError."""
        repository = self._settings.repository
        some = repository.control_mode == "explicit" and "*" not in repository.load_models
        await remote.first(list(repository.load_models) if some else None)
        self._found = await asyncio.to_thread(self._source.look)
        self._wanted = self._wanted_at_start()

    async def _done_unless_stopped(self, work: asyncio.Task[None]) -> bool:
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        return work.done()

    def _on_signal(self, number: signal.Signals) -> None:
        """The first begins to leave; one more ends the delay, or the process where there is none left."""
        loop = asyncio.get_running_loop()
        now, last = loop.time(), self._signalled
        if last is not None and last[0] == number and now - last[1] < _SAME_SIGNAL_S:
            return
        self._signalled = number, now
        if self._stop.is_set():
            _log.warning("second signal: ending at once")
            logging.shutdown()
            os._exit(128 + number)
        delay_s = self._settings.limits.drain_delay_s
        # Who was never ready has nobody to tell.
        if self._delay is None and delay_s > 0 and self._serving:
            fields = {"signal": number.name, "seconds": delay_s}
            _log.info("not ready any more, serving on before the drain", extra={"fields": fields})
            self._context.leaving = True
            self._grpc.tell_watchers()
            self._delay = loop.call_later(delay_s, self._drain, number)
            return
        if self._delay is not None:
            self._delay.cancel()
        self._drain(number)

    def _drain(self, number: signal.Signals) -> None:
        _log.info("draining", extra={"fields": {"signal": number.name}})
        self._stop.set()

    def _on_hangup(self) -> None:
        """Certificates and token are read again, and used if they can be."""
        if self._tls is None and self._token is None:
            _log.info("SIGHUP ignored: there are no certificates and no token to read again")
        if self._tls is not None:
            self._tls.reload_soon()
        if self._token is not None:
            self._rereading.add(task := asyncio.ensure_future(self._token.read_again()))
            task.add_done_callback(self._rereading.discard)

    async def _shut_down(self, drain_timeout_s: float) -> None:
        """Construction reversed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_timeout_s
        self._context.draining = True
        for polling in self._polling:
            polling.cancel()
        self._context.control.close()
        if self._context.reload is not None:
            self._context.reload.close()
        self._doors.close()
        if self._tls is not None:
            await self._tls.close()
        self._grpc.tell_watchers()
        if self._remote is not None:
            await asyncio.gather(*self._polling, return_exceptions=True)
            await self._remote.close()
        self._driver.begin_drain()
        if not await self._driver.drained(drain_timeout_s):
            _log.warning("connections were cut off: the drain timeout has passed")
        if self._context.inner is not None:
            self._context.inner.close()
            self._context.inner = None
        try:
            await asyncio.wait_for(self._manager.close(), max(deadline - loop.time(), _LEAST_CLOSE_S))
        except TimeoutError:
            # A load cannot be interrupted, and its thread would hold the interpreter back.
            _log.warning("models were left loading or unloading: the drain timeout has passed")
            logging.shutdown()
            os._exit(0)
        if self._context.tracing is not None:
            await self._context.tracing.close()
        self._driver.stop()
        self._engine.close()
        log_runtime_lines(self._engine.take_runtime_log())
        _log.info("stopped")
