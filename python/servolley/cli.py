"""The command line. Everything heavy is imported by the command that needs it."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servolley.config.settings import ServerSettings


def main(arguments: "Sequence[str] | None" = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    ignored: list[str] = []
    if given[:1] == ["serve"]:
        from servolley.config.flags import split_flags

        given, ignored = split_flags(given)
    parsed = build_parser().parse_args(given)
    if parsed.version:
        import servolley

        print(f"servolley {servolley.__version__}")
        return 0
    if parsed.command == "serve":
        if arguments is None:
            from servolley.huge_pages import use_huge_pages

            use_huge_pages()
        return _serve(parsed, ignored)
    if parsed.command == "models":
        from servolley.client import models

        return models.run(parsed)
    build_parser().print_help(sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="servolley", description="An inference server for people who count microseconds."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_serve(commands)
    _add_models(commands)
    return parser


def _add_models(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from servolley.client.arguments import add_arguments

    add_arguments(commands.add_parser("models", help="ask or change a running server"))


# A flag that stands for itself or takes a value, as each of the servers has them.
_switch: dict[str, Any] = {"nargs": "?", "const": "true", "choices": ("true", "false")}


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model repository or one model",
        description="Serves PATH: a model repository (<model>/<version>/model.onnx), one model's directory, "
        "or a model file. Speaks the Open Inference Protocol (KServe V2) and TensorFlow Serving's API, over "
        "HTTP/1.1 and gRPC on the same port.",
    )
    serve.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="model repository, model directory or model file; or the URL of one: s3, gs, hf, https, file",
    )
    add = serve.add_argument
    # Names with underscores are TensorFlow Serving's, the other second names Triton's.
    add(
        "--model-repository",
        action="append",
        metavar="PATH",
        help="the same as PATH; several are served as one",
    )
    add("--model_base_path", metavar="PATH", help="the same, where there is no --model_config_file")
    add("--model_config_file", metavar="FILE", help="TensorFlow Serving's list of models, instead of PATH")
    add(
        "--model_config_file_poll_wait_seconds",
        type=float,
        metavar="SECONDS",
        help="between readings of that file (0 = it is read once)",
    )
    add(
        "--batching_parameters_file",
        metavar="FILE",
        help="TensorFlow Serving's, for models that say nothing about batching; needs --enable_batching",
    )
    add(
        "--enable_batching", **_switch, help="false: such models run one request at a time (they are batched)"
    )
    add("--monitoring_config_file", metavar="FILE", help="TensorFlow Serving's: one more path for metrics")
    add("--config", metavar="FILE", help="server settings (servolley.toml); flags win over it")
    add("--name", "--model_name", help="the model's name, where PATH is one model")
    add("--host", "--http-address", help="address to listen on (0.0.0.0)")
    add("--port", "--http-port", type=int, help="TCP port (8000); 0 takes a free one and prints it")
    add(
        "--rest_api_port",
        type=int,
        metavar="PORT",
        help="the TCP port, where --port is TensorFlow Serving's for gRPC",
    )
    add("--grpc-port", type=int, metavar="PORT", help="a second TCP port, e.g. 8001 or 8500 (none)")
    add(
        "--grpc-compression",
        "--grpc-infer-response-compression-level",
        choices=("none", "low", "medium", "high"),
        help="compress gRPC answers to clients that accept it (none)",
    )
    add(
        "--grpc_channel_arguments",
        metavar="KEY=VALUE,...",
        help="TensorFlow Serving's: grpc.max_receive_message_length and grpc.so_reuseport count",
    )
    add("--unix-socket", "--grpc_socket_path", metavar="PATH", help="listen on a UNIX socket as well")
    add("--metrics-port", type=int, metavar="PORT", help="a second port with only /metrics on it (none)")
    add(
        "--admin-listen",
        metavar="ADDRESS",
        help="HOST:PORT or unix:PATH: take calls that change the server there, and nowhere else",
    )
    add(
        "--admin-token-file",
        metavar="FILE",
        help="such calls must have its content as a bearer token; SIGHUP reads it again (none)",
    )
    add("--tls-cert", metavar="FILE", help="PEM certificate chain: every TCP port speaks TLS (none)")
    add("--tls-key", metavar="FILE", help="its PEM key; SIGHUP reads both again")
    add("--tls-client-ca", metavar="FILE", help="require client certificates that these CAs issued (none)")
    add(
        "--ssl_config_file",
        metavar="FILE",
        help="the same as TensorFlow Serving says it; SIGHUP reads it again",
    )
    add("--reuse-port", "--reuse-http-port", **_switch, help="share the port with other servers")
    add("--max-connections", type=int, metavar="N", help="connections at once (10000)")
    add(
        "--max-body-size",
        "--http-max-input-size",
        metavar="SIZE",
        help="largest request body, e.g. 64MiB (64MiB)",
    )
    add("--pool-size", metavar="SIZE", help="tensor memory in all, e.g. 4GiB")
    add(
        "--shared-memory",
        action="store_true",
        default=None,
        help="clients may register POSIX and CUDA shared memory for tensors; only for clients you trust",
    )
    add(
        "--drain-timeout",
        "--exit-timeout-secs",
        type=float,
        metavar="SECONDS",
        help="how long SIGTERM waits for requests (30)",
    )
    add(
        "--drain-delay",
        type=float,
        metavar="SECONDS",
        help='how long SIGTERM first says "not ready" and serves on, for load balancers (0)',
    )
    add(
        "--rest_api_timeout_in_ms",
        type=int,
        metavar="MS",
        help="how long a REST predict call may take (30000); 0 = any time",
    )
    add(
        "--model-control-mode", choices=("poll", "explicit", "none"), help="who decides what is loaded (poll)"
    )
    add(
        "--poll-interval",
        "--repository-poll-secs",
        "--file_system_poll_wait_seconds",
        type=float,
        metavar="SECONDS",
        help="between looks at the repository (1); 0 = never",
    )
    add(
        "--cache-dir", metavar="DIR", help="where copies of remote repositories are kept (~/.cache/servolley)"
    )
    add(
        "--remote-poll-interval",
        type=float,
        metavar="SECONDS",
        help="between looks at a remote repository (60); 0 = never",
    )
    add(
        "--load-threads",
        "--model-load-thread-count",
        "--num_load_threads",
        type=int,
        metavar="N",
        help="models loading at once (4)",
    )
    add("--enable_model_warmup", **_switch, help="run requests that are declared for a model first (true)")
    add(
        "--num_request_iterations_for_warmup",
        type=int,
        metavar="N",
        help="how often each request of a recorded warm-up is run (1)",
    )
    add(
        "--load-retries",
        "--model-load-retry-count",
        "--max_num_load_retries",
        type=int,
        metavar="N",
        help="how often a version that failed is tried again (5)",
    )
    add(
        "--load_retry_interval_micros",
        type=int,
        metavar="US",
        help="before it is tried again; doubles each time (5000000)",
    )
    add("--load-model", action="append", metavar="NAME", help="explicit mode: load at start; * = all")
    add("--exit-on-error", **_switch, help="end if a model cannot be loaded at start")
    add("--strict-readiness", **_switch, help="ready only while every model is available (true)")
    add("--log-format", choices=("text", "json"), help="one line per record either way (text)")
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="least level that is written (info)",
    )

    add("--trace-file", metavar="FILE", help="requests may be traced, into this file of JSON (none)")
    add("--trace-level", choices=("OFF", "TIMESTAMPS"), help="from the start (OFF)")
    add("--trace-rate", type=int, metavar="N", help="trace every N-th request (1000)")
    add("--trace-count", type=int, metavar="N", help="so many of them (-1 = any number)")
    add("--trace-log-frequency", type=int, metavar="N", help="traces in one file (0 = all)")


def settings_from(parsed: argparse.Namespace) -> "ServerSettings":
    """Defaults, then the file, then the flags. Raises ConfigError."""
    from pathlib import Path

    from servolley.config.flags import channel_arguments, check_source, served_paths, with_source
    from servolley.config.settings import ServerSettings
    from servolley.config.strict import ConfigError, apply_flags, load_toml

    paths = served_paths(parsed)
    settings = load_toml(Path(parsed.config), ServerSettings) if parsed.config else ServerSettings()
    check_source(settings.repository.path, settings.repository.model_config_file)
    # TensorFlow Serving's --port is for gRPC; ours take either, so its clients find both where they look.
    port, grpc_port = parsed.port, parsed.grpc_port
    if parsed.rest_api_port:
        port, grpc_port = parsed.rest_api_port, grpc_port if grpc_port is not None else port
    channel, _ = channel_arguments(parsed.grpc_channel_arguments or "")
    reuse_port = parsed.reuse_port or (
        str(bool(channel["reuse_port"])).lower() if "reuse_port" in channel else None
    )
    interval, retry_interval = parsed.poll_interval, parsed.load_retry_interval_micros
    flags: dict[str, dict[str, Any]] = {
        "repository": {
            "name": parsed.name,
            "control_mode": parsed.model_control_mode,
            "poll_interval_s": None if interval is None else max(0.0, interval),  # "-1": never, too
            "model_config_file": parsed.model_config_file,
            "model_config_poll_interval_s": parsed.model_config_file_poll_wait_seconds,
            "batching_parameters_file": parsed.batching_parameters_file,
            "enable_batching": _is_on(parsed.enable_batching),
            "load_threads": parsed.load_threads,
            "load_retries": parsed.load_retries,
            "load_retry_interval_s": None if retry_interval is None else max(retry_interval, 1) / 1e6,
            "warmup": _is_on(parsed.enable_model_warmup),
            # 0 is TensorFlow Serving's word for once.
            "warmup_iterations": parsed.num_request_iterations_for_warmup or None,
            "load_models": parsed.load_model,
            "exit_on_error": _is_on(parsed.exit_on_error),
            "strict_readiness": _is_on(parsed.strict_readiness),
        },
        "remote": {"cache_dir": parsed.cache_dir, "poll_interval_s": parsed.remote_poll_interval},
        "http": {
            "host": parsed.host,
            "port": port,
            "grpc_port": grpc_port,
            "grpc_compression": parsed.grpc_compression,
            "unix_socket": parsed.unix_socket,
            "metrics_port": parsed.metrics_port,
            "monitoring_config_file": parsed.monitoring_config_file,
            "reuse_port": _is_on(reuse_port),
            "max_connections": parsed.max_connections,
        },
        "admin": {"listen": parsed.admin_listen, "token_file": parsed.admin_token_file},
        "tls": {
            "cert": parsed.tls_cert,
            "key": parsed.tls_key,
            "client_ca": parsed.tls_client_ca,
            "ssl_config_file": parsed.ssl_config_file,
        },
        "limits": {
            "max_body_size": parsed.max_body_size or channel.get("max_body_size"),
            "pool_size": parsed.pool_size,
            "drain_timeout_s": parsed.drain_timeout,
            "drain_delay_s": parsed.drain_delay,
            "request_timeout_ms": parsed.rest_api_timeout_in_ms,
        },
        "shared_memory": {"allow": parsed.shared_memory},
        "log": {"format": parsed.log_format, "level": parsed.log_level},
        "trace": {
            "file": parsed.trace_file,
            "level": parsed.trace_level,
            "rate": parsed.trace_rate,
            "count": parsed.trace_count,
            "log_frequency": parsed.trace_log_frequency,
        },
    }
    settings = with_source(apply_flags(settings, flags), paths, parsed.model_config_file)
    if settings.repository.model_config_file is not None:
        if settings.repository.control_mode == "explicit":
            raise ConfigError(
                "--model_config_file says what is loaded: not with --model-control-mode explicit"
            )
    elif settings.repository.path is None:
        raise ConfigError("give PATH: a model repository, one model's directory, or a model file")
    if settings.trace.level != "OFF" and settings.trace.file is None:
        raise ConfigError("traces need a file: --trace-file")
    if settings.repository.batching_parameters_file and not settings.repository.enable_batching:
        raise ConfigError("--batching_parameters_file needs --enable_batching")
    tls = settings.tls
    if (tls.cert is None) != (tls.key is None):
        raise ConfigError("TLS needs both a certificate and its key: --tls-cert and --tls-key")
    if tls.client_ca is not None and tls.cert is None:
        raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key")
    if tls.ssl_config_file is not None and tls.cert is not None:
        raise ConfigError("give --ssl_config_file or --tls-cert, not both")
    return settings


def _is_on(switch: str | None) -> bool | None:
    return None if switch is None else switch == "true"


def _without_effect(parsed: argparse.Namespace) -> list[str]:
    """Flags that are overruled by others, and parts of flags that are not needed here."""
    from servolley.config.flags import channel_arguments

    _, arguments = channel_arguments(parsed.grpc_channel_arguments or "")
    overruled = (("--model_base_path", parsed.model_base_path), ("--model_name", parsed.name))
    names = [flag for flag, value in overruled if value and parsed.model_config_file is not None]
    return names + [f"--grpc_channel_arguments {name}" for name in arguments]


def _serve(parsed: argparse.Namespace, ignored: "Sequence[str]" = ()) -> int:
    import logging

    from servolley.config.strict import ConfigError

    try:
        settings = settings_from(parsed)
    except ConfigError as error:
        return _fail(error)

    from servolley.observe.logs import set_up_logging

    set_up_logging(settings.log.format, settings.log.level)
    for flag in (*ignored, *_without_effect(parsed)):
        logging.getLogger(__name__).warning("has no effect: %s", flag)

    from servolley.ort_library import RuntimeNotFoundError
    from servolley.repository.layout import RepositoryError
    from servolley.server import StartError, serve

    try:
        return serve(settings)
    except (RepositoryError, RuntimeNotFoundError, StartError) as error:
        return _fail(error)


def _fail(error: Exception) -> int:
    print(f"servolley: {error}", file=sys.stderr)
    return 1
