"""Evidence of a difference: against the definition, and how far chance gets."""

from __future__ import annotations

from math import exp, inf, lgamma, log, log1p, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.repository.evidence import evidence_of_mean, evidence_of_rate


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


def test_a_mean_is_known_as_well_as_its_pieces_agree() -> None:
    steady = [(200.0, 100)] * 30
    assert evidence_of_mean(steady, steady, 1.0) == 0.0
    assert evidence_of_mean(steady, steady, 0.5) == inf
    random = np.random.default_rng(1)
    pieces, others = ([(float(x), 100) for x in random.normal(200, 10, 30)] for _ in range(2))
    apart = evidence_of_mean(pieces, others, 0.9)
    # z is 20 over the root of two variances, 10**2 / 30 and as much again.
    z = np.mean([x for x, _ in pieces]) - 0.9 * np.mean([x for x, _ in others])
    z /= sqrt(2 * np.var([x for x, _ in pieces], ddof=1) / 30)
    assert apart == pytest.approx(30 * log1p(z**2 / 60), rel=0.3)


def test_few_pieces_are_little_evidence() -> None:
    one, three = [(1.0, 10), (1.1, 10)], [(3.0, 10), (3.1, 10)]
    assert evidence_of_mean(three[:1], one, 1.0) == 0.0
    assert evidence_of_mean(three, one[:1], 1.0) == 0.0
    assert evidence_of_mean([*three, (0.0, 0)], one, 1.0) == evidence_of_mean(three, one, 1.0) < log(1e6)
    assert evidence_of_mean(three * 10, one * 10, 1.0) > log(1e6)


def test_what_one_sample_shows_the_other_may_not_have_seen() -> None:
    often, seldom = [(1.0, 1)] * 9900 + [(101.0, 1)] * 100, [(1.0, 1)] * 20
    assert evidence_of_mean(often, seldom, 1.0) < 1
    assert evidence_of_mean(often, seldom * 500, 1.0) > 10
