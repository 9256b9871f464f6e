"""Keeps what is decided about the traffic of a repository's models for the next start. Trouble with the file
is said, and stops nothing. Loop thread only; a thread of its own reads weights, and writes."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from servolley.repository.content import content_of
from servolley.repository.fingerprint import fingerprint_of
from servolley.repository.state_file import KeptTraffic, StateError, StateFile

if TYPE_CHECKING:
    from servolley.repository.layout import ModelOnDisk
    from servolley.repository.records import ModelRecord
    from servolley.repository.traffic import Outcome

_NICENESS = 19

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Decisions:
    """What a repository's models are known for."""

    def __init__(self, file: StateFile) -> None:
        """Reads the file, which is short."""
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decisions", initializer=_stand_back)
        self._tasks: set[asyncio.Task[None]] = set()
        self._identifying: set[tuple[str, int]] = set()
        self._noted: dict[str, KeptTraffic | None] = {}  # by this server; the rest is of those before it
        self._writing = self._dirty = self._in_trouble = False
        try:
            self._kept = file.read()
        except StateError as error:
            self._kept = {}
            self._warn("what was decided about canaries cannot be read", error)

    def of(self, model: str) -> KeptTraffic | None:
        return self._kept.get(model)

    def note(self, model: "ModelRecord") -> None:
        """To be called whenever something may have been decided about a model that is wanted."""
        for version, outcome in model.traffic.unidentified():
            self._begin_to_identify(model, version, outcome)
        kept = model.traffic.kept()
        if kept == self._kept.get(model.name):
            return
        self._noted[model.name] = kept
        if kept is None:
            del self._kept[model.name]
        else:
            self._kept[model.name] = kept
        self._dirty = True
        if not self._writing:
            self._writing = True
            self._start(self._write())

    async def recognize(self, found: "ModelOnDisk", version: int) -> str | None:
        """The fingerprint of a version's weights, if something is known about such a version."""
        kept = self._kept.get(found.name)
        if kept is None or version not in kept.outcomes:
            return None
        return await self._fingerprint(found, version)

    async def written(self) -> None:
        """Returns when everything that was noted is written, or cannot be."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _begin_to_identify(self, model: "ModelRecord", version: int, outcome: "Outcome") -> None:
        found, key = model.found, (model.name, version)
        on_disk = version in found.versions and content_of(found, version).weights == outcome.content
        if on_disk and key not in self._identifying:
            self._identifying.add(key)
            self._start(self._identify(model, found, version, outcome))

    async def _identify(
        self, model: "ModelRecord", found: "ModelOnDisk", version: int, outcome: "Outcome"
    ) -> None:
        fingerprint = await self._fingerprint(found, version)
        self._identifying.discard((model.name, version))
        if fingerprint is not None and model.traffic.outcomes.get(version) is outcome:
            model.traffic.keep(version, fingerprint)
            self.note(model)

    async def _fingerprint(self, found: "ModelOnDisk", version: int) -> str | None:
        try:
            return await self._in_thread(fingerprint_of, found, version)
        except Exception:
            fields = {"model": found.name, "version": version}
            _log.exception("identifying weights failed", extra={"fields": fields})
            return None

    async def _write(self) -> None:
        try:
            while self._dirty:
                self._dirty = False
                try:
                    await self._in_thread(self._file.write, dict(self._noted))
                    self._in_trouble = False
                except StateError as error:
                    if not self._in_trouble:
                        self._warn("what is decided about canaries is lost at a restart", error)
                    self._in_trouble = True
        finally:
            self._writing = False

    async def _in_thread(self, call: Callable[_P, _T], *arguments: _P.args, **_: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("keeping a decision failed", exc_info=error)

    def _warn(self, what: str, error: StateError) -> None:
        _log.warning(what, extra={"fields": {"file": str(self._file.path), "error": str(error)}})


def _stand_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
