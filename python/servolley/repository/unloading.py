"""Unloads, each on a thread of its own: one that hangs, because a run of the model never returns, must not
keep the memory of others from coming back."""

import asyncio
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

_PATIENCE_S = 5.0  # then the next one begins beside it
_NO_THREAD_PAUSE_S = 1.0
#: Unloads of one model at once, however long they take; the others wait.
MOST_OF_ONE_MODEL = 16


class Unloading:
    """``at_once``: unloads that run beside each other; those that take long do not count."""

    def __init__(self, at_once: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._places = asyncio.Semaphore(at_once)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, model: str, work: Callable[[], None]) -> None:
        """Returns when ``work``, which may block for any time, has; with its exception if it had one."""
        turn = self._turns.get(model)
        if turn is None:
            turn = self._turns[model] = asyncio.Semaphore(MOST_OF_ONE_MODEL)
        async with turn:
            place = _Place(self._places)
            await self._places.acquire()
            timer = self._loop.call_at(self._loop.time() + _PATIENCE_S, place.leave)
            try:
                await self._on_a_thread(model, work)
            finally:
                timer.cancel()
                place.leave()

    async def _on_a_thread(self, model: str, work: Callable[[], None]) -> None:
        ended: asyncio.Future[None] = self._loop.create_future()

        def run() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as problem:
                error = problem
            try:
                self._loop.call_soon_threadsafe(_end, ended, error)
            except RuntimeError:
                return  # the loop has been closed meanwhile

        while True:
            # A daemon: what never returns must not keep the process from ending.
            thread = threading.Thread(target=run, name=f"unload {model}", daemon=True)
            try:
                thread.start()
                break
            except RuntimeError:  # no thread to be had
                await asyncio.sleep(_NO_THREAD_PAUSE_S)
        await ended


class _Place:
    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places: asyncio.Semaphore | None = places

    def leave(self) -> None:
        """Once; later calls do nothing."""
        if self._places is not None:
            self._places.release()
            self._places = None


def _end(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return  # whoever waited was cancelled
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
