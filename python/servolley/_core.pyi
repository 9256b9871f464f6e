"""The C++ core. Every member is *quick* (keeps the GIL, bounded work) or *heavy* (releases the GIL; call
it from a worker thread when it may take long); each docstring says which. Nothing here is thread-safe unless
it says so: the loop thread owns the engine, its connections and its routes."""

from collections.abc import Callable
from typing import Final, Literal, Self, TypedDict, type_check_only

__version__: Final[str]

class CoreError(Exception):
    """A core Status that is not OK.

    args: (message,). ``code`` is the canonical name, e.g. "INVALID_ARGUMENT".
    """

    code: str
    http_status: int

def crc32c(data: bytes) -> int:
    """Heavy, any thread: the checksum of TensorFlow's record files, unmasked."""

class TensorSpec:
    """One input or output of a signature. ``shape`` has -1 for free dimensions, batch dimension included."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str:
        """Open Inference Protocol name, e.g. "FP32"."""
    @property
    def tf_dtype(self) -> str:
        """TensorFlow name, e.g. "DT_FLOAT"."""
    @property
    def shape(self) -> list[int]: ...
    @property
    def rank_known(self) -> bool: ...
    @property
    def labels(self) -> list[str]:
        """An output's class labels; may be empty."""

@type_check_only
class Histogram(TypedDict):
    """Not cumulative: ``counts`` has one entry more than ``upper_bounds`` (everything above)."""

    upper_bounds: list[int]
    counts: list[int]
    sum: int

@type_check_only
class BatchStat(TypedDict):
    rows: int
    executions: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int

@type_check_only
class ServableCounts(TypedDict):
    """Counters since the servable was loaded."""

    success_count: int
    success_ns: int
    fail_count: int
    failures: dict[str, int]  # by reason: REJECTED (queue), CANCELED, BACKEND, OTHER
    nonfinite_count: int  # answers with NaN or infinity, while watch_outputs() says so
    in_flight: int  # admitted, not yet answered
    request_latency_ns: Histogram

@type_check_only
class ServableStats(ServableCounts):
    """``*_ns`` of queue and compute: sums over successes."""

    fail_ns: int
    responses: dict[str, dict[str, int]]  # dialect ("oip_http", "tfs_http") -> canonical code -> requests
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    inference_count: int  # rows
    execution_count: int  # batches
    last_inference_ms: int  # epoch; 0 = never
    pending: int  # admitted, not yet executing
    batches: list[BatchStat]  # by ascending rows: a few hundred at most, large sizes by powers of two then
    queue_latency_ns: Histogram
    compute_latency_ns: Histogram  # one observation per batch
    batch_rows: Histogram  # one observation per batch

@type_check_only
class ShadowStats(TypedDict):
    """Counted in requests, where nothing else is said."""

    taken: int  # copies that were made
    dropped: int  # not made: as many as may be were in flight, or held as much memory
    incompatible: int  # not made: this version takes or gives other tensors
    compared: int
    failed: int
    in_flight: int
    rows: int  # of what was compared
    max_abs_error: float  # of floating-point elements that are finite on both sides
    max_rel_error: float  # |a - b| / max(|a|, |b|): 0 to 2
    label_flips: int  # places of another argmax along the last dimension, in floats of rank 2 and more
    unequal_rows: int  # of outputs that are not floats
    nonfinite: int  # elements that are NaN or infinite on one side, and not the same on the other
    shape_mismatches: int  # outputs

@type_check_only
class PoolStats(TypedDict):
    in_use_bytes: int
    high_water_bytes: int
    cached_bytes: int
    pinned_bytes: int  # of both; host memory that GPUs copy by themselves
    allocations: int

@type_check_only
class GpuInUse(TypedDict):
    device: str  # "cuda:0"
    name: str
    uuid: str
    compute_capability: str  # "9.0"
    total_bytes: int
    broken: bool  # until the process ends
    pool: PoolStats

@type_check_only
class FrontStats(TypedDict):
    connections: int  # open now
    connections_total: int
    bytes_received: int
    bytes_sent: int
    responses: dict[int, int]  # HTTP status -> answers, control calls included
    unknown_model_requests: int

@type_check_only
class Trace(TypedDict):
    """What one request went through. ``stages``: (name, steady nanoseconds), those that it reached, in order:
    REQUEST_START, QUEUE_START, COMPUTE_START, COMPUTE_INPUT_END, COMPUTE_OUTPUT_START, COMPUTE_END,
    REQUEST_END."""

    id: int  # from 1
    model: str
    version: int
    request_id: str  # the client's; may be empty
    dialect: str
    code: str  # canonical
    rows: int
    batch_rows: int  # of all requests that ran together; 0 = it did not run
    stages: list[tuple[str, int]]

@type_check_only
class SharedMemoryRegion(TypedDict):
    name: str
    key: str
    offset: int
    byte_size: int

@type_check_only
class CudaSharedMemoryRegion(TypedDict):
    name: str
    device_id: int
    byte_size: int

@type_check_only
class SharedMemoryUsage(TypedDict):
    """Of every region that is open, those that were unregistered while requests use them included."""

    regions: int
    bytes: int
    pinned_bytes: int

@type_check_only
class TensorRTOptions(TypedDict, total=False):
    """Absent keys take the default in parentheses."""

    precision: Literal["fp32", "fp16", "bf16", "int8"]  # ("fp32")
    cache: str  # ("" = none) folder for the engines that are built
    options: dict[str, str]  # ({}) the provider's own

@type_check_only
class ServableOptions(TypedDict, total=False):
    """How to load and batch. Absent keys take the default in parentheses."""

    devices: list[str]  # (["cpu"]), ["auto"], ["cuda"] for every GPU, or one "cuda:N" or more
    files_by_compute_capability: dict[str, str]  # ({}) "9.0" -> the path for GPUs of that kind
    execution: Literal["auto", "inline", "threads"]  # ("auto")
    instances: int  # (0 = chosen for the device) batches in flight at once
    lanes: int  # (2) on GPUs: batches under way for each of these
    filling: Literal["auto", "off", "on"]  # ("auto") on GPUs: batches are filled up to one of few sizes
    cuda_graphs: bool  # (False)
    cuda_options: dict[str, str]  # ({}) the CUDA provider's own
    graph_rows: list[int]  # ([] = the preferred ones) sizes that are recorded as CUDA graphs
    gpu_memory_bytes: int  # (0 = no limit) what the runtime may take on each GPU
    tensorrt: TensorRTOptions | None  # (None)
    max_batch_size: int  # (-1 = infer: batched if the model allows it) 0 = never batched, n = limit in rows
    max_batch_size_if_batchable: int  # (0 = a default) the limit where max_batch_size is -1
    max_queue_delay_us: int  # (0)
    preferred_batch_sizes: list[int]  # ([])
    max_queue_size: int  # (0 = the engine's default limit) requests
    default_timeout_us: int  # (0 = none) queue timeout of requests that name none
    allow_timeout_override: bool  # (True)
    intra_op_threads: int  # (0 = granted processors)
    inter_op_threads: int  # (1)
    parallel_execution: bool  # (False)
    allow_spinning: bool  # (False)
    spin_us: int  # (100) microseconds
    graph_optimization: int  # (99) ONNX Runtime's levels 0, 1, 2, 99
    memory_arena: bool  # (True)
    memory_pattern: bool  # (False)
    warmup: bool  # (True) run zero-filled batches before the servable is returned
    warmup_rows: list[int]  # ([]) their sizes, besides 1, the preferred ones and the limit
    inputs: dict[str, tuple[str | None, list[int] | None]]  # ({}) datatypes, shapes the model is to have
    outputs: dict[str, tuple[str | None, list[int] | None]]  # without the batch where max_batch_size > 0
    labels: dict[str, list[str]]  # ({}) class labels by output name

class Servable:
    """One loaded version. Alive until closed and until its last request has been answered."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def platform(self) -> str: ...
    @property
    def inputs(self) -> list[TensorSpec]: ...
    @property
    def outputs(self) -> list[TensorSpec]: ...
    @property
    def max_batch_size(self) -> int:
        """Rows of one batch; 0 = unbatched."""
    @property
    def max_batch_inferred(self) -> bool: ...
    @property
    def rows_depend(self) -> bool:
        """Whether requests are kept apart, because two rows had other answers together than apart."""
    @property
    def execution(self) -> Literal["inline", "threads"]:
        """What "auto" has settled on by now."""
    @property
    def instances(self) -> int: ...
    @property
    def devices(self) -> list[str]:
        """What it runs on: "cpu", or GPUs."""
    @property
    def broken(self) -> bool:
        """Any thread: its devices have failed, and it answers nothing any more. Stays so."""
    @property
    def cuda_graphs(self) -> Literal["off", "on", "refused", "not_yet"]:
        """ "refused": asked for, but the model cannot be captured. "not_yet": no batch has been so far."""
    @property
    def load_ns(self) -> int:
        """How long loading and warm-up took."""
    def stats(self) -> ServableStats:
        """Quick; loop thread."""
    def counts(self) -> ServableCounts:
        """Quick; loop thread: what of ``stats()`` is cheap enough to be looked at every second."""
    def watch_outputs(self, watched: bool) -> None:
        """Quick; loop thread: whether answers with NaN or infinity are counted from now on."""
    def close(self) -> None:
        """Heavy, any thread: waits for requests in flight, joins instance threads, frees the model's memory.
        Take it out of the routes first."""

class Lease:
    """Where a call goes that takes several steps: the version is not closed before the lease is released, by
    ``with``, by name, or with the object."""

    @property
    def servable(self) -> Servable:
        """Not of a released one: raises CoreError."""
    def release(self) -> None:
        """Quick."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

class Shadow:
    """A version that gets copies of requests which another one has answered, and is compared with it."""

    def stats(self) -> ShadowStats:
        """Quick; loop thread."""
    def close(self) -> None:
        """Heavy, any thread: waits for the run under way, drops what waits. First take it out of the
        routes."""

class CudaMemory:
    """Memory of another process on a GPU, open until neither Python nor a region holds it."""

class SystemMemory:
    """A region in system memory that is about to be pinned."""

class Engine:
    """The composition of pool, runtime, routes and servables behind one event loop."""

    def __init__(
        self,
        *,
        ort_library: str,
        cuda_libraries: list[str] = ...,
        pool_bytes: int = ...,
        body_bytes: int = ...,
        decoded_bytes: int = ...,
        queue_size: int = ...,
        request_timeout_us: int = ...,
        inline_threshold_us: int = ...,
        busy_poll_us: int = ...,
        load_niceness: int = ...,
        grpc_compression_level: int = ...,
        shared_memory_regions: int = ...,
        shared_memory_bytes: int = ...,
        gpu_pool_bytes: int = ...,
    ) -> None:
        """``body_bytes``: largest request body or gRPC message (and its inflated form). ``decoded_bytes``:
        tensors decoded from one request. ``queue_size``: default limit of waiting requests per servable.
        ``request_timeout_us``: TensorFlow Serving's REST timeout, 0 = none.
        ``load_niceness``: how far loads and warm-ups stand back behind serving, 0 to 19.
        ``grpc_compression_level``: zlib's, for gRPC clients that accept compressed answers; 0 = never.
        ``shared_memory_regions``, ``shared_memory_bytes``: what clients may register; 0 regions = nothing.
        ``gpu_pool_bytes``: tensor memory on each GPU, 0 = what it has.
        Raises CoreError FAILED_PRECONDITION if the ONNX Runtime library cannot be used. Heavy."""
    @property
    def completion_fd(self) -> int:
        """Readable when batches have finished: call ``drain()`` then (``loop.add_reader``)."""
    @property
    def runtime_version(self) -> str: ...
    @property
    def providers(self) -> list[str]: ...
    def load(self, name: str, version: int, path: str, options: ServableOptions) -> Servable:
        """Heavy, any thread: loads and warms up. Raises CoreError."""
    def warm_up(self, servable: Servable, predict_request: bytes, runs: int) -> None:
        """Heavy, any thread, before ``servable`` is in the routes: runs a serialized PredictRequest, whatever
        model it names. Raises CoreError."""
    def reconfigure(self, servable: Servable, options: ServableOptions) -> Servable:
        """Heavy, any thread: another servable over the same weights, batched as ``options`` say; what they
        say about the runtime is not looked at. Close both. Raises CoreError, FAILED_PRECONDITION if
        ``servable`` is closed."""
    def set_routes(
        self,
        model: str,
        versions: dict[int, Servable],
        default: int | None,
        labels: dict[str, int],
        split: dict[int, int] = ...,
        shadow: Shadow | None = None,
    ) -> None:
        """Quick: replaces everything that is routable under ``model``. Empty ``versions``: known but not
        ready (503). Requests that name neither a version nor a label go to ``default`` or, where there is a
        ``split``, to its versions by their weights; those that do not go to the shadow's version are copied
        to ``shadow`` once they are answered."""
    def shadow(self, servable: Servable, fraction_ppm: int, max_in_flight: int, max_bytes: int) -> Shadow:
        """Quick. ``fraction_ppm``: of the requests, in millionths. ``max_in_flight``, ``max_bytes``: copies
        that wait or run, and the memory that they keep from others; above it they are dropped."""
    def choose(
        self, model: str, version: int | None = None, label: str | None = None, rest: bool = False
    ) -> Lease:
        """Quick; loop thread: routes a call as TensorFlow Serving's Predict would be, for InnerCalls.
        ``rest``: it is counted, and its errors are those, of the REST API. Raises CoreError."""
    def remove_routes(self, model: str) -> None:
        """Quick: the model is unknown from now on (404)."""
    def tick(self) -> list[Connection] | None:
        """Heavy: runs what waits for inline execution and sends the answers. Returns the connections whose
        ``attend()`` has something to say, or None."""
    def drain(self) -> list[Connection] | None:
        """Heavy: sends the answers of finished batches; same result as ``tick()``."""
    def expire(self) -> list[Connection] | None:
        """Quick: answers requests whose deadline has passed in a queue, and applies connection deadlines;
        same result as ``tick()``. Call it when ``next_expiry_us`` has run out, at least once a second."""
    @property
    def next_expiry_us(self) -> int:
        """Microseconds until ``expire()`` has work; -1 = nothing is waiting for a time."""
    @property
    def in_flight(self) -> int:
        """Hot requests admitted and not yet answered."""
    def begin_drain(self) -> list[Connection] | None:
        """Quick: new hot requests get 503, every connection closes after its pending answers."""
    def take_runtime_log(self) -> list[tuple[int, str]]:
        """Quick: what ONNX Runtime has logged since the last call, at most the newest 256 lines, as
        (severity, text); severities are its own: 2 warning, 3 error, 4 fatal."""
    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> SystemMemory | None:
        """Quick: opens a part of a POSIX shared memory object for requests. Returns what
        ``pin_shared_memory`` takes, or None where there is no GPU that would have anything of it. Raises
        CoreError: INVALID_ARGUMENT, ALREADY_EXISTS for a name that is taken, RESOURCE_EXHAUSTED above the
        limits."""
    def pin_shared_memory(self, memory: SystemMemory) -> bool:
        """Heavy, may take a second, any thread: lets GPUs copy from and to the region by themselves. False
        if that cannot be; requests may use it all the same."""
    def may_register_shared_memory(self, name: str, byte_size: int) -> None:
        """Quick: raises CoreError as the registering calls do for that name and size."""
    def open_cuda_memory(self, raw_handle: bytes, device: int, byte_size: int) -> CudaMemory:
        """Heavy, may take a second, any thread: opens an allocation of another process on a GPU from its CUDA
        IPC handle. Raises CoreError: INVALID_ARGUMENT for what is no such handle or a smaller allocation,
        FAILED_PRECONDITION without such a device or a driver."""
    def register_cuda_shared_memory(self, name: str, memory: CudaMemory, byte_size: int) -> None:
        """Quick: lets requests use the first ``byte_size`` bytes of the memory."""
    def unregister_shared_memory(self, name: str | None) -> None:
        """Quick: forgets a region, None = all of system memory; requests that use it go on. An unknown name
        is no error."""
    def unregister_cuda_shared_memory(self, name: str | None) -> None:
        """Quick: the same for memory of GPUs."""
    def shared_memory_regions(self) -> list[SharedMemoryRegion]:
        """Quick: those in system memory, by name."""
    def cuda_shared_memory_regions(self) -> list[CudaSharedMemoryRegion]:
        """Quick: those in memory of GPUs, by name."""
    def shared_memory_usage(self) -> SharedMemoryUsage: ...
    def set_trace_rule(self, model: str | None, rate: int, count: int) -> None:
        """Quick: traces every ``rate``-th request (0 = none), ``count`` of them (-1 = any number). None:
        those of all models without a rule of their own."""
    def remove_trace_rule(self, model: str) -> None:
        """Quick: the model follows the general rule again."""
    def traces_remaining(self, model: str | None) -> int:
        """Quick: how many requests the rule that holds for ``model`` will still trace; -1 = any number."""
    def take_traces(self) -> list[Trace]:
        """Quick: of the requests that have ended since the last call; the core keeps 10,000 at most."""
    @property
    def traces_dropped(self) -> int:
        """Traces that were not taken in time."""
    def pool_stats(self) -> PoolStats: ...
    def gpus(self) -> list[GpuInUse]:
        """Quick: those that models use. Opens nothing."""
    def front_stats(self) -> FrontStats: ...
    def close(self) -> None:
        """Heavy: after every servable and connection was closed."""

# ControlCall.kind: a whole HTTP call, or one event of a gRPC call.
HTTP: Final[int]
GRPC_OPEN: Final[int]  # target and headers (the call's metadata) are set
GRPC_MESSAGE: Final[int]  # body is set
GRPC_HALF_CLOSE: Final[int]  # the client will send no more messages
GRPC_CANCEL: Final[int]  # nobody waits for an answer any more

class ControlCall:
    """A complete HTTP call that is not a hot route, or an event of a gRPC call that is not hot."""

    @property
    def kind(self) -> int: ...
    @property
    def exchange(self) -> int: ...
    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str:
        """As sent: undecoded path and query."""
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in lower case."""
    @property
    def body(self) -> bytes: ...
    @property
    def timeout_us(self) -> int | None:
        """GRPC_OPEN: how long the client waits for the call's end; None = for ever."""

# What ``received()`` and ``attend()`` ask of the transport; bits.
TICK: Final[int]  # hot requests wait: call Engine.tick() once at the end of this loop iteration
CALLS: Final[int]  # take_calls() has something
OUTPUT: Final[int]  # the kernel took less than everything: give take_output() to the transport
PAUSE: Final[int]  # pause reading until attend() says RESUME
RESUME: Final[int]
CLOSE: Final[int]  # close the transport

class Connection:
    """One connection, HTTP/1.1 or gRPC. Plain sockets: answers go straight to the socket ``fd``; what the
    kernel does not take comes out of take_output(). With ``fd`` = -1 (TLS) everything does."""

    owner: object | None

    def __init__(self, engine: Engine, control_only: bool = False) -> None:
        """``control_only``: no call is hot; every one comes out of take_calls()."""
    def opened(self, fd: int, alpn: str = "") -> None:
        """``alpn``: what the TLS handshake agreed on; empty: the first bytes say which protocol it is."""
    def read_calls(self) -> tuple[Callable[[int], memoryview], Callable[[int], int]]:
        """The two quick calls of every read. get_buffer(sizehint): where the kernel puts the next bytes
        (asyncio.BufferedProtocol.get_buffer). received(nbytes): takes so many of them in; returns the bits
        above."""
    def eof_received(self) -> int: ...
    def take_calls(self) -> list[ControlCall]: ...
    def take_output(self) -> list[bytes]:
        """Quick: everything unsent, as objects with the buffer protocol, as transports take
        them. Nothing is sent directly until writable() was called."""
    def writable(self) -> int:
        """Quick: the transport's buffer is empty again; sends what has gathered meanwhile."""
    def attend(self) -> int:
        """Quick: the bits that are due now."""
    def respond(
        self, exchange: int, status: int, body: bytes, content_type: str = ..., extra_headers: str = ...
    ) -> int:
        """Quick: answers a control call; ``extra_headers`` are rendered "Name: value\\r\\n" lines."""
    def send_message(self, exchange: int, message: bytes) -> int:
        """Quick: sends one message of a gRPC call."""
    def finish(self, exchange: int, code: int, message: str = "") -> int:
        """Quick: ends a gRPC call with a canonical status code number."""
    def closed(self) -> None:
        """Quick: the socket is gone; cancels what is under way. Must be called before the fd is closed."""

class InnerCalls:
    """Inference from inside the process, through the queues and batches of everybody: what attends to it is
    ``owner``. A call is a tensorflow.serving.PredictRequest as it would come over gRPC."""

    owner: object | None

    def __init__(self, engine: Engine) -> None: ...
    def predict(self, exchange: int, request: bytes, lease: Lease, timeout_us: int = 0) -> int:
        """Quick: begins a run of what was leased, whatever model ``request`` names; returns attention bits,
        OUTPUT: take_results() has something. ``timeout_us``: 0 = none."""
    def cancel(self, exchange: int) -> None:
        """Quick: nobody waits for the result any more."""
    def attend(self) -> int: ...
    def take_results(self) -> list[tuple[int, bytes, CoreError | None]]:
        """Quick: (exchange, PredictResponse, what went wrong) of every call that is over."""
    def closed(self) -> None:
        """Quick: cancels what is under way. Before the engine is closed."""
