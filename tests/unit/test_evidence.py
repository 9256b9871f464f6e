"""Evidence of a difference: against the definition, and how far chance gets."""

from __future__ import annotations

from math import exp, inf, lgamma, log, log1p, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.repository.evidence import Mean, evidence_of_mean, evidence_of_rate


def log_likelihood_ratio(hits: int, trials: int, rate: float) -> float:
    """Of the rate that was seen, over ``rate``."""

    def logged(true: float) -> float:
        value = hits * log(true) if hits and true else -inf if hits else 0.0
        return value + ((trials - hits) * log1p(-true) if trials > hits and true < 1 else 0.0)

    return logged(hits / trials) - logged(rate)


@pytest.mark.parametrize(
    ("hits", "trials", "other_hits", "other_trials", "increase"),
    [
        (15, 600, 27, 5400, 0.0),
        (20, 20, 0, 20, 0.0),
        (4, 4, 0, 900, 0.02),
        (3, 7, 1, 9, 0.1),
        (999_000, 1_000_000, 1, 3, 0.5),
        (1, 1, 0, 10**9, 0.0),
    ],
)
def test_the_likeliest_common_rate_is_what_both_are_measured_by(
    hits: int, trials: int, other_hits: int, other_trials: int, increase: float
) -> None:
    least = min(
        log_likelihood_ratio(hits, trials, rate + increase)
        + log_likelihood_ratio(other_hits, other_trials, rate)
        for rate in (*np.geomspace(1e-11, 0.1, 20_001), *np.linspace(0.1, 1 - increase, 20_001)[:-1])
    )
    evidence = evidence_of_rate(hits, trials, other_hits, other_trials, increase)
    assert evidence == pytest.approx(least, rel=2e-3)


@pytest.mark.parametrize(
    ("trials", "other_trials", "rate"),
    [(600, 5400, 0.005), (3000, 3000, 0.005), (5400, 600, 0.05), (100, 900, 0.3), (500, 500, 0.05)],
)
def test_chance_gets_as_far_as_a_million_to_one_once_in_five_million_looks(
    trials: int, other_trials: int, rate: float
) -> None:
    """The sum over all that two versions with the same rate can do."""

    def distribution(number: int) -> list[float]:
        most = min(number, int(number * rate + 9 * sqrt(number * rate) + 30))
        whole = lgamma(number + 1)
        return [
            exp(whole - lgamma(k + 1) - lgamma(number - k + 1) + k * log(rate) + (number - k) * log1p(-rate))
            for k in range(most + 1)
        ]

    ours = distribution(trials)
    tail = np.cumsum(ours[::-1])[::-1]
    chance, hits = 0.0, 0
    for other_hits, probability in enumerate(distribution(other_trials)):
        while hits < len(ours) and evidence_of_rate(hits, trials, other_hits, other_trials) <= log(1e6):
            hits += 1
        chance += probability * tail[hits] if hits < len(ours) else 0.0
    assert chance < 2e-7


numbers = st.integers(0, 10**9)


@given(numbers, numbers, numbers, numbers, st.floats(0, 1), st.sampled_from([0.5, 1.0]))
def test_any_numbers_will_do(
    hits: int, misses: int, other_hits: int, other_misses: int, increase: float, highest: float
) -> None:
    trials, other_trials = hits + misses, other_hits + other_misses
    evidence = evidence_of_rate(hits, trials, other_hits, other_trials, increase, highest)
    assert 0 <= evidence < inf
    if trials and other_trials and hits / trials - increase <= other_hits / other_trials:
        assert evidence == 0


def test_a_mean_is_known_about_as_well_as_its_histogram() -> None:
    values = np.random.default_rng(1).lognormal(0, 1, 10_000) * 1e6
    bounds = [int(50_000 * 2**i) for i in range(18)]
    counts = np.bincount(np.searchsorted(bounds, values), minlength=19).tolist()
    mean = Mean.of(bounds, counts, float(values.sum()))
    assert mean.value == pytest.approx(values.mean())
    # Buckets that double hold more of the small values; the variance is rather too large than too small.
    assert 1 < mean.variance / (values.var() / len(values)) < 1.5


def test_values_above_the_last_bound_are_as_large_as_the_sum_says() -> None:
    mean = Mean.of([10], [99, 1], 99 * 5 + 1000)
    assert mean.variance == pytest.approx((99 * ((5 - mean.value) ** 2 + 100 / 12) + 985.05**2) / 100**2)


def test_means() -> None:
    one, three = Mean(1.0, 0.0), Mean(3.0, 0.5)
    assert evidence_of_mean(three, one, 2.0) == 1.0
    assert evidence_of_mean(three, one, 3.0) == 0.0
    assert evidence_of_mean(Mean(3.0, 0.0), one, 2.0) == inf
