"""A model as the Open Inference Protocol shows it: metadata, Triton's ModelConfig as JSON, statistics."""

from typing import TYPE_CHECKING, Any

from servolley.repository.versions import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from servolley._core import Servable, TensorSpec
    from servolley.config.model import ModelConfig
    from servolley.repository.records import ModelRecord

_CONFIG_TYPE = {"BYTES": "TYPE_STRING"}
_INDEX_STATE = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}


def metadata(servable: "Servable", versions: "Iterable[int]") -> dict[str, Any]:
    return {
        "name": servable.name,
        "versions": [str(version) for version in versions],
        "platform": servable.platform,
        "inputs": [_tensor(spec, servable) for spec in servable.inputs],
        "outputs": [_tensor(spec, servable) for spec in servable.outputs],
    }


def _tensor(spec: "TensorSpec", servable: "Servable") -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": _shape(spec, servable.max_batch_size)}


def _shape(spec: "TensorSpec", max_batch_size: int) -> list[int]:
    # A leading -1 says "batched" in this protocol, whatever the model declares.
    shape = spec.shape
    return [-1, *shape[1:]] if max_batch_size > 0 and shape else shape


def model_config(record: "ModelRecord", servable: "Servable") -> dict[str, Any]:
    """Triton's ModelConfig with every primitive field, the implicit batch dimension left out of ``dims``."""
    config = record.found.config
    document: dict[str, Any] = {
        "name": servable.name,
        "platform": servable.platform,
        "backend": "onnxruntime",
        "runtime": "",
        "version_policy": _version_policy(config),
        "max_batch_size": servable.max_batch_size,
        "input": [
            _config_tensor(spec, servable)
            | {
                "format": f"FORMAT_{config.input_formats.get(spec.name, 'NONE')}",
                "allow_ragged_batch": False,
                "optional": False,
            }
            for spec in servable.inputs
        ],
        "output": [
            _config_tensor(spec, servable) | {"label_filename": config.class_labels.get(spec.name, "")}
            for spec in servable.outputs
        ],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        "instance_group": [_instance_group(servable)],
        "default_model_filename": config.filename,
        "cc_model_filenames": config.filename_by_compute_capability,
        "metric_tags": config.metric_tags,
        "parameters": _parameters(config),
        "model_warmup": [],
    }
    if servable.max_batch_size > 1:
        document["dynamic_batching"] = _dynamic_batching(config, servable)
    return document


def _config_tensor(spec: "TensorSpec", servable: "Servable") -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": _CONFIG_TYPE.get(spec.datatype, f"TYPE_{spec.datatype}"),
        "dims": spec.shape[1:] if servable.max_batch_size > 0 else spec.shape,
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


def _version_policy(config: "ModelConfig") -> dict[str, Any]:
    versions = config.versions
    if versions.all:
        return {"all": {}}
    if versions.specific:
        return {"specific": {"versions": versions.specific}}
    return {"latest": {"num_versions": versions.latest or 1}}


def _instance_group(servable: "Servable") -> dict[str, Any]:
    gpus = [int(device.removeprefix("cuda:")) for device in servable.devices if device != "cpu"]
    return {
        "name": servable.name,
        "kind": "KIND_GPU" if gpus else "KIND_CPU",
        "count": servable.instances,
        "gpus": gpus,
        "secondary_devices": [],
        "profile": [],
        "passive": False,
        "host_policy": "",
    }


def _parameters(config: "ModelConfig") -> dict[str, Any]:
    runtime = config.runtime
    values = {
        "intra_op_thread_count": runtime.intra_op_threads,
        "inter_op_thread_count": runtime.inter_op_threads,
        "execution_mode": int(runtime.parallel_execution),
        "enable_mem_arena": int(runtime.memory_arena),
        "enable_mem_pattern": int(runtime.memory_pattern),
    }
    return {key: {"string_value": str(value)} for key, value in (config.parameters | values).items()}


def _dynamic_batching(config: "ModelConfig", servable: "Servable") -> dict[str, Any]:
    batching = config.batching
    return {
        "preferred_batch_size": batching.preferred_batch_sizes or [servable.max_batch_size],
        "max_queue_delay_microseconds": batching.max_queue_delay_us,
        "preserve_ordering": False,
        "priority_levels": 0,
        "default_priority_level": 0,
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": batching.default_timeout_us,
            "allow_timeout_override": batching.allow_timeout_override,
            "max_queue_size": batching.max_queue_size,
        },
        "priority_queue_policy": {},
    }


def statistics(servable: "Servable") -> dict[str, Any]:
    """One entry of ``model_stats``. The three compute counts are equal, which perf_analyzer insists on."""
    stats = servable.stats()
    successes = stats["success_count"]

    def duration(count: int, ns: int) -> dict[str, int]:
        return {"count": count, "ns": ns}

    return {
        "name": servable.name,
        "version": str(servable.version),
        "last_inference": stats["last_inference_ms"],
        "inference_count": stats["inference_count"],
        "execution_count": stats["execution_count"],
        "inference_stats": {
            "success": duration(successes, stats["success_ns"]),
            "fail": duration(stats["fail_count"], stats["fail_ns"]),
            "queue": duration(successes, stats["queue_ns"]),
            "compute_input": duration(successes, stats["compute_input_ns"]),
            "compute_infer": duration(successes, stats["compute_infer_ns"]),
            "compute_output": duration(successes, stats["compute_output_ns"]),
            "cache_hit": duration(0, 0),
            "cache_miss": duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": batch["rows"],
                "compute_input": duration(batch["executions"], batch["compute_input_ns"]),
                "compute_infer": duration(batch["executions"], batch["compute_infer_ns"]),
                "compute_output": duration(batch["executions"], batch["compute_output_ns"]),
            }
            for batch in stats["batches"]
        ],
        "memory_usage": [],
    }


def index_entries(record: "ModelRecord") -> list[dict[str, str]]:
    """One entry per version; a model of which nothing can be loaded has one without a version. What serves
    although its configuration cannot be used any more says why."""
    entries = []
    for version, life in sorted(record.versions.items()):
        reason = life.trouble.message if life.trouble else "unloaded" if life.state is State.END else ""
        if life.state is State.AVAILABLE and record.failure is not None:
            reason = record.failure.message
        entries.append(
            {
                "name": record.name,
                "version": str(version),
                "state": _INDEX_STATE[life.state],
                "reason": reason,
            }
        )
    if record.failure is not None and not entries:
        reason = record.failure.message
        entries.append({"name": record.name, "version": "", "state": "UNAVAILABLE", "reason": reason})
    return entries
