"""What the manager does about failures, devices that fail and unloads that hang."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from servolley.config.model import ModelConfig, Versions
from servolley.repository import unloading
from servolley.repository.versions import State
from unit import fake_core
from unit.managed import Fixture, on_disk


async def test_failures_are_tried_again_on_time_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture(load_retries=2, load_retry_interval_s=60)
    timers: list[tuple[float, Any]] = []

    def call_later(delay: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        timers.append((delay, lambda: callback(*args)))
        return asyncio.TimerHandle(0, callback, args, f.loop)

    monkeypatch.setattr(f.loop, "call_later", call_later)
    f.engine.failures["m", 1] = fake_core.core_error("UNAVAILABLE", 503, "disk")
    await f.settle(on_disk("m", 1))
    for attempt, expected in ((1, 60), (2, 120)):  # more patiently each time
        delay, retry = timers.pop()
        assert (delay, len(f.engine.loads)) == (expected, attempt)
        retry()
        await f.settle(on_disk("m", 1))
    assert timers == []
    assert len(f.engine.loads) == 3


async def test_a_retry_that_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    retries: list[Any] = []
    monkeypatch.setattr(f.loop, "call_later", lambda _, call, *args: retries.append(lambda: call(*args)))
    f.engine.failures["m", 1] = fake_core.core_error("UNAVAILABLE", 503, "disk")
    await f.settle(on_disk("m", 1))
    f.engine.failures.clear()
    retries.pop()()
    await f.settle(on_disk("m", 1))
    assert f.engine.routes == {"m": ([1], 1, {})}
    assert f.manager.failures() == []


async def test_a_model_whose_device_fails_is_not_ready_at_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f = Fixture(load_retries=1, load_retry_interval_s=60)
    timers: list[tuple[float, Any]] = []
    loads: list[fake_core.Servable] = []

    def call_later(delay: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        timers.append((delay, lambda: callback(*args)))
        return asyncio.TimerHandle(0, callback, args, f.loop)

    def load(name: str, version: int, path: str, options: dict[str, Any]) -> fake_core.Servable:
        servable = fake_core.Servable(name, version)
        servable.devices = ["cuda:0"]
        if name == "m":
            loads.append(servable)
        return servable

    monkeypatch.setattr(f.loop, "call_later", call_later)
    monkeypatch.setattr(f.engine, "load", load)
    both = (on_disk("m", 1), on_disk("other", 1))
    await f.settle(*both)
    model, other = f.manager.models["m"], f.manager.models["other"]
    for expected in (State.AVAILABLE, State.END):
        loads[-1].broken = True
        assert model.available() == {}  # before anybody has looked for it
        assert other.available()
        (delay, look), *rest = timers
        timers[:] = rest
        assert delay == 1.0
        look()
        assert f.engine.routes["m"] == ([], None, {})
        await f.settle(*both)
        assert loads[-1].closed
        assert [(name, version, why.code) for name, version, why in f.manager.failures()] == [
            ("m", 1, "INTERNAL")
        ]
        retries = [retry for delay, retry in timers if delay == 60]
        timers[:] = [timer for timer in timers if timer[0] != 60]
        for retry in retries:
            retry()
        await f.settle(*both)
        assert f.states("m") == {1: expected}
    assert len(loads) == 2  # it stays out
    assert f.states("other") == {1: State.AVAILABLE}
    assert f.engine.routes["other"] == ([1], 1, {})
    await f.manager.close()


async def test_nobody_looks_after_models_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    calls: list[float] = []
    monkeypatch.setattr(f.loop, "call_later", lambda delay, *_: calls.append(delay))
    await f.settle(on_disk("m", 1))
    assert calls == []


class Hanging:
    """Closing a servable of these models takes until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
        self.let_go = threading.Event()
        self.models = models
        close = fake_core.Servable.close

        def hang(servable: fake_core.Servable) -> None:
            if servable.name in self.models:
                self.let_go.wait(60)
            close(servable)

        monkeypatch.setattr(fake_core.Servable, "close", hang)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - threads set no events of a loop
            await asyncio.sleep(0.001)


async def test_unloads_that_hang_keep_no_other_model_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unloading, "_PATIENCE_S", 0.01)
    f = Fixture(load_threads=2)
    names = [f"bad{number}" for number in range(5)]
    hanging = Hanging(monkeypatch, *names)
    await f.settle(*(on_disk(name, 1) for name in names), on_disk("good", 1), on_disk("m", 1))
    f.manager.apply({"m": on_disk("m", 1)})
    await until(lambda: "good" not in f.manager.models)
    assert f.manager.models.keys() == {*names, "m"}
    hanging.let_go.set()
    await f.manager.close()


async def test_an_unload_that_takes_too_long_says_so_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f = Fixture(drain_timeout_s=0.05)
    hanging = Hanging(monkeypatch, "m")
    spare = ModelConfig(versions=Versions(preserve="memory"))
    await f.settle(on_disk("m", 1, config=spare))
    old = f.manager.models["m"].versions[1]
    f.manager.apply({"m": on_disk("m", 1, 2, config=spare)})
    await until(lambda: f.states("m") == {1: State.END, 2: State.AVAILABLE})
    assert f.manager.failures() == []
    trouble = old.trouble
    assert trouble is not None
    assert trouble.code == "DEADLINE_EXCEEDED"
    assert trouble.message == "requests still run after 0.05 s: its memory is not free"
    hanging.let_go.set()
    await until(lambda: old.trouble is None)
    await f.manager.close()


async def test_a_version_whose_unload_hangs_can_be_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture(drain_timeout_s=0.05)
    hanging = Hanging(monkeypatch, "m")
    await f.settle(on_disk("m", 1))
    f.manager.apply({})
    await until(lambda: f.states("m") == {1: State.END})
    assert "m" in f.manager.models  # as long as there is something to be said about it
    f.manager.apply({"m": on_disk("m", 1)})
    await until(lambda: f.states("m") == {1: State.AVAILABLE})
    f.manager.apply({})
    await until(lambda: f.states("m") == {1: State.END})
    hanging.let_go.set()
    await until(lambda: "m" not in f.manager.models)
    assert f.engine.routes == {}
    await f.manager.close()


async def test_the_end_waits_for_an_unload_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing below it may be torn down before."""
    f = Fixture(drain_timeout_s=0.01)
    hanging = Hanging(monkeypatch, "m")
    await f.settle(on_disk("m", 1))
    closing = asyncio.create_task(f.manager.close())
    await until(lambda: f.states("m") == {1: State.END})
    await asyncio.sleep(0)
    assert not closing.done()
    hanging.let_go.set()
    await closing


class Reloading:
    """A model on a device whose next load is held back, beside one that serves."""

    def __init__(self, f: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self.f = f
        self.go_on = threading.Event()
        self.servables: list[fake_core.Servable] = []
        self.failure: Exception | None = None

        def load(name: str, version: int, path: str, options: dict[str, Any]) -> fake_core.Servable:
            if self.servables:
                self.go_on.wait(60)
            if self.failure is not None:
                error, self.failure = self.failure, None
                raise error
            servable = fake_core.Servable(name, version)
            servable.devices = ["cuda:0"]
            self.servables.append(servable)
            return servable

        monkeypatch.setattr(f.engine, "load", load)

    async def until_the_device_fails_meanwhile(self) -> None:
        await self.f.settle(on_disk("m", 1, stamps={1: "old"}))
        self.f.manager.apply({"m": on_disk("m", 1, stamps={1: "new"})})
        self.servables[0].broken = True
        await until(lambda: self.f.states("m") == {1: State.END})
        assert self.f.engine.routes["m"] == ([], None, {})


async def test_a_device_that_fails_during_a_reload(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    f = Fixture()
    reloading = Reloading(f, monkeypatch)
    await reloading.until_the_device_fails_meanwhile()
    assert reloading.servables[0].closed
    reloading.go_on.set()
    await f.manager.settle("m")
    assert len(reloading.servables) == 2  # not loaded twice
    assert "a repository task failed" not in caplog.text
    assert f.states("m") == {1: State.AVAILABLE}
    assert f.engine.routes["m"] == ([1], 1, {})
    assert f.manager.failures() == []
    await f.manager.close()


async def test_a_device_that_fails_during_a_reload_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    reloading = Reloading(f, monkeypatch)
    await reloading.until_the_device_fails_meanwhile()
    reloading.failure = fake_core.core_error("INTERNAL", 500, "no")
    reloading.go_on.set()
    await until(lambda: f.states("m") == {1: State.AVAILABLE})
    assert f.manager.failures() == []
    await f.manager.close()


async def test_what_has_served_for_long_is_tried_again_as_often_as_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f = Fixture(load_retries=1, load_retry_interval_s=60)
    now, time = 0.0, f.loop.time
    monkeypatch.setattr(f.loop, "time", lambda: time() + now)
    delays: list[float] = []
    call_later = f.loop.call_later

    def at_once(delay: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        if delay >= 1:
            delays.append(delay)
        return call_later(0, callback, *args)

    monkeypatch.setattr(f.loop, "call_later", at_once)
    servables: list[fake_core.Servable] = []

    def load(name: str, version: int, path: str, options: dict[str, Any]) -> fake_core.Servable:
        servables.append(fake_core.Servable(name, version))
        servables[-1].devices = ["cuda:0"]
        return servables[-1]

    def is_served_by(number: int) -> bool:
        return len(servables) == number and f.states("m") == {1: State.AVAILABLE}

    monkeypatch.setattr(f.engine, "load", load)
    await f.settle(on_disk("m", 1))
    for loads in (2, 3, 4):
        servables[-1].broken = True
        await until(partial(is_served_by, loads))
        now += 601
    servables[-1].broken = True
    await until(partial(is_served_by, 5))
    now += 599
    servables[-1].broken = True
    await until(lambda: f.states("m") == {1: State.END})
    assert {delay for delay in delays if delay > 1} == {60}  # and not 120, 240
    await f.manager.close()
