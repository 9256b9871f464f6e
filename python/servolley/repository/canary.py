"""Whether a canary is as good as the stable version. Pure: no clock, no core, no state but a window's."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING

from servolley.repository.evidence import evidence_of_mean, evidence_of_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servolley._core import ServableCounts
    from servolley.config.traffic import Canary

# A window remembers so many moments, however long it is.
_MOMENTS = 60
_P99 = 0.99
# Canaries are looked at every second for weeks. Chance gets as far as this about once in ten million looks.
_PROOF = log(1e6)
# Who seems worse by so much is not promoted: two standard deviations.
_DOUBT = 2.0
# A stable version with fewer requests says little about itself; then it is taken to fail less than half of
# them, unless it has been seen to fail more.
_FEW = 10
_PRESUMED_RATE = 0.5


class Decision(Enum):
    KEEP = "keep"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


class Reason(Enum):
    """Why a canary was rolled back."""

    ERROR_RATE = "error_rate"
    NONFINITE = "nonfinite"
    LATENCY = "latency"
    STALLED = "stalled"
    BY_HAND = "by_hand"


@dataclass(frozen=True, slots=True)
class Counts:
    """What one version did in some time. Requests that clients cancelled do not count.

    latency_ns: the sum of the successful requests'. latencies: how many of them lay in each bucket of
    ``bounds_ns``, and above the last. in_flight: requests that are there now.
    """

    requests: int = 0
    errors: int = 0
    nonfinite: int = 0
    latency_ns: int = 0
    latencies: tuple[int, ...] = ()
    bounds_ns: tuple[int, ...] = ()
    in_flight: int = 0

    @property
    def successes(self) -> int:
        return self.requests - self.errors

    def since(self, earlier: "Counts") -> "Counts":
        """What was added to ``earlier``."""
        return Counts(
            self.requests - earlier.requests,
            self.errors - earlier.errors,
            self.nonfinite - earlier.nonfinite,
            self.latency_ns - earlier.latency_ns,
            tuple(now - before for now, before in zip(self.latencies, earlier.latencies, strict=True)),
            self.bounds_ns,
            self.in_flight,
        )

    def mean_ns(self) -> float:
        """Of at least one success."""
        return self.latency_ns / self.successes

    def p99_ns(self) -> float:
        return quantile(self.bounds_ns, self.latencies, _P99)


def counts_of(stats: "ServableCounts") -> Counts:
    errors = stats["fail_count"] - stats["failures"].get("CANCELED", 0)
    latency = stats["request_latency_ns"]
    return Counts(
        stats["success_count"] + errors,
        errors,
        stats["nonfinite_count"],
        stats["success_ns"],
        tuple(latency["counts"]),
        tuple(latency["upper_bounds"]),
        stats["in_flight"],
    )


def quantile(bounds: Sequence[int], counts: Sequence[int], q: float) -> float:
    """Of a histogram that is not empty, as if a bucket's values were spread evenly over it. What lies above
    the last bound counts as that bound."""
    rank = q * sum(counts)
    below = 0
    lower = 0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below += count
        lower = bound
    return float(lower)


def above(bounds: Sequence[int], counts: Sequence[int], value: float) -> float:
    """How many of a histogram's values are larger than ``value``, on the same terms as ``quantile``."""
    found = 0.0
    lower = 0
    for bound, count in zip(bounds, counts, strict=False):
        found += count * min(1.0, max(0.0, (bound - value) / (bound - lower)))
        lower = bound
    return found + (counts[-1] if value < lower else 0)


class Window:
    """The counts of a canary and a stable version over the last ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moments: deque[tuple[float, Counts, Counts]] = deque()
        self._latest = (Counts(), Counts())

    def add(self, now: float, canary: Counts, stable: Counts) -> tuple[Counts, Counts]:
        """The counts ever, at ``now``, which never goes back. Returns what they are in the window."""
        moments = self._moments
        self._latest = (canary, stable)
        if not moments or now - moments[-1][0] >= self._seconds / _MOMENTS:
            moments.append((now, canary, stable))
        while len(moments) > 1 and moments[1][0] <= now - self._seconds:
            moments.popleft()
        _, canary_then, stable_then = moments[0]
        return canary.since(canary_then), stable.since(stable_then)

    def pieces(self) -> "Iterator[tuple[Counts, Counts]]":
        """The window in short times, one after the other."""
        ever = [*((canary, stable) for _, canary, stable in self._moments), self._latest]
        for (canary_then, stable_then), (canary, stable) in pairwise(ever):
            yield canary.since(canary_then), stable.since(stable_then)


@dataclass(frozen=True, slots=True)
class Verdict:
    """text: for people, with the numbers. Empty for KEEP, like reason for all but ROLL_BACK."""

    decision: Decision
    reason: Reason | None = None
    text: str = ""


_KEEP = Verdict(Decision.KEEP)


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """The canary was worse than is allowed in the window; evidence: how sure that makes that it is."""

    reason: Reason
    evidence: float
    text: str


def judge(
    limits: "Canary",
    canary: Counts,
    stable: Counts,
    watched_s: float,
    pieces: Iterable[tuple[Counts, Counts]] = (),
) -> Verdict:
    """canary, stable: what each did in the window. watched_s: how long both have been there together. pieces:
    the same window in short times, which tell how steady latencies are; gone through only if that matters.

    A canary is rolled back for what goes beyond its limits by more than chance makes of two samples of this
    size, however often it is looked at: clients send nonsense to both, and a window may hold few requests of
    either. One that only seems worse is not promoted.
    """
    suspicions = [*_suspicions(limits, canary, stable, pieces)]
    for suspicion in suspicions:
        if suspicion.evidence > _PROOF:
            return Verdict(Decision.ROLL_BACK, suspicion.reason, suspicion.text)
    stable_works = stable.successes >= limits.min_requests
    if watched_s >= limits.window_s and stable_works and canary.requests == 0 and canary.in_flight > 0:
        text = f"{canary.in_flight} requests wait, and none was answered in {limits.window_s:g} s"
        return Verdict(Decision.ROLL_BACK, Reason.STALLED, text)
    few = stable.requests < _FEW
    if any(few or suspicion.evidence > _DOUBT for suspicion in suspicions):
        return _KEEP
    if 0 < limits.promote_after_s <= watched_s and canary.requests >= limits.min_requests:
        return Verdict(Decision.PROMOTE, None, f"nothing amiss in {watched_s:.0f} s")
    return _KEEP


def _suspicions(
    limits: "Canary", canary: Counts, stable: Counts, pieces: Iterable[tuple[Counts, Counts]]
) -> "Iterator[_Suspicion]":
    rates = (
        (Reason.ERROR_RATE, "failed", canary.errors, stable.errors, limits.max_error_rate_increase),
        (
            Reason.NONFINITE,
            "answered with NaN or infinity",
            canary.nonfinite,
            stable.nonfinite,
            limits.max_nonfinite_rate_increase,
        ),
    )
    for reason, what, of_canary, of_stable, increase in rates:
        stable_rate = of_stable / stable.requests if stable.requests else 0.0
        # A few failures among a few requests are no rate yet.
        if of_canary / max(canary.requests, limits.min_requests) - stable_rate <= increase:
            continue
        presumed = stable.requests < _FEW and stable_rate < _PRESUMED_RATE
        evidence = evidence_of_rate(
            of_canary,
            canary.requests,
            of_stable,
            stable.requests,
            increase,
            _PRESUMED_RATE if presumed else 1.0,
        )
        text = (
            f"{of_canary} of {canary.requests} requests {what}, "
            f"{of_stable} of {stable.requests} of the stable version"
        )
        yield _Suspicion(reason, evidence, text)
    yield from _slowness(limits, canary, stable, pieces)


def _slowness(
    limits: "Canary", canary: Counts, stable: Counts, pieces: Iterable[tuple[Counts, Counts]]
) -> "Iterator[_Suspicion]":
    ratio = limits.max_latency_ratio
    if not ratio or min(canary.successes, stable.successes) < limits.min_requests:
        return
    if limits.latency == "p99":
        of_canary, of_stable = canary.p99_ns(), stable.p99_ns()
    else:
        of_canary, of_stable = canary.mean_ns(), stable.mean_ns()
    if of_canary <= ratio * of_stable:
        return
    canary_pieces, stable_pieces = [], []
    for of_canary_then, of_stable_then in pieces:
        canary_pieces.append(of_canary_then)
        stable_pieces.append(of_stable_then)
    if limits.latency == "p99":
        evidence = _evidence_of_tail(
            canary, canary_pieces, stable, stable_pieces, ratio * of_stable, of_stable
        )
    else:
        evidence = evidence_of_mean(
            [(piece.latency_ns, piece.successes) for piece in canary_pieces],
            [(piece.latency_ns, piece.successes) for piece in stable_pieces],
            ratio,
        )
    text = (
        f"{limits.latency} latency {of_canary / 1e6:.3g} ms, {of_stable / 1e6:.3g} ms of the stable version"
    )
    yield _Suspicion(Reason.LATENCY, evidence, text)


def _evidence_of_tail(
    canary: Counts,
    canary_pieces: Sequence[Counts],
    stable: Counts,
    stable_pieces: Sequence[Counts],
    limit_ns: float,
    p99_ns: float,
) -> float:
    """That more of the canary's requests take longer than ``limit_ns`` than of the stable version's take
    longer than their own ``p99_ns``."""

    def slow(counts: Counts, than_ns: float) -> float:
        return above(counts.bounds_ns, counts.latencies, than_ns)

    as_if_apart = evidence_of_rate(
        slow(canary, limit_ns), canary.successes, slow(stable, p99_ns), stable.successes
    )
    as_they_came = evidence_of_mean(
        [(slow(piece, limit_ns), piece.successes) for piece in canary_pieces],
        [(slow(piece, p99_ns), piece.successes) for piece in stable_pieces],
        1.0,
    )
    return min(as_if_apart, as_they_came)
