"""The manager under any history of its disk, its configuration, loads that end well or badly or not at all,
devices that fail, and requests. What it promises is looked for where it becomes true: in the core's
routes, and in what is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from servolley.config.model import Batching, ModelConfig, Versions
from servolley.config.settings import Repository
from servolley.config.traffic import Canary, Shadow, Traffic
from servolley.repository.canary import Decision, Reason, Verdict
from servolley.repository.content import content_of
from servolley.repository.layout import ModelOnDisk
from servolley.repository.manager import Manager
from servolley.repository.records import Failure, ModelRecord, VersionRecord
from servolley.repository.versions import State, aspired_versions
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Engine

NO = Failure("INTERNAL", "no")


class Servable(fake_core.Servable):
    """``requests``: that hold it. closing: nothing may be sent to it any more."""

    requests = 0
    closing = False


@dataclass
class Load:
    life: VersionRecord
    content: object
    end: asyncio.Future[Servable | Failure]


@dataclass
class Unload:
    servable: Servable | fake_core.Shadow
    end: asyncio.Future[None]


class World:
    """The core and the threads: nothing ends before it is told to."""

    def __init__(self) -> None:
        self.loads_now: list[Load] = []
        self.unloads_now: list[Unload] = []
        self.made: list[tuple[VersionRecord, Servable]] = []
        self.failed: list[tuple[int, object]] = []
        self.routed: dict[int, Servable] = {}
        self.default: int | None = None
        self.copied: fake_core.Shadow | None = None
        self.disk: dict[int, int] = {}
        self.config = ModelConfig()
        self.manager = Manager(cast("Engine", self), Repository(load_retries=0), asyncio.get_running_loop())
        self.manager._loading = cast(Any, self)

    @property
    def model(self) -> ModelRecord | None:
        return self.manager.models.get("m")

    # --- what the manager asks of the core and of Loading ---

    async def load(
        self, found: ModelOnDisk, life: VersionRecord, over: Servable | None
    ) -> Servable | Failure:
        assert over is None or not over.closed
        assert not any(load.life.version == life.version for load in self.loads_now), "loaded twice at once"
        if found.config.versions.preserve == "memory" and over is None:
            model = self.model
            assert model is not None
            assert model.available().keys() <= model.aspired | {life.version}, (
                "something could have gone first"
            )
            states = {life.state for life in model.versions.values()}
            assert State.UNLOADING not in states, "what goes has not gone yet"
        load = Load(life, content_of(found, life.version), asyncio.get_running_loop().create_future())
        self.loads_now.append(load)
        return await load.end

    async def unload(self, servable: Servable, gone_at_last: Callable[[], None] = lambda: None) -> bool:
        assert servable not in self.routed.values(), "closed while requests are sent to it"
        assert not servable.closing, "closed twice"
        servable.closing = True
        await self._gone(servable)
        return True

    async def close_shadow(self, model: str, shadow: fake_core.Shadow) -> None:
        assert self.copied is not shadow, "closed while it gets copies"
        await self._gone(shadow)

    async def close(self) -> None:
        assert not self.loads_now
        assert not self.unloads_now

    async def _gone(self, what: Servable | fake_core.Shadow) -> None:
        unload = Unload(what, asyncio.get_running_loop().create_future())
        self.unloads_now.append(unload)
        await unload.end
        what.close()

    def set_routes(
        self,
        model: str,
        versions: dict[int, Any],
        default: int | None,
        labels: dict[str, int],
        split: dict[int, int] | None = None,
        shadow: fake_core.Shadow | None = None,
    ) -> None:
        assert not any(servable.closing or servable.closed for servable in versions.values())
        assert (default in versions) if versions else (default is None)
        assert set(labels.values()) <= versions.keys()
        assert (split or {}).keys() <= versions.keys()
        assert shadow is None or not (shadow.closed or cast("Servable", shadow.servable).closing)
        lost = {version for version, servable in self.routed.items() if not servable.broken} - versions.keys()
        record = self.model
        assert record is not None
        spare = record.found.config.versions.preserve == "memory" or self.manager._closing
        if lost and record.aspired and not spare:
            loadable = [
                version
                for version in record.aspired
                if (version, content_of(record.found, version)) not in self.failed
            ]
            assert len(versions) >= max(1, len(loadable)), f"{lost} went too early"
        self.routed, self.default, self.copied = dict(versions), default, shadow

    def remove_routes(self, model: str) -> None:
        assert not self.routed

    def shadow(self, servable: Servable, *limits: int) -> fake_core.Shadow:
        assert not servable.closing
        return fake_core.Shadow(servable, cast(Any, limits))

    # --- what happens ---

    def look(self) -> None:
        found = ModelOnDisk(
            "m",
            Path("/m"),
            self.config,
            {version: Path(f"/m/{version}") for version in self.disk},
            stamps=dict(self.disk),
        )
        self.manager.apply({"m": found} if self.disk else {})

    def finish_load(self, version: int, well: bool) -> None:
        for load in [load for load in self.loads_now if load.life.version == version]:
            self.loads_now.remove(load)
            if well:
                servable = Servable("m", version)
                self.made.append((load.life, servable))
                load.end.set_result(servable)
            else:
                self.failed.append((version, load.content))
                load.end.set_result(NO)

    def finish_unloads(self) -> None:
        """All that no request holds back."""
        for unload in list(self.unloads_now):
            if isinstance(unload.servable, fake_core.Shadow) or unload.servable.requests == 0:
                self.unloads_now.remove(unload)
                unload.end.set_result(None)

    def request(self, version: int | None) -> None:
        """Sent to one that the routes name. None: to the default."""
        version = self.default if version is None else version
        if version in self.routed:
            servable = self.routed[version]
            assert not servable.closing
            servable.requests += 1

    def answer(self) -> None:
        for _, servable in self.made:
            assert not (servable.requests and servable.closed)
            servable.requests = 0

    def break_device(self, version: int) -> None:
        model = self.model
        life = None if model is None else model.versions.get(version)
        if model is not None and life is not None and life.state is State.AVAILABLE:
            self.failed.append((version, life.content))
            cast("Servable", life.servable).broken = True
            self.manager._begin_break(model, life)

    def decide(self, decision: Decision) -> None:
        model = self.model
        canary = None if model is None else model.routing().canary
        if model is not None and canary is not None and model.routing().stable is not None:
            reason = Reason.ERROR_RATE if decision is Decision.ROLL_BACK else None
            model.traffic.decide(canary, model.weights().get(canary), Verdict(decision, reason, "so"))
            self.manager.traffic_changed(model)

    # --- what must hold ---

    def check(self) -> None:
        for life, servable in self.made:
            if life.state is State.END:
                assert servable.closed, "ended while it is still there"
            if servable.closed:
                assert life.state is not State.AVAILABLE
        model = self.model
        if model is None:
            assert not self.loads_now
            assert not self.routed
            assert all(servable.closed for _, servable in self.made), "forgotten, but not gone"
            return
        assert self.routed == cast(Any, model.available())
        if model.failure is None and self.disk:
            assert model.aspired >= aspired_versions(self.config.versions, self.disk)

    def check_settled(self) -> None:
        assert not self.unloads_now
        model = self.model
        if model is None:
            return
        serving = {servable.version: servable for _, servable in self.made if not servable.closed}
        assert serving == self.routed, "something is left that nobody needs"
        expected = {
            version
            for version in model.aspired
            if (version, content_of(model.found, version)) not in self.failed
        }
        assert self.routed.keys() >= expected
        for version in expected:
            assert model.versions[version].content == content_of(model.found, version)
        if expected:
            assert self.routed.keys() <= model.aspired
        for label, version in model.found.config.versions.labels.items():
            if version in self.routed:
                assert model.labels[label] == version


VERSIONS = st.integers(1, 5)
LABELS = st.dictionaries(st.sampled_from("ab"), VERSIONS)
PRESERVE = st.sampled_from(["availability", "memory"])
POLICIES = st.one_of(
    st.builds(Versions, latest=st.integers(1, 3), labels=LABELS, preserve=PRESERVE),
    st.builds(Versions, all=st.just(True), labels=LABELS, preserve=PRESERVE),
    st.builds(Versions, specific=st.lists(VERSIONS, min_size=1, max_size=3), preserve=PRESERVE),
)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    policy, delay = draw(POLICIES), draw(st.integers(0, 1))
    batching = Batching(max_queue_delay_us=delay)
    with contextlib.suppress(ValueError):  # what does not go together
        return ModelConfig(
            versions=policy,
            batching=batching,
            traffic=Traffic(split=draw(st.sampled_from([{}, {}, {1: 1, 2: 3}]))),
            canary=draw(st.sampled_from([None, Canary(), Canary(version=3)])),
            shadow=draw(st.sampled_from([None, None, Shadow(), Shadow(version=2)])),
        )
    return ModelConfig(versions=policy, batching=batching)


EVENTS = st.one_of(
    st.tuples(st.just("disk"), st.dictionaries(VERSIONS, st.integers(0, 2))),
    st.tuples(st.just("version"), st.tuples(VERSIONS, st.integers(0, 2))),
    st.tuples(st.just("gone"), VERSIONS),
    st.tuples(st.just("config"), configs()),
    st.tuples(st.just("well"), VERSIONS),
    st.tuples(st.just("all well"), st.none()),
    st.tuples(st.just("badly"), VERSIONS),
    st.tuples(st.just("unloaded"), st.none()),
    st.tuples(st.just("device"), VERSIONS),
    st.tuples(st.just("request"), st.one_of(st.none(), VERSIONS)),
    st.tuples(st.just("answer"), st.none()),
    st.tuples(st.just("decide"), st.sampled_from([Decision.PROMOTE, Decision.ROLL_BACK])),
)


async def rest() -> None:
    """Until everything that could run has."""
    for _ in range(8):
        await asyncio.sleep(0)


class Noticed(logging.Handler):
    """What the manager's tasks and looks came to grief over: they log it, and go on."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.errors.append(error)

    def check(self) -> None:
        if self.errors:
            raise self.errors[0]


@contextlib.contextmanager
def noticing() -> Iterator[Noticed]:
    noticed, log = Noticed(), logging.getLogger("servolley.repository")
    level = log.level
    log.setLevel(logging.ERROR)
    log.addHandler(noticed)
    try:
        yield noticed
    finally:
        log.removeHandler(noticed)
        log.setLevel(level)


async def replay(events: list[tuple[str, Any]]) -> None:
    with noticing() as noticed:
        await carry_out(events, World(), noticed)
        noticed.check()


async def carry_out(events: list[tuple[str, Any]], world: World, noticed: Noticed) -> None:
    for kind, value in events:
        match kind:
            case "disk":
                world.disk = value
            case "version":
                world.disk = world.disk | dict([value])
            case "gone":
                world.disk = {version: mark for version, mark in world.disk.items() if version != value}
            case "config":
                world.config = value
            case "well" | "badly":
                world.finish_load(value, kind == "well")
            case "all well":
                for version in range(1, 6):
                    world.finish_load(version, well=True)
            case "unloaded":
                world.finish_unloads()
            case "device":
                world.break_device(value)
            case "request":
                world.request(value)
            case "answer":
                world.answer()
            case "decide":
                world.decide(value)
        if kind in {"disk", "version", "gone", "config"}:
            world.look()
        await rest()
        noticed.check()
        world.check()
    world.answer()
    while world.loads_now or world.unloads_now:
        for version in range(1, 6):
            world.finish_load(version, well=True)
        world.finish_unloads()
        await rest()
        noticed.check()
        world.check()
    world.check_settled()
    closing = asyncio.ensure_future(world.manager.close())
    while not closing.done():
        world.finish_unloads()
        await rest()
    await closing
    assert all(servable.closed for _, servable in world.made)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=50))
def test_any_history_keeps_the_promises_and_settles(events: list[tuple[str, Any]]) -> None:
    asyncio.run(replay(events))
