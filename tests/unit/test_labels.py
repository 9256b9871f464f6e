from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servolley.config.model import ModelConfig, Versions
from servolley.repository.labels import MOST_LABELS, wanted_labels
from servolley.repository.layout import ModelOnDisk
from unit import fake_core
from unit.routes_front import Front

LABELS = "/v2/repository/models/m/labels"


@pytest.fixture
async def front() -> Front:
    front = Front()
    await front.load()
    return front


def on_disk(*versions: int, labels: dict[str, int], **policy: Any) -> ModelOnDisk:
    config = ModelConfig(versions=Versions(**(policy or {"all": True}), labels=labels))
    return ModelOnDisk("m", None, config, {v: Path(str(v)) for v in versions})


def routed(front: Front) -> dict[str, int]:
    return front.engine.routes["m"][2]


def test_what_was_moved_holds_over_what_is_configured() -> None:
    assert wanted_labels({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": 1, "b": 3, "c": 4}
    assert wanted_labels({"a": 1, "b": 2}, {"a": None, "d": None}) == {"b": 2}


async def test_moving_adding_and_removing(front: Front) -> None:
    assert await front.get(LABELS) == {"labels": {"stable": {"version": 1, "routed": 1}}}
    assert (await front.ask("PUT", LABELS + "/stable", {"version": 3})).body == b'{"version":3,"routed":3}'
    assert (await front.ask("POST", LABELS + "/canary", {"version": 1})).status == 200
    assert routed(front) == {"stable": 3, "canary": 1}
    assert (await front.get("/v2/models"))["models"][0]["labels"] == {"stable": 3, "canary": 1}
    assert (await front.ask("DELETE", LABELS + "/stable")).status == 200
    assert routed(front) == {"canary": 1}
    assert await front.error("DELETE", LABELS + "/stable") == (404, "'m' has no label 'stable'")


async def test_moves_hold_until_the_configured_labels_change(front: Front) -> None:
    await front.ask("PUT", LABELS + "/stable", {"version": 3})
    await front.ask("PUT", LABELS + "/canary", {"version": 1})
    front.manager.apply_model(on_disk(1, 3, labels={"stable": 1}))  # another look, the same labels
    assert routed(front) == {"stable": 3, "canary": 1}
    front.manager.apply_model(on_disk(1, 3, labels={"stable": 1, "old": 1}))
    assert routed(front) == {"stable": 1, "old": 1}


async def test_a_label_waits_for_its_version(front: Front) -> None:
    front.manager.apply_model(on_disk(1, 3, 5, labels={"stable": 1}))
    reply = await front.ask("PUT", LABELS + "/stable", {"version": 5})
    assert reply.body == b'{"version":5,"routed":1}'
    assert (await front.ask("PUT", LABELS + "/next", {"version": 5})).body == b'{"version":5,"routed":null}'
    assert routed(front) == {"stable": 1}
    await front.manager.settle("m")
    assert routed(front) == {"stable": 5, "next": 5}


async def test_what_cannot_be_moved(front: Front) -> None:
    for body, word in (
        ({}, "version"),
        ({"version": True}, "version"),
        ({"version": "3"}, "version"),
        ({"version": 0}, "version"),
        ({"version": 2**63}, "version"),
        ({"version": 3, "other": 1}, "other"),
        ([], "object"),
        (b"{", "JSON"),
    ):
        status, text = await front.error("PUT", LABELS + "/stable", body)
        assert (status, word in text) == (400, True), body
    assert (await front.error("PUT", LABELS + "/stable", {"version": 9}))[0] == 404
    assert (await front.error("PUT", "/v2/repository/models/none/labels/x", {"version": 1}))[0] == 404
    for label in ("a%2Fb", "%20", ".hidden", "x" * 300, "a%00b"):
        assert (await front.error("PUT", f"{LABELS}/{label}", {"version": 3}))[0] == 400, label
    assert (await front.ask("PATCH", LABELS + "/x")).status == 405
    assert routed(front) == {"stable": 1}


async def test_a_version_that_failed_takes_no_label(front: Front) -> None:
    front.engine.failures["m", 5] = fake_core.core_error("INVALID_ARGUMENT", 400, "not a model")
    front.manager.apply_model(on_disk(1, 3, 5, labels={"stable": 1}))
    await front.manager.settle("m")
    status, text = await front.error("PUT", LABELS + "/stable", {"version": 5})
    assert (status, "not a model" in text) == (400, True)


async def test_there_is_a_limit(front: Front) -> None:
    for number in range(MOST_LABELS - 1):
        assert (await front.ask("PUT", f"{LABELS}/l{number}", {"version": 1})).status == 200
    assert (await front.error("PUT", LABELS + "/more", {"version": 1}))[0] == 429
    assert (await front.ask("PUT", LABELS + "/l0", {"version": 3})).status == 200
    assert (await front.ask("DELETE", LABELS + "/l0")).status == 200
    assert (await front.ask("PUT", LABELS + "/more", {"version": 1})).status == 200
