"""Splits, canaries and shadows as the manager carries them out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from servolley.config.model import ModelConfig, Versions
from servolley.config.settings import Repository
from servolley.config.traffic import Canary, Shadow, Traffic
from servolley.repository.canary import Reason
from servolley.repository.layout import ModelOnDisk
from servolley.repository.manager import Manager
from servolley.repository.records import ModelRecord
from servolley.repository.routing import CanaryState
from servolley.repository.traffic_control import TrafficControl
from servolley.repository.versions import UNKEPT_VERSION
from servolley.status import StatusError
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Engine

ALL = Versions(all=True)


class Fixture:
    """A model m."""

    def __init__(self) -> None:
        self.engine = fake_core.Engine()
        self.loop = asyncio.get_running_loop()
        self.manager = Manager(cast("Engine", self.engine), Repository(load_retries=0), self.loop)
        self.control = TrafficControl(self.manager)

    async def settle(self, config: ModelConfig, *versions: int, **stamps: str) -> None:
        files = {v: Path(f"/models/m/{v}") for v in versions}
        marks = {v: stamps.get(f"v{v}", "") for v in versions}
        found = ModelOnDisk("m", Path("/models/m"), config, files, stamps=dict(marks))
        await self.manager.load_first({"m": found})
        await asyncio.gather(*self.manager._unloads)  # a shadow that is closed

    @property
    def model(self) -> ModelRecord:
        return self.manager.models["m"]

    def servable(self, version: int) -> fake_core.Servable:
        return cast("fake_core.Servable", self.model.versions[version].servable)

    def did(self, version: int, requests: int, errors: int = 0, **changes: Any) -> None:
        """What a version's statistics say from now on."""
        self.servable(version).changes = {
            "success_count": requests - errors,
            "success_ns": (requests - errors) * 1_000_000,
            "fail_count": errors,
            "failures": {"BACKEND": errors},
        } | changes

    @property
    def split(self) -> dict[int, int]:
        return self.engine.splits["m"]

    @property
    def default(self) -> int | None:
        return self.engine.routes["m"][1]


CANARY = ModelConfig(versions=ALL, canary=Canary(weight=20, min_requests=10, window_s=60))


async def judged(config: ModelConfig = CANARY) -> Fixture:
    """Version 1 stable, 2 the canary, both without a request so far."""
    f = Fixture()
    await f.settle(config, 1, 2)
    f.did(1, 0)
    f.did(2, 0)
    f.control.reset(f.model)
    assert f.split == {1: 80, 2: 20}
    return f


async def test_a_split_reaches_the_core_with_the_versions() -> None:
    f = Fixture()
    config = ModelConfig(versions=ALL, traffic=Traffic(split={1: 9, 2: 1}))
    await f.settle(config, 1, 3)
    assert (f.default, f.split) == (1, {})
    await f.settle(config, 1, 2, 3)
    assert f.engine.routes["m"] == ([1, 2, 3], 1, {})
    assert f.split == {1: 9, 2: 1}
    await f.settle(ModelConfig(versions=ALL), 1, 2, 3)
    assert (f.default, f.split) == (3, {})
    assert len(f.engine.loads) == 3  # nothing was read again


async def test_a_version_that_the_policy_does_not_keep_is_an_error() -> None:
    f = Fixture()
    config = ModelConfig(versions=Versions(latest=2), traffic=Traffic(split={1: 9, 2: 1}))
    await f.settle(config, 1, 2)
    assert f.split == {1: 9, 2: 1}
    await f.settle(config, 1, 2, 3)
    ((_, _, failure),) = f.manager.failures()
    assert failure.message == f"{UNKEPT_VERSION}: 1"
    assert f.engine.routes["m"][0] == [1, 2]  # what is loaded keeps serving
    assert f.split == {1: 9, 2: 1}


async def test_a_canary_that_fails_is_rolled_back_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    f = await judged()
    f.did(1, 80)
    f.did(2, 20)
    f.control.look(f.loop.time())
    assert f.split == {1: 80, 2: 20}
    f.did(2, 21, 1)
    f.control.look(f.loop.time())
    assert f.split == {1: 80, 2: 20}  # that may be chance
    f.did(2, 32, 12)
    f.control.look(f.loop.time())
    assert (f.default, f.split) == (1, {})
    assert f.model.traffic.rollbacks == {Reason.ERROR_RATE: 1}
    (record,) = [r for r in caplog.records if r.message == "canary rolled back"]
    assert getattr(record, "fields", {}) == {
        "model": "m",
        "version": 2,
        "stable": 1,
        "why": "12 of 32 requests failed, 0 of 80 of the stable version",
    }
    f.did(2, 1000)
    f.control.look(f.loop.time() + 1000)
    await f.settle(CANARY, 1, 2)
    assert (f.default, f.split) == (1, {})
    assert f.servable(2).closed is False  # who names the version gets it


async def test_other_files_or_another_configuration_or_a_reset_begin_anew() -> None:
    f = await judged()
    f.did(2, 30, 30)
    f.control.look(f.loop.time())
    assert f.split == {}
    await f.settle(CANARY, 1, 2, v2="mended")
    assert f.split == {1: 80, 2: 20}
    f.did(2, 30, 30)
    f.control.look(f.loop.time())
    assert f.split == {}
    f.control.reset(f.model)
    assert f.split == {1: 80, 2: 20}
    f.control.look(f.loop.time())
    assert f.split == {1: 80, 2: 20}  # old errors are no new ones
    f.did(2, 60, 60)
    f.control.look(f.loop.time())
    assert f.split == {}
    await f.settle(ModelConfig(versions=ALL, canary=Canary(weight=30, min_requests=10)), 1, 2)
    assert f.split == {1: 70, 2: 30}
    assert f.model.traffic.rollbacks == {Reason.ERROR_RATE: 3}


async def test_outputs_are_watched_while_they_are_judged() -> None:
    f = await judged()
    assert (f.servable(1).watched, f.servable(2).watched) == (True, True)
    f.did(2, 30, nonfinite_count=30)
    f.control.look(f.loop.time())
    assert f.model.traffic.rollbacks == {Reason.NONFINITE: 1}
    assert (f.servable(1).watched, f.servable(2).watched) == (False, False)
    lax = ModelConfig(versions=ALL, canary=Canary(max_nonfinite_rate_increase=1))
    await f.settle(lax, 1, 2)
    assert f.model.routing().state is CanaryState.JUDGING
    assert (f.servable(1).watched, f.servable(2).watched) == (False, False)


async def test_a_canary_is_promoted_and_the_next_one_compared_with_it() -> None:
    config = ModelConfig(
        versions=Versions(latest=2), canary=Canary(weight=20, min_requests=10, promote_after_s=100)
    )
    f = await judged(config)
    f.did(1, 80)
    f.did(2, 20)
    f.control.look(f.loop.time() + 99)
    assert f.split == {1: 80, 2: 20}
    f.did(2, 40)
    f.control.look(f.loop.time() + 101)
    assert (f.default, f.split) == (2, {})
    assert f.model.traffic.promotions == 1
    await f.settle(config, 1, 2, 3)
    assert f.engine.routes["m"][0] == [2, 3]
    assert f.split == {2: 80, 3: 20}


async def test_a_canary_never_pushes_away_what_it_is_compared_with() -> None:
    config = ModelConfig(versions=Versions(latest=2), canary=Canary(weight=20, min_requests=10))
    f = await judged(config)
    f.did(2, 30, 30)
    f.control.look(f.loop.time())
    await f.settle(config, 1, 2, 3)
    assert f.engine.routes["m"][0] == [1, 2, 3]
    assert f.split == {1: 80, 3: 20}
    f.control.promote(f.model)
    assert f.default == 3
    assert f.engine.routes["m"][0] == [2, 3]


async def test_by_hand() -> None:
    f = await judged()
    f.control.set_split(f.model, {1: 1, 2: 1})
    assert f.split == {1: 1, 2: 1}
    f.control.roll_back(f.model)
    assert (f.default, f.split) == (1, {})
    assert f.model.traffic.rollbacks == {Reason.BY_HAND: 1}
    with pytest.raises(StatusError, match="was rolled back"):
        f.control.set_split(f.model, {1: 1, 2: 1})
    f.control.set_split(f.model, {1: 1, 2: 0})
    f.control.promote(f.model)
    assert (f.default, f.split) == (2, {})
    f.control.reset(f.model)
    assert f.split == {1: 80, 2: 20}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({}, "needs versions"),
        ({1: 0}, "weight above 0"),
        ({1: 1, 9: 1}, "version 9 of 'm' is not available"),
        (dict.fromkeys(range(1, 70), 1), "is not available"),
    ],
)
async def test_splits_that_cannot_be(split: dict[int, int], message: str) -> None:
    f = await judged()
    with pytest.raises(StatusError, match=message):
        f.control.set_split(f.model, split)
    assert f.split == {1: 80, 2: 20}


async def test_without_a_canary_there_is_none_to_decide_about() -> None:
    f = Fixture()
    await f.settle(ModelConfig(versions=ALL), 1, 2)
    with pytest.raises(StatusError, match=r"has no \[canary\]"):
        f.control.promote(f.model)
    await f.settle(CANARY, 2)
    with pytest.raises(StatusError, match="no canary beside a stable version"):
        f.control.roll_back(f.model)
    f.control.set_split(f.model, {2: 5})
    assert f.default == 2


async def test_a_shadow_follows_its_version() -> None:
    f = Fixture()
    config = ModelConfig(versions=ALL, shadow=Shadow(fraction=0.5, max_in_flight=3))
    await f.settle(config, 1)
    assert f.default == 1
    await f.settle(config, 1, 2)
    assert f.default == 1
    first = f.engine.shadows["m"]
    assert first is not None
    assert first.servable is f.servable(2)
    assert first.limits == (500_000, 3, 64 << 20)
    await f.settle(config, 1, 2)
    assert f.engine.shadows["m"] is first
    await f.settle(config, 1, 2, v2="other")
    second = f.engine.shadows["m"]
    assert second is not None
    assert second.servable is f.servable(2)
    assert first.closed
    await f.settle(ModelConfig(versions=ALL), 1, 2)
    assert f.engine.shadows == {"m": None}
    assert f.default == 2
    assert second.closed


async def test_closing_closes_the_shadow() -> None:
    f = Fixture()
    await f.settle(ModelConfig(versions=ALL, shadow=Shadow()), 1, 2)
    shadow = f.engine.shadows["m"]
    assert shadow is not None
    await f.manager.close()
    assert shadow.closed
    assert f.engine.shadows == {"m": None}


async def test_a_failing_canary_does_not_stop_the_others_from_being_judged() -> None:
    f = await judged()
    f.control.look(f.loop.time())
    f.servable(2).changes = {"failures": None}
    f.control.look(f.loop.time())
    f.did(2, 30, 30)
    f.control.look(f.loop.time())
    assert f.split == {}


async def test_without_a_thread_for_it_there_is_no_shadow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    f = Fixture()

    def refuse(*_: object) -> None:
        raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr(f.engine, "shadow", refuse)
    await f.settle(ModelConfig(versions=ALL, shadow=Shadow()), 1, 2)
    assert f.engine.shadows == {"m": None}
    assert f.default == 1
    assert "no shadow: Resource temporarily unavailable" in caplog.text
