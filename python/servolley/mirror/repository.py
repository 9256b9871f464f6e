"""A remote repository in the server: its first copy at the start, a look now and then, and loads that look
first."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from servolley.config.settings import Remote as RemoteSettings
from servolley.config.settings import Repository as RepositorySettings
from servolley.mirror.messages import Answer, Job
from servolley.mirror.names import MirrorError, cache_folder, scheme_of, shown
from servolley.mirror.process import MirrorProcess
from servolley.repository.control import ModelControl
from servolley.repository.layout import RepositoryError
from servolley.status import Code, StatusError

# After a look that is to be confirmed, and after one that failed; the second doubles up to the interval.
_AGAIN_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class MirrorStats:
    """syncs: looks at the remote repository by what came of them. last_success_s: when the last one ended
    that could see it, in seconds of the epoch; 0: none has. problems: models of which something could not be
    done at the last look at all. bytes: that have come. restarts: of the mirror's process."""

    syncs: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("changed", "unchanged", "failed"), 0)
    )
    last_success_s: float = 0.0
    problems: int = 0
    bytes: int = 0
    restarts: int = 0


class RemoteRepository:
    """``folder``: where the copy is, which the server looks at as at any repository."""

    def __init__(self, settings: RemoteSettings, repository: RepositorySettings) -> None:
        """Raises RepositoryError."""
        assert repository.path is not None
        self._url = repository.path
        try:
            scheme_of(self._url)
        except MirrorError as error:
            raise RepositoryError(str(error)) from error
        self._settings = settings
        self.folder = cache_folder(_cache_dir(settings.cache_dir), self._url)
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RepositoryError(f"{self.folder.parent}: {error.strerror}") from error
        self._process = MirrorProcess(
            Job(
                url=self._url,
                name=repository.name,
                cache=str(self.folder),
                max_bytes=int(settings.max_size),
                downloads=settings.downloads,
                options=settings.options,
            )
        )
        self._stats = MirrorStats()
        self._said: set[str] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    async def first(self, models: list[str] | None) -> None:
        """The copy at the start. Raises RepositoryError where nothing can be seen and nothing was copied
        before."""
        _log.info(
            "copying the repository", extra={"fields": {"from": shown(self._url), "to": str(self.folder)}}
        )
        try:
            self._tell(await self._sync(models))
        except MirrorError as error:
            if not self._holds_models():
                raise RepositoryError(str(error)) from error
            self._warn(f"{error}: what was copied before is served")

    async def watch(self, changed: Callable[[], None]) -> None:
        """Looks until it is cancelled; ``changed``: something else is to be seen in the folder."""
        failures = 0
        wait_s = self._settings.poll_interval_s
        while True:
            await asyncio.sleep(wait_s)
            try:
                answer = await self._sync()
            except Exception as error:
                if isinstance(error, MirrorError):
                    self._warn(f"{error}: what is loaded keeps serving")
                else:
                    _log.exception("looking at the remote repository failed")
                failures += 1
                wait_s = min(_AGAIN_S * 2.0 ** min(failures, 30), self._settings.poll_interval_s)
                continue
            failures = 0
            self._tell(answer)
            if answer.changed:
                changed()
            wait_s = self._settings.poll_interval_s
            if answer.unsettled:
                wait_s = min(_AGAIN_S, wait_s)

    async def look_for(self, model: str) -> None:
        """Makes the copy of one model follow, also for a caller that does not wait. Raises MirrorError."""
        looking = self._waiting.get(model)
        if looking is None:
            looking = self._waiting[model] = asyncio.create_task(self._look_for(model))
            looking.add_done_callback(_was_noticed)
        await asyncio.shield(looking)

    async def _look_for(self, model: str) -> None:
        async with self._turn:
            del self._waiting[model]  # whoever asks from now on may mean something newer
            answer = await self._sync([model])
        self._tell(answer)
        if model in answer.problems:
            raise MirrorError(answer.problems[model])

    async def _sync(self, models: list[str] | None = None) -> Answer:
        """Raises MirrorError. Counted."""
        try:
            answer = await self._process.sync(models)
        except MirrorError:
            self._stats.syncs["failed"] += 1
            raise
        self._stats.syncs["changed" if answer.changed else "unchanged"] += 1
        self._stats.last_success_s = time.time()
        if models is None:
            self._stats.problems = len(answer.problems)
        return answer

    def stats(self) -> MirrorStats:
        """As it is now."""
        process = self._process
        return replace(
            self._stats, syncs=dict(self._stats.syncs), bytes=process.came, restarts=process.restarts
        )

    async def names(self) -> list[str]:
        """Raises MirrorError."""
        return await self._process.names()

    async def close(self) -> None:
        await self._process.close()

    def _holds_models(self) -> bool:
        return self.folder.is_dir() and any(not each.name.startswith(".") for each in self.folder.iterdir())

    def _tell(self, answer: Answer) -> None:
        for name in answer.repaired:
            self._warn(f"{name}: not as it was copied, and taken away")
        problems = {f"{model}: {problem}" for model, problem in answer.problems.items()}
        for problem in problems:
            self._warn(problem)
        self._said = problems

    def _warn(self, text: str) -> None:
        if text not in self._said:
            _log.warning("remote repository: %s", text)
        self._said.add(text)


class RemoteControl:
    """Loads that look at the remote repository first; the rest is ``control``'s."""

    def __init__(self, remote: RemoteRepository, control: ModelControl) -> None:
        self._remote = remote
        self._control = control

    async def load(self, name: str, parameters: dict[str, Any]) -> None:
        try:
            await self._remote.look_for(name)
        except MirrorError as error:
            _log.warning("remote repository: %s", error)
            raise StatusError(
                Code.UNAVAILABLE, f"failed to load '{name}', failed to poll from model repository"
            ) from error
        await self._control.load(name, parameters)

    async def unload(self, name: str, parameters: dict[str, Any]) -> None:
        await self._control.unload(name, parameters)

    async def names(self) -> list[str]:
        here = await self._control.names()
        try:
            return sorted({*here, *await self._remote.names()})
        except MirrorError:
            return here

    def close(self) -> None:
        self._control.close()


def _was_noticed(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled():
        looking.exception()  # whoever waits has it; perhaps nobody does


def _cache_dir(chosen: str | None) -> Path:
    """Raises RepositoryError."""
    if chosen is not None:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "servolley"
    except RuntimeError as error:
        raise RepositoryError(f"no home directory for a cache: give --cache-dir ({error})") from error
