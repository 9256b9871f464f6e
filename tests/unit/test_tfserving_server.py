"""TensorFlow Serving's batching_parameters_file and monitoring_config_file."""

from __future__ import annotations

from pathlib import Path

import pytest

from servolley.cli import build_parser, settings_from
from servolley.config import tfserving_server as files
from servolley.config.model import Batching, ModelConfig, Runtime
from servolley.config.settings import Http, Repository, ServerSettings
from servolley.config.strict import ConfigError
from servolley.config.tfserving_server import BatchingDefaults
from servolley.config.warm_up import Warmup
from servolley.front.grpc.messages import Messages
from servolley.repository.layout import Scanner
from servolley.sources import Sources


@pytest.fixture(scope="module")
def messages(descriptors: bytes) -> Messages:
    return Messages(descriptors)


def batching(messages: Messages, text: str) -> tuple[BatchingDefaults, list[str]]:
    return files.parse_batching(text, messages.message(files.BATCHING)())


def test_what_is_read(messages: Messages) -> None:
    text = """
    max_batch_size { value: 128 }
    batch_timeout_micros { value: 500 }
    max_enqueued_batches { value: 20 }
    num_batch_threads { value: 3 }
    thread_pool_name { value: "pool" }
    """
    expected = Batching(max_batch_size_if_batchable=128, max_queue_delay_us=500, max_queue_size=2560)
    assert batching(messages, text) == (BatchingDefaults(expected, 3), [])
    theirs = Batching(max_batch_size_if_batchable=1000, max_queue_size=10_000)
    assert batching(messages, "") == (BatchingDefaults(theirs), [])


def test_what_has_no_effect_is_said(messages: Messages) -> None:
    text = """
    max_batch_size { value: 64 } max_execution_batch_size { value: 8 }
    enable_large_batch_splitting { value: true }
    allowed_batch_sizes: 2 allowed_batch_sizes: 8
    pad_variable_length_inputs: true
    """
    defaults, remarks = batching(messages, text)
    assert defaults.sizes == (2, 8)
    assert [remark.partition(":")[0] for remark in remarks] == [
        "allowed_batch_sizes",
        "pad_variable_length_inputs",
        "enable_large_batch_splitting",
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nonsense", "nonsense"),
        ("max_batch_size: 3", "max_batch_size"),
        ("max_batch_size { value: 0 }", "max_batch_size"),
        ("max_batch_size { value: -5 }", "max_batch_size"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros"),
        ("num_batch_threads { value: 100000 }", "num_batch_threads"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "end with max_batch_size"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 4", "ascend"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 0 allowed_batch_sizes: 8", "ascend"),
        (
            "max_batch_size { value: 8 } max_execution_batch_size { value: 9 } "
            "enable_large_batch_splitting { value: true }",
            "max_execution_batch_size",
        ),
    ],
)
def test_what_is_refused(messages: Messages, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as refused:
        batching(messages, text)
    assert files.BATCHING in str(refused.value)


def test_whom_it_holds_for() -> None:
    defaults = BatchingDefaults(Batching(max_batch_size_if_batchable=8), 2, (4, 8))
    assert defaults(ModelConfig()) == ModelConfig(
        batching=Batching(max_batch_size_if_batchable=8),
        runtime=Runtime(instances=2),
        warmup=Warmup(batch_sizes=[4, 8]),
    )
    own = ModelConfig(
        batching=Batching(max_batch_size=3), runtime=Runtime(instances=1), warmup=Warmup(batch_sizes=[2])
    )
    assert defaults(own) == own


def test_as_the_server_reads_them(tmp_path: Path, descriptors: bytes) -> None:
    for name in ("a", "b"):
        (tmp_path / "r" / name / "1").mkdir(parents=True)
        (tmp_path / "r" / name / "1" / "model.onnx").write_text("")
    (tmp_path / "r" / "b" / "model.toml").write_text("[batching]\nmax_batch_size = 3")
    (tmp_path / "batching").write_text("max_batch_size { value: 7 }")
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/a/metrics" }')

    def settings(enable: bool | None, file: str | None = "batching") -> ServerSettings:
        return ServerSettings(
            repository=Repository(
                path=str(tmp_path / "r"),
                enable_batching=enable,
                batching_parameters_file=file and str(tmp_path / file),
            ),
            http=Http(monitoring_config_file=str(tmp_path / "monitoring")),
        )

    sources = Sources(settings(True))
    assert sources.metrics_path == "/a/metrics"
    source = sources.first()
    assert isinstance(source, Scanner)
    found = source.look()
    assert found["a"].config.batching.max_batch_size_if_batchable == 7
    assert found["b"].config.batching == Batching(max_batch_size=3)
    assert Sources(settings(False, None)).first().look()["a"].config.batching.max_batch_size == 0
    assert Sources(settings(True, None)).first().look()["a"].config == ModelConfig()
    assert Sources(settings(None, None)).first().look()["a"].config == ModelConfig()
    (tmp_path / "batching").write_text("oops")
    with pytest.raises(ConfigError, match=r"batching: not a .*BatchingParameters"):
        Sources(settings(True))
    with pytest.raises(ConfigError, match="No such file"):
        Sources(settings(True, "nobody"))
    (tmp_path / "monitoring").write_text("oops")
    with pytest.raises(ConfigError, match=r"monitoring: not a .*MonitoringConfig"):
        Sources(settings(None, None))


def test_the_file_needs_its_switch() -> None:
    def parsed(*arguments: str) -> ServerSettings:
        return settings_from(build_parser().parse_args(["serve", "r", *arguments]))

    flags = ("--batching_parameters_file", "f")
    assert parsed("--enable_batching", *flags).repository.batching_parameters_file == "f"
    for wrong in ((), ("--enable_batching=false",)):
        with pytest.raises(ConfigError, match="enable_batching"):
            parsed(*wrong, *flags)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('prometheus_config { enable: true path: "/m" }', "/m"),
        ("prometheus_config { enable: true }", files.DEFAULT_METRICS_PATH),
        ('prometheus_config { path: "/m" }', None),
        ("prometheus_config { }", None),
        ("", None),
        ('prometheus_config { enable: true path: "/v3/x" }', "/v3/x"),
    ],
)
def test_the_path_of_metrics(messages: Messages, text: str, path: str | None) -> None:
    assert files.parse_monitoring(text, messages.message(files.MONITORING)()) == path


@pytest.mark.parametrize(
    "path",
    ["m", "/", "//", "/a//b", "/a?b", "/a b", "/v1/models/m", "/V2", "/" + "a" * 2000, "/%2e", "/\\351"],
)
def test_paths_that_are_refused(messages: Messages, path: str) -> None:
    text = f'prometheus_config {{ enable: true path: "{path}" }}'
    with pytest.raises(ConfigError, match=files.MONITORING):
        files.parse_monitoring(text, messages.message(files.MONITORING)())
