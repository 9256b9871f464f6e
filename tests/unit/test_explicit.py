from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from servolley.config.model import Batching, ModelConfig
from servolley.config.settings import Repository
from servolley.config.strict import ConfigError
from servolley.repository.explicit import MOST_WAITING, ExplicitControl
from servolley.repository.layout import ModelOnDisk, Scanner
from servolley.repository.manager import MOST_KEPT, Manager
from servolley.repository.versions import State
from servolley.status import Code, StatusError
from unit import fake_core


def put(root: Path, name: str, version: int = 1, content: str = "x") -> None:
    path = root / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def parse(name: str, text: str) -> ModelConfig:
    if text == "bad":
        raise ConfigError("not a configuration")
    return ModelConfig(batching=Batching(max_batch_size=int(text)))


class Fixture:
    def __init__(self, root: Path) -> None:
        self.engine = fake_core.Engine()
        settings = Repository(load_retries=0)
        self.manager = Manager(cast("Any", self.engine), settings, asyncio.get_running_loop())
        self.control = ExplicitControl(self.manager, Scanner(root), parse)

    def routes(self, name: str = "m") -> Any:
        return self.engine.routes[name]

    async def load(self, name: str = "m", **parameters: Any) -> Code | None:
        try:
            await self.control.load(name, parameters)
        except StatusError as error:
            return error.code
        return None

    async def unload(self, name: str = "m", **parameters: Any) -> Code | None:
        try:
            await self.control.unload(name, parameters)
        except StatusError as error:
            return error.code
        return None


@pytest.fixture
async def f(tmp_path: Path) -> Fixture:
    put(tmp_path, "m")
    fixture = Fixture(tmp_path)
    await fixture.manager.load_first({})
    return fixture


async def test_load_and_unload(f: Fixture) -> None:
    assert await f.control.names() == ["m"]
    assert f.manager.ready
    assert await f.load() is None
    assert f.routes() == ([1], 1, {})
    assert await f.load() is None  # nothing has changed
    assert len(f.engine.loads) == 1
    assert await f.unload() is None
    assert f.routes() == ([], None, {})
    assert f.manager.ready  # on purpose
    assert await f.load() is None
    assert f.routes() == ([1], 1, {})


async def test_what_cannot_be_loaded(f: Fixture, tmp_path: Path) -> None:
    assert await f.load("nobody") is Code.NOT_FOUND
    assert await f.load("../m") is Code.INVALID_ARGUMENT
    assert await f.load(config="bad") is Code.INVALID_ARGUMENT
    assert await f.load(config=3) is Code.INVALID_ARGUMENT
    assert await f.load(other=3) is Code.INVALID_ARGUMENT
    assert await f.load(**{"file:1/model.onnx": "eA=="}) is Code.INVALID_ARGUMENT  # no config
    assert await f.unload(unload_dependents=1) is Code.INVALID_ARGUMENT
    assert await f.unload(other=True) is Code.INVALID_ARGUMENT
    assert await f.unload("nobody", unload_dependents=True) is None
    assert f.engine.loads == []
    (tmp_path / "m" / "model.toml").write_text("no = 1")
    assert await f.load() is Code.INVALID_ARGUMENT
    assert "m" not in f.manager.models


async def test_a_failed_load_is_tried_again_when_asked(f: Fixture) -> None:
    f.engine.failures["m", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "no")
    assert await f.load() is Code.INVALID_ARGUMENT
    assert await f.load() is Code.INVALID_ARGUMENT
    assert len(f.engine.loads) == 2
    f.engine.failures.clear()
    assert await f.load() is None


async def test_a_failed_change_leaves_what_was(f: Fixture, tmp_path: Path) -> None:
    await f.load()
    before = f.manager.models["m"].found
    f.engine.failures["m", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "no")
    put(tmp_path, "m", content="other")
    assert await f.load() is Code.INVALID_ARGUMENT
    assert f.routes() == ([1], 1, {})
    assert f.manager.models["m"].found == before
    f.engine.failures.clear()
    assert await f.load() is None
    assert len(f.engine.loads) == 3


async def test_an_override_holds_until_the_next_plain_load(f: Fixture) -> None:
    assert await f.load(config="5") is None
    assert f.engine.loads[-1][2]["max_batch_size"] == 5
    assert await f.load() is None
    assert f.engine.reconfigured[-1][2]["max_batch_size"] == -1


async def test_five_hundred_loads_are_one_or_two(f: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look_at = Scanner.look_at

    def counted(self: Scanner, name: str, config: ModelConfig | None = None) -> Any:
        nonlocal looks
        looks += 1
        return look_at(self, name, config)

    monkeypatch.setattr(Scanner, "look_at", counted)
    assert set(await asyncio.gather(*(f.load() for _ in range(500)))) == {None}
    assert len(f.engine.loads) == 1
    assert looks <= 2


async def test_changes_wait_in_turn_and_not_without_limit(
    f: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    load = f.engine.load

    def slow(*arguments: Any) -> Any:
        assert release.wait(10)
        return load(*arguments)

    monkeypatch.setattr(f.engine, "load", slow)
    changes = [
        asyncio.create_task(f.load() if number % 2 else f.unload()) for number in range(4 * MOST_WAITING)
    ]
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*changes)
    assert set(results) == {None, Code.ABORTED}
    assert await f.load() is None
    await f.manager.settle("m")
    assert f.manager.models["m"].versions[1].state is State.AVAILABLE


async def test_a_caller_that_leaves_does_not_stop_a_change(
    f: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()
    load = f.engine.load

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert release.wait(10)
        return load(*arguments)

    monkeypatch.setattr(f.engine, "load", slow)
    caller = asyncio.create_task(f.load())
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    release.set()
    await f.manager.settle("m")
    assert f.routes() == ([1], 1, {})


async def test_a_load_waits_for_what_is_being_unloaded(f: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(fake_core.Servable, "close", lambda self: release.wait(10))
    await f.load()
    await f.unload()
    loading = asyncio.create_task(f.load())
    await f.control.names()  # comes after the look that the load has asked for
    await asyncio.sleep(0)
    assert not loading.done()
    assert f.manager.models["m"].versions[1].state is State.UNLOADING
    release.set()
    assert await loading is None
    assert f.routes() == ([1], 1, {})


async def test_nothing_is_loaded_any_more_at_the_end(f: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await f.load() is None
    begun, go_on = threading.Event(), threading.Event()
    look_at = Scanner.look_at

    def held_back(self: Scanner, name: str, config: ModelConfig | None = None) -> Any:
        begun.set()
        go_on.wait(60)
        return look_at(self, name, config)

    monkeypatch.setattr(Scanner, "look_at", held_back)
    looking, waiting = (asyncio.create_task(f.load(config=size)) for size in ("3", "5"))
    await asyncio.to_thread(begun.wait, 60)
    f.control.close()
    go_on.set()
    assert [await looking, await waiting] == [Code.UNAVAILABLE] * 2
    assert await f.load() is Code.UNAVAILABLE
    assert await f.load(config="7") is Code.UNAVAILABLE
    assert (len(f.engine.loads), f.engine.reconfigured) == (1, [])
    assert await f.unload() is None


async def test_only_the_last_of_many_unloaded_models_stay_known(f: Fixture) -> None:
    for number in range(5000):
        name = f"m{number}"
        f.manager.apply_model(ModelOnDisk(name, None, versions={1: Path(name)}))
        await f.manager.settle(name)
        f.manager.withdraw(name, keep=True)
        if number == 4500:
            f.manager.apply_model(ModelOnDisk("m4000", None, versions={1: Path("m4000")}))
    await f.manager.settle("m4000")
    await f.manager.close()
    # That one is loaded, and counts not among them.
    assert list(f.manager.models) == [f"m{number}" for number in range(5000 - MOST_KEPT - 1, 5000)]
    assert f.engine.routes.keys() == f.manager.models.keys()
