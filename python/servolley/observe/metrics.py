"""What /metrics says: snapshots of the core's counters, rendered by prometheus_client through a custom
collector. Nothing is counted here. A label is a model, a version, a word of ours or a tag of the model's
configuration, never client text."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from servolley.observe.mirror_metrics import MirrorSnapshot, mirror_families
from servolley.observe.traffic_metrics import TrafficSnapshot, traffic_families

if TYPE_CHECKING:
    from servolley._core import FrontStats, GpuInUse, Histogram, PoolStats, ServableStats, SharedMemoryUsage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NS = 1e9
_MODEL_LABELS = ("model", "version")
# (name, member of ServableStats, help): Triton's names; dashboards match them, so no suffix "_total".
_TRITON_COUNTERS = (
    ("nv_inference_request_success", "success_count", "Number of successful inference requests"),
    ("nv_inference_count", "inference_count", "Number of inferences performed (rows)"),
    ("nv_inference_exec_count", "execution_count", "Number of model executions performed (batches)"),
)
_TRITON_DURATIONS = (
    ("nv_inference_request_duration_us", "success_ns", "Cumulative request duration in microseconds"),
    ("nv_inference_queue_duration_us", "queue_ns", "Cumulative queuing duration in microseconds"),
    (
        "nv_inference_compute_input_duration_us",
        "compute_input_ns",
        "Cumulative input duration in microseconds",
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "compute_infer_ns",
        "Cumulative model duration in microseconds",
    ),
    (
        "nv_inference_compute_output_duration_us",
        "compute_output_ns",
        "Cumulative output duration in microseconds",
    ),
)
_HISTOGRAMS = (
    (
        "servolley_request_duration_seconds",
        "request_latency_ns",
        _NS,
        "Successful requests, arrival to answer",
    ),
    ("servolley_queue_duration_seconds", "queue_latency_ns", _NS, "Time that requests waited for a batch"),
    ("servolley_compute_duration_seconds", "compute_latency_ns", _NS, "Model executions, one per batch"),
    ("servolley_batch_rows", "batch_rows", 1, "Rows per executed batch"),
)


@dataclass(frozen=True, slots=True)
class ServableSnapshot:
    """One loaded version at one moment."""

    model: str
    version: int
    load_seconds: float
    stats: "ServableStats"
    cuda_graphs: Literal["off", "on", "refused", "not_yet"] = "off"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one scrape shows. tags: model -> labels of its metrics, before they get their "_".
    refused: calls that change the server, by why they were refused. mirror: of a remote repository."""

    server_version: str
    runtime_version: str
    servables: Sequence[ServableSnapshot]
    pool: "PoolStats"
    front: "FrontStats"
    shared_memory: "SharedMemoryUsage"
    gpus: Sequence["GpuInUse"] = ()
    traffic: Sequence[TrafficSnapshot] = ()
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    mirror: MirrorSnapshot | None = None


class CoreCollector(Collector):
    """Turns a snapshot into metric families."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._tags = {
            model: {f"_{name}": value for name, value in tags.items()}
            for model, tags in snapshot.tags.items()
            if tags
        }

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            if self._tags:
                family.samples = [
                    sample._replace(
                        labels={**sample.labels, **self._tags.get(sample.labels.get("model", ""), {})}
                    )
                    for sample in family.samples
                ]
            yield family

    def _families(self) -> Iterator[Metric]:
        yield from self._triton_families()
        yield self._tfs_request_count()
        yield from self._histograms()
        yield from self._pool_families()
        yield from self._gpu_families()
        yield from self._shared_memory_families()
        yield from self._front_families()
        yield from traffic_families(self._snapshot.traffic)
        if self._snapshot.mirror is not None:
            yield from mirror_families(self._snapshot.mirror)
        build = GaugeMetricFamily(
            "servolley_build_info", "Constant 1; versions as labels", labels=("version", "onnxruntime")
        )
        build.add_metric((self._snapshot.server_version, self._snapshot.runtime_version), 1)
        yield build

    def _triton_families(self) -> Iterator[Metric]:
        servables = [((s.model, str(s.version)), s) for s in self._snapshot.servables]
        for name, member, text in _TRITON_COUNTERS:
            yield _bare_counter(name, text, _MODEL_LABELS, ((key, s.stats[member]) for key, s in servables))  # type: ignore[literal-required]
        yield _bare_counter(
            "nv_inference_request_failure",
            "Number of failed inference requests",
            (*_MODEL_LABELS, "reason"),
            (
                ((*key, reason), s.stats["failures"].get(reason, 0))
                for key, s in servables
                for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
            ),
        )
        for name, member, text in _TRITON_DURATIONS:
            yield _bare_counter(
                name,
                text,
                _MODEL_LABELS,
                ((key, s.stats[member] // 1000) for key, s in servables),  # type: ignore[literal-required]
            )
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Requests accepted, not yet executing", labels=_MODEL_LABELS
        )
        load = GaugeMetricFamily(
            "nv_model_load_duration_secs", "Time that loading took", labels=_MODEL_LABELS
        )
        for key, s in servables:
            pending.add_metric(key, s.stats["pending"])
            load.add_metric(key, s.load_seconds)
        yield pending
        yield load
        asked = [(key, s) for key, s in servables if s.cuda_graphs != "off"]
        if asked:
            graphs = GaugeMetricFamily(
                "servolley_cuda_graphs",
                "1: batches are replayed as CUDA graphs; 0: asked for, but none is captured",
                labels=_MODEL_LABELS,
            )
            for key, s in asked:
                graphs.add_metric(key, s.cuda_graphs == "on")
            yield graphs

    def _tfs_request_count(self) -> Metric:
        totals: dict[tuple[str, str], int] = {}
        for s in self._snapshot.servables:
            for status, count in s.stats["responses"].get("tfs_http", {}).items():
                totals[s.model, status] = totals.get((s.model, status), 0) + count
        return _bare_counter(
            ":tensorflow:serving:request_count",
            "Requests of the TensorFlow Serving API",
            ("model_name", "status"),
            totals.items(),
        )

    def _histograms(self) -> Iterator[Metric]:
        for name, member, divisor, text in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=_MODEL_LABELS)
            for s in self._snapshot.servables:
                histogram: Histogram = s.stats[member]  # type: ignore[literal-required]
                family.add_metric(
                    (s.model, str(s.version)),
                    cumulative_buckets(histogram, divisor),
                    histogram["sum"] / divisor,
                )
            yield family
        responses = CounterMetricFamily(
            "servolley_inference_responses",
            "Answers of inference requests by API and canonical code",
            labels=(*_MODEL_LABELS, "api", "code"),
        )
        nonfinite = CounterMetricFamily(
            "servolley_nonfinite_answers",
            "Answers with NaN or infinity, of versions that are watched for it",
            labels=_MODEL_LABELS,
        )
        for s in self._snapshot.servables:
            nonfinite.add_metric((s.model, str(s.version)), s.stats["nonfinite_count"])
        yield nonfinite
        for s in self._snapshot.servables:
            for dialect, codes in s.stats["responses"].items():
                for code, count in codes.items():
                    responses.add_metric((s.model, str(s.version), dialect, code), count)
        yield responses

    def _pool_families(self) -> Iterator[Metric]:
        pool = self._snapshot.pool
        for name, value, text in (
            ("servolley_pool_in_use_bytes", pool["in_use_bytes"], "Tensor memory leased now"),
            ("servolley_pool_high_water_bytes", pool["high_water_bytes"], "Most tensor memory ever leased"),
            ("servolley_pool_cached_bytes", pool["cached_bytes"], "Tensor memory kept for reuse"),
            ("servolley_pool_pinned_bytes", pool["pinned_bytes"], "Tensor memory that is pinned for GPUs"),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "servolley_pool_allocations",
            "Times that the pool asked for fresh memory",
            value=pool["allocations"],
        )

    def _gpu_families(self) -> Iterator[Metric]:
        gpus = self._snapshot.gpus
        if not gpus:
            return
        info = GaugeMetricFamily(
            "servolley_gpu_info",
            "Constant 1; a GPU in use as labels",
            labels=("device", "name", "uuid", "compute_capability"),
        )
        total = GaugeMetricFamily("nv_gpu_memory_total_bytes", "Memory of a GPU", labels=("gpu_uuid",))
        broken = GaugeMetricFamily(
            "servolley_gpu_broken", "1 after an error that ends a GPU's context", labels=("device",)
        )
        for gpu in gpus:
            info.add_metric((gpu["device"], gpu["name"], gpu["uuid"], gpu["compute_capability"]), 1)
            total.add_metric((gpu["uuid"],), gpu["total_bytes"])
            broken.add_metric((gpu["device"],), int(gpu["broken"]))
        yield from (info, total, broken)
        for name, member, text in (
            ("servolley_gpu_pool_in_use_bytes", "in_use_bytes", "Tensor memory on a GPU leased now"),
            ("servolley_gpu_pool_high_water_bytes", "high_water_bytes", "Most tensor memory ever leased"),
            ("servolley_gpu_pool_cached_bytes", "cached_bytes", "Tensor memory on a GPU kept for reuse"),
        ):
            family = GaugeMetricFamily(name, text, labels=("device",))
            for gpu in gpus:
                family.add_metric((gpu["device"],), gpu["pool"][member])  # type: ignore[literal-required]
            yield family

    def _shared_memory_families(self) -> Iterator[Metric]:
        usage = self._snapshot.shared_memory
        for name, value, text in (
            ("servolley_shared_memory_regions", usage["regions"], "Shared memory regions of clients"),
            ("servolley_shared_memory_bytes", usage["bytes"], "Bytes of clients' shared memory regions"),
            (
                "servolley_shared_memory_pinned_bytes",
                usage["pinned_bytes"],
                "Of these, what GPUs copy from and to by themselves",
            ),
        ):
            yield GaugeMetricFamily(name, text, value=value)

    def _front_families(self) -> Iterator[Metric]:
        front = self._snapshot.front
        yield GaugeMetricFamily("servolley_connections", "Connections open now", value=front["connections"])
        for name, value, text in (
            ("servolley_accepted_connections", front["connections_total"], "Connections since start"),
            ("servolley_received_bytes", front["bytes_received"], "Bytes received"),
            ("servolley_sent_bytes", front["bytes_sent"], "Bytes sent"),
            (
                "servolley_unknown_model_requests",
                front["unknown_model_requests"],
                "Inference requests for models that do not exist",
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
        responses = CounterMetricFamily(
            "servolley_http_responses", "HTTP answers by status, control calls included", labels=("status",)
        )
        for status, count in sorted(front["responses"].items()):
            responses.add_metric((str(status),), count)
        yield responses
        refused = CounterMetricFamily(
            "servolley_admin_refused",
            "Refused calls that would change the server, by why",
            labels=("reason",),
        )
        for reason, count in self._snapshot.refused.items():
            refused.add_metric((reason,), count)
        yield refused


def cumulative_buckets(histogram: "Histogram", divisor: float) -> list[tuple[str, float]]:
    """The core's counts as Prometheus wants them: cumulative, bounds divided by ``divisor``, "+Inf" last."""
    buckets = []
    running = 0
    for bound, count in zip(histogram["upper_bounds"], histogram["counts"][:-1], strict=True):
        running += count
        buckets.append((repr(bound / divisor), float(running)))
    return [*buckets, ("+Inf", float(running + histogram["counts"][-1]))]


class _BareCounter(Metric):
    """A counter whose name is not ours to choose: no "_total" is added to it."""


def _bare_counter(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    metric = _BareCounter(name, text, "counter")
    for key, value in values:
        metric.add_sample(name, dict(zip(labels, key, strict=True)), value)
    return metric


class _OneFamily(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def render_family(family: Metric) -> bytes:
    """The text of one family."""
    text = generate_latest(_OneFamily(family))
    if isinstance(family, _BareCounter):
        # prometheus_client ends every counter's header in "_total".
        name = family.name.encode()
        for word in (b"# HELP ", b"# TYPE "):
            text = text.replace(word + name + b"_total ", word + name + b" ", 1)
    return text


async def render(snapshot: Snapshot) -> bytes:
    """The whole page. Yields to the loop between families: many models make many lines."""
    parts = []
    for family in CoreCollector(snapshot).collect():
        parts.append(render_family(family))
        await asyncio.sleep(0)
    parts.append(generate_latest(ProcessCollector(registry=None)))
    return b"".join(parts)
