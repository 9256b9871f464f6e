"""Request traces while the server runs: follows the settings, takes what the core has seen to the file."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from servolley.observe.trace_file import TraceFile
from servolley.observe.trace_settings import Sent, TraceBook, TraceChanges, TraceSettings
from servolley.status import invalid_argument

if TYPE_CHECKING:
    from pathlib import Path

    from servolley._core import Engine

#: Between looks at what the core has kept, which is bounded.
_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class Tracing:
    """One engine's. ``file``: None where the server was started without one; then nothing is ever traced.
    Loop thread only."""

    def __init__(
        self, engine: "Engine", file: "Path | None", max_bytes: int, at_start: TraceSettings
    ) -> None:
        self._engine = engine
        self._path = file
        self._book = TraceBook(at_start)
        self._file = None if file is None else TraceFile(file, max_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="traces")
        self._task: asyncio.Task[None] | None = None
        self._dropped = 0
        self._apply({None})

    @property
    def available(self) -> bool:
        return self._file is not None

    def settings(self, model: str | None) -> dict[str, list[str] | str]:
        """As clients read them. None: the server's."""
        remaining = self._engine.traces_remaining(model)
        return self._book.settings(model).document(remaining, str(self._path or ""))

    def change(self, model: str | None, sent: Mapping[str, Sent], known: Iterable[str]) -> None:
        """``known``: models that there are; of others nothing is remembered. Raises StatusError."""
        changes = TraceChanges.parse(sent)
        if changes.values.get("on") and self._file is None:
            raise invalid_argument("there is no file for traces: start the server with --trace-file")
        self._drop(self._book.models.difference(known))
        self._apply(self._book.change(model, changes))

    def _drop(self, models: set[str]) -> None:
        self._book.forget(models)
        for name in models:
            self._engine.remove_trace_rule(name)

    def _apply(self, touched: set[str | None]) -> None:
        for model in touched:
            settings = self._book.settings(model)
            if model is not None and model not in self._book.models:
                self._engine.remove_trace_rule(model)
            else:
                self._engine.set_trace_rule(model, settings.rate if settings.on else 0, settings.count)
        if self._file is not None and self._task is None and self._anything_on():
            self._task = asyncio.get_running_loop().create_task(self._follow(self._file))

    def _anything_on(self) -> bool:
        return any(self._book.settings(model).on for model in (None, *self._book.models))

    async def _follow(self, file: TraceFile) -> None:
        while self._anything_on():
            await asyncio.sleep(_INTERVAL_S)
            await self._write(file)
        self._task = None

    async def _write(self, file: TraceFile) -> None:
        traces = self._engine.take_traces()
        dropped = self._engine.traces_dropped
        if dropped > self._dropped:
            _log.warning("traces were dropped", extra={"fields": {"count": dropped - self._dropped}})
            self._dropped = dropped
        if not traces:
            return
        per_file = self._book.settings(None).log_frequency
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, file.write, traces, per_file)
            await asyncio.shield(work)  # what was taken is written, whoever waits for it
        except OSError as error:
            self._stop(f"traces cannot be written: {error.strerror or error}")
            return
        if file.full:
            self._stop("the trace files have reached their size")

    def _stop(self, why: str) -> None:
        _log.error("tracing ends: %s", why)
        off = TraceChanges({"on": False}, frozenset())
        for model in (*self._book.models, None):
            self._apply(self._book.change(model, off))

    async def close(self) -> None:
        """Writes what there is."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._file is not None:
            await self._write(self._file)
        self._thread.shutdown()
