"""What ought to be loaded, and the next step towards it. Pure: no disk, no clock, no threads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from servolley.config.model import Versions

NO_VERSION = "at least one version must be available under the version policy"
UNKEPT_VERSION = "[traffic], [canary] or [shadow] names a version that [versions] does not keep"


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
class Reload:
    """Another life of a version that is available: loaded beside it, then put in its place."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    version: int


Action = Load | Reload | Unload


def aspired_versions(policy: Versions, on_disk: Collection[int]) -> frozenset[int]:
    """The versions that the policy wants of those that exist."""
    if policy.all:
        return frozenset(on_disk)
    if policy.specific:
        return frozenset(policy.specific) & frozenset(on_disk)
    return frozenset(sorted(on_disk, reverse=True)[: policy.latest or 1])


@dataclass(frozen=True, slots=True)
class Situation:
    """One model at one moment.

    aspired: versions wanted. states: every version that lives or has lived.
    failed: versions at END that ended in an error and have not changed on disk since; only a retry brings
        them back.
    stale: available versions that lie on disk with another content by now, which has not failed to load.
    reloading: versions beside which another life is being loaded, whether they are still available or not.
    """

    aspired: Collection[int]
    states: Mapping[int, State]
    failed: Collection[int] = ()
    stale: Collection[int] = ()
    reloading: Collection[int] = ()


def next_actions(now: Situation, *, spare_memory: bool = False) -> list[Action]:
    """What may be begun now. Begun actions show in the next situation.

    Loads come first, newest version first. As many versions stay available as are wanted and can be loaded,
    and at least one: an old answer beats none. ``spare_memory`` turns that round: whatever is not wanted, or
    not as it is, goes first, and nothing is loaded before it has gone. Where a reload is under way, from when
    that did not hold yet, what it takes the place of can only go when it is over.
    """
    available = {version for version, state in now.states.items() if state is State.AVAILABLE}
    unwanted = sorted(available - set(now.aspired) - set(now.reloading))
    outdated = sorted(available & set(now.aspired) & set(now.stale) - set(now.reloading), reverse=True)
    loads = [
        Load(version)
        for version in sorted(now.aspired, reverse=True)
        if now.states.get(version) in {None, State.END}
        and version not in now.failed
        and version not in now.reloading
    ]
    if spare_memory:
        leaving: list[Action] = [Unload(version) for version in (*unwanted, *outdated)]
        if leaving or now.reloading or State.UNLOADING in now.states.values():
            return leaving
        return [*loads]
    promised = max(1, len(set(now.aspired) - set(now.failed))) if now.aspired else 0
    dispensable = max(0, len(available) - promised)
    return [
        *loads,
        *(Reload(version) for version in outdated),
        *(Unload(version) for version in unwanted[:dispensable]),
    ]


def routable_labels(
    wanted: Mapping[str, int], available: Collection[int], routed: Mapping[str, int]
) -> dict[str, int]:
    """Label -> version, of available versions only.

    wanted: as configured; a version may still be on its way. routed: where each label points now: there it
    stays as long as it can, until its version is available.
    """
    labels = {}
    for label, version in wanted.items():
        for candidate in (version, routed.get(label)):
            if candidate is not None and candidate in available:
                labels[label] = candidate
                break
    return labels
