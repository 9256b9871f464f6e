"""model.toml: how one model is served. The file is optional; so is every key."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from servolley.config.traffic import Canary, Shadow, Traffic, Version, named_versions
from servolley.config.warm_up import Warmup

if TYPE_CHECKING:
    from servolley._core import ServableOptions, TensorRTOptions

Count = Annotated[int, Meta(ge=0, le=1 << 31)]
PositiveCount = Annotated[int, Meta(ge=1, le=1 << 31)]
Microseconds = Annotated[int, Meta(ge=0, le=1 << 53)]
NonEmpty = Annotated[str, Meta(min_length=1, max_length=1024)]

Device = Annotated[str, Meta(pattern=r"^(cpu|auto|cuda|cuda:[0-9]{1,3})$")]
Gpu = Annotated[str, Meta(pattern=r"^cuda:[0-9]{1,3}$")]

ComputeCapability = Annotated[str, Meta(pattern=r"^[0-9]{1,2}\.[0-9]$")]
FileName = Annotated[str, Meta(pattern=r"^[^/\x00-\x1f]+$", max_length=255)]
# Behind the "_" that every tag gets; names that begin with two are Prometheus's own.
TagName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$", max_length=100)]
Integers = Literal["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
Datatype = Integers | Literal["BOOL", "FP16", "BF16", "FP32", "FP64", "BYTES"]
ImageFormat = Literal["NONE", "NHWC", "NCHW"]
Dimension = Annotated[int, Meta(ge=-1, le=1 << 40)]

# What the server itself tells the CUDA provider, and the key that says it here, if there is one.
_OWN_CUDA_OPTIONS = {
    "device_id": "device",
    "enable_cuda_graph": "cuda_graphs",
    "gpu_mem_limit": "gpu_memory_limit",
    "has_user_compute_stream": None,
    "user_compute_stream": None,
}
_OPTIMIZATION_LEVELS = {"off": 0, "basic": 1, "extended": 2, "all": 99}


class Batching(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[batching]: which requests run together.

    max_batch_size: rows of one batch; 0 = requests never share a run. Absent: batched with the server's
        default limit if every input and output has a free first dimension, otherwise unbatched.
    max_batch_size_if_batchable: the same for a model that can be batched; others run one request at a time.
    max_queue_delay_us: how long the oldest request may wait for others. 0 = batch what is there.
    preferred_batch_sizes: rows that are run without waiting any longer, ascending.
    max_queue_size: requests that may wait; above it 503 at once. 0 = the server's default.
    default_timeout_us: how long a request that names no timeout may wait. 0 = without limit.
    allow_timeout_override: whether a request may name its own timeout.
    """

    max_batch_size: Count | None = None
    max_batch_size_if_batchable: PositiveCount | None = None
    max_queue_delay_us: Microseconds = 0
    preferred_batch_sizes: list[PositiveCount] = []
    max_queue_size: Count = 0
    default_timeout_us: Microseconds = 0
    allow_timeout_override: bool = True

    def __post_init__(self) -> None:
        sizes = self.preferred_batch_sizes
        if sizes != sorted(set(sizes)):
            raise ValueError("preferred_batch_sizes must ascend without repetition")
        if self.max_batch_size is not None and self.max_batch_size_if_batchable is not None:
            raise ValueError("give max_batch_size or max_batch_size_if_batchable, not both")
        if self.max_batch_size is not None and sizes and sizes[-1] > self.max_batch_size:
            raise ValueError(f"preferred batch size {sizes[-1]} exceeds max_batch_size {self.max_batch_size}")


class TensorRT(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[runtime.tensorrt]: the model runs on the TensorRT provider; what that cannot take runs on CUDA.

    precision: what it may compute with.
    cache: the folder in which the engines that it builds are kept, which takes minutes; absent = a folder of
        the user's cache directory. "" = none.
    options: more options of the provider, by ONNX Runtime's own names.
    """

    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    cache: str | None = None
    options: dict[NonEmpty, str] = {}


class Runtime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[runtime]: what the model runs on.

    device: "cpu", "cuda:N", or "cuda" for every GPU; asked for and absent is an error, never a fall-back.
        "auto": the largest GPU if there is one, else the CPU; the log and the model's configuration say
        which.
    devices: several GPUs instead; each gets the weights, and each batch goes to the one with the least to do.
    execution: "inline" runs batches on the server's loop, "threads" on instance threads; "auto" measures.
    instances: batches in flight at once. 0 = chosen for the device.
    lanes: on GPUs: batches that each instance has under way. While one computes, the next goes up and the
        last comes down.
    fill_batches: on GPUs: whether batches are filled up to one of the preferred batch sizes or the powers of
        two, with rows that nobody reads: "auto", "on" or "off". Convolutions prepare anew for every size that
        is not the last one's. "auto" measures whether that costs more than the rows.
    cuda_graphs: on GPUs: records what a batch does, for each of the preferred batch sizes or the powers of
        two, and replays it; batches are filled up to the next size.
    cuda_graph_sizes: rows that are recorded instead of these.
    cuda_options: on GPUs: more options of the CUDA provider, by ONNX Runtime's own names.
    gpu_memory_limit: bytes that the runtime may take on each GPU for this model. 0 = no limit.
    tensorrt: on GPUs: use TensorRT.
    intra_op_threads: threads inside one operator. 0 = the processors granted to this process.
    inter_op_threads: operators at once, where parallel_execution is on.
    parallel_execution: run independent operators of one batch at the same time.
    allow_spinning: idle threads of the runtime burn their processor, also between runs.
    spin_us: otherwise, how long they look for more within a run before they sleep. 0 = not at all. From ONNX
        Runtime 1.26 on.
    graph_optimization: "off", "basic", "extended" or "all".
    memory_arena: memory that runs have used is kept for the next. What warm-up runs used is kept while the
        version is loaded; what a larger run took besides is given back a while later.
    memory_pattern: what a run computes lies in one block, planned for each shape of its inputs. For models
        whose shapes never change; with batches of many sizes it takes more memory and saves no time.
    warmup: run zero-filled batches before the version becomes available.
    """

    device: Device = "cpu"
    devices: list[Gpu] = []
    execution: Literal["auto", "inline", "threads"] = "auto"
    instances: Annotated[int, Meta(ge=0, le=1024)] = 0
    lanes: Annotated[int, Meta(ge=1, le=16)] = 2
    fill_batches: Literal["auto", "on", "off"] = "auto"
    cuda_graphs: bool = False
    cuda_graph_sizes: list[PositiveCount] = []
    cuda_options: dict[NonEmpty, str] = {}
    gpu_memory_limit: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    tensorrt: TensorRT | None = None
    intra_op_threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    inter_op_threads: Annotated[int, Meta(ge=1, le=4096)] = 1
    parallel_execution: bool = False
    allow_spinning: bool = False
    spin_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    graph_optimization: Literal["off", "basic", "extended", "all"] = "all"
    memory_arena: bool = True
    memory_pattern: bool = False
    warmup: bool = True

    def __post_init__(self) -> None:
        if self.devices and self.device != "cpu":
            raise ValueError("give either device or devices")
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("devices names a GPU twice")
        for key in self.cuda_options.keys() & _OWN_CUDA_OPTIONS.keys():
            instead = _OWN_CUDA_OPTIONS[key]
            raise ValueError(f"cuda_options: '{key}' " + (f"is '{instead}' here" if instead else "is taken"))
        if self.tensorrt is not None and self.cuda_graphs:
            raise ValueError("cuda_graphs are for CUDA's provider; TensorRT has trt_cuda_graph_enable")


class Versions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[versions]: which versions on disk are served. At most one of latest, all and specific.

    latest: the n highest versions (the default, with n = 1).
    all: every version.
    specific: exactly these; absent ones are skipped.
    labels: label -> version, for routes that name a label. A label that is moved stays where it is until its
        version is available.
    preserve: "availability": what is no longer wanted serves until its successors do; "memory": it goes
        first, and so does a version whose files have changed.
    """

    latest: PositiveCount | None = None
    all: bool = False
    specific: list[Version] = []
    labels: dict[NonEmpty, Version] = {}
    preserve: Literal["availability", "memory"] = "availability"

    def __post_init__(self) -> None:
        if (self.latest is not None) + self.all + bool(self.specific) > 1:
            raise ValueError("give at most one of latest, all and specific")


Value = int | float | str | bool


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[signatures.NAME]: what TensorFlow Serving's classify and regress calls of that signature mean.

    method: "classify" or "regress".
    features: input -> feature of the examples that it is filled from. Absent: the feature of its name.
    defaults: feature -> its value or values in examples that lack it. Without one every example needs it.
    scores: classify: the output with one score per class. Absent: "scores", or the only FP32 or FP64 output.
    classes: classify: the output with the labels. Absent: "classes" if there is one; else the scores'
        [class_labels], or no labels.
    value: regress: the output. Absent: "outputs", or the only FP32 or FP64 output.
    """

    method: Literal["classify", "regress"]
    features: dict[NonEmpty, NonEmpty] = {}
    defaults: dict[NonEmpty, Value | list[Value]] = {}
    scores: NonEmpty | None = None
    classes: NonEmpty | None = None
    value: NonEmpty | None = None

    def __post_init__(self) -> None:
        if self.method == "classify" and self.value is not None:
            raise ValueError("'value' is for method = \"regress\"")
        if self.method == "regress" and (self.scores is not None or self.classes is not None):
            raise ValueError("'scores' and 'classes' are for method = \"classify\"")


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[inputs.NAME] and [outputs.NAME]: what the model's tensor has to be, or the load fails.

    datatype: as the Open Inference Protocol names it. Absent: whatever the model has.
    shape: -1 for a free dimension. A dimension that is free in the model may be fixed; then requests must
        have that. Without the batch dimension where batching.max_batch_size is above 0.
    """

    datatype: Datatype | None = None
    shape: Annotated[list[Dimension], Meta(max_length=16)] | None = None


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of model.toml.

    filename: the model's file inside each version directory.
    filename_by_compute_capability: on GPUs: the file for those of a compute capability ("9.0").
    inputs, outputs: what the model's tensors are expected to be. Inputs are all named, or none.
    metric_tags: labels of the model's metrics, each with a "_" in front of its name.
    parameters, input_formats: what the owner has to say to clients, in the configuration that Triton's calls
        show; input_formats: input -> which dimension of an image is which. Nothing here depends on them.
    class_labels: output name -> text file with one class label per line, inside the model directory.
    traffic, canary, shadow: see config.traffic.
    signatures: signature name -> what classify and regress calls that name it mean. "serving_default" is that
        of calls that name none.
    """

    filename: FileName = "model.onnx"
    filename_by_compute_capability: dict[ComputeCapability, FileName] = {}
    inputs: dict[NonEmpty, Tensor] = {}
    outputs: dict[NonEmpty, Tensor] = {}
    metric_tags: dict[TagName, Annotated[str, Meta(max_length=1024)]] = {}
    parameters: dict[str, str] = {}
    input_formats: dict[NonEmpty, ImageFormat] = {}
    batching: Batching = Batching()
    runtime: Runtime = Runtime()
    versions: Versions = Versions()
    class_labels: dict[NonEmpty, NonEmpty] = {}
    signatures: dict[NonEmpty, Signature] = {}
    traffic: Traffic = Traffic()
    canary: Canary | None = None
    shadow: Shadow | None = None
    warmup: Warmup = Warmup()

    def __post_init__(self) -> None:
        if not {".", ".."}.isdisjoint({self.filename, *self.filename_by_compute_capability.values()}):
            raise ValueError("filename must name a file")
        if self.canary is not None and self.traffic.split:
            raise ValueError("give [traffic] split or [canary], not both")
        self._check_versions()

    def named_versions(self) -> set[int]:
        """What [traffic], [canary] and [shadow] cannot do without."""
        return named_versions(self.traffic, self.canary, self.shadow)

    def _check_versions(self) -> None:
        named, policy = self.named_versions(), self.versions
        if policy.all:
            return
        compares = self.canary is not None or self.shadow is not None
        needed = max(len(named), 2 if compares else 0)
        if policy.specific and (missing := sorted(named - set(policy.specific))):
            raise ValueError(
                f"[traffic], [canary] or [shadow] names version {missing[0]}, "
                "which is not in [versions] specific"
            )
        kept = len(policy.specific) or policy.latest or 1
        if needed > kept:
            raise ValueError(
                f"[traffic], [canary] and [shadow] need {needed} versions, of which [versions] keeps {kept}: "
                f"give latest = {needed}, specific or all"
            )


def servable_options(config: ModelConfig, labels: dict[str, list[str]]) -> "ServableOptions":
    """What the core is told about a model; ``labels``: class labels by output name. Where files lie is for
    whoever knows the folder."""
    batching, runtime = config.batching, config.runtime
    return {
        "devices": list(runtime.devices) or [runtime.device],
        "files_by_compute_capability": {},
        "execution": runtime.execution,
        "instances": runtime.instances,
        "lanes": runtime.lanes,
        "filling": runtime.fill_batches,
        "cuda_graphs": runtime.cuda_graphs,
        "graph_rows": list(runtime.cuda_graph_sizes),
        "cuda_options": dict(runtime.cuda_options),
        "gpu_memory_bytes": runtime.gpu_memory_limit,
        "tensorrt": _tensorrt(runtime.tensorrt),
        "max_batch_size": -1 if batching.max_batch_size is None else batching.max_batch_size,
        "max_batch_size_if_batchable": batching.max_batch_size_if_batchable or 0,
        "max_queue_delay_us": batching.max_queue_delay_us,
        "preferred_batch_sizes": list(batching.preferred_batch_sizes),
        "max_queue_size": batching.max_queue_size,
        "default_timeout_us": batching.default_timeout_us,
        "allow_timeout_override": batching.allow_timeout_override,
        "intra_op_threads": runtime.intra_op_threads,
        "inter_op_threads": runtime.inter_op_threads,
        "parallel_execution": runtime.parallel_execution,
        "allow_spinning": runtime.allow_spinning,
        "spin_us": runtime.spin_us,
        "graph_optimization": _OPTIMIZATION_LEVELS[runtime.graph_optimization],
        "memory_arena": runtime.memory_arena,
        "memory_pattern": runtime.memory_pattern,
        "warmup": runtime.warmup,
        "warmup_rows": list(config.warmup.batch_sizes),
        "labels": labels,
        "inputs": {name: (tensor.datatype, tensor.shape) for name, tensor in config.inputs.items()},
        "outputs": {name: (tensor.datatype, tensor.shape) for name, tensor in config.outputs.items()},
    }


def _tensorrt(wanted: TensorRT | None) -> "TensorRTOptions | None":
    if wanted is None:
        return None
    cache = _engine_cache() if wanted.cache is None else wanted.cache
    return {"precision": wanted.precision, "cache": cache, "options": dict(wanted.options)}


def _engine_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(base) / "servolley" / "tensorrt")
