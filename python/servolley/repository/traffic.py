"""What was decided about one model's traffic since it was configured, and what of it the core carries out."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from servolley.config.traffic import MOST_VERSIONS
from servolley.repository.canary import Counts, Decision, Reason, Verdict, Window, counts_of, judge
from servolley.repository.fingerprint import digest_of
from servolley.repository.routing import CanaryState, Routing, route
from servolley.repository.state_file import KeptOutcome, KeptTraffic

if TYPE_CHECKING:
    from servolley._core import Servable, Shadow
    from servolley.config.model import ModelConfig
    from servolley.config.traffic import Canary, Traffic
    from servolley.config.traffic import Shadow as ShadowConfig

_log = logging.getLogger(__name__)


class Shadows(Protocol):
    """What is needed of servolley._core.Engine."""

    def shadow(
        self, servable: "Servable", fraction_ppm: int, max_in_flight: int, max_bytes: int
    ) -> "Shadow": ...


@dataclass(slots=True)
class Judgement:
    """A canary that is being judged: the two servables, their window, and its latest counts."""

    canary: "Servable"
    stable: "Servable"
    began: float
    window: Window
    watched_s: float = 0.0
    counts: tuple[Counts, Counts] = (Counts(), Counts())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a canary. content: the weights that it was; others begin anew."""

    state: CanaryState
    content: object
    verdict: Verdict
    counts: tuple[Counts, Counts] | None


@dataclass(slots=True)
class TrafficRecord:
    """of: the configuration that the rest is about: with another one everything begins anew.

    before: what servers before this one knew, until there is a configuration.
    outcomes: of canaries. known: those of weights that can be recognized, loaded or not.
    by_hand: a split that an administrator set. incumbent: see Routing. awaited: the incumbent of a server
    before, until it is available.
    shadow: the core's, with the servable and the configuration that it is of.
    rollbacks, promotions: ever, by reason and in all.
    """

    before: KeptTraffic | None = None
    of: "tuple[Traffic, Canary | None] | None" = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    known: dict[int, KeptOutcome] = field(default_factory=dict)
    by_hand: dict[int, int] | None = None
    incumbent: int | None = None
    awaited: int | None = None
    judgement: Judgement | None = None
    shadow: "Shadow | None" = None
    shadow_of: "tuple[Servable, ShadowConfig] | None" = None
    rollbacks: Counter[Reason] = field(default_factory=Counter)
    promotions: int = 0

    def configured(self, config: "ModelConfig", on_disk: Collection[int]) -> None:
        """To be called with every configuration, changed or not. on_disk: versions."""
        of = (config.traffic, config.canary)
        if self.of != of:
            before, self.before, self.of = self.before, None, of
            self.reset()
            if before is not None and before.config == self._config_digest():
                self.known, self.by_hand = dict(before.outcomes), before.by_hand
                self.incumbent = self.awaited = before.incumbent
        for version in self.outcomes.keys() - set(on_disk):
            del self.outcomes[version]
        if self.awaited not in on_disk:
            self.awaited = None

    def reset(self) -> None:
        self.outcomes.clear()
        self.known.clear()
        self.by_hand = None
        self.judgement = None
        self.awaited = None

    def routing(self, config: "ModelConfig", available: Collection[int]) -> Routing:
        decided = {version: outcome.state for version, outcome in self.outcomes.items()}
        return route(config, available, decided, incumbent=self.incumbent, by_hand=self.by_hand)

    def judge(
        self, limits: "Canary | None", routing: Routing, available: "Mapping[int, Servable]", now: float
    ) -> Verdict | None:
        """Counts once more, and judges. A judgement begins anew where it would compare other servables. None:
        there is nothing to judge."""
        if limits is None or routing.canary is None or routing.stable is None or not routing.judged:
            self.judgement = None
            return None
        canary, stable = available[routing.canary], available[routing.stable]
        current = self.judgement
        if current is None or current.canary is not canary or current.stable is not stable:
            current = self.judgement = Judgement(canary, stable, now, Window(limits.window_s))
        current.counts = current.window.add(now, counts_of(canary.counts()), counts_of(stable.counts()))
        current.watched_s = now - current.began
        return judge(limits, *current.counts, current.watched_s, current.window.pieces())

    def decide(self, version: int, content: object, verdict: Verdict) -> None:
        """``verdict``: PROMOTE or ROLL_BACK."""
        counts = self.judgement.counts if self.judgement is not None else None
        promoted = verdict.decision is Decision.PROMOTE
        state = CanaryState.PROMOTED if promoted else CanaryState.ROLLED_BACK
        known, before = self.known.pop(version, None), self.outcomes.get(version)
        self.outcomes[version] = Outcome(state, content, verdict, counts)
        if known is not None and before is not None and before.content == content:
            self.keep(version, known.weights)
        self.judgement = None
        self.awaited = None
        if promoted:
            self.by_hand = None
            self.promotions += 1
        elif verdict.reason is not None:
            self.rollbacks[verdict.reason] += 1

    # --- what outlives the server ---

    def unidentified(self) -> list[tuple[int, Outcome]]:
        """Outcomes that cannot be kept, until their weights can be recognized."""
        return [(version, outcome) for version, outcome in self.outcomes.items() if version not in self.known]

    def keep(self, version: int, fingerprint: str) -> None:
        """``fingerprint``: of the weights that the version's outcome is about."""
        outcome = self.outcomes[version]
        reason = None if outcome.verdict.reason is None else outcome.verdict.reason.value
        state: Literal["promoted", "rolled_back"] = (
            "promoted" if outcome.state is CanaryState.PROMOTED else "rolled_back"
        )
        self.known[version] = KeptOutcome(state, fingerprint, reason, outcome.verdict.text)
        gone = sorted(self.known.keys() - self.outcomes.keys())
        for number in gone[: max(0, len(self.known) - MOST_VERSIONS)]:
            del self.known[number]

    def kept(self) -> KeptTraffic | None:
        """For the next server. None: what is configured is all there is."""
        canary = self.of is not None and self.of[1] is not None
        if not canary and self.by_hand is None:
            return None
        incumbent = self.incumbent if canary else None
        return KeptTraffic(self._config_digest(), dict(self.known), incumbent, self.by_hand)

    def recognized(self, version: int, content: object, fingerprint: str) -> CanaryState | None:
        """A version is there whose weights have this fingerprint. Returns what is known about them."""
        known = self.known.get(version)
        if known is None or known.weights != fingerprint:
            self.known.pop(version, None)
            return None
        promoted = known.state == "promoted"
        state = CanaryState.PROMOTED if promoted else CanaryState.ROLLED_BACK
        before = self.outcomes.get(version)
        verdict = Verdict(
            Decision.PROMOTE if promoted else Decision.ROLL_BACK, _reason(known.reason), known.why
        )
        self.outcomes[version] = Outcome(state, content, verdict, None if before is None else before.counts)
        return state

    def _config_digest(self) -> str:
        assert self.of is not None
        traffic, canary = self.of
        changes = None if canary is None else _changes(canary)
        return digest_of([sorted(traffic.split.items()), changes])

    # --- carrying out ---

    def _forget_others(self, weights: Mapping[int, object]) -> None:
        """What was decided about a version holds for the weights that it had."""
        for version, content in weights.items():
            if version in self.outcomes and self.outcomes[version].content != content:
                del self.outcomes[version]

    def needs(self, config: "ModelConfig", on_disk: Collection[int]) -> frozenset[int]:
        """What stays loaded whatever [versions] says: no canary may push away what it is compared with."""
        needed = set() if config.canary is None else {self.incumbent}
        return frozenset(version for version in on_disk if version in needed)

    def carry_out(
        self,
        engine: "Shadows",
        config: "ModelConfig",
        available: "Mapping[int, Servable]",
        weights: Mapping[int, object],
        now: float,
        *,
        arriving: bool = False,
    ) -> "tuple[Routing, Shadow | None]":
        """Makes everything but the routes what it has to be. Returns these, and the shadow that is to be
        closed when they are set. arriving: versions are wanted that are not there yet."""
        self._forget_others(weights)
        routing = self.routing(config, available)
        if self.awaited in available:
            self.awaited = None
        # At a start the first version to be there is not the one that had the requests.
        if routing.default is not None and self.awaited is None and not (arriving and self.incumbent is None):
            self.incumbent = routing.incumbent
        self.judge(config.canary, routing, available, now)
        watched = config.canary is not None and config.canary.max_nonfinite_rate_increase < 1
        for version, servable in available.items():
            servable.watch_outputs(watched and version in routing.judged)
        shadowing = None if routing.shadow is None else available[routing.shadow]
        return routing, self._renew_shadow(engine, config.shadow, shadowing)

    def _renew_shadow(
        self, engine: "Shadows", config: "ShadowConfig | None", servable: "Servable | None"
    ) -> "Shadow | None":
        """Makes ``shadow`` what it has to be. Returns the one that is to be closed when it is no
        longer routed."""
        of = None if config is None or servable is None else (servable, config)
        if self.shadow_of == of:
            return None
        retired, self.shadow, self.shadow_of = self.shadow, None, of
        if of is not None:
            assert config is not None
            ppm = max(1, round(config.fraction * 1_000_000))
            try:
                self.shadow = engine.shadow(of[0], ppm, config.max_in_flight, config.max_memory)
            except RuntimeError as error:  # no thread to be had
                _log.error("no shadow: %s", error, extra={"fields": {"model": of[0].name}})
        return retired


def _changes(config: "Canary") -> dict[str, object]:
    """What is not as it is without being said: a later server may know of more to be said."""
    usual = msgspec.structs.asdict(type(config)())
    return {key: value for key, value in msgspec.structs.asdict(config).items() if value != usual[key]}


def _reason(kept: str | None) -> Reason | None:
    return Reason(kept) if kept in {reason.value for reason in Reason} else None
