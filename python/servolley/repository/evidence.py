"""How sure two samples make one of a difference between what they are from. Pure, and quick enough for the
loop.

Evidence is a log likelihood ratio: what was seen is exp(evidence) times as likely where there is a difference
as where there is none. Without one, chance reaches the evidence e of two rates with a probability of at most
exp(-e) (1 + e), whatever the rates and however small the samples, because Chernoff's inequality bounds either
sample's part. For e = log(1e6) that is 1.5e-5; summed up over binomial distributions it is 1e-7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

# The interval in which the likeliest common rate lies is halved until it is so narrow, compared with the rate
# and with what is left of 1: near it the evidence hardly changes.
_NARROW = 1e-4
_MOST_HALVINGS = 60


def evidence_of_rate(
    hits: float,
    trials: float,
    other_hits: float,
    other_trials: float,
    increase: float = 0.0,
    highest: float = 1.0,
) -> float:
    """That the rate of ``hits`` is above the other's by more than ``increase``, given the counts of both.

    highest: what the other's rate is at most, for all that is known without looking.
    """
    if not trials:
        return 0.0
    rate = hits / trials
    other_rate = other_hits / other_trials if other_trials else 0.0
    low, high = other_rate, min(rate - increase, highest)
    if low >= high:
        return 0.0
    # Convex in the other's true rate: where both samples pull at it equally, it is likeliest.
    for _ in range(_MOST_HALVINGS):
        if high - low <= _NARROW * min(high, 1 - low):
            break
        middle = (low + high) / 2
        shifted = middle + increase
        upwards = trials * (rate - shifted) * middle * (1 - middle)
        if other_trials * (middle - other_rate) * shifted * (1 - shifted) > upwards:
            high = middle
        else:
            low = middle
    return trials * _divergence(rate, high + increase) + other_trials * _divergence(other_rate, high)


def _divergence(seen: float, true: float) -> float:
    """Kullback and Leibler's, of two rates, of which ``true`` is not 0."""
    value = seen * log(seen / true) if seen else 0.0
    if seen < 1:
        value += (1 - seen) * log((1 - seen) / (1 - true)) if true < 1 else inf
    return max(value, 0.0)


@dataclass(frozen=True, slots=True)
class Mean:
    """Of a sample: its value, and the variance that it has by chance."""

    value: float
    variance: float

    @classmethod
    def of(cls, bounds: Sequence[int], counts: Sequence[int], total: float) -> "Mean":
        """bounds, counts: a histogram that is not empty, whose last bucket is open. total: the sum of what is
        in it. The buckets' values are taken to be spread evenly over them."""
        number = sum(counts)
        mean = total / number
        squares = 0.0
        rest = total
        lower = 0
        for bound, count in zip(bounds, counts, strict=False):
            middle = (lower + bound) / 2
            squares += count * ((middle - mean) ** 2 + (bound - lower) ** 2 / 12)
            rest -= count * middle
            lower = bound
        beyond = counts[-1]
        if beyond:
            squares += beyond * (max(float(lower), rest / beyond) - mean) ** 2
        return cls(mean, squares / number**2)


def evidence_of_mean(mean: Mean, other: Mean, ratio: float) -> float:
    """That ``mean`` is more than ``ratio`` times the other, as far as means are normally distributed. A few
    values that are far off are no evidence: they widen the variance as much as they move the mean."""
    excess = mean.value - ratio * other.value
    if excess <= 0:
        return 0.0
    variance = mean.variance + ratio**2 * other.variance
    return excess**2 / (2 * variance) if variance else inf
