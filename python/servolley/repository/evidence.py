"""How sure two samples make one of a difference between what they are from. Pure, and quick enough for the
loop.

Evidence is a log likelihood ratio: what was seen is exp(evidence) times as likely where there is a difference
as where there is none. Without one, chance reaches the evidence e of two rates with a probability of at most
exp(-e) (1 + e), whatever the rates and however small the samples, because Chernoff's inequality bounds either
sample's part. For e = log(1e6) that is 1.5e-5; summed up over binomial distributions it is 1e-7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, log1p

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


Piece = tuple[float, int]
"""Of a sample: the sum of the values in it, and how many there are."""


def evidence_of_mean(pieces: Sequence[Piece], others: Sequence[Piece], ratio: float) -> float:
    """That the mean of the values is more than ``ratio`` times that of the others.

    pieces, others: what was seen in short times, one after the other. Values in one piece may hang together,
    as the latencies of a batch do: the mean is known as well as the pieces agree, and it takes more than a
    few of them. What only one sample shows, such as a rare stall, the other may just not have seen yet: it is
    taken to vary as much.
    """
    sample, other = _Sample.of(pieces), _Sample.of(others)
    if sample is None or other is None:
        return 0.0
    excess = sample.mean - ratio * other.mean
    if excess <= 0:
        return 0.0
    other_spread = max(ratio**2 * other.spread, sample.spread)
    variance = sample.spread / sample.number + other_spread / other.number
    if variance == 0:
        return inf
    number = sample.pieces + other.pieces
    return number / 2 * log1p(excess**2 / variance / number)


@dataclass(frozen=True, slots=True)
class _Sample:
    """spread: the variance of the mean, times ``number``."""

    pieces: int
    number: int
    mean: float
    spread: float

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "_Sample | None":
        """None: too few to say anything."""
        filled = [piece for piece in pieces if piece[1]]
        if len(filled) < 2:
            return None
        number = sum(count for _, count in filled)
        mean = sum(total for total, _ in filled) / number
        squares = sum((total - mean * count) ** 2 for total, count in filled)
        return cls(len(filled), number, mean, squares / number * len(filled) / (len(filled) - 1))
