"""Loading and unloading by the repository API. Changes of one model wait for each other, in the order in
which they came; one that was accepted is carried through, whether its caller still waits or not."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

from servolley.config.model import ModelConfig
from servolley.config.strict import ConfigError
from servolley.repository.layout import ModelOnDisk, RepositoryError, Scanner
from servolley.repository.manager import Manager
from servolley.repository.names import valid_model_name
from servolley.repository.override_files import PREFIX, Files, OverrideStore, Written, take_files, write_files
from servolley.repository.versions import NO_VERSION, aspired_versions
from servolley.status import Code, StatusError, invalid_argument, not_found, unavailable

#: Changes of one model that may wait. Plain loads count once, however many ask for them.
MOST_WAITING = 16

T = TypeVar("T")

ParseConfig = Callable[[str, str], ModelConfig]
"""(model's name, Triton's ModelConfig as JSON) -> ours. Raises ConfigError."""


@runtime_checkable
class Repository(Protocol):
    """What is needed of a Scanner."""

    def look_at(self, name: str, config: ModelConfig | None = None) -> ModelOnDisk | None: ...

    def names(self) -> list[str]: ...


class ExplicitControl:
    """``--model-control-mode explicit``."""

    def __init__(
        self,
        manager: Manager,
        scanner: Repository,
        parse_config: ParseConfig,
        files_limit_bytes: int = 4 << 30,
    ) -> None:
        """``files_limit_bytes``: of files that came with loads, together, as long as they are needed."""
        self._manager = manager
        self._scanner = scanner
        self._parse_config = parse_config
        # One at a time: a scanner remembers.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scan")
        self._queues: dict[str, _Queue] = {}
        self._store = OverrideStore(files_limit_bytes)
        self._closing = False

    async def load(self, name: str, parameters: dict[str, Any]) -> None:
        self._check_open()
        override = self._override(name, parameters)
        files = take_files(parameters)
        if files and override is None:
            raise invalid_argument("a load with files needs a 'config', too")
        queue = self._queue(name)
        if override is not None:
            await self._put(name, queue, self._load(name, queue, override, files))
            return
        if queue.plain_load is None:
            queue.plain_load = self._begin(name, queue, self._load(name, queue, None, files))
        await asyncio.shield(queue.plain_load)

    async def unload(self, name: str, parameters: dict[str, Any]) -> None:
        """Returns when no request finds the model any more; those that have are still being answered."""
        _check(name)
        for key, value in parameters.items():
            if key != "unload_dependents":
                raise invalid_argument(f"unknown unload parameter '{key}'")
            if not isinstance(value, bool):
                raise invalid_argument("'unload_dependents' must be a boolean")
        queue = self._queue(name)
        await self._put(name, queue, self._unload(name, queue))

    async def names(self) -> list[str]:
        """Models on disk, loaded or not."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._scanner.names)
        except (RepositoryError, OSError):
            return []

    def close(self) -> None:
        """Nothing is loaded any more, nor what is waiting for its turn."""
        self._closing = True
        self._thread.shutdown(wait=False)
        self._store.close()

    def _check_open(self) -> None:
        """Raises StatusError."""
        if self._closing:
            raise unavailable("Server exiting")

    # --- in turn ---

    def _queue(self, name: str) -> "_Queue":
        return self._queues.get(name) or _Queue()

    def _begin(self, name: str, queue: "_Queue", work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if queue.waiting >= MOST_WAITING:
            work.close()
            raise StatusError(Code.ABORTED, f"too many changes of '{name}' are waiting")
        self._queues[name] = queue
        queue.waiting += 1
        task = asyncio.get_running_loop().create_task(work)

        def finished(task: asyncio.Task[None]) -> None:
            queue.waiting -= 1
            if queue.waiting == 0:
                self._queues.pop(name, None)
            if not task.cancelled():
                task.exception()  # whoever waits has it; perhaps nobody does

        task.add_done_callback(finished)
        return task

    async def _put(self, name: str, queue: "_Queue", work: Coroutine[Any, Any, None]) -> None:
        await asyncio.shield(self._begin(name, queue, work))

    async def _load(self, name: str, queue: "_Queue", override: ModelConfig | None, files: Files) -> None:
        async with queue.turn:
            if override is None:
                queue.plain_load = None  # from now on what is asked for may be about newer files
            self._check_open()
            written = self._store.begin(files) if files else None
            try:
                scanner: Repository = self._scanner
                if written is not None:
                    await self._on_thread(write_files, written, name, files)
                    scanner = Scanner(written.root)
                found = await self._look_at(scanner, name, override)
                if found.error is not None:
                    raise invalid_argument(f"failed to load '{name}', {found.error}")
                if not aspired_versions(found.config.versions, found.versions):
                    raise invalid_argument(f"failed to load '{name}', {NO_VERSION}")
                self._check_open()
                await self._apply(name, found)
            finally:
                await self._tidy(name, written)

    async def _tidy(self, name: str, written: Written | None = None) -> None:
        """Of the files that the model came with and those that it comes with now, those that it is stay."""
        model = self._manager.models.get(name)
        directory = model.found.directory if model is not None and model.aspired else None
        before = self._store.kept(name)
        keep = next((each for each in (written, before) if each is not None and each.holds(directory)), None)
        self._store.keep(name, keep)
        for each in (written, before):
            if each is not None and each is not keep:
                self._store.give_up(each)
                await self._on_thread(each.remove)

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except RuntimeError:  # closed
            return work(*arguments)
        return await future

    async def _apply(self, name: str, found: ModelOnDisk) -> None:
        before = self._manager.models.get(name)
        previous = before.found if before is not None and before.aspired else None
        model = self._manager.apply_model(found, again=True)
        await self._manager.settle(name)
        failures = self._manager.failures_of(model)
        if not failures:
            return
        if previous is not None and previous.versions:
            self._manager.apply_model(previous)  # what still serves, and how
        _, _, failure = failures[0]
        raise StatusError(_code(failure.code), f"failed to load '{name}', {failure.message}")

    async def _unload(self, name: str, queue: "_Queue") -> None:
        async with queue.turn:
            model = self._manager.models.get(name)
            if model is not None:
                self._manager.withdraw(name, keep=True)
            await self._tidy(name)

    async def _look_at(self, scanner: Repository, name: str, override: ModelConfig | None) -> ModelOnDisk:
        try:
            found = await self._on_thread(scanner.look_at, name, override)
        except (RepositoryError, OSError):
            found = None
        if found is None or found.unreadable:
            raise not_found(f"failed to load '{name}', failed to poll from model repository")
        return found

    def _override(self, name: str, parameters: dict[str, Any]) -> ModelConfig | None:
        _check(name)
        for key in parameters:
            if key != "config" and not key.startswith(PREFIX):
                raise invalid_argument(f"unknown load parameter '{key}'")
        text = parameters.get("config")
        if text is None:
            return None
        if not isinstance(text, str):
            raise invalid_argument("'config' must be a string with a ModelConfig in JSON")
        try:
            return self._parse_config(name, text)
        except ConfigError as error:
            raise invalid_argument(f"failed to load '{name}', {error}") from error


class _Queue:
    """The changes of one model that are under way or wait. ``plain_load``: one that has not begun yet."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.plain_load: asyncio.Task[None] | None = None


def _check(name: str) -> None:
    if not valid_model_name(name):
        raise invalid_argument("not a model name")


def _code(canonical: str) -> Code:
    return next((code for code in Code if code.canonical == canonical), Code.INTERNAL)
