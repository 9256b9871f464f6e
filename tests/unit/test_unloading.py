from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial

import pytest

from servolley.repository import unloading
from servolley.repository.unloading import MOST_OF_ONE_MODEL, Unloading


class Work:
    """Which models' unloads are running, each until it is let go."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.begun = 0
        self.let_go = threading.Event()
        self._lock = threading.Lock()

    def of(self, model: str) -> None:
        with self._lock:
            self.running[model] += 1
            self.begun += 1
        self.let_go.wait(60)
        with self._lock:
            self.running[model] -= 1

    async def until_running(self, **models: int) -> None:
        async with asyncio.timeout(30):
            while +self.running != models:  # noqa: ASYNC110 - threads set no events of a loop
                await asyncio.sleep(0.001)


async def test_as_many_as_wanted_at_once() -> None:
    work, unloads = Work(), Unloading(2, asyncio.get_running_loop())
    tasks = [asyncio.create_task(unloads.run(name, partial(work.of, name))) for name in "abc"]
    await work.until_running(a=1, b=1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert work.begun == 2
    work.let_go.set()
    await asyncio.gather(*tasks)
    assert work.begun == 3


async def test_what_takes_long_gives_its_place_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unloading, "_PATIENCE_S", 0.01)
    work, unloads = Work(), Unloading(1, asyncio.get_running_loop())
    tasks = [asyncio.create_task(unloads.run(name, partial(work.of, name))) for name in "abcd"]
    await work.until_running(a=1, b=1, c=1, d=1)
    work.let_go.set()
    await asyncio.gather(*tasks)
    # The places are what they were: one.
    await unloads.run("e", lambda: None)
    assert unloads._places._value == 1


async def test_one_model_has_no_more_threads_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unloading, "_PATIENCE_S", 0.001)
    work, unloads = Work(), Unloading(1, asyncio.get_running_loop())
    names = ["a"] * (MOST_OF_ONE_MODEL + 5) + ["b"]
    tasks = [asyncio.create_task(unloads.run(name, partial(work.of, name))) for name in names]
    await work.until_running(a=MOST_OF_ONE_MODEL, b=1)
    work.let_go.set()
    await asyncio.gather(*tasks)
    assert work.begun == MOST_OF_ONE_MODEL + 6
    tasks.clear()
    assert len(unloads._turns) == 0


async def test_errors_come_through() -> None:
    def fail() -> None:
        raise ValueError("odd")

    unloads = Unloading(1, asyncio.get_running_loop())
    for _ in range(3):
        with pytest.raises(ValueError, match="odd"):
            await unloads.run("a", fail)


async def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unloading, "_NO_THREAD_PAUSE_S", 0.001)
    start, attempts = threading.Thread.start, iter((False, False))

    def fails_at_first(thread: threading.Thread) -> None:
        if not next(attempts, True):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fails_at_first)
    done: list[int] = []
    await Unloading(1, asyncio.get_running_loop()).run("a", lambda: done.append(1))
    assert done == [1]
