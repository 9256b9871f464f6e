from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from prometheus_client.parser import text_string_to_metric_families

from servolley.observe.metrics import (
    CoreCollector,
    ServableSnapshot,
    Snapshot,
    cumulative_buckets,
    render,
    render_family,
)
from servolley.observe.mirror_metrics import MirrorSnapshot
from unit import fake_core

if TYPE_CHECKING:
    from servolley._core import Histogram


def snapshot(*servables: ServableSnapshot) -> Snapshot:
    return Snapshot(
        "1.2.3",
        "1.99.0",
        servables,
        cast("Any", fake_core.POOL_STATS),
        cast("Any", fake_core.FRONT_STATS),
        cast("Any", fake_core.SHARED_MEMORY_USAGE),
    )


def servable(model: str, version: int, **changes: Any) -> ServableSnapshot:
    return ServableSnapshot(model, version, 0.25, cast("Any", fake_core.stats(**changes)))


def page(*servables: ServableSnapshot) -> str:
    return b"".join(
        render_family(family) for family in CoreCollector(snapshot(*servables)).collect()
    ).decode()


def value(text: str, name: str, **labels: str) -> float:
    """One sample. The parser adds "_total" to the name of every counter that lacks it."""
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return samples[name, tuple(sorted(labels.items()))]


def test_tritons_names_and_values() -> None:
    text = page(servable("m", 2))
    for name, expected in {
        "nv_inference_request_success": 6,
        "nv_inference_count": 12,
        "nv_inference_exec_count": 3,
        "nv_inference_request_duration_us": 9000,
        "nv_inference_queue_duration_us": 2000,
        "nv_inference_compute_input_duration_us": 1000,
        "nv_inference_compute_infer_duration_us": 4000,
        "nv_inference_compute_output_duration_us": 500,
    }.items():
        assert f'{name}{{model="m",version="2"}} {float(expected)}\n' in text
        assert f"# TYPE {name} counter\n" in text
        assert f"# HELP {name} " in text
    assert "_total" not in "".join(line for line in text.splitlines(True) if "nv_" in line)
    for reason, count in {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 0}.items():
        assert (
            value(text, "nv_inference_request_failure_total", model="m", version="2", reason=reason) == count
        )
    assert value(text, "nv_inference_pending_request_count", model="m", version="2") == 5
    assert value(text, "nv_model_load_duration_secs", model="m", version="2") == 0.25


def test_tensorflow_servings_counter_sums_versions() -> None:
    text = page(servable("m", 1), servable("m", 2), servable("n", 1, responses={"oip_http": {"OK": 1}}))
    assert "# TYPE :tensorflow:serving:request_count counter\n" in text
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 4.0\n' in text
    assert ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 2.0\n' in text
    assert 'request_count{model_name="n"' not in text


def test_histograms_are_cumulative_and_in_seconds() -> None:
    text = page(servable("m", 1))
    name, labels = "servolley_request_duration_seconds", {"model": "m", "version": "1"}
    assert value(text, name + "_bucket", le="5e-05", **labels) == 1
    assert value(text, name + "_bucket", le="0.0001", **labels) == 3
    assert value(text, name + "_bucket", le="+Inf", **labels) == 6
    assert value(text, name + "_count", **labels) == 6
    assert value(text, name + "_sum", **labels) == 0.0015
    assert value(text, "servolley_batch_rows_bucket", le="2.0", **labels) == 1
    assert value(text, "servolley_batch_rows_sum", **labels) == 12


def test_buckets() -> None:
    histogram = cast("Histogram", fake_core.histogram([10, 20], [0, 4, 1], 99))
    assert cumulative_buckets(histogram, 10) == [("1.0", 0.0), ("2.0", 4.0), ("+Inf", 5.0)]


def test_front_and_pool() -> None:
    text = page()
    assert value(text, "servolley_connections") == 1
    assert value(text, "servolley_http_responses_total", status="404") == 2
    assert value(text, "servolley_unknown_model_requests_total") == 2
    assert value(text, "servolley_pool_in_use_bytes") == 1
    assert value(text, "servolley_pool_allocations_total") == 4


def test_gpus_in_use() -> None:
    assert "gpu" not in page()
    gpu = {
        "device": "cuda:1",
        "name": "NVIDIA L4",
        "uuid": "GPU-1",
        "compute_capability": "8.9",
        "total_bytes": 1 << 34,
        "broken": True,
        "pool": fake_core.POOL_STATS,
    }
    families = CoreCollector(replace(snapshot(), gpus=[cast("Any", gpu)])).collect()
    text = b"".join(render_family(family) for family in families).decode()
    labels = 'compute_capability="8.9",device="cuda:1",name="NVIDIA L4",uuid="GPU-1"'
    assert f"servolley_gpu_info{{{labels}}} 1.0\n" in text
    assert value(text, "nv_gpu_memory_total_bytes", gpu_uuid="GPU-1") == 1 << 34
    assert value(text, "servolley_gpu_broken", device="cuda:1") == 1
    assert value(text, "servolley_gpu_pool_high_water_bytes", device="cuda:1") == 2
    assert value(text, "servolley_pool_pinned_bytes") == 2


def test_refusals_and_the_mirror_of_a_remote_repository() -> None:
    assert "servolley_mirror" not in page()
    mirror = MirrorSnapshot(
        {"changed": 2, "unchanged": 3, "failed": 1}, 1.5e9, bytes=7, problems=4, restarts=5
    )
    filled = replace(snapshot(), mirror=mirror, refused={"no_token": 2, "wrong_token": 0})
    text = b"".join(render_family(family) for family in CoreCollector(filled).collect()).decode()
    assert value(text, "servolley_admin_refused_total", reason="no_token") == 2
    assert value(text, "servolley_admin_refused_total", reason="wrong_token") == 0
    assert value(text, "servolley_mirror_syncs_total", result="unchanged") == 3
    assert value(text, "servolley_mirror_syncs_total", result="failed") == 1
    assert value(text, "servolley_mirror_last_success_timestamp_seconds") == 1.5e9
    assert value(text, "servolley_mirror_received_bytes_total") == 7
    assert value(text, "servolley_mirror_problems") == 4
    assert value(text, "servolley_mirror_restarts_total") == 5


def test_every_family_is_typed_without_models_too() -> None:
    def headers(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("# ")]

    assert headers(page()) == headers(page(servable("m", 1)))
    assert "# TYPE nv_inference_count counter" in page()


def test_the_page_parses_and_label_values_are_escaped() -> None:
    text = page(servable('a"b\\', 1))
    assert value(text, "nv_inference_count_total", model='a"b\\', version="1") == 12


async def test_render_adds_the_process() -> None:
    text = (await render(snapshot(servable("m", 1)))).decode()
    assert value(text, "process_resident_memory_bytes") > 0
    assert value(text, "process_cpu_seconds_total") >= 0
    assert value(text, "process_open_fds") > 0
    assert value(text, "servolley_build_info", version="1.2.3", onnxruntime="1.99.0") == 1


def test_shared_memory() -> None:
    text = page()
    assert value(text, "servolley_shared_memory_regions") == 3
    assert value(text, "servolley_shared_memory_bytes") == 8192
    assert value(text, "servolley_shared_memory_pinned_bytes") == 4096


def test_tags_of_a_model_are_labels_of_its_metrics() -> None:
    tagged = replace(snapshot(servable("m", 1), servable("n", 1)), tags={"m": {"team": 'a"b'}, "n": {}})
    text = b"".join(render_family(family) for family in CoreCollector(tagged).collect()).decode()
    labels = {"model": "m", "version": "1", "_team": 'a"b'}
    assert value(text, "nv_inference_count_total", **labels) == 12
    assert value(text, "servolley_request_duration_seconds_bucket", le="+Inf", **labels) == 6
    assert value(text, "nv_inference_count_total", model="n", version="1") == 12
    untagged = [line for line in text.splitlines() if 'model="m"' in line and "_team=" not in line]
    assert untagged == []
    assert value(text, "servolley_connections") == 1


def test_cuda_graphs_of_those_who_asked() -> None:
    text = page(
        replace(servable("a", 1), cuda_graphs="on"),
        replace(servable("b", 2), cuda_graphs="refused"),
        replace(servable("b", 3), cuda_graphs="not_yet"),
        servable("c", 3),
    )
    lines = [line for line in text.splitlines() if line.startswith("servolley_cuda_graphs")]
    assert lines == [
        'servolley_cuda_graphs{model="a",version="1"} 1.0',
        'servolley_cuda_graphs{model="b",version="2"} 0.0',
        'servolley_cuda_graphs{model="b",version="3"} 0.0',
    ]
    assert "servolley_cuda_graphs" not in page(servable("c", 3))
