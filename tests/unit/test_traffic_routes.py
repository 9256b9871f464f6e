from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servolley.config.model import ModelConfig, Versions
from servolley.config.traffic import Canary, Shadow
from servolley.front.gate import Gate, Refusal
from servolley.repository.layout import ModelOnDisk
from unit import fake_core
from unit.routes_front import Front

PATH = "/v2/repository/models/m/traffic"


async def front(**parts: Any) -> Front:
    f = Front()
    config = ModelConfig(versions=Versions(all=True), **parts)
    files = {1: Path("1"), 2: Path("2")}
    await f.manager.load_first({"m": ModelOnDisk("m", None, config, files)})
    return f


async def test_a_model_without_any_of_it() -> None:
    f = await front()
    assert await f.get(PATH) == {"model": "m", "default_version": "2", "weights": {}, "by_hand": False}
    assert (await f.ask("GET", "/v2/repository/models/nobody/traffic")).status == 404
    assert (await f.ask("PUT", PATH)).status == 405


async def test_the_state_of_a_canary_and_a_shadow() -> None:
    f = await front(canary=Canary(weight=25), shadow=Shadow(fraction=0.5))
    found = await f.get(PATH)
    assert (found["default_version"], found["weights"]) == ("1", {"1": 75, "2": 25})
    canary, shadow = found["canary"], found["shadow"]
    assert (canary["version"], canary["stable_version"], canary["state"]) == ("2", "1", "judging")
    assert canary["limits"]["max_latency_ratio"] == 2.0
    assert canary["window"]["canary"]["requests"] == 0
    assert shadow["version"] == "2"
    assert shadow["limits"]["fraction"] == 0.5
    assert {key: shadow[key] for key in fake_core.SHADOW_STATS} == fake_core.SHADOW_STATS


async def test_changes_answer_the_new_state() -> None:
    f = await front(canary=Canary())
    found = (await f.ask("POST", PATH, {"split": {"1": 1, "2": 3}})).body
    assert b'"weights":{"1":1,"2":3},"by_hand":true' in found
    assert b'"state":"rolled_back"' in (await f.ask("POST", PATH, {"action": "rollback"})).body
    rolled_back = (await f.get(PATH))["canary"]
    assert (rolled_back["reason"], rolled_back["why"]) == ("by_hand", "by hand")
    assert b'"state":"promoted"' in (await f.ask("POST", PATH, {"action": "promote"})).body
    assert b'"state":"judging"' in (await f.ask("POST", PATH, {"action": "reset"})).body
    assert f.engine.splits["m"] == {1: 90, 2: 10}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        {},
        {"split": {"1": 1}, "action": "reset"},
        {"weights": {"1": 1}},
        {"action": "burn"},
        {"action": ["reset"]},
        {"split": [1, 2]},
        {"split": {}},
        {"split": {"1": 0}},
        {"split": {"1": -1}},
        {"split": {"1": 1.5}},
        {"split": {"1": True}},
        {"split": {"1": "1"}},
        {"split": {"1": 1_000_001}},
        {"split": {"one": 1}},
        {"split": {"0": 1}},
        {"split": {"1": 1, "01": 1}},
        {"split": {"7": 1}},
        {"split": {str(version): 1 for version in range(1, 100_000)}},
    ],
    ids=lambda body: str(body)[:40],
)
async def test_what_cannot_be_asked(body: Any) -> None:
    f = await front(canary=Canary())
    status, text = await f.error("POST", PATH, body)
    assert status == 400, text
    assert len(text) < 300
    assert f.engine.splits["m"] == {1: 90, 2: 10}


async def test_only_administrators_change_it() -> None:
    f = await front(canary=Canary())
    f.gate = Gate(refusal=Refusal.ELSEWHERE)
    status, text = await f.error("POST", PATH, {"action": "promote"})
    assert (status, text) == (403, Refusal.ELSEWHERE.text)
    assert f.engine.splits["m"] == {1: 90, 2: 10}
    assert (await f.get(PATH))["canary"]["state"] == "judging"
    f.gate = Gate(refusal=Refusal.ELSEWHERE, guards_insight=True)
    assert (await f.error("GET", PATH))[0] == 403
