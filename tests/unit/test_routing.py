"""Where requests go that name no version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.config.model import ModelConfig, Versions
from servolley.config.traffic import Canary, Shadow, Traffic
from servolley.repository.routing import CanaryState, Routing, route

ALL = Versions(all=True)
ROLLED_BACK, PROMOTED = CanaryState.ROLLED_BACK, CanaryState.PROMOTED


def config(**parts: Any) -> ModelConfig:
    return ModelConfig(versions=ALL, **parts)


def split(**weights: int) -> ModelConfig:
    return config(traffic=Traffic(split={int(name[1:]): weight for name, weight in weights.items()}))


def test_without_a_word_the_highest_version_has_everything() -> None:
    routing = route(config(), {1, 2, 3}, {})
    assert (routing.default, routing.weights, routing.split) == (3, {}, {})
    assert routing.state is None


def test_nothing_available_nothing_routed() -> None:
    for each in (config(), split(v1=1, v2=1), config(canary=Canary()), config(shadow=Shadow())):
        assert route(each, set(), {}) == Routing()


@pytest.mark.parametrize(
    ("available", "default", "weights"),
    [
        ({1, 2}, 1, {1: 90, 2: 10}),
        ({1, 2, 3}, 1, {1: 90, 2: 10}),  # whoever is not named gets nothing
        ({2}, 2, {2: 10}),
        ({1, 3}, 1, {1: 90}),
        ({3}, 3, {}),  # an answer beats none
    ],
)
def test_a_version_that_is_missing_leaves_its_share(
    available: set[int], default: int, weights: dict[int, int]
) -> None:
    routing = route(split(v1=90, v2=10, v9=0), available, {})
    assert (routing.default, routing.weights) == (default, weights)
    assert routing.split == (weights if len(weights) > 1 else {})


def test_a_canary_is_compared_with_the_highest_other_version() -> None:
    routing = route(config(canary=Canary(weight=5)), {1, 2, 3}, {})
    assert routing == Routing(2, {2: 95, 3: 5}, canary=3, stable=2, state=CanaryState.JUDGING)
    assert routing.judged == {2, 3}
    assert routing.incumbent == 2


def test_or_with_the_incumbent_or_with_whom_the_configuration_says() -> None:
    assert route(config(canary=Canary()), {1, 2, 3}, {}, incumbent=1).stable == 1
    assert route(config(canary=Canary()), {1, 2, 3}, {}, incumbent=3).stable == 2
    assert route(config(canary=Canary(stable=1)), {1, 2, 3}, {}, incumbent=2).stable == 1
    assert route(config(canary=Canary(stable=1)), {2, 3}, {}, incumbent=2).stable == 2
    assert route(config(canary=Canary(version=1)), {1, 2, 3}, {}).stable == 3


def test_alone_a_canary_gets_everything_and_nobody_judges() -> None:
    routing = route(config(canary=Canary()), {2}, {})
    assert (routing.default, routing.weights, routing.state) == (2, {}, CanaryState.WAITING)
    assert not routing.judged
    late = route(config(canary=Canary(version=5)), {1, 2}, {})
    assert (late.default, late.split, late.canary) == (2, {}, None)


def test_a_canary_that_was_rolled_back_gets_nothing_and_is_nobodys_stable_version() -> None:
    canary = config(canary=Canary())
    routing = route(canary, {1, 2}, {2: ROLLED_BACK})
    assert (routing.default, routing.weights, routing.state) == (1, {1: 1}, ROLLED_BACK)
    assert routing.incumbent == 1
    assert route(canary, {1, 2, 3}, {2: ROLLED_BACK}).stable == 1
    assert route(canary, {2, 3}, {2: ROLLED_BACK}).default == 3
    assert route(canary, {2}, {2: ROLLED_BACK}).default == 2  # an answer beats none


def test_a_canary_that_was_promoted_gets_everything_and_is_the_next_ones_stable_version() -> None:
    canary = config(canary=Canary())
    routing = route(canary, {1, 2}, {2: PROMOTED}, incumbent=1)
    assert (routing.default, routing.split, routing.state, routing.incumbent) == (2, {}, PROMOTED, 2)
    following = route(canary, {1, 2, 3}, {2: PROMOTED}, incumbent=2)
    assert (following.canary, following.stable, following.state) == (3, 2, CanaryState.JUDGING)


def test_a_heavy_canary_is_the_default_but_not_the_incumbent() -> None:
    routing = route(config(canary=Canary(weight=80)), {1, 2}, {})
    assert (routing.default, routing.incumbent) == (2, 1)


def test_a_shadow_answers_only_where_nobody_else_can() -> None:
    latest = config(shadow=Shadow())
    routing = route(latest, {1, 2}, {})
    assert (routing.default, routing.shadow) == (1, 2)
    assert route(latest, {2}, {}).default == 2
    fixed = config(shadow=Shadow(version=2))
    assert (route(fixed, {1, 2, 3}, {}).default, route(fixed, {1, 3}, {}).shadow) == (3, None)
    both = config(shadow=Shadow(version=3), canary=Canary())
    assert route(both, {1, 2, 3}, {}) == Routing(1, {1: 90, 2: 10}, 2, 1, CanaryState.JUDGING, 3)


def test_a_split_by_hand_is_over_everything_but_a_rollback() -> None:
    by_hand = {1: 1, 2: 1, 7: 5}
    assert route(split(v1=9, v2=1), {1, 2}, {}, by_hand=by_hand).weights == {1: 1, 2: 1}
    canary = config(canary=Canary())
    routing = route(canary, {1, 2}, {}, by_hand=by_hand)
    assert (routing.weights, routing.state) == ({1: 1, 2: 1}, CanaryState.JUDGING)
    assert route(canary, {1, 2}, {2: ROLLED_BACK}, by_hand=by_hand).weights == {1: 1}


configs = st.sampled_from(
    [
        config(),
        *(config(canary=Canary(version=version, stable=3)) for version in ("latest", 1, 2)),
        *(config(canary=Canary(), shadow=Shadow(version=version)) for version in ("latest", 4)),
        split(v1=1, v2=5, v3=0),
    ]
)
versions = st.integers(1, 5)


@given(
    configs,
    st.sets(versions),
    st.dictionaries(versions, st.sampled_from([ROLLED_BACK, PROMOTED])),
    st.one_of(st.none(), versions),
    st.one_of(st.none(), st.dictionaries(versions, st.integers(0, 3))),
)
def test_for_any_state(
    each: ModelConfig,
    available: set[int],
    decided: dict[int, CanaryState],
    incumbent: int | None,
    by_hand: dict[int, int] | None,
) -> None:
    routing = route(each, available, decided, incumbent=incumbent, by_hand=by_hand)
    rolled_back = {version for version, state in decided.items() if state is ROLLED_BACK}
    assert (routing.default is None) == (not available)
    assert routing.default is None or routing.default in available
    assert set(routing.weights) <= available - rolled_back
    assert all(weight > 0 for weight in routing.weights.values())
    assert not routing.weights or routing.default in routing.weights
    # Whoever was rolled back answers only if nobody else could.
    if each.canary is not None and routing.default in rolled_back:
        assert available <= rolled_back
    for part in (routing.canary, routing.stable, routing.shadow):
        assert part is None or part in available
    assert routing.stable is None or routing.stable != routing.canary
    assert routing.stable not in rolled_back
