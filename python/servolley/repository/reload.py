"""TensorFlow Serving's reload of its configuration: a client's list of models takes the place of what was
served. Nothing is touched before all of it has been looked at; then it is carried through, whether its caller
still waits or not."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from servolley.config import tfserving
from servolley.config.strict import ConfigError
from servolley.repository.discovery import Models
from servolley.repository.model_list import ModelList, ReplaceableSource, check_names
from servolley.repository.versions import NO_VERSION, aspired_versions
from servolley.status import Code, StatusError, invalid_argument, unavailable

if TYPE_CHECKING:
    from servolley.config.tfserving import ServedModel
    from servolley.repository.layout import ModelOnDisk
    from servolley.repository.manager import Manager

#: Reloads that may wait for each other.
MOST_WAITING = 16
#: Models in one list.
MOST_MODELS = 10_000
# What an answer tells of the models that failed.
_MOST_TOLD = 3

_log = logging.getLogger(__name__)


class ReloadControl:
    """new_list: of these models. adopted: is told what is served now, before it
    is loaded. limit_s: how long a call waits for loads."""

    def __init__(
        self,
        manager: "Manager",
        source: ReplaceableSource,
        new_list: "Callable[[Sequence[ServedModel]], ModelList]",
        adopted: Callable[[Models], None],
        limit_s: float = 600.0,
    ) -> None:
        self._manager = manager
        self._source = source
        self._new_list = new_list
        self._adopted = adopted
        self._limit_s = limit_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def reload(self, config: Any) -> None:
        """``config``: a ModelServerConfig message. Returns when everything that it asks for is available.

        Raises StatusError: INVALID_ARGUMENT or FAILED_PRECONDITION, and nothing has changed; UNKNOWN, models
        could not be loaded; DEADLINE_EXCEEDED, they are still loading.
        """
        if self._closing:
            raise unavailable("Server exiting")
        if len(self._tasks) >= MOST_WAITING:
            raise StatusError(Code.ABORTED, "too many reloads of the configuration are waiting")
        task = asyncio.create_task(self._in_turn(config))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        await asyncio.shield(task)

    def close(self) -> None:
        self._closing = True
        self._thread.shutdown(wait=False)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; perhaps nobody does

    async def _in_turn(self, config: Any) -> None:
        async with self._turn:
            if self._closing:
                raise unavailable("Server exiting")
            loop = asyncio.get_running_loop()
            listed, found = await loop.run_in_executor(self._thread, self._look, config)
            if self._closing:
                raise unavailable("Server exiting")
            for model in found.values():
                _check(model)
            # No step in between: whoever looks sees the old set or the new one.
            self._source.replace(listed)
            self._adopted(found)
            _log.info("serving a client's list", extra={"fields": {"models": len(found)}})
            self._manager.apply(found, again=True)
            await self._settled(list(found))

    def _look(self, config: Any) -> tuple[ModelList, Models]:
        """Raises StatusError. Off the loop."""
        try:
            if len(config.model_config_list.config) > MOST_MODELS:
                raise ConfigError(f"{tfserving.MESSAGE}: more than {MOST_MODELS} models")
            if config.WhichOneof("config") is None:
                raise ConfigError(f"{tfserving.MESSAGE}: no model_config_list")
            served = tfserving.served_models(config)
            check_names(served)
        except ConfigError as error:
            raise invalid_argument(str(error)) from error
        listed = self._new_list(served)
        return listed, listed.look()

    async def _settled(self, names: Sequence[str]) -> None:
        waits = [self._manager.settle(name) for name in names]
        try:
            await asyncio.wait_for(asyncio.gather(*waits), self._limit_s)
        except TimeoutError:
            raise StatusError(Code.DEADLINE_EXCEEDED, "models are still loading") from None
        failed = []
        for name in names:
            model = self._manager.models.get(name)
            failures = [] if model is None else self._manager.failures_of(model)
            if failures:
                _, version, failure = failures[0]
                which = name if version is None else f"{name} version {version}"
                failed.append(f"{which}: {failure.message}")
        if failed:
            told = "; ".join(failed[:_MOST_TOLD])
            raise StatusError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {told}")


def _check(model: "ModelOnDisk") -> None:
    """Whether it can be aspired to at all. Raises StatusError."""

    def refused(why: str) -> StatusError:
        return StatusError(Code.FAILED_PRECONDITION, f"model '{model.name}': {why}")

    if model.unreadable:
        raise refused("its folder cannot be read")
    if model.error is not None:
        raise refused(model.error)
    aspired = aspired_versions(model.config.versions, model.versions)
    if not aspired:
        raise refused(NO_VERSION)
    for label, version in model.config.versions.labels.items():
        if version not in aspired:
            raise refused(f"label '{label[:100]}' is of version {version}, which is not served")
