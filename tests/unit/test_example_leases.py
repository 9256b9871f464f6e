"""Classify, Regress and MultiInference while what is served changes, and when their clients leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from servolley.front.example_calls import ExampleCalls
from unit.examples_front import ExamplesFront, classification, example, serve_half_plus
from unit.fake_core import GRPC_HALF_CLOSE
from unit.grpc_front import PREDICTION


@pytest_asyncio.fixture
async def front(descriptors: bytes) -> AsyncIterator[ExamplesFront]:
    front = ExamplesFront(descriptors)
    await serve_half_plus(front)
    yield front
    assert not any(lease.held for lease in front.inner.leases)


@pytest.fixture
def swap_beside_the_loop(front: ExamplesFront, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Another version takes the place of the newest each time that a call does its work beside the loop.
    Returns whether that version's lease was held at each of these times; the first comes before any."""
    held: list[bool] = []

    async def work_slowly(_: ExampleCalls, slow: bool, work: Callable[[], Any]) -> Any:
        held.append(any(lease.held for lease in front.inner.leases))
        await serve_half_plus(front, 8 + len(held))
        done = work()
        await asyncio.sleep(0)
        return done

    monkeypatch.setattr(ExampleCalls, "_off_loop_if", work_slowly)
    return held


async def test_a_call_is_answered_by_what_it_was_routed_to(
    front: ExamplesFront, swap_beside_the_loop: list[bool]
) -> None:
    answer = await front.call(f"{PREDICTION}Regress", classification(example(x=80.0)))
    assert [r.value for r in answer.result.regressions] == [42.0]
    assert answer.model_spec.version.value == 9
    assert swap_beside_the_loop == [False, True, True]  # read, then fill and take
    assert await front.rest("regress", {"examples": [{"x": 80.0}]}) == [42.0]
    assert [lease.servable.version for lease in front.inner.leases] == [9, 12]


async def test_two_runs_of_one_call_are_one_versions(
    front: ExamplesFront, swap_beside_the_loop: list[bool]
) -> None:
    tasks = [
        {
            "model_spec": {"name": "h", "signature_name": name},
            "method_name": "tensorflow/serving/regress",
        }
        for name in ("serving_default", "regress_other")
    ]
    rows = {"example_list": {"examples": [example(x=80.0, x2=2.0)]}}
    answer = await front.call(f"{PREDICTION}MultiInference", {"tasks": tasks, "input": rows})
    assert [r.regression_result.regressions[0].value for r in answer.results] == [42.0, 3.0]
    assert {r.model_spec.version.value for r in answer.results} == {9}
    assert len(front.inner.requests) == 2
    assert [lease.servable.version for lease in front.inner.leases] == [9]


async def test_a_client_that_leaves_keeps_nothing(front: ExamplesFront) -> None:
    running = asyncio.Event()

    async def never(*_: Any, **__: Any) -> bytes:
        running.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    front.inner.predict = never  # type: ignore[method-assign]
    front.event(GRPC_HALF_CLOSE, front.begin(f"{PREDICTION}Regress", classification(example(x=80.0))))
    await running.wait()
    (lease,) = front.inner.leases
    assert lease.held
    front.calls.close()
    await asyncio.sleep(0)
    assert not lease.held
