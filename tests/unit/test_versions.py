from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servolley.config.model import Versions
from servolley.repository.records import Failure, VersionRecord
from servolley.repository.versions import (
    Action,
    Load,
    Reload,
    Situation,
    State,
    Unload,
    aspired_versions,
    next_actions,
    routable_labels,
)

START, LOADING, AVAILABLE, UNLOADING, END = State


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
    ("now", "actions"),
    [
        (Situation({1, 2}, {}), [Load(2), Load(1)]),  # newest first
        (Situation({2}, {1: AVAILABLE}), [Load(2)]),  # the old one stays until the new one is there
        (Situation({2}, {1: AVAILABLE, 2: LOADING}), []),
        (Situation({2}, {1: AVAILABLE, 2: AVAILABLE}), [Unload(1)]),
        # The new one failed: the old one stays.
        (Situation({2}, {1: AVAILABLE, 2: END}, failed={2}), []),
        (Situation((), {1: AVAILABLE}), [Unload(1)]),
        (Situation({1}, {1: END}), [Load(1)]),  # wanted again after it was unloaded
        (Situation({1}, {1: UNLOADING}), []),
        # A load cannot be taken back, only followed.
        (Situation({2}, {1: LOADING, 2: AVAILABLE}), []),
        # Two are promised: one old version goes for each new one.
        (Situation({3, 4}, {1: AVAILABLE, 2: AVAILABLE, 3: LOADING, 4: AVAILABLE}), [Unload(1)]),
        (Situation({3, 4}, {2: AVAILABLE, 3: AVAILABLE, 4: AVAILABLE}), [Unload(2)]),
        # Who will not come is not waited for.
        (
            Situation({3, 4}, {1: AVAILABLE, 2: AVAILABLE, 3: END, 4: AVAILABLE}, failed={3}),
            [Unload(1), Unload(2)],
        ),
        # More are promised than there were: nothing goes until they are there.
        (Situation({3, 4}, {1: AVAILABLE, 3: LOADING, 4: AVAILABLE}), []),
        (Situation({1}, {1: AVAILABLE}, stale={1}), [Reload(1)]),
        (Situation({1}, {1: AVAILABLE}, stale={1}, reloading={1}), []),
        (Situation({2}, {1: AVAILABLE, 2: AVAILABLE}, reloading={1}), []),
        # Its device has failed while another life was being loaded beside it.
        (Situation({1}, {1: UNLOADING}, reloading={1}), []),
        (Situation({1}, {1: END}, reloading={1}), []),
        (Situation({1}, {1: END}, failed={1}, reloading={1}), []),
        (Situation({2}, {1: AVAILABLE, 2: AVAILABLE}, stale={1}), [Unload(1)]),
    ],
)
def test_next_actions(now: Situation, actions: list[Action]) -> None:
    assert next_actions(now) == actions


@pytest.mark.parametrize(
    ("now", "actions"),
    [
        (Situation({2}, {1: AVAILABLE}), [Unload(1)]),
        (Situation({2}, {1: UNLOADING}), []),
        (Situation({2}, {1: END}), [Load(2)]),
        (Situation({1}, {1: AVAILABLE}, stale={1}), [Unload(1)]),
        (Situation({2}, {1: AVAILABLE}, reloading={1}), []),
        (Situation({1, 2}, {1: AVAILABLE}), [Load(2)]),
    ],
)
def test_next_actions_that_spare_memory(now: Situation, actions: list[Action]) -> None:
    assert next_actions(now, spare_memory=True) == actions


@pytest.mark.parametrize(
    ("wanted", "available", "routed", "labels"),
    [
        ({"a": 1, "b": 1}, {1}, {}, {"a": 1, "b": 1}),
        ({"a": 2}, {1}, {}, {}),  # still loading
        ({"a": 2}, {1}, {"a": 1}, {"a": 1}),  # moved to a version that is still loading
        ({"a": 2}, {1, 2}, {"a": 1}, {"a": 2}),
        ({"a": 2}, {3}, {"a": 1}, {}),
        ({}, {1}, {"a": 1}, {}),  # taken away
    ],
)
def test_labels(
    wanted: dict[str, int], available: set[int], routed: dict[str, int], labels: dict[str, int]
) -> None:
    assert routable_labels(wanted, available, routed) == labels


@dataclass
class World:
    """A model under a history of its disk and its configuration, carried out as the manager does."""

    spare_memory: bool
    disk: dict[int, int] = field(default_factory=dict)  # version -> content
    policy: Versions = field(default_factory=Versions)
    lives: dict[int, VersionRecord] = field(default_factory=dict)
    contents: dict[int, int] = field(default_factory=dict)
    replacements: dict[int, tuple[VersionRecord, int]] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    leaving: list[VersionRecord] = field(default_factory=list)
    handles: dict[int, int] = field(default_factory=dict)  # by the identity of a life
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def aspired(self) -> frozenset[int]:
        return aspired_versions(self.policy, self.disk)

    @property
    def available(self) -> set[int]:
        return {version for version, life in self.lives.items() if life.state is AVAILABLE}

    @property
    def failed(self) -> set[int]:
        return {
            version
            for version, life in self.lives.items()
            if life.failure is not None and self.contents[version] == self.disk.get(version)
        }

    def step(self) -> None:
        before, aspired = self.available, self.aspired
        situation = Situation(
            aspired,
            {version: life.state for version, life in self.lives.items()},
            self.failed,
            {
                version
                for version in self.available & aspired
                if self.disk[version] not in {self.contents[version], self.refused.get(version)}
            },
            self.replacements,
        )
        actions = next_actions(situation, spare_memory=self.spare_memory)
        assert len({action.version for action in actions}) == len(actions)
        for action in actions:
            self.carry_out(action)
        promised = min(len(before), max(1, len(aspired - self.failed))) if aspired else 0
        if not self.spare_memory:
            assert len(self.available) >= promised, "fewer versions than promised"
        elif actions and any(isinstance(action, Load) for action in actions):
            assert not self.available - aspired, "loaded while something could still go"
            assert not any(life.state is UNLOADING for life in self.lives.values())
        self.labels = routable_labels(self.policy.labels, self.available, self.labels)
        assert set(self.labels.values()) <= self.available, "routed to a version that is not available"

    def carry_out(self, action: Action) -> None:
        version = action.version
        if isinstance(action, Unload):
            self.lives[version].advance(UNLOADING)  # raises unless it was available
            assert version not in self.replacements
            return
        assert version in self.aspired
        life = VersionRecord(version, Path("m"))
        life.advance(LOADING)
        if isinstance(action, Reload):
            assert self.lives[version].state is AVAILABLE
            assert version not in self.replacements
            self.replacements[version] = (life, self.disk[version])
        else:
            assert version not in self.lives or self.lives[version].state is END
            assert version not in self.replacements, "loaded twice"
            self.lives[version], self.contents[version] = life, self.disk[version]

    def finish(self, version: int, well: bool) -> None:
        """What is under way for that version ends, if nothing holds it back."""
        for life in [life for life in self.leaving if life.version == version]:
            self.let_go(life)
        if version in self.replacements:
            life, content = self.replacements.pop(version)
            if well:
                life.advance(AVAILABLE)
                replaced = self.lives[version]
                if replaced.state is AVAILABLE:
                    replaced.advance(UNLOADING)
                if replaced.state is UNLOADING:
                    self.leaving.append(replaced)
                self.lives[version], self.contents[version] = life, content
            else:
                life.fail(Failure("INTERNAL", "no"))
                self.refused[version] = content
            return
        current = self.lives.get(version)
        if current is None:
            return
        if current.state is UNLOADING:
            self.let_go(current)
        elif current.state is LOADING and well:
            current.advance(AVAILABLE)
        elif current.state is LOADING:
            current.fail(Failure("INTERNAL", "no"))

    def let_go(self, life: VersionRecord) -> None:
        if self.handles.get(id(life), 0) == 0:  # an unload waits for its last handle
            life.advance(END)
            if life in self.leaving:
                self.leaving.remove(life)

    def fail_device(self, version: int) -> None:
        """What serves answers nothing any more, and goes."""
        if version in self.available:
            life = self.lives[version]
            life.failure = Failure("INTERNAL", "the device has failed")
            life.advance(UNLOADING)
            self.let_go(life)

    def take_handle(self, version: int) -> None:
        if version in self.available:
            life = self.lives[version]
            self.handles[id(life)] = self.handles.get(id(life), 0) + 1

    def drop_handles(self) -> None:
        for life in [*self.lives.values(), *self.leaving]:
            if self.handles.get(id(life), 0):
                assert life.state in {AVAILABLE, UNLOADING}, "a model went while somebody used it"
        self.handles.clear()


VERSIONS = st.integers(1, 5)
POLICIES = st.one_of(
    st.builds(Versions, latest=st.integers(1, 3), labels=st.dictionaries(st.sampled_from("ab"), VERSIONS)),
    st.builds(Versions, all=st.just(True), labels=st.dictionaries(st.sampled_from("ab"), VERSIONS)),
    st.builds(Versions, specific=st.lists(VERSIONS, min_size=1, max_size=3)),
)
EVENTS = st.one_of(
    st.tuples(st.just("disk"), st.dictionaries(VERSIONS, st.integers(0, 2))),
    st.tuples(st.just("policy"), POLICIES),
    st.tuples(st.just("well"), VERSIONS),
    st.tuples(st.just("badly"), VERSIONS),
    st.tuples(st.just("device"), VERSIONS),
    st.tuples(st.just("handle"), VERSIONS),
    st.tuples(st.just("drop"), st.none()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=60), st.booleans())
def test_any_history_keeps_the_promises_and_settles(
    events: list[tuple[str, Any]], spare_memory: bool
) -> None:
    world = World(spare_memory)
    for kind, value in events:
        match kind:
            case "disk":
                world.disk = value
            case "policy":
                world.policy = value
            case "well" | "badly":
                world.finish(value, kind == "well")
            case "device":
                world.fail_device(value)
            case "handle":
                world.take_handle(value)
            case "drop":
                world.drop_handles()
        world.step()
    world.drop_handles()
    for _ in range(8):
        for version in range(1, 6):
            world.finish(version, True)
        world.step()
    expected = world.aspired - world.failed
    assert world.available >= expected
    assert not world.replacements
    assert not world.leaving
    if expected or not world.aspired or spare_memory:
        assert world.available == expected
    for version in expected:
        assert world.disk[version] in {world.contents[version], world.refused.get(version)}
    assert all(
        world.labels.get(label) == version
        for label, version in world.policy.labels.items()
        if version in world.available
    )


def test_states_only_move_forward() -> None:
    for start in State:
        for following in State:
            record = VersionRecord(1, Path("m"), state=start)
            if (start, following) in {
                (START, LOADING),
                (START, END),
                (LOADING, AVAILABLE),
                (LOADING, END),
                (AVAILABLE, UNLOADING),
                (UNLOADING, END),
            }:
                record.advance(following)
                assert record.state is following
            else:
                with pytest.raises(ValueError, match="cannot go from"):
                    record.advance(following)
