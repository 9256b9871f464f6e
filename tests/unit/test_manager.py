from __future__ import annotations

from typing import Any, cast

import pytest

from servolley.config.model import Batching, ModelConfig, Runtime, Versions
from servolley.config.traffic import Traffic
from servolley.repository.layout import ModelOnDisk
from servolley.repository.manager import Manager
from servolley.repository.versions import State
from unit import fake_core
from unit.managed import ALL, Fixture, on_disk


async def test_the_newest_version_is_loaded_and_routed() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1, 3))
    assert f.engine.routes == {"m": ([3], 3, {})}
    assert f.states("m") == {3: State.AVAILABLE}
    assert f.manager.ready


async def test_not_ready_before_the_first_loads_are_over() -> None:
    f = Fixture()
    f.manager.apply({"m": on_disk("m", 1)})
    assert f.engine.routes == {"m": ([], None, {})}  # known: 503, not 404
    assert not f.manager.ready


async def test_one_bad_model_stops_nothing() -> None:
    f = Fixture()
    f.engine.failures["bad", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "not an ONNX model")
    f.engine.failures["broken", 1] = RuntimeError("secret path")
    await f.settle(
        on_disk("bad", 1),
        on_disk("broken", 1),
        on_disk("good", 1),
        on_disk("config", 1, error="model.toml: no"),
    )
    assert f.engine.routes["good"] == ([1], 1, {})
    assert f.engine.routes["bad"] == f.engine.routes["broken"] == f.engine.routes["config"] == ([], None, {})
    assert [(name, version, why.code, why.message) for name, version, why in f.manager.failures()] == [
        ("bad", 1, "INVALID_ARGUMENT", "not an ONNX model"),
        ("broken", 1, "INTERNAL", "internal error while loading"),
        ("config", None, "INVALID_ARGUMENT", "model.toml: no"),
    ]
    assert f.states("bad") == {1: State.END}
    assert not f.manager.ready


async def test_lax_readiness_tolerates_a_bad_model() -> None:
    f = Fixture(strict_readiness=False)
    f.engine.failures["bad", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "no")
    await f.settle(on_disk("bad", 1))
    assert f.manager.ready


async def test_a_policy_without_versions_is_a_failure() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1, config=ModelConfig(versions=Versions(specific=[2]))))
    assert [why.message for _, _, why in f.manager.failures()] == [
        "at least one version must be available under the version policy"
    ]


async def test_a_new_version_replaces_the_old_one_after_it_is_there() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1))
    old = f.manager.models["m"].versions[1].servable
    await f.settle(on_disk("m", 1, 2))
    assert f.engine.routes == {"m": ([2], 2, {})}
    assert f.states("m") == {1: State.END, 2: State.AVAILABLE}
    assert cast("fake_core.Servable", old).closed


async def test_a_failing_new_version_leaves_the_old_one() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1))
    f.engine.failures["m", 2] = fake_core.core_error("INVALID_ARGUMENT", 400, "no")
    await f.settle(on_disk("m", 1, 2))
    assert f.engine.routes == {"m": ([1], 1, {})}
    assert f.manager.ready


async def test_labels_point_to_available_versions_only() -> None:
    f = Fixture()
    f.engine.failures["m", 2] = fake_core.core_error("INTERNAL", 500, "no")
    versions = Versions(all=True, labels={"stable": 1, "canary": 2})
    await f.settle(on_disk("m", 1, 2, config=ModelConfig(versions=versions)))
    assert f.engine.routes["m"] == ([1], 1, {"stable": 1})


async def test_a_model_that_vanishes_is_unloaded_and_forgotten() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1, 2, config=ALL), on_disk("n", 1))
    servables = [r.servable for r in f.manager.models["m"].versions.values()]
    await f.settle(on_disk("n", 1))
    assert f.engine.routes == {"n": ([1], 1, {})}
    assert list(f.manager.models) == ["n"]
    assert all(cast("fake_core.Servable", servable).closed for servable in servables)


async def test_the_history_is_bounded() -> None:
    f = Fixture()
    for version in range(1, 40):
        await f.settle(on_disk("m", version))
    assert len(f.states("m")) <= 17
    assert f.states("m")[39] is State.AVAILABLE


async def test_closing_unloads_everything_and_starts_nothing() -> None:
    f = Fixture()
    f.engine.failures["bad", 1] = fake_core.core_error("INTERNAL", 500, "no")
    await f.settle(on_disk("m", 1, 2, config=ALL), on_disk("bad", 1))
    servables = [r.servable for r in f.manager.models["m"].versions.values()]
    await f.manager.close()
    assert all(cast("fake_core.Servable", servable).closed for servable in servables)
    assert f.engine.routes["m"] == ([], None, {})
    assert len(f.engine.loads) == 3
    assert not f.manager.ready


async def test_what_stays_as_it_was_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    look = {f"m{number}": on_disk(f"m{number}", 1) for number in range(500)}
    await f.manager.load_first(look)
    told: list[str] = []
    set_routes = f.engine.set_routes

    def counting(model: str, *routes: Any) -> None:
        told.append(model)
        set_routes(model, *routes)

    monkeypatch.setattr(f.engine, "set_routes", counting)
    f.manager.apply({name: on_disk(name, 1) for name in look} | {"m7": on_disk("m7", 1, 2)})
    await f.manager.settle("m7")
    assert f.engine.routes["m7"] == ([2], 2, {})
    assert set(told) == {"m7"}
    assert len(told) <= 3
    assert len(f.engine.loads) == 501


async def test_routes_that_stay_as_they_were_are_not_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    split = ModelConfig(versions=Versions(all=True), traffic=Traffic(split={1: 1, 2: 1}))
    await f.settle(on_disk("m", 1, 2, config=split))
    told: list[str] = []
    monkeypatch.setattr(f.engine, "set_routes", lambda model, *_: told.append(model))
    f.manager.apply_model(on_disk("m", 1, 2, config=split))
    f.manager.traffic_changed(f.manager.models["m"])
    assert told == []
    f.manager.models["m"].traffic.by_hand = {1: 1, 2: 3}
    f.manager.traffic_changed(f.manager.models["m"])
    assert told == ["m"]


async def test_a_model_that_comes_back_while_it_goes_is_loaded_again() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1))
    f.manager.apply({})
    f.manager.apply({"m": on_disk("m", 1)})
    assert f.states("m") == {1: State.UNLOADING}
    await f.settle(on_disk("m", 1))
    assert f.engine.routes == {"m": ([1], 1, {})}


async def test_what_cannot_be_applied_stops_no_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Fixture()
    aspire = Manager._aspire

    def fails_for_bad(manager: Manager, model: Any, found: ModelOnDisk) -> None:
        if model.name == "bad":
            raise RuntimeError("odd")
        aspire(manager, model, found)

    with monkeypatch.context() as patch:
        patch.setattr(Manager, "_aspire", fails_for_bad)
        await f.settle(on_disk("bad", 1), on_disk("good", 1))
    assert f.engine.routes == {"good": ([1], 1, {})}
    assert [(name, why.code) for name, _, why in f.manager.failures()] == [("bad", "INTERNAL")]
    await f.settle(on_disk("bad", 1), on_disk("good", 1))
    assert f.manager.failures() == []
    assert f.engine.routes["bad"] == ([1], 1, {})


def labelled(**labels: int) -> ModelConfig:
    return ModelConfig(versions=Versions(specific=[1, 2], labels=labels))


async def test_a_label_moves_when_its_version_is_there_and_not_before() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1, config=labelled(stable=1)))
    f.manager.apply({"m": on_disk("m", 1, 2, config=labelled(stable=2, next=2))})
    assert f.engine.routes["m"] == ([1], 1, {"stable": 1})
    await f.manager.settle("m")
    assert f.engine.routes["m"] == ([1, 2], 2, {"stable": 2, "next": 2})
    await f.settle(on_disk("m", 1, 2, config=labelled(stable=1)))
    assert f.engine.routes["m"] == ([1, 2], 2, {"stable": 1})
    assert len(f.engine.loads) == 2


async def test_other_weights_are_loaded_beside_and_take_over() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1, stamps={1: "old"}))
    old = f.manager.models["m"].versions[1].servable
    f.manager.apply({"m": on_disk("m", 1, stamps={1: "new"})})
    assert f.states("m") == {1: State.AVAILABLE}
    assert f.engine.routes["m"] == ([1], 1, {})
    await f.settle(on_disk("m", 1, stamps={1: "new"}))
    assert len(f.engine.loads) == 2
    assert f.manager.models["m"].versions[1].servable is not old
    assert cast("fake_core.Servable", old).closed
    assert f.states("m") == {1: State.AVAILABLE}


async def test_other_batching_takes_over_the_weights() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1))
    old = f.manager.models["m"].versions[1].servable
    changed = ModelConfig(batching=Batching(max_batch_size=3), runtime=Runtime(instances=2))
    await f.settle(on_disk("m", 1, config=changed))
    assert (len(f.engine.loads), len(f.engine.reconfigured)) == (1, 1)
    assert f.engine.reconfigured[0][2]["max_batch_size"] == 3
    assert cast("fake_core.Servable", old).closed
    await f.settle(on_disk("m", 1, config=ModelConfig(runtime=Runtime(intra_op_threads=2))))
    assert (len(f.engine.loads), len(f.engine.reconfigured)) == (2, 1)


async def test_a_reload_that_fails_leaves_what_serves_and_is_not_repeated() -> None:
    f = Fixture(load_retries=0)
    await f.settle(on_disk("m", 1, stamps={1: "old"}))
    f.engine.failures["m", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "torn")
    for _ in range(3):
        await f.settle(on_disk("m", 1, stamps={1: "torn"}))
    assert len(f.engine.loads) == 2
    assert f.engine.routes["m"] == ([1], 1, {})
    assert [why.message for _, _, why in f.manager.failures()] == ["torn"]
    assert f.manager.ready
    f.engine.failures.clear()
    await f.settle(on_disk("m", 1, stamps={1: "new"}))
    assert len(f.engine.loads) == 3
    assert f.manager.failures() == []


async def test_a_failed_version_is_loaded_when_its_files_change() -> None:
    f = Fixture(load_retries=0)
    f.engine.failures["m", 1] = fake_core.core_error("INVALID_ARGUMENT", 400, "torn")
    await f.settle(on_disk("m", 1, stamps={1: "torn"}))
    f.engine.failures.clear()
    await f.settle(on_disk("m", 1, stamps={1: "torn"}))
    assert f.states("m") == {1: State.END}
    await f.settle(on_disk("m", 1, stamps={1: "whole"}))
    assert f.states("m") == {1: State.AVAILABLE}


async def test_memory_is_spared_by_unloading_first() -> None:
    f = Fixture()
    spare = ModelConfig(versions=Versions(preserve="memory"))
    await f.settle(on_disk("m", 1, config=spare))
    f.manager.apply({"m": on_disk("m", 1, 2, config=spare)})
    assert f.engine.routes == {"m": ([], None, {})}
    await f.manager.settle("m")
    assert f.states("m") == {1: State.END, 2: State.AVAILABLE}


async def test_a_model_that_comes_later_and_fails_does_not_end_readiness() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1))
    f.engine.failures["later", 1] = fake_core.core_error("INTERNAL", 500, "no")
    f.manager.apply({"m": on_disk("m", 1), "later": on_disk("later", 1)})
    assert f.manager.ready
    await f.manager.settle("later")
    assert f.manager.ready
    assert f.states("later") == {1: State.END}


async def test_a_model_without_versions_ends_and_says_why() -> None:
    f = Fixture()
    await f.settle(on_disk("m", 1))
    await f.settle(on_disk("m", error="no version directory holds model.onnx", empty=True))
    assert f.states("m") == {1: State.END}
    assert [why.message for _, _, why in f.manager.failures()] == ["no version directory holds model.onnx"]
