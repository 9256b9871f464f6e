"""Where requests that name neither a version nor a label go. Pure: what is configured, available and decided
goes in, weights come out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from servolley.config.model import ModelConfig


class CanaryState(Enum):
    WAITING = "waiting"  # one of the two is not available
    JUDGING = "judging"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class Routing:
    """default: where requests go that are not split, None if nothing is available.
    weights: of available versions; empty if everything goes to the default.
    canary, stable, shadow: available versions in these parts. state: None without a canary.
    """

    default: int | None = None
    weights: Mapping[int, int] = field(default_factory=dict)
    canary: int | None = None
    stable: int | None = None
    state: CanaryState | None = None
    shadow: int | None = None

    @property
    def split(self) -> Mapping[int, int]:
        """For the core: one version alone is no split."""
        return self.weights if len(self.weights) > 1 else {}

    @property
    def incumbent(self) -> int | None:
        """The version that is trusted: what the next canary will have to compare with."""
        trusted = self.state in {CanaryState.JUDGING, CanaryState.ROLLED_BACK} and self.stable is not None
        return self.stable if trusted else self.default

    @property
    def judged(self) -> frozenset[int]:
        """The versions that are being compared."""
        if self.state is not CanaryState.JUDGING or self.canary is None or self.stable is None:
            return frozenset()
        return frozenset({self.canary, self.stable})


def route(
    config: "ModelConfig",
    available: Collection[int],
    decided: Mapping[int, CanaryState],
    *,
    incumbent: int | None = None,
    by_hand: Mapping[int, int] | None = None,
) -> Routing:
    """decided: versions that have been promoted or rolled back. incumbent: Routing.incumbent until now.
    by_hand: a split that an administrator set, over what is configured.

    A version that is not available leaves its share to the others, and where none of them is there, another
    answers: the canary, the shadow's version and what was rolled back only if there is nothing else. A canary
    is compared with the version that is configured, the incumbent, or the highest other one.
    """
    if not available:
        return Routing()
    rolled_back = {v for v, state in decided.items() if state is CanaryState.ROLLED_BACK}
    canary_config, shadow_config = config.canary, config.shadow
    shadow = _resolve(shadow_config.version, available) if shadow_config else None
    canary = None
    if canary_config:
        # A version that only ever is the shadow is nobody's canary.
        shadow_only = {shadow} if shadow_config and shadow_config.version != "latest" else set()
        canary = _resolve(canary_config.version, set(available) - shadow_only)

    def preference(version: int) -> tuple[bool, bool, bool, int]:
        return (version not in rolled_back, version != canary, version != shadow, version)

    ranked = sorted(available, key=preference, reverse=True)
    state, stable = None, None
    wanted: Mapping[int, int] = config.traffic.split
    if canary_config:
        candidates = (canary_config.stable, incumbent, *ranked)
        fit = set(available) - rolled_back - {canary}
        stable = next((v for v in candidates if v in fit), None)
        state = CanaryState.WAITING
        wanted = {} if stable is None else {stable: 1}
        if canary is not None and stable is not None:
            state = decided.get(canary, CanaryState.JUDGING)
            if state is CanaryState.JUDGING:
                wanted = {stable: 100 - canary_config.weight, canary: canary_config.weight}
            elif state is CanaryState.PROMOTED:
                wanted = {canary: 1}
    if by_hand is not None:
        wanted = by_hand
    weights = {
        version: weight
        for version, weight in sorted(wanted.items())
        if weight > 0 and version in available and version not in rolled_back
    }
    default = max(weights, key=lambda v: (weights[v], v)) if weights else ranked[0]
    return Routing(default, weights, canary, stable, state, shadow)


def _resolve(version: int | Literal["latest"], available: Collection[int]) -> int | None:
    if version == "latest":
        return max(available, default=None)
    return version if version in available else None
