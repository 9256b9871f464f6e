from __future__ import annotations

from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from servolley.observe.metrics import render_family
from servolley.observe.traffic_metrics import TrafficSnapshot, traffic_families
from unit import fake_core

LABELS = ("model", "version", "state", "reason", "result")


def samples(*models: TrafficSnapshot) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, values of its labels) -> value."""
    text = b"".join(render_family(family) for family in traffic_families(models)).decode()
    return {
        (
            sample.name.removeprefix("servolley_"),
            tuple(sample.labels[label] for label in LABELS if label in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_models_without_any_of_it_have_no_series() -> None:
    assert samples(TrafficSnapshot("m"), TrafficSnapshot("n")) == {}


def test_splits_and_canaries() -> None:
    found = samples(
        TrafficSnapshot("m", {1: 90, 2: 10}, (2, "judging"), {"latency": 2, "by_hand": 1}, 3),
        TrafficSnapshot("n", {7: 1}),
    )
    assert found == {
        ("traffic_weight", ("m", "1")): 90,
        ("traffic_weight", ("m", "2")): 10,
        ("traffic_weight", ("n", "7")): 1,
        ("canary_state", ("m", "2", "judging")): 1,
        ("canary_rollbacks_total", ("m", "latency")): 2,
        ("canary_rollbacks_total", ("m", "by_hand")): 1,
        ("canary_promotions_total", ("m",)): 3,
    }


def test_shadows() -> None:
    found = samples(TrafficSnapshot("m", shadow=(4, cast("Any", fake_core.SHADOW_STATS))))
    assert found == {
        ("shadow_requests_total", ("m", "4", "compared")): 7,
        ("shadow_requests_total", ("m", "4", "failed")): 3,
        ("shadow_requests_total", ("m", "4", "dropped")): 2,
        ("shadow_requests_total", ("m", "4", "incompatible")): 1,
        ("shadow_compared_rows_total", ("m", "4")): 14,
        ("shadow_label_flips_total", ("m", "4")): 4,
        ("shadow_unequal_rows_total", ("m", "4")): 5,
        ("shadow_nonfinite_total", ("m", "4")): 6,
        ("shadow_shape_mismatches_total", ("m", "4")): 8,
        ("shadow_max_abs_error", ("m", "4")): 0.5,
        ("shadow_max_rel_error", ("m", "4")): 0.25,
        ("shadow_in_flight", ("m", "4")): 0,
    }
