from __future__ import annotations

import importlib.metadata
import importlib.util
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from servolley.cli import build_parser, main, settings_from
from servolley.config.flags import split_flags
from servolley.config.settings import ServerSettings
from servolley.config.strict import ConfigError
from servolley.front.listeners import connection_limit
from servolley.ort_library import RuntimeNotFoundError, find_cuda_libraries, find_ort_library


def settings(*arguments: str) -> ServerSettings:
    return settings_from(build_parser().parse_args(["serve", *arguments]))


def test_defaults() -> None:
    read = settings("models")
    assert read.repository.path == "models"
    assert (read.http.host, read.http.port, read.http.metrics_port) == ("0.0.0.0", 8000, None)
    assert (read.http.grpc_port, read.http.grpc_compression) == (None, "none")
    assert read.limits.max_body_size == 64 << 20
    assert (read.log.format, read.log.level) == ("text", "info")


def test_flags() -> None:
    read = settings(
        *("net.onnx", "--name", "m", "--host", "::1", "--http-port", "0", "--unix-socket", "/s"),
        *("--log-format", "json", "--log-level", "debug", "--max-body-size", "1GiB", "--pool-size", "2GB"),
        *("--drain-timeout", "2.5", "--exit-on-error", "--metrics-port", "8002", "--reuse-port"),
        *("--strict-readiness", "false", "--max-connections", "7", "--grpc-port", "8001"),
        *("--grpc-compression", "low"),
        *("--tls-cert", "/c", "--tls-key", "/k", "--tls-client-ca", "/ca"),
        *("--admin-listen", "unix:/a", "--admin-token-file", "/t"),
        *("--cache-dir", "/cache", "--remote-poll-interval", "0"),
    )
    assert (read.repository.name, read.repository.exit_on_error, read.repository.strict_readiness) == (
        "m",
        True,
        False,
    )
    assert (read.http.host, read.http.port, read.http.unix_socket) == ("::1", 0, "/s")
    assert (read.http.metrics_port, read.http.reuse_port, read.http.max_connections) == (8002, True, 7)
    assert (read.http.grpc_port, read.http.grpc_compression) == (8001, "low")
    assert (read.admin.listen, read.admin.token_file) == ("unix:/a", "/t")
    assert (read.remote.cache_dir, read.remote.poll_interval_s) == ("/cache", 0)
    assert (read.tls.cert, read.tls.key, read.tls.client_ca) == ("/c", "/k", "/ca")
    assert (read.limits.max_body_size, read.limits.pool_size) == (1 << 30, 2 * 10**9)
    assert read.limits.drain_timeout_s == 2.5
    assert (read.log.format, read.log.level) == ("json", "debug")


def test_flags_of_a_triton_start_script() -> None:
    read = settings(
        *("--model-repository=/models", "--http-address=::1", "--http-port=9000", "--grpc-port=9001"),
        *("--model-control-mode=explicit", "--load-model=a", "--load-model=b", "--strict-readiness=false"),
        *("--exit-on-error=false", "--exit-timeout-secs=7", "--repository-poll-secs=15"),
        *("--http-max-input-size=1048576", "--reuse-http-port=true", "--model-load-thread-count=2"),
        *("--model-load-retry-count=0",),
    )
    repository = read.repository
    assert (repository.path, repository.control_mode) == ("/models", "explicit")
    assert (repository.load_models, repository.poll_interval_s) == (["a", "b"], 15)
    assert (repository.exit_on_error, repository.strict_readiness) == (False, False)
    assert (repository.load_threads, repository.load_retries) == (2, 0)
    assert (read.http.host, read.http.port, read.http.grpc_port) == ("::1", 9000, 9001)
    assert (read.http.reuse_port, read.limits.max_body_size) == (True, 1 << 20)
    assert read.limits.drain_timeout_s == 7


def test_flags_of_a_tensorflow_serving_start_script() -> None:
    read = settings(
        *("--port=8500", "--rest_api_port=8501", "--model_name=m", "--model_base_path=/models/m"),
        *("--grpc_socket_path=/s", "--file_system_poll_wait_seconds=-1", "--rest_api_timeout_in_ms=100"),
        *("--max_num_load_retries=3", "--num_load_threads=1", "--load_retry_interval_micros=2500000"),
        "--grpc_channel_arguments=grpc.max_receive_message_length=1048576,grpc.so_reuseport=1,grpc.lb=x",
        "--ssl_config_file=/ssl",
    )
    repository = read.repository
    assert (repository.path, repository.name, repository.poll_interval_s) == ("/models/m", "m", 0)
    assert (repository.load_retries, repository.load_threads) == (3, 1)
    assert (read.http.port, read.http.grpc_port, read.http.unix_socket) == (8501, 8500, "/s")
    assert read.limits.request_timeout_ms == 100
    assert repository.load_retry_interval_s == 2.5
    assert (read.limits.max_body_size, read.http.reuse_port) == (1 << 20, True)
    assert read.tls.ssl_config_file == "/ssl"


def test_its_list_of_models_goes_before_its_base_path(tmp_path: Path) -> None:
    """As its container's entry point gives both."""
    read = settings("--model_name=m", "--model_base_path=/models/m", "--model_config_file=/list").repository
    assert (read.path, read.name, read.model_config_file) == (None, None, "/list")
    file = tmp_path / "servolley.toml"
    file.write_text("[repository]\npath = 'models'\n")
    read = settings("--config", str(file), "--model_config_file=/list").repository
    assert (read.path, read.model_config_file) == (None, "/list")
    file.write_text("[repository]\nmodel_config_file = '/list'\n")
    read = settings("--config", str(file), "models").repository
    assert (read.path, read.model_config_file) == ("models", None)
    file.write_text("[repository]\nmodel_config_file = '/list'\npath = 'models'\n")
    with pytest.raises(ConfigError, match="not both"):
        settings("--config", str(file))


def test_several_repositories(tmp_path: Path) -> None:
    read = settings("--model-repository=a", "--model-repository=b", "--model-repository=c").repository
    assert (read.path, read.more_paths) == ("a", ["b", "c"])
    file = tmp_path / "servolley.toml"
    file.write_text("[repository]\npath = 'x'\nmore_paths = ['y']\n")
    assert settings("--config", str(file)).repository.more_paths == ["y"]
    read = settings("--config", str(file), "a").repository
    assert (read.path, read.more_paths) == ("a", [])
    assert settings("--config", str(file), "--model_config_file=/list").repository.more_paths == []
    file.write_text("[repository]\nmore_paths = ['y']\n")
    with pytest.raises(ConfigError, match=r"needs repository\.path"):
        settings("--config", str(file))


def test_flags_without_effect(capsys: pytest.CaptureFixture[str]) -> None:
    ignored = [
        *("--tensorflow_session_parallelism=4", "--xla_gpu_cuda_data_dir=/x", "--prefer_tflite_model"),
        *("--enable_profiler=false", "--flush_filesystem_caches", "--saved_model_tags=serve"),
        *("--mixed_precision=bf16", "--skip_initialize_tpu", "--platform_config_file=/p"),
        *("--remove_unused_fields_from_bundle_metagraph=true", "--use_alts_credentials"),
        *("--rest_api_num_threads=4", "--grpc_max_threads=4", "--per_process_gpu_memory_fraction=0.5"),
        "--num_unload_threads=1",
    ]
    granted = ["--enable_grpc_healthcheck_service", "--allow_version_labels_for_unavailable_models=true"]
    kept, names = split_flags(["serve", *ignored, "models", *granted, "--port", "0"])
    assert kept == ["serve", "models", "--port", "0"]
    assert names == [flag.partition("=")[0] for flag in ignored]
    for wrong in ("--tensorflow", "--xla", "--enable_grpc_healthcheck_service=false", "--enable_profilers"):
        assert split_flags([wrong]) == ([wrong], [])
    # They are said where the log is, behind an absent model here; what nobody knows is refused.
    assert main(["serve", "/absent/models", *ignored, "--grpc_channel_arguments=a=b"]) == 1
    error = capsys.readouterr().err
    for name in (*names, "--grpc_channel_arguments a"):
        assert f"has no effect: {name}" in error
    assert main(["serve", "--model_config_file=/absent/list", "--model_base_path=/m", "--model_name=m"]) == 1
    error = capsys.readouterr().err
    assert "has no effect: --model_base_path" in error
    assert "has no effect: --model_name" in error
    with pytest.raises(SystemExit):
        main(["serve", "models", "--wheels=4"])


def test_the_file_and_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "servolley.toml"
    file.write_text(
        "[repository]\npath = 'models'\n[http]\nport = 9000\nreuse_port = true\n[log]\nformat = 'json'\n"
    )
    read = settings("--config", str(file), "--port", "9001")
    assert (read.repository.path, read.http.port, read.http.reuse_port, read.log.format) == (
        "models",
        9001,
        True,
        "json",
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give PATH"),
        (["a", "--model-repository", "b"], "not both"),
        (["--model-repository", "a", "--model-repository", "s3://b"], "a URL is served alone"),
        (
            ["--model-repository", "a", "--model-repository", "b", "--model_base_path", "c"],
            "only one of them",
        ),
        (["a", "--model_base_path", "b"], "only one of them"),
        (["a", "--model_config_file", "b"], "not both"),
        (["s3://bucket/models", "--model_config_file", "b"], "not both"),
        (["--model-repository", "a", "--model_config_file", "b"], "not both"),
        (["a", "--grpc_channel_arguments", "x"], "'x' is not key=value"),
        (["a", "--grpc_channel_arguments", "grpc.so_reuseport=x"], "must be a number"),
        (["a", "--ssl_config_file", "f", "--tls-cert", "c", "--tls-key", "k"], "not both"),
        (["a", "--port", "70000"], r"'http\.port'"),
        (["a", "--max-body-size", "much"], "not a size in bytes: 'much'"),
        (["a", "--drain-timeout", "-1"], "drain_timeout_s"),
        (["a", "--admin-listen", "8003"], "write HOST:PORT"),
        (["a", "--remote-poll-interval", "-1"], r"remote\.poll_interval_s"),
        (["a", "--tls-cert", "c"], "both a certificate and its key"),
        (["a", "--tls-key", "k"], "both a certificate and its key"),
        (["a", "--tls-client-ca", "ca"], "--tls-client-ca needs --tls-cert and --tls-key"),
        (["a", "--config", "/absent/servolley.toml"], "/absent/servolley.toml: No such file"),
    ],
)
def test_complaints(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        settings(*arguments)


def test_a_complaint_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "m", "--port", "-1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("servolley: ")
    assert error.count("\n") == 1


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: servolley" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"servolley": "1.2.3"}[name])
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "servolley 1.2.3\n"


def test_the_server_imports_nothing_heavy() -> None:
    """Memory and start-up time: no numpy, no onnxruntime package, no metrics before a scrape, no protobuf
    before a gRPC call, no TLS unless it is asked for (asyncio itself has imported ssl)."""
    program = (
        "import sys, importlib\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "try: importlib.import_module('servolley._core')\n"
        "except ImportError: sys.modules['servolley._core'] = importlib.import_module('unit.fake_core')\n"
        "import servolley.cli, servolley.server\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "servolley.server" in loaded
    assert not loaded & {
        "numpy",
        "onnxruntime",
        "onnx",
        "prometheus_client",
        "google.protobuf",
        "fsspec",
        "http.client",
        "servolley.client.connection",
        "servolley.front.grpc.messages",
        "servolley.mirror.repository",
        "servolley.front.handshakes",
        "servolley.front.tls",
        "servolley.front.tls_context",
        "servolley.front.tls_door",
        "http.server",
        "importlib.metadata",
    }


def test_the_runtime_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (tmp_path / "onnxruntime/__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(RuntimeNotFoundError, match=r"servolley\[cpu\]"):
        find_ort_library()
    (capi / "libonnxruntime_providers_shared.so").touch()
    (capi / "libonnxruntime.so.1.22.0").touch()
    assert find_ort_library() == str(capi / "libonnxruntime.so.1.22.0")


def test_the_libraries_of_cuda_are_found_in_the_packages_that_bring_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (
        *("nvidia/cublas/lib/libcublas.so.12", "nvidia/cublas/lib/libcublasLt.so.12"),
        *(
            "nvidia/cu13/lib/libcudart.so.13",
            "nvidia/cudnn/lib/libcudnn_ops.so.9",
            "nvidia/cudnn/lib/libcudnn.so.9",
        ),
        "tensorrt_libs/libnvinfer.so.10",
    )
    others = (
        *("nvidia/nccl/lib/libnccl.so.2", "nvidia/cublas/lib/libcublas.so", "nvidia/cublas/include/cublas.h"),
        *("nvidia/cusolver/lib/libcusolver.so.11", "tensorrt_libs/__init__.py"),
    )
    for name in (*wanted, *others):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folders = {"nvidia": [str(tmp_path / "nvidia")], "tensorrt_libs": [str(tmp_path / "tensorrt_libs")]}

    def find_spec(name: str) -> object:
        return SimpleNamespace(submodule_search_locations=folders[name]) if name in folders else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert find_cuda_libraries() == sorted(str(tmp_path / name) for name in wanted)
    folders.clear()
    assert find_cuda_libraries() == []


def test_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeNotFoundError, match=r"servolley\[gpu\]"):
        find_ort_library()
    with pytest.raises(RuntimeNotFoundError, match="no such ONNX Runtime library"):
        find_ort_library(str(tmp_path / "lib.so"))


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "limit", "raised_to"),
    [
        (1024, 1 << 20, 10_000, 10_000, 10_384),
        (1024, 4096, 10_000, 3712, 4096),
        (65536, 65536, 10_000, 10_000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 10_000, 10_000, None),
        (1024, resource.RLIM_INFINITY, 10_000, 10_000, 10_384),
        (64, 64, 10_000, 1, 64),
    ],
)
def test_connections_stay_below_the_file_limit(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, limit: int, raised_to: int | None
) -> None:
    raised: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits[0]))
    assert connection_limit(wanted) == limit
    assert raised == ([] if raised_to is None else [raised_to])
