"""What ought to be loaded, and the next step towards it. Pure: no disk, no clock, no threads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from servolley.config.model import Versions


class State(Enum):
    """A version's life. It only ever moves forward; loading again is a new life."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


_NEXT = {
    State.START: {State.LOADING, State.END},
    State.LOADING: {State.AVAILABLE, State.END},
    State.AVAILABLE: {State.UNLOADING},
    State.UNLOADING: {State.END},
    State.END: set[State](),
}


def may_follow(state: State, following: State) -> bool:
    return following in _NEXT[state]


@dataclass(frozen=True, slots=True)
class Load:
    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    version: int


Action = Load | Unload


def aspired_versions(policy: Versions, on_disk: Collection[int]) -> frozenset[int]:
    """The versions that the policy wants of those that exist."""
    if policy.all:
        return frozenset(on_disk)
    if policy.specific:
        return frozenset(policy.specific) & frozenset(on_disk)
    return frozenset(sorted(on_disk, reverse=True)[: policy.latest or 1])


def next_actions(
    aspired: Collection[int], states: Mapping[int, State], failed: Collection[int] = ()
) -> list[Action]:
    """What may be begun now. Begun actions show in ``states`` the next time.

    aspired: versions wanted. states: every version that lives or has lived. failed: versions at END that
    ended in an error, which only a retry brings back.

    Loads come first, newest version first. A version that is no longer wanted keeps serving until a wanted
    one is available; if every wanted one fails, it stays: an old answer beats none.
    """
    actions: list[Action] = [
        Load(version)
        for version in sorted(aspired, reverse=True)
        if states.get(version) in {None, State.END} and version not in failed
    ]
    replaced = not aspired or any(states.get(version) is State.AVAILABLE for version in aspired)
    if replaced:
        actions += [
            Unload(version)
            for version, state in sorted(states.items())
            if state is State.AVAILABLE and version not in aspired
        ]
    return actions
