"""A stand-in for servolley._core with the same contract, for tests of what lies above it. It parses nothing:
tests say which flags and calls come out of a read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__version__ = "0.0-fake"

TICK, CALLS, OUTPUT, PAUSE, RESUME, CLOSE = 1, 2, 4, 8, 16, 32
HTTP, GRPC_OPEN, GRPC_MESSAGE, GRPC_HALF_CLOSE, GRPC_CANCEL = range(5)


class CoreError(Exception):
    code = "INTERNAL"
    http_status = 500


def crc32c(data: bytes) -> int:
    import tf_records

    return tf_records.crc32c(data)


def core_error(code: str, http_status: int, message: str) -> Exception:
    # Imported by name at the point of use, so that it is the real class wherever the extension is built.
    from servolley import _core

    error = _core.CoreError(message)
    error.code, error.http_status = code, http_status
    return error


@dataclass
class ControlCall:
    exchange: int = 1
    method: str = "GET"
    target: str = "/"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    kind: int = HTTP
    timeout_us: int | None = None


@dataclass
class TensorSpec:
    name: str
    datatype: str = "FP32"
    tf_dtype: str = "DT_FLOAT"
    shape: list[int] = field(default_factory=lambda: [-1, 16])
    rank_known: bool = True
    labels: list[str] = field(default_factory=list)


def histogram(bounds: list[int], counts: list[int], total: int) -> dict[str, Any]:
    return {"upper_bounds": bounds, "counts": counts, "sum": total}


def stats(**changes: Any) -> dict[str, Any]:
    latency = histogram([50_000, 100_000], [1, 2, 3], 1_500_000)
    return {
        "success_count": 6,
        "success_ns": 9_000_000,
        "fail_count": 1,
        "fail_ns": 1_000,
        "failures": {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 0},
        "responses": {"oip_http": {"OK": 4}, "tfs_http": {"OK": 2, "INVALID_ARGUMENT": 1}},
        "queue_ns": 2_000_000,
        "compute_input_ns": 1_000_000,
        "compute_infer_ns": 4_000_000,
        "compute_output_ns": 500_000,
        "inference_count": 12,
        "nonfinite_count": 0,
        "execution_count": 3,
        "last_inference_ms": 1_700_000_000_000,
        "pending": 5,
        "in_flight": 0,
        "batches": [
            {
                "rows": 4,
                "executions": 3,
                "compute_input_ns": 1,
                "compute_infer_ns": 2,
                "compute_output_ns": 3,
            }
        ],
        "request_latency_ns": latency,
        "queue_latency_ns": latency,
        "compute_latency_ns": latency,
        "batch_rows": histogram([1, 2, 4], [0, 1, 2, 0], 12),
    } | changes


POOL_STATS = {
    "in_use_bytes": 1,
    "high_water_bytes": 2,
    "cached_bytes": 3,
    "pinned_bytes": 2,
    "allocations": 4,
}
SHADOW_STATS = {
    "taken": 10,
    "dropped": 2,
    "incompatible": 1,
    "compared": 7,
    "failed": 3,
    "in_flight": 0,
    "rows": 14,
    "max_abs_error": 0.5,
    "max_rel_error": 0.25,
    "label_flips": 4,
    "unequal_rows": 5,
    "nonfinite": 6,
    "shape_mismatches": 8,
}
SHARED_MEMORY_USAGE = {"regions": 3, "bytes": 8192, "pinned_bytes": 4096}
FRONT_STATS = {
    "connections": 1,
    "connections_total": 7,
    "bytes_received": 100,
    "bytes_sent": 200,
    "responses": {200: 9, 404: 2},
    "unknown_model_requests": 2,
}


class Servable:
    def __init__(self, name: str, version: int, max_batch_size: int = 8) -> None:
        self.name, self.version, self.max_batch_size = name, version, max_batch_size
        self.platform = "onnxruntime_onnx"
        self.inputs = [TensorSpec("x")]
        self.outputs = [TensorSpec("y", shape=[-1, 4])]
        self.max_batch_inferred = True
        self.rows_depend = False
        self.execution = "inline"
        self.instances = 1
        self.devices = ["cpu"]
        self.broken = False
        self.cuda_graphs = "off"
        self.load_ns = 250_000_000
        self.closed = False
        self.watched = False
        self.changes: dict[str, Any] = {}  # of what stats() says

    def stats(self) -> dict[str, Any]:
        return stats(**self.changes)

    def counts(self) -> dict[str, Any]:
        """More than the core's."""
        return self.stats()

    def watch_outputs(self, watched: bool) -> None:
        self.watched = watched

    def close(self) -> None:
        self.closed = True


class Shadow:
    def __init__(self, servable: Servable, limits: tuple[int, int, int]) -> None:
        self.servable, self.limits = servable, limits
        self.closed = False

    def stats(self) -> dict[str, Any]:
        return SHADOW_STATS

    def close(self) -> None:
        self.closed = True


class Engine:
    """``failures``: (model, version) -> what loading it raises. ``routes``: as last set, and the splits and
    shadows that came with them."""

    def __init__(self) -> None:
        self.failures: dict[tuple[str, int], Exception] = {}
        self.loads: list[tuple[str, int, dict[str, Any]]] = []
        self.reconfigured: list[tuple[str, int, dict[str, Any]]] = []
        self.warm_ups: list[tuple[str, int, bytes, int]] = []
        self.warm_up_failure: Exception | None = None
        self.routes: dict[str, tuple[list[int], int | None, dict[str, int]]] = {}
        self.splits: dict[str, dict[int, int]] = {}
        self.shadows: dict[str, Shadow | None] = {}
        self.completion_fd, self.completions = os.pipe()
        self.runtime_version = "1.99.0"
        self.shared_memory: dict[str, dict[str, Any]] = {}
        self.pinned: list[str] = []
        self.trace_rules: dict[str | None, tuple[int, int]] = {}  # model -> rate, count
        self.traces: list[dict[str, Any]] = []
        self.traces_dropped = 0
        self.cuda_shared_memory: dict[str, dict[str, Any]] = {}
        self.attention: list[Any] | None = None
        self.next_expiry_us = -1
        self.ticks = self.drains = self.expiries = self.in_flight = 0

    def load(self, name: str, version: int, path: str, options: dict[str, Any]) -> Servable:
        self.loads.append((name, version, options))
        if (name, version) in self.failures:
            raise self.failures[name, version]
        return Servable(name, version)

    def warm_up(self, servable: Servable, predict_request: bytes, runs: int) -> None:
        if isinstance(self.warm_up_failure, Exception):
            raise self.warm_up_failure
        self.warm_ups.append((servable.name, servable.version, predict_request, runs))

    def reconfigure(self, servable: Servable, options: dict[str, Any]) -> Servable:
        assert not servable.closed
        self.reconfigured.append((servable.name, servable.version, options))
        return Servable(servable.name, servable.version)

    def set_routes(
        self,
        model: str,
        versions: dict[int, Servable],
        default: int | None,
        labels: dict[str, int],
        split: dict[int, int] | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        assert set(split or {}) <= set(versions)
        self.routes[model] = (list(versions), default, labels)
        self.splits[model], self.shadows[model] = split or {}, shadow

    def remove_routes(self, model: str) -> None:
        del self.routes[model]

    def shadow(self, servable: Servable, fraction_ppm: int, max_in_flight: int, max_bytes: int) -> Shadow:
        assert not servable.closed
        return Shadow(servable, (fraction_ppm, max_in_flight, max_bytes))

    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> str | None:
        """Says no with the core's words for the name "taken"; large ones may be pinned."""
        if name == "taken":
            raise core_error("ALREADY_EXISTS", 409, "taken")
        region = {"name": name, "key": key, "offset": offset, "byte_size": byte_size}
        self.shared_memory[name] = region
        return name if byte_size >= 1 << 16 else None

    def pin_shared_memory(self, memory: str) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        self.pinned.append(memory)
        return True

    def unregister_shared_memory(self, name: str | None) -> None:
        if name is None:
            self.shared_memory.clear()
        else:
            self.shared_memory.pop(name, None)

    def may_register_shared_memory(self, name: str, byte_size: int) -> None:
        if name == "taken":
            raise core_error("ALREADY_EXISTS", 409, "taken")

    def open_cuda_memory(self, raw_handle: bytes, device: int, byte_size: int) -> int:
        """Says no with the core's words for the device 9."""
        if device == 9:
            raise core_error("FAILED_PRECONDITION", 400, "no such device")
        assert len(raw_handle) == 64
        return device

    def register_cuda_shared_memory(self, name: str, memory: int, byte_size: int) -> None:
        self.cuda_shared_memory[name] = {"name": name, "device_id": memory, "byte_size": byte_size}

    def unregister_cuda_shared_memory(self, name: str | None) -> None:
        if name is None:
            self.cuda_shared_memory.clear()
        else:
            self.cuda_shared_memory.pop(name, None)

    def cuda_shared_memory_regions(self) -> list[dict[str, Any]]:
        return list(self.cuda_shared_memory.values())

    def shared_memory_regions(self) -> list[dict[str, Any]]:
        return list(self.shared_memory.values())

    def shared_memory_usage(self) -> dict[str, int]:
        return SHARED_MEMORY_USAGE

    def set_trace_rule(self, model: str | None, rate: int, count: int) -> None:
        self.trace_rules[model] = (rate, count)

    def remove_trace_rule(self, model: str) -> None:
        self.trace_rules.pop(model, None)

    def traces_remaining(self, model: str | None) -> int:
        return self.trace_rules.get(model, self.trace_rules[None])[1]

    def take_traces(self) -> list[dict[str, Any]]:
        traces, self.traces = self.traces, []
        return traces

    def take_runtime_log(self) -> list[tuple[int, str]]:
        return []

    def _take_attention(self) -> list[Any] | None:
        attention, self.attention = self.attention, None
        return attention

    def tick(self) -> list[Any] | None:
        self.ticks += 1
        return self._take_attention()

    def drain(self) -> list[Any] | None:
        self.drains += 1
        os.read(self.completion_fd, 1)
        return self._take_attention()

    def expire(self) -> list[Any] | None:
        self.expiries += 1
        return self._take_attention()

    def begin_drain(self) -> list[Any] | None:
        return self._take_attention()

    def pool_stats(self) -> dict[str, int]:
        return POOL_STATS

    def gpus(self) -> list[dict[str, Any]]:
        return []

    def front_stats(self) -> dict[str, Any]:
        return FRONT_STATS

    def close(self) -> None:
        os.close(self.completion_fd)
        os.close(self.completions)


class Connection:
    """``flags``: what received(), attend() and the others answer in turn. ``calls``: for take_calls()."""

    def __init__(self, engine: Engine, control_only: bool = False) -> None:
        self.engine, self.control_only = engine, control_only
        self.owner: Any = None
        self.fd: int | None = None
        self.alpn: str | None = None
        self.flags: list[int] = []
        self.calls: list[ControlCall] = []
        self.output: list[list[bytes]] = []
        self.replies: list[tuple[int, int, bytes, str, str]] = []
        self.messages: list[tuple[int, bytes]] = []
        self.finished: dict[int, tuple[int, str]] = {}
        self.log: list[str] = []
        self._buffer = bytearray(4096)

    def _next(self, name: str) -> int:
        self.log.append(name)
        return self.flags.pop(0) if self.flags else 0

    def opened(self, fd: int, alpn: str = "") -> None:
        self.log.append("opened")
        self.fd, self.alpn = fd, alpn

    def closed(self) -> None:
        self.log.append("closed")

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)

    def received(self, nbytes: int) -> int:
        return self._next("received")

    def read_calls(self) -> tuple[Callable[[int], memoryview], Callable[[int], int]]:
        return self.get_buffer, self.received

    def eof_received(self) -> int:
        return self._next("eof_received")

    def attend(self) -> int:
        return self._next("attend")

    def writable(self) -> int:
        return self._next("writable")

    def take_calls(self) -> list[ControlCall]:
        calls, self.calls = self.calls, []
        return calls

    def take_output(self) -> list[bytes]:
        self.log.append("take_output")
        return self.output.pop(0)

    def respond(
        self,
        exchange: int,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        extra_headers: str = "",
    ) -> int:
        self.replies.append((exchange, status, body, content_type, extra_headers))
        return self._next("respond")

    def send_message(self, exchange: int, message: bytes) -> int:
        assert exchange not in self.finished
        self.messages.append((exchange, message))
        return self._next("send_message")

    def finish(self, exchange: int, code: int, message: str = "") -> int:
        assert exchange not in self.finished
        self.finished[exchange] = (code, message)
        return self._next("finish")
