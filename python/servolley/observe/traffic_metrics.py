"""Splits, canaries and shadows as metric families."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from servolley._core import ShadowStats

_MODEL_LABELS = ("model", "version")
_SHADOW_COUNTERS = (
    ("servolley_shadow_compared_rows", "rows", "Rows whose answers were compared with the shadow's"),
    ("servolley_shadow_label_flips", "label_flips", "Rows for which the shadow's largest output is another"),
    ("servolley_shadow_unequal_rows", "unequal_rows", "Rows of outputs other than floats that differ"),
    ("servolley_shadow_nonfinite", "nonfinite", "Elements that are NaN or infinite on one side only"),
    ("servolley_shadow_shape_mismatches", "shape_mismatches", "Outputs of another shape"),
)
_SHADOW_GAUGES = (
    ("servolley_shadow_max_abs_error", "max_abs_error", "Largest absolute error of the shadow"),
    ("servolley_shadow_max_rel_error", "max_rel_error", "Largest relative error of the shadow, 0 to 2"),
    ("servolley_shadow_in_flight", "in_flight", "Copies that wait or run"),
)
_SHADOW_RESULTS = ("compared", "failed", "dropped", "incompatible")


@dataclass(frozen=True, slots=True)
class TrafficSnapshot:
    """One model at one moment. canary: (version, state); shadow: (version, statistics)."""

    model: str
    weights: Mapping[int, int] = field(default_factory=dict)
    canary: tuple[int, str] | None = None
    rollbacks: Mapping[str, int] = field(default_factory=dict)
    promotions: int = 0
    shadow: "tuple[int, ShadowStats] | None" = None


def traffic_families(models: Sequence[TrafficSnapshot]) -> Iterator[Metric]:
    weights = GaugeMetricFamily(
        "servolley_traffic_weight", "Weight in the split of requests without a version", labels=_MODEL_LABELS
    )
    canary = GaugeMetricFamily(
        "servolley_canary_state",
        "Constant 1; the state as a label",
        labels=(*_MODEL_LABELS, "state"),
    )
    rollbacks = CounterMetricFamily(
        "servolley_canary_rollbacks", "Canaries that were rolled back", labels=("model", "reason")
    )
    promotions = CounterMetricFamily(
        "servolley_canary_promotions", "Canaries that were promoted", labels=("model",)
    )
    for each in models:
        for version, weight in each.weights.items():
            weights.add_metric((each.model, str(version)), weight)
        if each.canary is not None:
            canary.add_metric((each.model, str(each.canary[0]), each.canary[1]), 1)
        for reason, count in each.rollbacks.items():
            rollbacks.add_metric((each.model, reason), count)
        if each.promotions:
            promotions.add_metric((each.model,), each.promotions)
    yield from (weights, canary, rollbacks, promotions)
    yield from _shadow_families(models)


def _shadow_families(models: Sequence[TrafficSnapshot]) -> Iterator[Metric]:
    shadows = [((each.model, str(each.shadow[0])), each.shadow[1]) for each in models if each.shadow]
    requests = CounterMetricFamily(
        "servolley_shadow_requests",
        "Copies of requests for the shadow, by what became of them",
        labels=(*_MODEL_LABELS, "result"),
    )
    for key, stats in shadows:
        for result in _SHADOW_RESULTS:
            requests.add_metric((*key, result), stats[result])  # type: ignore[literal-required]
    yield requests
    for name, member, text in _SHADOW_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=_MODEL_LABELS)
        for key, stats in shadows:
            counter.add_metric(key, stats[member])  # type: ignore[literal-required]
        yield counter
    for name, member, text in _SHADOW_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=_MODEL_LABELS)
        for key, stats in shadows:
            gauge.add_metric(key, stats[member])  # type: ignore[literal-required]
        yield gauge
