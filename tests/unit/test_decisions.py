"""What is decided about traffic, and the servers after the one that decided."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from servolley.config.settings import Repository
from servolley.repository import decisions as decisions_module
from servolley.repository.canary import Reason
from servolley.repository.decisions import Decisions
from servolley.repository.layout import scan
from servolley.repository.manager import Manager
from servolley.repository.records import ModelRecord
from servolley.repository.routing import CanaryState
from servolley.repository.state_file import KeptOutcome, KeptTraffic, StateError, StateFile
from servolley.repository.traffic_control import TrafficControl
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Engine

CANARY = "[versions]\nall = true\n[canary]\nweight = 20\n"


class Place:
    """A repository with a model m, and where its state is kept."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "models"
        self.settings = Repository(path=str(self.root), state_dir=str(folder / "state"), load_retries=0)
        self.file = StateFile.of(self.settings)
        for version in (1, 2):
            self.put(version, f"weights {version}")
        self.configure(CANARY)

    def put(self, version: int, weights: str) -> None:
        """Under another inode and time than what was there."""
        hidden = self.root / "m" / ".new"
        hidden.mkdir(parents=True)
        (hidden / "model.onnx").write_text(weights)
        shutil.rmtree(self.root / "m" / str(version), ignore_errors=True)
        hidden.rename(self.root / "m" / str(version))

    def configure(self, text: str) -> None:
        (self.root / "m" / "model.toml").write_text(text)

    def kept(self) -> KeptTraffic | None:
        return self.file.read().get("m")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Server:
    """One run over a place. ``async with`` ends it as a signal would."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.engine = fake_core.Engine()
        self.decisions = Decisions(place.file)
        self.manager = Manager(
            cast("Engine", self.engine),
            place.settings,
            asyncio.get_running_loop(),
            decisions=self.decisions,
        )
        self.control = TrafficControl(self.manager)

    async def look(self) -> None:
        self.manager.apply(scan(self.place.root))
        await self.manager._wait_for_all()

    async def kept(self) -> KeptTraffic | None:
        """What a server would find that began now."""
        await self.decisions.written()
        return self.place.kept()

    async def __aenter__(self) -> Server:
        await self.look()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.close()

    @property
    def model(self) -> ModelRecord:
        return self.manager.models["m"]

    @property
    def state(self) -> CanaryState | None:
        return self.model.routing().state

    @property
    def routed(self) -> tuple[int | None, dict[int, int]]:
        return self.engine.routes["m"][1], self.engine.splits["m"]


JUDGING = (1, {1: 80, 2: 20})


async def roll_back(place: Place) -> None:
    async with Server(place) as server:
        assert server.routed == JUDGING
        server.control.roll_back(server.model)
        assert server.routed == (1, {})


async def test_a_canary_stays_rolled_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    await roll_back(place)
    caplog.set_level("INFO")
    async with Server(place) as server:
        assert server.routed == (1, {})
        assert all(splits == {} for splits in server.engine.splits.values())
        outcome = server.model.traffic.outcomes[2]
        assert (outcome.verdict.reason, outcome.verdict.text) == (Reason.BY_HAND, "by hand")
        assert server.model.traffic.rollbacks == {}  # those of this run
    (record,) = [r for r in caplog.records if r.message == "known from before"]
    assert getattr(record, "fields", {}) == {"model": "m", "version": 2, "canary": "rolled_back"}
    kept = place.kept()
    assert kept is not None
    assert kept == KeptTraffic(
        config=kept.config,
        outcomes={2: KeptOutcome("rolled_back", kept.outcomes[2].weights, "by_hand", "by hand")},
        incumbent=1,
    )


async def test_weights_are_read_once_for_all_decisions_about_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(place) as server:
        server.control.roll_back(server.model)
        await server.kept()
        monkeypatch.setattr(decisions_module, "fingerprint_of", None)
        server.control.promote(server.model)
    kept = place.kept()
    assert kept is not None
    assert kept.outcomes[2].state == "promoted"


async def test_a_decision_is_kept_as_soon_as_it_is_made(place: Place) -> None:
    async with Server(place) as server:
        server.control.roll_back(server.model)
        kept = await server.kept()
        assert kept is not None
        assert kept.outcomes[2].state == "rolled_back"
        server.control.promote(server.model)
        kept = await server.kept()
        assert kept is not None
        assert kept.outcomes[2].state == "promoted"
        assert kept.incumbent == 2
        server.control.reset(server.model)
        kept = await server.kept()
        assert kept is not None
        assert (kept.outcomes, kept.by_hand) == ({}, None)
        server.control.set_split(server.model, {1: 1, 2: 2})
        kept = await server.kept()
        assert kept is not None
        assert kept.by_hand == {1: 1, 2: 2}
        place.configure("[versions]\nall = true\n")
        await server.look()
        assert await server.kept() is None


async def test_the_same_weights_put_there_once_more_are_the_same(place: Place) -> None:
    await roll_back(place)
    place.put(2, "weights 2")
    async with Server(place) as server:
        assert server.routed == (1, {})
        place.put(2, "weights 2")
        await server.look()
        assert len(server.engine.loads) == 3
        assert server.routed == (1, {})
        place.put(2, "mended")
        await server.look()
        assert server.routed == JUDGING
        kept = await server.kept()
        assert kept is not None
        assert kept.outcomes == {}


@pytest.mark.parametrize("what", ["weights", "another file", "how they are loaded", "[canary]"])
async def test_what_is_other_gets_a_chance(place: Place, what: str) -> None:
    await roll_back(place)
    if what == "weights":
        place.put(2, "mended")
    elif what == "another file":
        (place.root / "m" / "2" / "data.bin").write_text("beside it")
    elif what == "how they are loaded":
        place.configure(CANARY + '[runtime]\ngraph_optimization = "off"\n')
    else:
        place.configure(CANARY + "window_s = 30\n")
    async with Server(place) as server:
        assert server.routed == JUDGING
        kept = await server.kept()
        assert kept is not None
        assert kept.outcomes == {}


async def test_what_does_not_concern_the_weights_changes_nothing(place: Place) -> None:
    await roll_back(place)
    place.configure(CANARY + "[batching]\nmax_batch_size = 4\n[runtime]\ninstances = 2\n")
    async with Server(place) as server:
        assert server.routed == (1, {})


async def test_a_promoted_canary_is_what_the_next_one_is_compared_with(place: Place) -> None:
    place.put(3, "weights 3")
    place.configure("[versions]\nlatest = 2\n[canary]\nweight = 20\n")
    async with Server(place) as server:
        assert server.routed == (2, {2: 80, 3: 20})
        server.control.roll_back(server.model)
    place.put(4, "weights 4")
    async with Server(place) as server:
        # Of the two newest one was rolled back: the incumbent is not pushed away by them.
        assert sorted(server.model.available()) == [2, 3, 4]
        assert server.routed == (2, {2: 80, 4: 20})
        server.control.promote(server.model)
    async with Server(place) as server:
        assert server.routed == (4, {})
        assert sorted(server.model.available()) == [3, 4]


async def come(place: Place, monkeypatch: pytest.MonkeyPatch, *order: int) -> list[dict[int, int]]:
    """A server whose versions are there in this order. The splits after each."""
    server, splits = Server(place), []
    doors = {version: asyncio.Event() for version in order}
    load = server.manager._loading.load

    async def wait_and_load(found: Any, life: Any, over: Any) -> Any:
        await doors[life.version].wait()
        return await load(found, life, over)

    monkeypatch.setattr(server.manager._loading, "load", wait_and_load)
    server.manager.apply(scan(place.root))
    for version in order:
        doors[version].set()
        await asyncio.wait(server.manager._loads, return_when=asyncio.FIRST_COMPLETED)
        assert version in server.model.available()
        splits.append(server.routed[1])
    await server.manager.close()
    return splits


async def test_the_stable_version_is_not_the_first_that_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(3, "weights 3")
    assert await come(place, monkeypatch, 1, 3, 2) == [{}, {1: 80, 3: 20}, {2: 80, 3: 20}]


async def test_the_incumbent_is_not_the_last_to_go(place: Place) -> None:
    place.put(3, "weights 3")
    async with Server(place) as server:
        assert server.routed == (2, {2: 80, 3: 20})
    kept = place.kept()
    assert kept is not None
    assert kept.incumbent == 2


async def test_a_start_is_over_when_a_version_has_failed(place: Place) -> None:
    place.put(3, "weights 3")
    server = Server(place)
    server.engine.failures["m", 1] = fake_core.core_error("INTERNAL", 500, "broken")
    async with server:
        assert server.routed == (2, {2: 80, 3: 20})
        place.put(4, "weights 4")
        await server.look()
        assert server.routed == (2, {2: 80, 4: 20})


async def test_the_incumbent_may_be_the_last_to_come(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(3, "weights 3")
    async with Server(place) as server:
        server.model.traffic.incumbent = 1
        server.manager.traffic_changed(server.model)
        assert server.routed == (1, {1: 80, 3: 20})
    assert await come(place, monkeypatch, 3, 2, 1) == [{}, {2: 80, 3: 20}, {1: 80, 3: 20}]
    assert await come(place, monkeypatch, 1, 3, 2) == [{}, {1: 80, 3: 20}, {1: 80, 3: 20}]


async def test_an_incumbent_that_cannot_be_loaded_is_not_waited_for(place: Place) -> None:
    place.put(3, "weights 3")
    async with Server(place):
        pass
    server = Server(place)
    server.engine.failures["m", 2] = fake_core.core_error("INTERNAL", 500, "broken")
    async with server:
        assert server.routed == (1, {1: 80, 3: 20})
        server.control.promote(server.model)
        assert server.model.traffic.incumbent == 3


async def test_a_split_by_hand_is_kept(place: Place) -> None:
    place.configure("[versions]\nall = true\n")
    async with Server(place) as server:
        assert server.routed == (2, {})
        server.control.set_split(server.model, {1: 3, 2: 1})
    async with Server(place) as server:
        assert server.routed == (1, {1: 3, 2: 1})
        server.control.reset(server.model)
    async with Server(place) as server:
        assert server.routed == (2, {})
    assert place.file.read() == {}


async def test_a_model_that_was_unloaded_comes_back_as_it_was(place: Place) -> None:
    async with Server(place) as server:
        server.control.roll_back(server.model)
        await server.kept()
        server.manager.withdraw("m")
        await server.manager._wait_for_all()
        assert "m" not in server.manager.models
        kept = await server.kept()
        assert kept is not None
        assert kept.incumbent == 1
        await server.look()
        assert server.routed == (1, {})


async def test_a_configuration_that_cannot_be_read_at_first(place: Place) -> None:
    await roll_back(place)
    place.configure("[canary")
    async with Server(place) as server:
        assert server.model.failure is not None
        place.configure(CANARY)
        await server.look()
        assert server.routed == (1, {})


async def test_weights_that_are_changed_before_they_were_identified(place: Place) -> None:
    async with Server(place) as server:
        server.control.roll_back(server.model)
        place.put(2, "mended")  # and the look that will notice has not been yet
        kept = await server.kept()
        assert kept is not None
        assert kept.outcomes == {}
        await server.look()
        assert server.routed == JUDGING


async def test_nothing_is_read_for_models_about_which_nothing_was_decided(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> str:
        raise AssertionError("weights were read")

    monkeypatch.setattr(decisions_module, "fingerprint_of", never)
    async with Server(place) as server:
        place.put(2, "others")
        await server.look()
        assert server.state is CanaryState.JUDGING
    place.configure("")
    async with Server(place):
        pass


# --- the file


def test_a_torn_file_is_said_and_stops_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(roll_back(place))
    path = cast("Path", place.file.path)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError):
            place.file.read()

    async def judged() -> None:
        async with Server(place) as server:
            assert server.routed == JUDGING
            server.control.roll_back(server.model)

    asyncio.run(judged())
    assert "what was decided about canaries cannot be read" in caplog.text
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"format": 2, "repository": "", "models": {}}',
        b'{"format": 1, "repository": "", "models": {"m": {"config": "", "by_hand": {}}}}',
        b'{"format": 1, "repository": "", "models": {"m": {"config": "", "by_hand": {"1": -1}}}}',
        b'{"format": 1, "repository": "", "models": {"m": {"config": "", "incumbent": 0}}}',
        b'{"format": 1, "repository": "", "models": {"m": {"config": "", "outcomes": {"1": "promoted"}}}}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_other_files(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "state.json").write_bytes(text)
    with pytest.raises(StateError):
        StateFile(tmp_path / "state.json", "").read()


def test_a_later_server_may_say_more(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(
        '{"format": 1, "new": 1, "repository": "", "models": {"m": {"config": "c", "new": 1}}}'
    )
    assert StateFile(tmp_path / "state.json", "").read() == {"m": KeptTraffic("c")}


async def test_a_folder_that_cannot_be_written_is_said_once(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    cast("Path", place.file.path).parent.write_text("a file")
    async with Server(place) as server:
        for _ in range(3):
            server.control.roll_back(server.model)
            await server.decisions.written()
            server.control.reset(server.model)
            await server.decisions.written()
    text = "what is decided about canaries is lost at a restart"
    assert [r.message for r in caplog.records].count(text) == 1


def test_other_servers_of_the_repository_are_respected(place: Place) -> None:
    place.file.write({"a": KeptTraffic("1"), "b": KeptTraffic("1")})
    place.file.write({"b": None, "c": KeptTraffic("2")})
    assert place.file.read() == {"a": KeptTraffic("1"), "c": KeptTraffic("2")}
    path = cast("Path", place.file.path)
    assert json.loads(path.read_text())["repository"] == str(place.root)
    assert [*path.parent.iterdir()] == [path]


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path(**settings: str) -> Path:
        return cast("Path", StateFile.of(Repository(**settings)).path)  # type: ignore[arg-type]

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert path(path="/a/models").parent == tmp_path / "servolley"
    assert path(path="/a/models").name.startswith("models-")
    assert path(path="/a/models") != path(path="/b/models")
    assert path(path="models") == path(path=str(tmp_path / "models"))
    assert path(path="/").name.startswith("root-")
    assert path(model_config_file="/a/models.conf").name.startswith("models.conf-")
    assert path(path="/a/models", state_dir="/s").parent == Path("/s")
    assert path(path="https://u:secret@h/models") == path(path="https://h/models")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path(path="/a/models").parent == tmp_path / ".local" / "state" / "servolley"
