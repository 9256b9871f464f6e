"""servolley.toml: how the server runs. The file is optional; so is every key; command-line flags win."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from servolley.config.addresses import parse_address
from servolley.config.sizes import ByteSize

Port = Annotated[int, Meta(ge=0, le=65535)]
CompressionLevel = Literal["none", "low", "medium", "high"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Repository(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[repository]: which models.

    path: a model repository, one model's directory, or a single model file; or a URL, see [remote].
    more_paths: further ones, of this machine; a model that is in two of them cannot be loaded.
    name: the model's name, where path is one model.
    control_mode: "poll": what lies on disk is served, and looked at again every poll_interval_s (0 = never).
        "none": the same without looking again. "explicit": models are loaded and unloaded by the repository
        API, at start only those that load_models names ("*": all).
    watch: between the looks the kernel tells of changes, where the file system is a local one (inotify).
    model_config_file: TensorFlow Serving's list of models, instead of path; read again every
        model_config_poll_interval_s (0 = never).
    batching_parameters_file: TensorFlow Serving's, for models that say nothing about batching themselves.
    enable_batching: its switch. false: such models run one request at a time.
    exit_on_error: a model that cannot be loaded at start ends the server with exit code 1.
    strict_readiness: ready only while every model of the start, and every one that has been available since,
        has an available version; else as soon as loading is over.
    warmup: run the requests that are declared or recorded for a model before a version is available.
    warmup_iterations: how often each recorded one is run.
    max_override_size: bytes of the files that came with loads over the repository API, as long as they are
        needed.
    state_dir: where decisions about canaries, and splits that were set by hand, outlive the server; absent =
        servolley in the user's state directory (~/.local/state).
    load_threads: models loading at once.
    load_niceness: how far loading, warming up and unloading stand back behind serving, 0 to 19.
    drain_timeout_s: how long an unload waits for requests in flight. Then the version counts as gone, with an
        error that says that its memory is not free yet; the requests go on.
    load_retries, load_retry_interval_s: a failed version is tried again that often; the interval doubles each
        time, up to five minutes.
    """

    path: str | None = None
    more_paths: list[str] = []
    name: str | None = None
    control_mode: Literal["poll", "explicit", "none"] = "poll"
    poll_interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 1.0
    watch: bool = True
    load_models: list[str] = []
    model_config_file: str | None = None
    model_config_poll_interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    batching_parameters_file: str | None = None
    enable_batching: bool | None = None
    exit_on_error: bool = False
    strict_readiness: bool = True
    max_override_size: ByteSize = ByteSize(4 << 30)
    warmup: bool = True
    warmup_iterations: Annotated[int, Meta(ge=1, le=1000)] = 1
    state_dir: Annotated[str, Meta(min_length=1)] | None = None
    load_threads: Annotated[int, Meta(ge=1, le=256)] = 4
    load_niceness: Annotated[int, Meta(ge=0, le=19)] = 19
    drain_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    load_retries: Annotated[int, Meta(ge=0, le=1_000_000)] = 5
    load_retry_interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 5.0


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[remote]: where repository.path is a URL, such as s3://bucket/models: a copy of it is what is served.

    cache_dir: where copies are kept; absent = servolley in the user's cache directory.
    poll_interval_s: between looks at the URL; 0 = never.
    downloads: files that come at once.
    max_size: bytes of the copy of one URL; above it nothing is copied any more.
    options: of the file system that opens the URL, such as endpoint_url for s3://; see its documentation.
    """

    cache_dir: Annotated[str, Meta(min_length=1)] | None = None
    poll_interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    downloads: Annotated[int, Meta(ge=1, le=64)] = 4
    max_size: ByteSize = ByteSize(100 << 30)
    options: dict[str, Any] = {}


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[http]: where and how to listen.

    host, port: the TCP address; port 0 = any free one, printed at start. Like every port it speaks HTTP/1.1
        and gRPC, whichever the client begins with.
    grpc_port: a second TCP port, for clients and firewalls that expect gRPC on one of its own.
    grpc_compression: how hard to compress gRPC answers of 1 KiB and more to clients that accept it (gzip
        before deflate). It costs the loop more than it saves on a fast network.
    unix_socket: a UNIX socket path to listen on as well.
    metrics_port: a second TCP port with nothing but /metrics on it.
    monitoring_config_file: TensorFlow Serving's, with one more path for /metrics.
    reuse_port: let several servers share the port (SO_REUSEPORT).
    backlog: connections that the kernel may hold before they are accepted.
    max_connections: above it new connections get 503; lowered where the process may not open as many files.
    """

    host: Annotated[str, Meta(min_length=1)] = "0.0.0.0"  # noqa: S104 - a server in a container must be reachable
    port: Port = 8000
    grpc_port: Port | None = None
    grpc_compression: CompressionLevel = "none"
    unix_socket: Annotated[str, Meta(min_length=1)] | None = None
    metrics_port: Port | None = None
    monitoring_config_file: str | None = None
    reuse_port: bool = False
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 2048
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000


class Admin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[admin]: who may load and unload models, move labels and traffic, and change settings.

    listen: "HOST:PORT" or "unix:PATH", where such calls are then taken and nowhere else. Absent: they are
        taken at every address.
    token_file: a file with a word that such calls must show. Absent: nobody needs one at loopback addresses
        and UNIX sockets, and nobody is heard at others. SIGHUP reads the file again.
    """

    listen: Annotated[str, Meta(min_length=1)] | None = None
    token_file: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if self.listen is not None:
            parse_address(self.listen)


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tls]: certificates, as PEM files. With them every TCP port speaks TLS; the UNIX socket never does: who
    may open it is an affair of the file system.

    cert, key: the certificate with the chain behind it, and its key, without a passphrase.
    client_ca: clients must have a certificate that one of these issued.
    handshake_timeout_s: a client that has not finished its handshake by then is cut off.
    ssl_config_file: instead of these TensorFlow Serving's SSLConfig, with PEM text or names of files in it.
    SIGHUP reads the files again.
    """

    cert: Annotated[str, Meta(min_length=1)] | None = None
    key: Annotated[str, Meta(min_length=1)] | None = None
    client_ca: Annotated[str, Meta(min_length=1)] | None = None
    ssl_config_file: Annotated[str, Meta(min_length=1)] | None = None
    handshake_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]: what a client can make the server hold. Sizes are bytes or text such as "64MiB".

    max_body_size: the largest request body or gRPC message, as sent and inflated; above it 413 or
        RESOURCE_EXHAUSTED.
    max_decoded_size: tensors that one request's JSON may decode to; absent = the core's default.
    pool_size: tensor memory in all; absent = the core's default.
    gpu_pool_size: tensor memory on each GPU; absent = what it has.
    queue_size: requests that may wait for one model version, where its model.toml says nothing.
    request_timeout_ms: TensorFlow Serving's REST timeout, 0 = none.
    drain_timeout_s: how long SIGTERM waits for requests in flight.
    drain_delay_s: how long SIGTERM before that says "not ready" and serves on, so that load balancers notice.
    """

    max_body_size: ByteSize = ByteSize(64 << 20)
    max_decoded_size: ByteSize | None = None
    pool_size: ByteSize | None = None
    gpu_pool_size: ByteSize | None = None
    queue_size: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    request_timeout_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 30_000
    drain_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    drain_delay_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0


class SharedMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[shared_memory]: tensors in POSIX shared memory (/dev/shm) and on GPUs that clients register by name.

    allow: off unless it is wanted, because then whoever reaches the server can have it read and write every
        shared memory object that its user may open.
    max_regions: regions registered at once; each holds a file descriptor.
    max_size: bytes of all regions together.
    """

    allow: bool = False
    max_regions: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    max_size: ByteSize = ByteSize(16 << 30)


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[engine]: the core.

    ort_library: the ONNX Runtime library; absent = the one in the installed onnxruntime package.
    inline_threshold_us: models whose measured batch time is below it run on the loop; absent = the core's
        default.
    busy_poll_us: how long to look for the next request of a client that alone keeps the server busy before
        going to sleep, where that has been paying off; 0 = never, absent = the core's default (50). Where
        models run on GPUs and four processors are granted, 0 also keeps their threads from looking.
    """

    ort_library: str | None = None
    inline_threshold_us: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    busy_poll_us: Annotated[int, Meta(ge=0, le=10_000)] | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[log]: format "text" or "json", one line per record on standard error; level: what is written."""

    format: LogFormat = "text"
    level: LogLevel = "info"


class Trace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[trace]: when requests passed each stage, for some of them, written to a file of JSON.

    file: where to; without it nothing is ever traced. log_frequency: traces in one file (file.0, file.1 and
        so on); 0 = all in one. max_size: bytes of all files together; then tracing ends.
    level, rate, count: what holds at start, until the trace API changes it: every rate-th request, count of
        them (-1 = any number).
    """

    file: Annotated[str, Meta(min_length=1)] | None = None
    level: Literal["OFF", "TIMESTAMPS"] = "OFF"
    rate: Annotated[int, Meta(ge=1)] = 1000
    count: Annotated[int, Meta(ge=-1)] = -1
    log_frequency: Annotated[int, Meta(ge=0)] = 0
    max_size: ByteSize = ByteSize(1 << 30)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of servolley.toml."""

    repository: Repository = Repository()
    remote: Remote = Remote()
    http: Http = Http()
    admin: Admin = Admin()
    tls: Tls = Tls()
    limits: Limits = Limits()
    shared_memory: SharedMemory = SharedMemory()
    engine: Engine = Engine()
    log: Log = Log()
    trace: Trace = Trace()
