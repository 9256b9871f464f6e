"""/metrics: what it says, that it moves, that Prometheus can read it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

import models
from integration.conftest import ServerFactory
from integration.server_process import Server


def families(server: Server) -> dict[str, Any]:
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.body.decode())}


def test_metrics_move(serve: ServerFactory) -> None:
    server = serve({"tiny": models.tiny(), "picky": models.picky()})
    before = server.get("/metrics").body.decode()
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [2, 16], "data": [0.5] * 32}
    for _ in range(3):
        assert server.infer("tiny", [tensor]).status == 200
    assert server.predict("tiny", {"instances": [[0.5] * 16]}).status == 200
    assert server.predict("tiny", {"instances": []}).status == 400
    assert server.infer("tiny", [tensor | {"datatype": "FP64"}]).status == 400
    assert server.predict("nobody", {"instances": [1]}).status == 404
    assert server.infer("nobody\u0000"[:-1], []).status == 404
    index = {"name": "INPUT0", "datatype": "INT64", "shape": [1, 1], "data": [99]}
    assert server.infer("picky", [index]).status in {400, 500}
    tiny = {"model": "tiny", "version": "1"}
    assert server.metric("nv_inference_request_success", **tiny) == 4
    assert server.metric("nv_inference_count", **tiny) == 7
    assert server.metric("nv_inference_exec_count", **tiny) == 4
    assert server.metric("nv_inference_request_failure", **tiny, reason="OTHER") == 2
    assert server.metric("nv_inference_request_failure", model="picky", reason="BACKEND") == 1
    assert server.metric("nv_inference_request_duration_us", **tiny) > 0
    assert server.metric("nv_inference_compute_infer_duration_us", **tiny) > 0
    assert server.metric("nv_inference_pending_request_count", **tiny) == 0
    assert server.metric("nv_model_load_duration_secs", **tiny) > 0
    for name in ("request", "queue"):
        assert server.metric(f"servolley_{name}_duration_seconds_count", **tiny) == 4
    assert server.metric("servolley_compute_duration_seconds_count", **tiny) == 4
    assert server.metric("servolley_batch_rows_sum", **tiny) == 7
    assert server.metric("servolley_batch_rows_count", **tiny) == 4
    codes = {"api": "oip_http", "code": "OK"}
    assert server.metric("servolley_inference_responses_total", **tiny, **codes) == 3
    assert server.metric("servolley_inference_responses_total", **tiny, api="tfs_http", code="OK") == 1
    assert server.metric("servolley_http_responses_total", status="404") >= 2
    assert server.metric("servolley_unknown_model_requests_total") == 2
    assert server.metric("servolley_received_bytes_total") > 1000
    assert server.metric("servolley_sent_bytes_total") > 1000
    assert server.metric("servolley_accepted_connections_total") > 10
    assert server.metric("process_resident_memory_bytes") > 1e7
    page = server.get("/metrics").body.decode()
    assert ':tensorflow:serving:request_count{model_name="tiny",status="OK"} 1.0' in page
    assert ':tensorflow:serving:request_count{model_name="tiny",status="INVALID_ARGUMENT"} 1.0' in page
    # A client cannot make labels.
    assert "nobody" not in page
    assert "# TYPE" in before


def test_histograms_are_histograms(serve: ServerFactory) -> None:
    server = serve({"tiny": models.tiny()})
    for _ in range(20):
        server.predict("tiny", {"instances": [[0.5] * 16]})
    for name in (
        "request_duration_seconds",
        "queue_duration_seconds",
        "compute_duration_seconds",
        "batch_rows",
    ):
        family = families(server)[f"servolley_{name}"]
        assert family.type == "histogram"
        buckets = [
            (float(s.labels["le"]), s.value) for s in family.samples if s.name == f"servolley_{name}_bucket"
        ]
        assert buckets == sorted(buckets)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (float("inf"), 20)
        if name.endswith("seconds"):
            assert buckets[0][0] <= 50e-6


def test_metrics_under_both_names(server: Server) -> None:
    for path in ("/metrics", "/metrics/", "/monitoring/prometheus/metrics"):
        answer = server.get(path)
        assert answer.status == 200
        assert b"# TYPE nv_inference_count counter" in answer.body
        assert server.post(path).status == 405
