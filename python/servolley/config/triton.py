"""Triton's ModelConfig, as config.pbtxt or as the ``config`` parameter of a load, made ours. What would run
the model in another way than its owner expects is an error naming the field; what has no effect is a remark.

Nothing here imports protobuf before it is used."""

import re
from typing import Any

import msgspec

from servolley.config.model import ModelConfig
from servolley.config.strict import ConfigError

MESSAGE = "inference.ModelConfig"

_BACKENDS = {"", "onnxruntime"}
_PLATFORMS = {"", "onnxruntime_onnx"}
# optimization.graph.level: 0 = everything.
_GRAPH_LEVELS = {0: "all", -1: "basic", 1: "extended", 2: "off"}
_GPU_ACCELERATORS = {"cuda", "tensorrt"}
_COUNTS = {"intra_op_thread_count": "intra_op_threads", "inter_op_thread_count": "inter_op_threads"}
_SWITCHES = {
    "execution_mode": "parallel_execution",
    "enable_mem_arena": "memory_arena",
    "enable_mem_pattern": "memory_pattern",
}
# The CUDA provider's options in their older form: what it calls their numbers; None: taken as they are.
_CUDA_OPTIONS: dict[str, dict[str, str] | None] = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "do_copy_in_default_stream": None,
}
_MEMORY_LIMIT = "gpu_mem_limit"
_KIND_AUTO, _KIND_GPU = 0, 1
_NO_TYPE = 0
_FORMATS = {1: "NHWC", 2: "NCHW"}
# Fields of Triton's that our message has not.
_UNSUPPORTED = {"ensemble_scheduling", "model_operations", "model_repository_agents", "sequence_batching"}
_NO_FIELD = re.compile(rf'"{re.escape(MESSAGE)}" has no field named "(\w+)"')


def parse_text(text: str, message: Any, directory_name: str) -> tuple[ModelConfig, list[str]]:
    """``text``: config.pbtxt. Returns the configuration, and remarks on what has no effect here.

    message: an empty inference.ModelConfig. Raises ConfigError naming the field.
    """
    from google.protobuf import text_format

    try:
        text_format.Parse(text, message, descriptor_pool=message.DESCRIPTOR.file.pool)
    except (text_format.ParseError, RecursionError) as error:
        raise _unreadable(error) from error
    return model_config(message, directory_name)


def parse_json(text: str, message: Any, name: str) -> tuple[ModelConfig, list[str]]:
    """The same from JSON, as Triton's clients send it."""
    import orjson
    from google.protobuf import json_format

    try:
        document = orjson.loads(text)
        if not isinstance(document, dict):
            raise ConfigError(f"not an {MESSAGE}: not a JSON object")
        json_format.ParseDict(document, message, descriptor_pool=message.DESCRIPTOR.file.pool)
    except (json_format.ParseError, RecursionError, ValueError) as error:
        raise _unreadable(error) from error
    return model_config(message, name)


def _unreadable(error: Exception) -> ConfigError:
    if found := _NO_FIELD.search(str(error)):
        # JSON may write names in camel case.
        field = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", found[1])
        if field in _UNSUPPORTED:
            return ConfigError(f"'{field}' is not supported")
    return ConfigError(f"not an {MESSAGE}: {error}")


def model_config(message: Any, name: str) -> tuple[ModelConfig, list[str]]:
    """Raises ConfigError."""
    if message.name not in {"", name}:
        raise ConfigError(f"name: '{message.name}' is not the model's name '{name}'")
    if message.platform not in _PLATFORMS or message.backend not in _BACKENDS:
        raise ConfigError(
            f"platform, backend: '{message.platform or message.backend}' is not supported; only onnxruntime"
        )
    _refuse(message)
    document: dict[str, Any] = {
        "batching": _batching(message),
        "runtime": _runtime(message),
        "versions": _versions(message),
        "inputs": _tensors("input", message.input),
        "outputs": _tensors("output", message.output),
        "filename_by_compute_capability": dict(message.cc_model_filenames),
        "metric_tags": dict(message.metric_tags),
        "parameters": {
            key: parameter.string_value
            for key, parameter in message.parameters.items()
            if key not in _COUNTS and key not in _SWITCHES
        },
        "input_formats": {each.name: _format(each) for each in message.input if each.format},
        "class_labels": {each.name: each.label_filename for each in message.output if each.label_filename},
        "warmup": {"requests": [_warm_up(each) for each in message.model_warmup]},
    }
    if message.default_model_filename:
        document["filename"] = message.default_model_filename
    try:
        config = msgspec.convert(msgspec.to_builtins(document), type=ModelConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error
    return config, _remarks(message)


def _refuse(message: Any) -> None:
    for each in message.input:
        if each.allow_ragged_batch or each.is_shape_tensor or each.is_non_linear_format_io or each.optional:
            raise ConfigError(f"input '{each.name}': ragged, optional and shape tensors are not supported")
    for each in (*message.input, *message.output):
        if each.HasField("reshape"):
            raise ConfigError(f"reshape of '{each.name}' is not supported")
    for field in ("batch_input", "batch_output"):
        if getattr(message, field):
            raise ConfigError(f"{field} is not supported")
    if message.model_transaction_policy.decoupled:
        raise ConfigError("model_transaction_policy: decoupled models are not supported")
    accelerators = message.optimization.execution_accelerators
    for each in accelerators.gpu_execution_accelerator:
        if each.name not in _GPU_ACCELERATORS:
            raise ConfigError(f"gpu_execution_accelerator: '{each.name}' is not supported")
    for each in accelerators.cpu_execution_accelerator:
        raise ConfigError(f"cpu_execution_accelerator: '{each.name}' is not supported")


def _format(given: Any) -> str:
    if given.format not in _FORMATS:
        raise ConfigError(f"input '{given.name}': format {given.format} is not known")
    return _FORMATS[given.format]


def _tensors(what: str, given: Any) -> dict[str, dict[str, Any]]:
    tensors: dict[str, dict[str, Any]] = {}
    for each in given:
        if not each.name:
            raise ConfigError(f"{what}: each needs a name")
        if each.name in tensors:
            raise ConfigError(f"{what} '{each.name}' is listed twice")
        if any(dim < 1 and dim != -1 for dim in each.dims):
            raise ConfigError(f"{what} '{each.name}': dims must be at least 1, or -1")
        # What is not given is whatever the model has: clients send an output only for its label_filename.
        tensor = tensors[each.name] = {}
        if each.data_type != _NO_TYPE:
            tensor["datatype"] = _datatype(each)
        if each.dims:
            tensor["shape"] = list(each.dims)
    return tensors


def _datatype(given: Any) -> str:
    """The Open Inference Protocol's name of a message's data_type."""
    kind = type(given).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[given.data_type].name
    return "BYTES" if kind == "TYPE_STRING" else str(kind.removeprefix("TYPE_"))


def _versions(message: Any) -> dict[str, Any]:
    policy = message.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return {"all": True}
    if choice == "specific":
        if not policy.specific.versions:
            raise ConfigError("version_policy: specific names no version")
        return {"specific": list(policy.specific.versions)}
    if choice == "latest":
        if policy.latest.num_versions == 0:
            raise ConfigError("version_policy: latest needs num_versions of at least 1")
        return {"latest": policy.latest.num_versions}
    return {}


def _batching(message: Any) -> dict[str, Any]:
    batching: dict[str, Any] = {}
    if message.max_batch_size < 0:
        raise ConfigError("max_batch_size must not be negative")
    # 0 says "unbatched" only to whom the shapes are written out; else it is left to be found out.
    if message.max_batch_size > 0 or (message.input and message.output):
        batching["max_batch_size"] = message.max_batch_size
    if message.WhichOneof("scheduling_choice") != "dynamic_batching":
        return batching
    dynamic = message.dynamic_batching
    if dynamic.priority_levels or dynamic.priority_queue_policy:
        raise ConfigError("dynamic_batching: priority levels are not supported")
    batching["preferred_batch_sizes"] = sorted(set(dynamic.preferred_batch_size))
    batching["max_queue_delay_us"] = dynamic.max_queue_delay_microseconds
    if dynamic.HasField("default_queue_policy"):
        policy = dynamic.default_queue_policy
        if policy.timeout_action != 0:
            raise ConfigError("default_queue_policy: timeout_action DELAY is not supported")
        batching["default_timeout_us"] = policy.default_timeout_microseconds
        batching["allow_timeout_override"] = policy.allow_timeout_override
        batching["max_queue_size"] = policy.max_queue_size
    return batching


def _runtime(message: Any) -> dict[str, Any]:
    runtime = _placement(message.instance_group)
    level = message.optimization.graph.level
    if level not in _GRAPH_LEVELS:
        raise ConfigError(f"optimization.graph: level {level} is not known")
    runtime["graph_optimization"] = _GRAPH_LEVELS[level]
    cuda = message.optimization.cuda
    runtime["cuda_graphs"] = cuda.graphs
    if cuda.graphs:
        sizes = {spec.batch_size for spec in cuda.graph_spec}
        runtime["cuda_graph_sizes"] = sorted(size for size in sizes if size > 0)  # 0: not batched
    runtime["cuda_options"] = cuda_options = _cuda_options(message.parameters)
    for each in message.optimization.execution_accelerators.gpu_execution_accelerator:
        if each.name == "tensorrt":
            runtime["tensorrt"] = _tensorrt(each.parameters)
        else:
            cuda_options |= each.parameters
    if _MEMORY_LIMIT in cuda_options:
        runtime["gpu_memory_limit"] = _number(_MEMORY_LIMIT, cuda_options.pop(_MEMORY_LIMIT))
    for key, parameter in message.parameters.items():
        if key not in _COUNTS and key not in _SWITCHES:
            continue
        value = _number(key, parameter.string_value)
        if key in _SWITCHES:
            runtime[_SWITCHES[key]] = value != 0
        elif value > 0:  # 0: the default
            runtime[_COUNTS[key]] = value
    return runtime


def _number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"parameters: '{key}' must be a number") from None


def _cuda_options(parameters: Any) -> dict[str, str]:
    """Those that are among the model's own parameters."""
    options: dict[str, str] = {}
    for key, parameter in parameters.items():
        text = parameter.string_value
        if key in _CUDA_OPTIONS:
            words = _CUDA_OPTIONS[key]
            if words is not None and text not in words:
                raise ConfigError(f"parameters: '{key}' must be one of {', '.join(words)}")
            options[key] = text if words is None else words[text]
        elif key == _MEMORY_LIMIT:
            options[key] = text
    return options


def _warm_up(given: Any) -> dict[str, Any]:
    return {
        "name": given.name,
        "batch_size": given.batch_size or 1,
        "count": given.count or 1,
        "inputs": {name: _warm_up_input(name, each) for name, each in given.inputs.items()},
    }


def _warm_up_input(name: str, given: Any) -> dict[str, Any]:
    choice = given.WhichOneof("input_data_type")
    if choice is None:
        raise ConfigError(f"model_warmup: input '{name}' needs zero_data, random_data or input_data_file")
    tensor: dict[str, Any] = {"shape": list(given.dims), "datatype": _datatype(given)}
    if choice == "input_data_file":
        tensor["file"] = f"warmup/{given.input_data_file}"
    elif choice == "random_data":
        tensor["data"] = "random"
    return tensor


def _tensorrt(parameters: Any) -> dict[str, Any]:
    tensorrt: dict[str, Any] = {}
    options: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            tensorrt["precision"] = value.lower()
        elif key == "trt_engine_cache_path":
            tensorrt["cache"] = value
        elif key == "trt_engine_cache_enable" and value.lower() in {"0", "false"}:
            tensorrt["cache"] = ""
        elif key == "max_workspace_size_bytes":
            options["trt_max_workspace_size"] = value
        elif key.startswith("trt_"):
            options[key] = value
        else:
            raise ConfigError(f"execution_accelerators: tensorrt has no parameter '{key}' here")
    return tensorrt | {"options": options}


def _placement(groups: Any) -> dict[str, Any]:
    """The devices, and how many instances on each. Who does not say takes a GPU if there is one."""
    counts: dict[str, int] = {} if groups else {"auto": 0}
    for group in groups:
        if group.passive or group.secondary_devices:
            raise ConfigError("instance_group: passive groups and secondary devices are not supported")
        listed = [f"cuda:{gpu}" for gpu in group.gpus]
        for device in {_KIND_AUTO: listed or ["auto"], _KIND_GPU: listed or ["cuda"]}.get(
            group.kind, ["cpu"]
        ):
            # Without a number Triton starts two instances on CPUs; here they are chosen for the device.
            counts[device] = counts.get(device, 0) + group.count
    devices = sorted(counts, key=lambda device: (len(device), device))
    if len(counts) > 1 and not counts.keys().isdisjoint({"cpu", "auto", "cuda"}):
        raise ConfigError(f"instance_group: CPUs, every GPU or some of them, not {', '.join(devices)}")
    if len(set(counts.values())) > 1:
        raise ConfigError(f"instance_group: as many instances on each of {', '.join(devices)}")
    where = {"device": devices[0]} if len(devices) == 1 else {"devices": devices}
    return where | {"instances": counts[devices[0]]}


def _remarks(message: Any) -> list[str]:
    optimization = message.optimization
    graph_specs = optimization.cuda.graph_spec
    given = {
        "model_metrics: the buckets of histograms are fixed": bool(message.model_metrics.metric_control),
        "optimization.cuda.graph_spec without graphs": bool(graph_specs) and not optimization.cuda.graphs,
        "optimization.cuda.graph_spec: only its batch_size counts": any(
            spec.input or spec.HasField("graph_lower_bound") for spec in graph_specs
        ),
        "input_pinned_memory, output_pinned_memory: tensors for GPUs are pinned": any(
            optimization.HasField(field) and not getattr(optimization, field).enable
            for field in ("input_pinned_memory", "output_pinned_memory")
        ),
        "response_cache": message.response_cache.enable,
        "rate_limiter": any(group.HasField("rate_limiter") for group in message.instance_group),
        "preserve_ordering": message.dynamic_batching.preserve_ordering,
        "runtime": bool(message.runtime),
    }
    remarks = [f"has no effect: {field}" for field, is_given in given.items() if is_given]
    known = {*_COUNTS, *_SWITCHES, *_CUDA_OPTIONS, _MEMORY_LIMIT}
    return remarks + [f"has no effect: parameters '{key}'" for key in message.parameters if key not in known]
