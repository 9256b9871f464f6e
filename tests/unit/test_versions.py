from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.config.model import Versions
from servolley.repository.records import Failure, VersionRecord
from servolley.repository.versions import Action, Load, State, Unload, aspired_versions, next_actions


@pytest.mark.parametrize(
    ("policy", "aspired"),
    [
        (Versions(), {9}),
        (Versions(latest=2), {5, 9}),
        (Versions(latest=10), {1, 5, 9}),
        (Versions(all=True), {1, 5, 9}),
        (Versions(specific=[1, 2]), {1}),
        (Versions(specific=[7]), set()),
    ],
)
def test_policies(policy: Versions, aspired: set[int]) -> None:
    assert aspired_versions(policy, [5, 1, 9]) == aspired


@pytest.mark.parametrize(
    ("aspired", "states", "failed", "actions"),
    [
        ({1, 2}, {}, (), [Load(2), Load(1)]),  # newest first
        ({2}, {1: State.AVAILABLE}, (), [Load(2)]),  # the old one stays until the new one is there
        ({2}, {1: State.AVAILABLE, 2: State.LOADING}, (), []),
        ({2}, {1: State.AVAILABLE, 2: State.AVAILABLE}, (), [Unload(1)]),
        ({2}, {1: State.AVAILABLE, 2: State.END}, (2,), []),  # the new one failed: the old one stays
        ((), {1: State.AVAILABLE}, (), [Unload(1)]),
        ({1}, {1: State.END}, (), [Load(1)]),  # wanted again after it was unloaded
        ({1}, {1: State.UNLOADING}, (), []),
        ({2}, {1: State.LOADING, 2: State.AVAILABLE}, (), []),  # a load cannot be taken back, only followed
    ],
)
def test_next_actions(
    aspired: set[int], states: dict[int, State], failed: Sequence[int], actions: list[Action]
) -> None:
    assert next_actions(aspired, states, failed) == actions


VERSIONS = st.integers(1, 5)


@given(
    st.lists(
        st.one_of(
            st.sets(VERSIONS),  # a new set of wanted versions
            st.tuples(VERSIONS, st.booleans()),  # a pending load or unload ends, well or not
        ),
        max_size=40,
    )
)
def test_availability_is_preserved_and_everything_settles(events: list[set[int] | tuple[int, bool]]) -> None:
    aspired: set[int] = set()
    records: dict[int, VersionRecord] = {}

    def available() -> set[int]:
        return {v for v, r in records.items() if r.state is State.AVAILABLE}

    def step() -> None:
        before = available()
        failed = [v for v, r in records.items() if r.failure]
        actions = next_actions(aspired, {v: r.state for v, r in records.items()}, failed)
        assert len({action.version for action in actions}) == len(actions)
        for action in actions:
            if isinstance(action, Load):
                old = records.get(action.version)
                assert old is None or old.state is State.END
                assert action.version in aspired
                records[action.version] = VersionRecord(action.version, Path("m"))
                records[action.version].advance(State.LOADING)
            else:
                assert action.version not in aspired
                records[action.version].advance(State.UNLOADING)  # raises unless it was available
        if before and aspired:
            assert available(), "a model that served and is wanted stopped serving"

    def finish(version: int, well: bool) -> None:
        record = records[version]
        if record.state is State.UNLOADING:
            record.advance(State.END)
        elif record.state is State.LOADING and well:
            record.advance(State.AVAILABLE)
        elif record.state is State.LOADING:
            record.fail(Failure("INTERNAL", "no"))

    for event in events:
        if isinstance(event, set):
            aspired = event
        elif event[0] in records:
            finish(*event)
        step()
    for _ in range(4):
        for version in list(records):
            finish(version, True)
        step()
    failed = {v for v, r in records.items() if r.failure}
    assert available() >= aspired - failed
    if aspired - failed or not aspired:
        assert available() == aspired - failed


def test_states_only_move_forward() -> None:
    for start in State:
        for following in State:
            record = VersionRecord(1, Path("m"), state=start)
            if following.value > start.value and (start, following) in {
                (State.START, State.LOADING),
                (State.START, State.END),
                (State.LOADING, State.AVAILABLE),
                (State.LOADING, State.END),
                (State.AVAILABLE, State.UNLOADING),
                (State.UNLOADING, State.END),
            }:
                record.advance(following)
                assert record.state is following
            else:
                with pytest.raises(ValueError, match="cannot go from"):
                    record.advance(following)
