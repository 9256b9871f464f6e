"""Which of the things that a look at the disk finds may be believed, and looking again and again. Files that
are being copied change between two looks; a folder that is being replaced is missing for a moment."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from servolley.repository.inotify import FolderWatch
from servolley.repository.layout import ModelOnDisk, RepositoryError

_log = logging.getLogger(__name__)

_SWARM_S = 0.05  # how long to wait for what comes with a change
_SETTLE_S = 1.0  # between the two looks that have to find the same, where the kernel tells of changes
_PAUSE_S = 5.0  # after an error
_REST = 4.0  # a look that takes long is followed by a pause so many times as long

Models = Mapping[str, ModelOnDisk]


class Source(Protocol):
    """Something that can be looked at. Blocking; RepositoryError: there is nothing to be seen at all."""

    def look(self) -> dict[str, ModelOnDisk]: ...

    def folders(self) -> list[tuple[Path, int]]:
        """Where it looks: folders, each with how deep."""
        ...


def settled(known: Models, before: Models, now: Models) -> dict[str, ModelOnDisk]:
    """What holds after a look, given what held so far and the look before it. Pure.

    A version is believed when two looks in a row found the same, or when it says itself that it is complete;
    so is its absence, and a configuration. Until then what held so far still does. A model of which all of it
    does is the same object as before.
    """
    models = {}
    for name in sorted(known.keys() | before.keys() | now.keys()):
        held = known.get(name)
        model = _settled(held, before.get(name), now.get(name))
        if model is not None:
            models[name] = held if held is not None and held == model else model
    return models


def _settled(
    known: ModelOnDisk | None, before: ModelOnDisk | None, now: ModelOnDisk | None
) -> ModelOnDisk | None:
    if now is None:
        return None if before is None else known
    if now.unreadable:
        return known
    if before is not None and before.unreadable:
        before = None  # it said nothing
    same_config = before is not None and _config(before) == _config(now)
    # A version's marker comes last only where the whole model is new: it says nothing about a configuration
    # that changes later.
    new = known is None and bool(now.complete) and now.error is None
    if not same_config and not (known is not None and _config(known) == _config(now)) and not new:
        return known
    versions, stamps = {}, {}
    for version in sorted((known.versions.keys() if known else set()) | now.versions.keys()):
        twice = (
            before is not None
            and version not in before.unreadable_versions | now.unreadable_versions
            and before.stamps.get(version) == now.stamps.get(version)
        )
        if twice or version in now.complete:
            if version in now.versions:
                versions[version], stamps[version] = now.versions[version], now.stamps[version]
        elif known is not None and version in known.versions:
            versions[version], stamps[version] = known.versions[version], known.stamps[version]
    if known is None and not versions and now.versions:
        return None  # all of it is still being copied
    return replace(now, versions=versions, stamps=stamps, empty=now.empty and not versions)


def _config(model: ModelOnDisk) -> tuple[object, ...]:
    return (model.config_stamp, model.label_stamp, model.error)


async def keep_going(what: str, work: Callable[[], Awaitable[None]], pause_s: float = _PAUSE_S) -> None:
    """``work`` never ends of its own accord; after an error, which is logged, it begins anew. Until it is
    cancelled. pause_s: before it does so, at most 5 s."""
    while True:
        try:
            await work()
        except Exception:
            _log.exception("%s failed: it begins anew", what)
        await asyncio.sleep(min(pause_s, _PAUSE_S))


class Poller:
    """Looks every ``interval_s``, and says what holds whenever that has changed.

    ``watch``: says that there is something to be seen; then the look is at once. ``nudge``: the same from
    whoever knows.
    """

    def __init__(
        self,
        source: Source,
        first: Models,
        interval_s: float,
        changed: Callable[[Models], None],
        watch: FolderWatch | None = None,
    ) -> None:
        self._source = source
        self._known: Models = first
        self._before: Models = first
        self._interval_s = interval_s
        self._changed = changed
        self._watch = watch
        self._nudged = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="poll")
        self._blind = False
        self._adopted = 0

    async def run(self) -> None:
        """Until it is cancelled, whatever goes wrong meanwhile."""
        watch = self._watch
        try:
            await keep_going("looking at the repository", self._keep_looking, self._interval_s)
        finally:
            if watch is not None:
                asyncio.get_running_loop().remove_reader(watch.fileno())
                self._thread.submit(watch.close)  # behind a look that is under way
            self._thread.shutdown(wait=False)

    async def _keep_looking(self) -> None:
        loop, watch = asyncio.get_running_loop(), self._watch
        earliest = loop.time()
        latest = earliest if watch is not None else earliest + self._interval_s
        watched = False
        while True:
            nudged = await self._wait(earliest, latest)
            began = loop.time()
            if watch is not None and (nudged or not watched or not watch.rooted):
                watched = await self._refresh(watch)
            # It has to be found the same a second time, and not sooner than a copy could move on.
            again = await self._look_once() or (watch is not None and not watched)
            now = loop.time()
            earliest, latest = now + _REST * (now - began), now + self._interval_s
            if again:
                settled_s = min(self._interval_s, _SETTLE_S)
                earliest = max(earliest, now + settled_s)
                latest = now + settled_s if watch is not None else latest

    async def _refresh(self, watch: FolderWatch) -> bool:
        """Whether the kernel tells of changes from now on."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, watch.refresh)
        except Exception:
            _log.exception("watching the repository failed")
            return False
        loop.add_reader(watch.fileno(), self._on_change, loop, watch)
        return True

    async def _look_once(self) -> bool:
        """Whether anything was otherwise than at the look before."""
        known, before, adopted = self._known, self._before, self._adopted
        look = asyncio.get_running_loop().run_in_executor(self._thread, self._look, known, before)
        found = await look
        if found is None or adopted != self._adopted:
            return self._before is not before
        self._before, now_known, differs = found
        if now_known != known:
            self._changed(now_known)
            self._known = now_known  # not before: what could not be told is told again
        return differs

    def adopt(self, models: Models) -> None:
        """Another source holds, and this is what it shows; a look that is under way is of the one before."""
        self._known = self._before = models
        self._adopted += 1
        if self._watch is not None:
            self._nudged.set()  # its folders are to be watched

    def nudge(self) -> None:
        """There is something to be seen."""
        self._nudged.set()

    async def _wait(self, earliest: float, latest: float) -> bool:
        """Until ``latest``, or after a nudge, but not before ``earliest``. Whether there was a nudge."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(latest):
                await self._nudged.wait()
        except TimeoutError:
            return False
        # Changes come in swarms.
        await asyncio.sleep(min(max(_SWARM_S, earliest - loop.time()), self._interval_s))
        self._nudged.clear()
        return True

    def _on_change(self, loop: asyncio.AbstractEventLoop, watch: FolderWatch) -> None:
        # Not again before the next look, however much happens: it sees everything.
        loop.remove_reader(watch.fileno())
        self._nudged.set()

    def _look(self, known: Models, before: Models) -> tuple[Models, Models, bool] | None:
        """What is there, what holds, and whether the former is otherwise than ``before``. None: nothing could
        be seen, which changes nothing. All that takes long with many models, off the loop."""
        try:
            models = self._source.look()
        except RepositoryError as error:
            if not self._blind:
                _log.warning(
                    "cannot look: what is loaded keeps serving", extra={"fields": {"error": str(error)}}
                )
            self._blind = True
            return None
        except Exception:
            _log.exception("looking at the repository failed")
            return None
        self._blind = False
        return models, settled(known, before, models), models != before
