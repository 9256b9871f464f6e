"""The verdict on a canary: a table of cases, and what must hold for any numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.config.traffic import Canary
from servolley.repository.canary import Counts, Decision, Reason, Verdict, Window, counts_of, judge, quantile
from unit import fake_core

BOUNDS = (1_000_000, 2_000_000, 4_000_000)


def counts(requests: int = 0, errors: int = 0, *, ms: float = 1.0, **changes: Any) -> Counts:
    """``ms``: the latency of every success."""
    successes = requests - errors
    buckets = [0, 0, 0, 0]
    buckets[next((i for i, bound in enumerate(BOUNDS) if ms * 1e6 <= bound), 3)] = successes
    values: dict[str, Any] = {
        "latency_ns": int(successes * ms * 1e6),
        "latencies": tuple(buckets),
        "bounds_ns": BOUNDS,
    }
    return Counts(requests, errors, **(values | changes))


def steadily(canary: Counts, stable: Counts) -> list[tuple[Counts, Counts]]:
    """A window in which every second was like the others."""

    def part(ever: Counts, of_30: int) -> Counts:
        return Counts(
            ever.requests * of_30 // 30,
            ever.errors * of_30 // 30,
            ever.nonfinite * of_30 // 30,
            ever.latency_ns * of_30 // 30,
            tuple(count * of_30 // 30 for count in ever.latencies),
            ever.bounds_ns,
        )

    ends = [(part(canary, second), part(stable, second)) for second in range(31)]
    return [(c.since(c_then), s.since(s_then)) for (c_then, s_then), (c, s) in pairwise(ends)]


LIMITS = Canary(version=2, window_s=60, min_requests=100, max_error_rate_increase=0.02, max_latency_ratio=1.5)


def decided(verdict: Verdict) -> tuple[Decision, Reason | None]:
    assert bool(verdict.text) == (verdict.decision is not Decision.KEEP)
    return verdict.decision, verdict.reason


KEEP = (Decision.KEEP, None)
PROMOTE = (Decision.PROMOTE, None)


def back(reason: Reason) -> tuple[Decision, Reason]:
    return Decision.ROLL_BACK, reason


@pytest.mark.parametrize(
    ("canary", "stable", "expected"),
    [
        (counts(), counts(), KEEP),
        (counts(100), counts(900), KEEP),
        # Errors: 2 % are allowed, and besides what chance makes of two samples of this size.
        (counts(100, 2), counts(900), KEEP),
        (counts(100, 12), counts(900), KEEP),
        (counts(100, 13), counts(900), back(Reason.ERROR_RATE)),
        (counts(1000, 47), counts(9000), KEEP),
        (counts(1000, 48), counts(9000), back(Reason.ERROR_RATE)),
        # Nobody waits for 100 requests where almost every one fails.
        (counts(3, 3), counts(900), KEEP),
        (counts(4, 4), counts(900), back(Reason.ERROR_RATE)),
        # The stable version's own errors are what is compared with.
        (counts(100, 33), counts(900, 90), KEEP),
        (counts(100, 34), counts(900, 90), back(Reason.ERROR_RATE)),
        (counts(10_000, 1835), counts(900, 90), KEEP),
        (counts(10_000, 1836), counts(900, 90), back(Reason.ERROR_RATE)),
        # Its sample may be the small one: with 5 % nonsense from clients these are one version twice.
        (counts(40, 2), counts(40), KEEP),
        (counts(40, 7), counts(40), KEEP),
        (counts(40, 18), counts(40), back(Reason.ERROR_RATE)),
        (counts(900, 45), counts(100), KEEP),
        (counts(900, 180), counts(10), KEEP),
        # Without it there is nothing to compare with, and only what is overwhelming counts.
        (counts(100, 30), counts(), KEEP),
        (counts(20, 20), counts(), KEEP),
        (counts(30, 30), counts(), back(Reason.ERROR_RATE)),
        (counts(100, 77), counts(), KEEP),
        (counts(100, 78), counts(), back(Reason.ERROR_RATE)),
        (counts(100, 80), counts(1), back(Reason.ERROR_RATE)),
        (counts(100, 80), counts(2, 2), KEEP),
        # NaN: none is tolerated beyond the stable version's rate, as far as that is known.
        (counts(5, nonfinite=1), counts(900), KEEP),
        (counts(5, nonfinite=3), counts(900), back(Reason.NONFINITE)),
        (counts(100, nonfinite=1), counts(900), KEEP),
        (counts(100, nonfinite=6), counts(900), back(Reason.NONFINITE)),
        (counts(100, nonfinite=4), counts(900, nonfinite=9), KEEP),
        (counts(100, nonfinite=12), counts(900, nonfinite=9), back(Reason.NONFINITE)),
        (counts(600, nonfinite=9), counts(5400, nonfinite=27), KEEP),
        (counts(600, nonfinite=18), counts(5400, nonfinite=27), back(Reason.NONFINITE)),
        (counts(900, nonfinite=900), counts(9, nonfinite=9), KEEP),
        # Latency: only when both have answered enough, and enough for what they differ by.
        (counts(100, ms=3.0), counts(100), back(Reason.LATENCY)),
        (counts(9000, ms=1.6), counts(9000), back(Reason.LATENCY)),
        (counts(9000, ms=1.5), counts(9000), KEEP),
        (counts(99, ms=9.0), counts(100), KEEP),
        (counts(100, ms=9.0), counts(99), KEEP),
        (counts(101, 2, ms=9.0), counts(100), KEEP),  # 99 successes
        # Nothing comes back at all.
        (counts(in_flight=1), counts(100), back(Reason.STALLED)),
        (counts(in_flight=1), counts(99), KEEP),
        (counts(1, in_flight=1), counts(100), KEEP),
        (counts(in_flight=0), counts(100), KEEP),
    ],
)
def test_the_table(canary: Counts, stable: Counts, expected: object) -> None:
    assert decided(judge(LIMITS, canary, stable, 60, steadily(canary, stable))) == expected


@pytest.mark.parametrize(
    ("canary", "stable", "expected"),
    [
        (counts(4, 4), counts(900), back(Reason.ERROR_RATE)),
        (counts(100, 9), counts(900), KEEP),
        (counts(100, 10), counts(900), back(Reason.ERROR_RATE)),
        (counts(40, 2), counts(40), KEEP),
        (counts(100, nonfinite=5), counts(900), KEEP),
        (counts(100, nonfinite=6), counts(900), back(Reason.NONFINITE)),
        (counts(600, nonfinite=17), counts(5400, nonfinite=27), KEEP),
        (counts(600, nonfinite=18), counts(5400, nonfinite=27), back(Reason.NONFINITE)),
        (counts(20, 20), counts(), KEEP),
        (counts(25, 25), counts(), back(Reason.ERROR_RATE)),
        (counts(100, 80), counts(), back(Reason.ERROR_RATE)),
    ],
)
def test_the_table_in_the_readme(canary: Counts, stable: Counts, expected: object) -> None:
    assert decided(judge(Canary(), canary, stable, watched_s=60)) == expected


def test_a_stall_takes_a_whole_window() -> None:
    assert decided(judge(LIMITS, counts(in_flight=1), counts(100), watched_s=59)) == KEEP


@pytest.mark.parametrize(
    ("requests", "watched_s", "expected"), [(100, 120, PROMOTE), (99, 120, KEEP), (100, 119, KEEP)]
)
def test_promotion_takes_time_and_requests(requests: int, watched_s: float, expected: object) -> None:
    limits = Canary(version=2, min_requests=100, promote_after_s=120)
    assert decided(judge(limits, counts(requests), counts(900), watched_s)) == expected


@pytest.mark.parametrize(
    ("canary", "stable", "expected"),
    [
        (counts(100, 2), counts(900), PROMOTE),  # as is allowed
        (counts(100, 3), counts(900), PROMOTE),  # hardly more
        (counts(100, 9), counts(900), KEEP),  # it may be worse, and that is not known yet
        (counts(100, nonfinite=3), counts(900), KEEP),
        (counts(100, 3), counts(), KEEP),
    ],
)
def test_what_only_seems_worse_is_not_promoted(canary: Counts, stable: Counts, expected: object) -> None:
    limits = msgspec.structs.replace(LIMITS, promote_after_s=10)
    assert decided(judge(limits, canary, stable, watched_s=60)) == expected


def test_what_is_not_limited_is_not_looked_at() -> None:
    lax = Canary(max_error_rate_increase=1, max_nonfinite_rate_increase=1, max_latency_ratio=0)
    bad, good = counts(1000, 900, ms=50, nonfinite=1000), counts(1000)
    assert decided(judge(lax, bad, good, 0, steadily(bad, good))) == KEEP


def test_p99() -> None:
    limits = Canary(latency="p99", max_latency_ratio=1.5, min_requests=100)

    def found(canary: Counts) -> tuple[Decision, Reason | None]:
        stable = counts(canary.requests)
        return decided(judge(limits, canary, stable, 0, steadily(canary, stable)))

    # 6 % between 2 and 4 ms, which the mean does not show.
    assert found(counts(1000, latencies=(940, 0, 60, 0))) == back(Reason.LATENCY)
    assert found(counts(1000, latencies=(985, 0, 15, 0))) == KEEP
    assert found(counts(1000, latencies=(995, 0, 5, 0))) == KEEP
    assert found(counts(100_000, latencies=(98_500, 0, 1500, 0))) == back(Reason.LATENCY)


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ((10, 0, 0, 0), 0.5, 500_000),
        ((0, 10, 0, 0), 0.5, 1_500_000),
        ((50, 0, 50, 0), 0.99, 3_960_000),
        ((0, 0, 0, 7), 0.99, 4_000_000),
        ((1, 0, 0, 0), 1.0, 1_000_000),
    ],
)
def test_quantiles(buckets: tuple[int, ...], q: float, expected: float) -> None:
    assert quantile(BOUNDS, buckets, q) == pytest.approx(expected)


def test_what_counts_of_the_cores_statistics() -> None:
    failures = {"REJECTED": 2, "CANCELED": 5, "BACKEND": 1, "OTHER": 1}
    found = counts_of(
        cast(Any, fake_core.stats(fail_count=9, failures=failures, nonfinite_count=3, in_flight=4))
    )
    assert (found.requests, found.errors, found.nonfinite, found.in_flight) == (6 + 4, 4, 3, 4)
    assert (found.latencies, found.bounds_ns) == ((1, 2, 3), (50_000, 100_000))


# --- for any numbers

numbers = st.integers(0, 2000)
limits = st.builds(
    Canary,
    version=st.just(2),
    min_requests=st.integers(1, 500),
    max_error_rate_increase=st.floats(0, 1),
    max_nonfinite_rate_increase=st.floats(0, 1),
    max_latency_ratio=st.sampled_from([0.0, 1.0, 1.5, 3.0]),
    latency=st.sampled_from(["mean", "p99"]),
    promote_after_s=st.sampled_from([0.0, 10.0]),
)


@st.composite
def any_counts(draw: st.DrawFn) -> Counts:
    requests = draw(numbers)
    errors = draw(st.integers(0, requests))
    bad = draw(st.integers(0, requests - errors))
    ms = draw(st.floats(0.001, 10))
    return counts(requests, errors, ms=ms, nonfinite=bad, in_flight=draw(st.integers(0, 9)))


@given(limits, any_counts(), st.floats(0, 100))
def test_a_version_is_never_worse_than_itself(limits: Canary, same: Counts, watched_s: float) -> None:
    """Two versions that did the same: whatever they did, it is no reason to roll back."""
    verdict = judge(limits, same, same, watched_s, steadily(same, same))
    assert verdict.decision is not Decision.ROLL_BACK


@given(limits, any_counts(), any_counts(), st.integers(1, 50), st.floats(0, 100))
def test_more_errors_never_save_a_canary(
    limits: Canary, canary: Counts, stable: Counts, more: int, watched_s: float
) -> None:
    if judge(limits, canary, stable, watched_s).reason is Reason.ERROR_RATE:
        worse = counts(canary.requests + more, canary.errors + more)
        assert judge(limits, worse, stable, watched_s).reason is Reason.ERROR_RATE


@given(limits, any_counts(), any_counts(), st.floats(0, 100))
def test_nobody_is_blamed_for_what_nobody_did(
    limits: Canary, canary: Counts, stable: Counts, watched_s: float
) -> None:
    verdict = judge(limits, canary, stable, watched_s, steadily(canary, stable))
    assert verdict.reason is not Reason.ERROR_RATE or canary.errors > 0
    assert verdict.reason is not Reason.NONFINITE or canary.nonfinite > 0
    assert verdict.reason is not Reason.LATENCY or limits.max_latency_ratio > 0
    if verdict.decision is Decision.PROMOTE:
        assert 0 < limits.promote_after_s <= watched_s
        assert canary.requests >= limits.min_requests


# --- for so long


Rates = tuple[float, float]  # of errors, and of answers that hold NaN


class Watched:
    """Two versions that are looked at every second, under clients that have no pattern."""

    def __init__(self, limits: Canary, seed: int, requests_per_s: float = 300) -> None:
        self._limits = limits
        self._random = np.random.default_rng(seed)
        self._requests_per_s = requests_per_s

    def decision(self, seconds: int, canary: Rates, stable: Rates) -> tuple[Decision, Reason | None]:
        """The first, if there is any in that time."""
        share = self._limits.weight / 100
        sides = [
            self._ever(seconds, self._requests_per_s * share, canary),
            self._ever(seconds, self._requests_per_s * (1 - share), stable),
        ]
        window = Window(self._limits.window_s)
        for second, ever in enumerate(zip(*sides, strict=True)):
            verdict = judge(self._limits, *window.add(second, *ever), second)
            if verdict.decision is not Decision.KEEP:
                return decided(verdict)
        return KEEP

    def _ever(self, seconds: int, requests_per_s: float, rates: Rates) -> list[Counts]:
        requests = self._random.poisson(requests_per_s, seconds)
        errors = self._random.binomial(requests, rates[0])
        nonfinite = self._random.binomial(requests - errors, rates[1])
        columns = (np.cumsum(column).tolist() for column in (requests, errors, nonfinite))
        return [Counts(*row) for row in zip(*columns, strict=True)]


STRICT = Canary(
    window_s=60, max_error_rate_increase=0, max_nonfinite_rate_increase=0, max_latency_ratio=0, weight=10
)
DAY = 86_400


@pytest.mark.parametrize("weight", [10, 50, 90])
@pytest.mark.parametrize("requests_per_s", [300, 2])
def test_chance_rolls_nobody_back_in_a_day(weight: int, requests_per_s: float) -> None:
    limits = msgspec.structs.replace(STRICT, weight=weight, min_requests=20)
    some = (0.05, 0.005)
    for rates in (some, some[::-1]) if requests_per_s < 10 else (some,):
        assert Watched(limits, weight, requests_per_s).decision(DAY, rates, rates) == KEEP


@pytest.mark.parametrize("weight", [10, 50, 90])
@pytest.mark.parametrize("rate", [0.005, 0.05])
def test_five_times_worse_goes_within_two_windows(rate: float, weight: int) -> None:
    limits = msgspec.structs.replace(STRICT, weight=weight)
    for seed in range(20):
        failing = Watched(limits, seed).decision(120, (5 * rate, rate), (rate, rate))
        assert failing == back(Reason.ERROR_RATE)
        not_a_number = Watched(limits, seed).decision(120, (rate, 5 * rate), (rate, rate))
        assert not_a_number == back(Reason.NONFINITE)


class Batches:
    """Latencies of a version that runs batches of 16, each as long as the law says."""

    bounds = tuple(int(50_000 * 2**i) for i in range(18))

    def __init__(
        self, law: Callable[[np.random.Generator, int], Any], seed: int, batches_per_s: float
    ) -> None:
        self._law, self._random, self._batches_per_s = law, np.random.default_rng(seed), batches_per_s

    def ever(self, seconds: int) -> list[Counts]:
        """From second to second."""
        found, ever, buckets = [], Counts(), np.zeros(19, int)
        for _ in range(seconds):
            latencies = 1e6 * self._law(self._random, self._random.poisson(self._batches_per_s))
            buckets += 16 * np.bincount(np.searchsorted(self.bounds, latencies), minlength=19)
            ever = Counts(
                ever.requests + 16 * len(latencies),
                latency_ns=ever.latency_ns + 16 * int(latencies.sum()),
                latencies=tuple(buckets.tolist()),
                bounds_ns=self.bounds,
            )
            found.append(ever)
        return found


def stalls(random: np.random.Generator, batches: int) -> Any:
    """1 ms, and 50 for one in fifty."""
    return np.where(random.random(batches) < 0.02, 50.0, 1.0)


def long_tail(random: np.random.Generator, batches: int) -> Any:
    return random.lognormal(0, 1, batches)


def latency_decision(limits: Canary, canary: list[Counts], stable: list[Counts]) -> object:
    window = Window(limits.window_s)
    for second, ever in enumerate(zip(canary, stable, strict=True)):
        verdict = judge(limits, *window.add(second, *ever), second, window.pieces())
        if verdict.decision is not Decision.KEEP:
            return decided(verdict)
    return KEEP


@pytest.mark.parametrize("latency", ["mean", "p99"])
@pytest.mark.parametrize("law", [stalls, long_tail])
@pytest.mark.parametrize("weight", [10, 50, 90])
def test_neither_do_latencies(law: Any, weight: int, latency: Any) -> None:
    """Of requests that hang together, with a rare stall or a long tail, and the canary like the stable
    version."""
    limits = Canary(max_latency_ratio=1.2, latency=latency, window_s=60, weight=weight)
    canary, stable = Batches(law, 1, 0.2 * weight).ever(4000), Batches(law, 2, 20 - 0.2 * weight).ever(4000)
    assert latency_decision(limits, canary, stable) == KEEP


@pytest.mark.parametrize(("latency", "times", "batches_per_s"), [("mean", 5, 60), ("p99", 8, 200)])
@pytest.mark.parametrize("weight", [10, 50, 90])
def test_what_is_many_times_slower_goes_within_two_windows(
    weight: int, latency: Any, times: float, batches_per_s: float
) -> None:
    limits = Canary(max_latency_ratio=2, latency=latency, window_s=60, weight=weight)
    part = weight / 100
    slow = Batches(lambda random, batches: times * long_tail(random, batches), 3, batches_per_s * part)
    stable = Batches(long_tail, 4, batches_per_s * (1 - part))
    assert latency_decision(limits, slow.ever(120), stable.ever(120)) == back(Reason.LATENCY)


def test_one_long_stall_is_no_latency() -> None:
    limits = Canary(max_latency_ratio=2, window_s=60)
    quick = Batches(lambda _, batches: np.ones(batches), 1, 5)
    canary = quick.ever(300)
    stalled = [
        dataclasses.replace(ever, latency_ns=ever.latency_ns + (second >= 100) * 16 * 5_000_000_000)
        for second, ever in enumerate(canary)
    ]
    assert latency_decision(limits, stalled, quick.ever(300)) == KEEP


def test_what_is_slower_from_the_beginning_goes_in_seconds() -> None:
    limits = Canary(max_latency_ratio=2, window_s=60)
    quick = Batches(lambda random, batches: random.uniform(1, 2, batches), 1, 20)
    slow = Batches(lambda random, batches: random.uniform(4, 8, batches), 2, 20)
    assert latency_decision(limits, slow.ever(10), quick.ever(10)) == back(Reason.LATENCY)


# --- the window


def test_a_window_forgets() -> None:
    window = Window(10)
    for second in range(31):
        ever = counts(second * 10, 5 if second >= 3 else 0)
        canary, stable = window.add(float(second), ever, counts(second * 100))
        assert canary.requests == min(second, 10) * 10
        assert stable.requests == min(second, 10) * 100
        assert canary.errors == (5 if 3 <= second < 13 else 0)


def test_a_window_begins_with_what_was_before() -> None:
    window = Window(10)
    assert window.add(100.0, counts(7, 7), counts(9))[0].requests == 0
    assert window.add(101.0, counts(8, 7), counts(9))[0] == counts(1)


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=400), st.sampled_from([1.0, 5.0, 60.0]))
def test_a_window_is_as_long_as_it_says_and_small(steps: list[float], seconds: float) -> None:
    window = Window(seconds)
    now = 0.0
    times = []
    for requests, step in enumerate(steps, 1):
        now += step
        times.append(now)
        canary, _ = window.add(now, counts(requests), counts())
        # Whatever is younger than the window is in it; nothing is that is older by more than its grain.
        younger = sum(1 for time in times[1:] if time > now - seconds)
        longest = seconds * (1 + 1 / 60) + max(steps)
        assert younger <= canary.requests <= sum(1 for time in times if time > now - longest)
        assert len(window._moments) <= 62
