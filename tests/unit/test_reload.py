"""TensorFlow Serving's reload, over the stand-in core and real folders."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from servolley.config import tfserving
from servolley.config.model import Versions
from servolley.config.settings import Repository
from servolley.config.tfserving import ServedModel
from servolley.front.grpc.messages import Messages
from servolley.repository.discovery import Models, Poller
from servolley.repository.layout import Scanner
from servolley.repository.manager import Manager
from servolley.repository.model_list import ModelList, ReplaceableSource
from servolley.repository.reload import MOST_MODELS, MOST_WAITING, ReloadControl
from servolley.repository.versions import State
from servolley.status import Code, StatusError
from unit import fake_core


@pytest.fixture(scope="module")
def messages(descriptors: bytes) -> Messages:
    return Messages(descriptors)


def put(folder: Path, *versions: int, content: str = "x") -> Path:
    for version in versions:
        (folder / str(version)).mkdir(parents=True, exist_ok=True)
        (folder / str(version) / "model.onnx").write_text(content)
    return folder


class Fixture:
    """A repository with the model m, in a server that knows how to reload."""

    def __init__(self, root: Path, messages: Messages, limit_s: float = 60.0) -> None:
        self.engine = fake_core.Engine()
        self.messages = messages
        settings = Repository(load_retries=0)
        self.manager = Manager(cast("Any", self.engine), settings, asyncio.get_running_loop())
        self.now = 0.0
        self.source = ReplaceableSource(Scanner(root), 10.0, lambda: self.now)
        self.adopted: list[Models] = []
        self.control = ReloadControl(
            self.manager,
            self.source,
            lambda served: ModelList(Scanner(Path()), served),
            self.adopted.append,
            limit_s,
        )

    def config(self, text: str) -> Any:
        from google.protobuf import text_format

        message = self.messages.message(tfserving.MESSAGE)()
        text_format.Parse(f"model_config_list {{ {text} }}", message)
        return message

    async def reload(self, text: str) -> tuple[Code, str] | None:
        try:
            await self.control.reload(self.config(text))
        except StatusError as error:
            return error.code, error.message
        return None

    def routes(self, name: str) -> Any:
        return self.engine.routes.get(name)


def entry(name: str, folder: Path, rest: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{folder}" {rest} }}'


SPECIFIC = "model_version_policy {{ specific {{ versions: {} }} }}"


@pytest.fixture
async def f(tmp_path: Path, messages: Messages) -> Fixture:
    put(tmp_path / "r" / "m", 1, 2)
    fixture = Fixture(tmp_path / "r", messages)
    await fixture.manager.load_first(fixture.source.look())
    return fixture


async def test_a_list_takes_the_place_of_what_was(f: Fixture, tmp_path: Path) -> None:
    assert f.routes("m") == ([2], 2, {})
    a, b = put(tmp_path / "a", 3), put(tmp_path / "b", 4, 5)
    labels = 'version_labels { key: "stable" value: 4 }'
    policy = "model_version_policy { all {} }"
    assert await f.reload(entry("a", a) + entry("b", b, policy + labels)) is None
    assert f.routes("a") == ([3], 3, {})
    assert f.routes("b") == ([4, 5], 5, {"stable": 4})
    await f.manager.settle("m")
    await until(lambda: "m" not in f.engine.routes)
    assert list(f.adopted[0]) == ["a", "b"]
    assert f.source.look() == f.adopted[0]
    # The same again is nothing new; another policy and label are applied over the same weights.
    loads = len(f.engine.loads)
    assert await f.reload(entry("a", a) + entry("b", b, policy + labels)) is None
    assert len(f.engine.loads) == loads
    moved = 'version_labels { key: "stable" value: 5 }'
    assert await f.reload(entry("b", b, moved)) is None
    await until(lambda: f.routes("b") == ([5], 5, {"stable": 5}) and f.routes("a") is None)
    assert len(f.engine.loads) == loads
    # An empty list is one, too.
    assert await f.reload("") is None
    await until(lambda: f.routes("b") is None)
    assert f.manager.models == {}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - threads change it, and nobody tells
            await asyncio.sleep(0.001)


async def test_nothing_changes_where_the_list_cannot_be_used(f: Fixture, tmp_path: Path) -> None:
    a = put(tmp_path / "a", 3)
    (tmp_path / "empty").mkdir()
    broken = put(tmp_path / "broken", 1)
    (broken / "model.toml").write_text("no = 1")
    good = entry("a", a)
    precondition, invalid = Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT
    for text, code, word in (
        (good + entry("b", tmp_path / "nowhere"), precondition, "'b'"),
        (good + entry("b", tmp_path / "empty"), precondition, "no version"),
        (good + entry("b", broken), precondition, "model.toml"),
        (good + entry("a2", a, SPECIFIC.format(9)), precondition, "version policy"),
        (entry("a", a, 'version_labels { key: "l" value: 9 }'), precondition, "label 'l'"),
        (good + good, invalid, "two models"),
        (good + entry("../etc", a), invalid, "not a model name"),
        (good + entry("", a), invalid, "not a model name"),
        (good + 'config { name: "b" }', invalid, "base_path"),
        (entry("a", a, 'model_platform: "pytorch"'), invalid, "pytorch"),
        (entry("a", a, 'version_labels { key: "l" value: -1 }'), invalid, "'a'"),
        (entry("x", Path("/" + "x" * 5000)), precondition, "cannot be read"),
    ):
        refused = await f.reload(text)
        assert refused is not None, text
        assert (refused[0], word in refused[1]) == (code, True), refused
    for config in (f.config(""), f.config("")):
        config.ClearField("model_config_list")
        with pytest.raises(StatusError, match="no model_config_list"):
            await f.control.reload(config)
    custom = f.config("")
    custom.custom_model_config.SetInParent()
    with pytest.raises(StatusError, match="custom_model_config"):
        await f.control.reload(custom)
    many = f.config("config {}" * (MOST_MODELS + 1))
    with pytest.raises(StatusError, match="more than"):
        await f.control.reload(many)
    assert f.routes("m") == ([2], 2, {})
    assert f.engine.routes.keys() == {"m"}
    assert f.adopted == []
    assert list(f.source.look()) == ["m"]


async def test_models_that_cannot_be_loaded_are_told_and_the_others_serve(f: Fixture, tmp_path: Path) -> None:
    a, bad = put(tmp_path / "a", 3), put(tmp_path / "bad", 1)
    f.engine.failures["bad", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "not a model")
    text = entry("a", a) + entry("bad", bad)
    assert await f.reload(text) == (
        Code.UNKNOWN,
        "1 model(s) did not become available: bad version 1: not a model",
    )
    assert f.routes("a") == ([3], 3, {})
    assert f.manager.models["bad"].versions[1].state is State.END
    # Asked for again, it is tried again.
    f.engine.failures.clear()
    assert await f.reload(text) is None
    assert f.routes("bad") == ([1], 1, {})


async def test_a_reload_that_takes_too_long(
    tmp_path: Path, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "r" / "m", 1)
    f = Fixture(tmp_path / "r", messages, limit_s=0.01)
    await f.manager.load_first(f.source.look())
    a, gate = put(tmp_path / "a", 3), threading.Event()
    load = f.engine.load

    def slow(*arguments: Any) -> Any:
        assert gate.wait(30)
        return load(*arguments)

    monkeypatch.setattr(f.engine, "load", slow)
    assert await f.reload(entry("a", a)) == (Code.DEADLINE_EXCEEDED, "models are still loading")
    gate.set()
    await f.manager.settle("a")
    assert f.routes("a") == ([3], 3, {})


async def test_who_goes_away_changes_nothing_about_it(f: Fixture, tmp_path: Path) -> None:
    task = asyncio.create_task(f.control.reload(f.config(entry("a", put(tmp_path / "a", 3)))))
    await asyncio.sleep(0)
    task.cancel()
    await until(lambda: f.routes("a") == ([3], 3, {}))


async def test_reloads_wait_for_each_other_up_to_a_limit(f: Fixture, tmp_path: Path) -> None:
    folders = [put(tmp_path / f"f{number}", 1) for number in range(MOST_WAITING + 5)]
    texts = [entry(f"f{number}", folder) for number, folder in enumerate(folders)]
    results = await asyncio.gather(*(f.reload(text) for text in texts))
    assert results[:MOST_WAITING] == [None] * MOST_WAITING
    assert {result and result[0] for result in results[MOST_WAITING:]} == {Code.ABORTED}
    last = f"f{MOST_WAITING - 1}"
    await until(lambda: f.engine.routes == {last: ([1], 1, {})})


async def test_on_the_way_down_nothing_is_begun(f: Fixture, tmp_path: Path) -> None:
    f.control.close()
    refused = await f.reload(entry("a", put(tmp_path / "a", 3)))
    assert refused is not None
    assert refused[0] is Code.UNAVAILABLE


async def test_the_file_holds_again_at_its_next_reading(f: Fixture, tmp_path: Path) -> None:
    f.now = 3.0
    assert await f.reload(entry("a", put(tmp_path / "a", 3))) is None
    f.now = 12.9
    assert list(f.source.look()) == ["a"]
    f.now = 13.0
    assert list(f.source.look()) == ["m"]


def test_without_a_file_that_is_read_again_a_list_stays(tmp_path: Path) -> None:
    source = ReplaceableSource(Scanner(put(tmp_path / "m", 1)), now=lambda: 1e9)
    assert list(source.look()) == ["m"]
    source.replace(ModelList(Scanner(Path()), [ServedModel("a", str(tmp_path / "m"), Versions())]))
    assert list(source.look()) == ["a"]


async def test_a_look_that_was_under_way_is_of_the_past(tmp_path: Path) -> None:
    """What a poller saw before the change does not undo it."""
    entered, gate = threading.Event(), threading.Event()

    class Source:
        def __init__(self) -> None:
            self.looks = 0

        def look(self) -> dict[str, Any]:
            self.looks += 1
            if self.looks == 1:
                entered.set()
                assert gate.wait(30)
                return {"old": object()}
            return {}

    source = Source()
    changes: list[Models] = []
    poller = Poller(cast("Any", source), {}, 0.001, changes.append)
    running = asyncio.create_task(poller.run())
    assert await asyncio.to_thread(entered.wait, 30)
    poller.adopt({})
    gate.set()
    await until(lambda: source.looks > 3)
    running.cancel()
    assert changes == []
