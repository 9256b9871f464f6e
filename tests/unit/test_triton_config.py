"""Triton's config.pbtxt, read with protobuf's own parser into our configuration."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servolley.config import triton
from servolley.config.model import Batching, ModelConfig, Runtime, Tensor, TensorRT, Versions
from servolley.config.strict import ConfigError
from servolley.config.warm_up import WarmupInput, WarmupRequest
from servolley.front.grpc.messages import Messages
from servolley.repository.layout import Scanner

FULL = """
name: "m"
backend: "onnxruntime"
max_batch_size: 8
input  [ { name: "ids"    data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "logits" data_type: TYPE_FP32  dims: [ 2 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 1 ] } ]
dynamic_batching { preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 500
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 100000
    allow_timeout_override: true max_queue_size: 256 } }
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
parameters { key: "execution_mode" value: { string_value: "1" } }
parameters { key: "enable_mem_arena" value: { string_value: "0" } }
optimization { graph { level: -1 } execution_accelerators { gpu_execution_accelerator [ { name: "cuda" } ] } }
default_model_filename: "net.onnx"
version_policy { latest { num_versions: 2 } }
"""


@pytest.fixture(scope="module")
def messages() -> Messages:
    return Messages.built()


# Who names no instances takes a GPU if there is one.
AUTO = Runtime(device="auto")


def parsed(messages: Messages, text: str) -> tuple[ModelConfig, list[str]]:
    message: Any = messages.message(triton.MESSAGE)()
    return triton.parse_text(text, message, "m")


def test_every_field_that_is_read(messages: Messages) -> None:
    config, remarks = parsed(messages, FULL)
    assert remarks == []
    assert config == ModelConfig(
        filename="net.onnx",
        batching=Batching(
            max_batch_size=8,
            max_queue_delay_us=500,
            preferred_batch_sizes=[4, 8],
            max_queue_size=256,
            default_timeout_us=100_000,
            allow_timeout_override=True,
        ),
        runtime=Runtime(
            device="cuda:1",
            instances=2,
            intra_op_threads=3,
            parallel_execution=True,
            memory_arena=False,
            graph_optimization="basic",
        ),
        versions=Versions(latest=2),
        class_labels={"logits": "labels.txt"},
        inputs={"ids": Tensor(datatype="INT64", shape=[-1])},
        outputs={"logits": Tensor(datatype="FP32", shape=[2])},
    )


def test_an_empty_file_is_our_default_but_for_the_device(messages: Messages) -> None:
    assert parsed(messages, "") == (ModelConfig(runtime=AUTO), [])
    assert ModelConfig().runtime.device == "cpu"


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("version_policy { all {} }", ModelConfig(runtime=AUTO, versions=Versions(all=True))),
        (
            "version_policy { specific { versions: [3, 1] } }",
            ModelConfig(runtime=AUTO, versions=Versions(specific=[3, 1])),
        ),
        ("instance_group [ { count: 3 kind: KIND_CPU } ]", ModelConfig(runtime=Runtime(instances=3))),
        (
            "instance_group [ { count: 1 }, { count: 2 } ]",
            ModelConfig(runtime=Runtime(device="auto", instances=3)),
        ),
        (
            "instance_group { kind: KIND_GPU count: 2 }",
            ModelConfig(runtime=Runtime(device="cuda", instances=2)),
        ),
        (
            "instance_group { kind: KIND_GPU gpus: [10, 2] count: 2 }",
            ModelConfig(runtime=Runtime(devices=["cuda:2", "cuda:10"], instances=2)),
        ),
        ("instance_group { gpus: 1 }", ModelConfig(runtime=Runtime(device="cuda:1"))),
        (
            "optimization { cuda { graphs: true } }",
            ModelConfig(runtime=Runtime(device="auto", cuda_graphs=True)),
        ),
        (
            "optimization { cuda { graphs: true graph_spec [ { batch_size: 8 }, { batch_size: 2 }, {} ] } }",
            ModelConfig(runtime=Runtime(device="auto", cuda_graphs=True, cuda_graph_sizes=[2, 8])),
        ),
        (
            "optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }",
            ModelConfig(runtime=AUTO),
        ),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'cuda' "
            "parameters { key: 'gpu_mem_limit' value: '1024' } "
            "parameters { key: 'cudnn_conv_use_max_workspace' value: '0' } } } }",
            ModelConfig(
                runtime=Runtime(
                    device="auto",
                    gpu_memory_limit=1024,
                    cuda_options={"cudnn_conv_use_max_workspace": "0"},
                )
            ),
        ),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' "
            "parameters { key: 'precision_mode' value: 'FP16' } "
            "parameters { key: 'max_workspace_size_bytes' value: '1024' } "
            "parameters { key: 'trt_engine_cache_path' value: '/cache' } } } }",
            ModelConfig(
                runtime=Runtime(
                    device="auto",
                    tensorrt=TensorRT(
                        precision="fp16", cache="/cache", options={"trt_max_workspace_size": "1024"}
                    ),
                )
            ),
        ),
        (
            'parameters { key: "intra_op_thread_count" value: { string_value: "0" } }',
            ModelConfig(runtime=AUTO),
        ),
        (
            'parameters { key: "cudnn_conv_algo_search" value: { string_value: "0" } } '
            'parameters { key: "arena_extend_strategy" value: { string_value: "1" } } '
            'parameters { key: "gpu_mem_limit" value: { string_value: "7" } }',
            ModelConfig(
                parameters={
                    "cudnn_conv_algo_search": "0",
                    "arena_extend_strategy": "1",
                    "gpu_mem_limit": "7",
                },
                runtime=Runtime(
                    device="auto",
                    gpu_memory_limit=7,
                    cuda_options={
                        "cudnn_conv_algo_search": "EXHAUSTIVE",
                        "arena_extend_strategy": "kSameAsRequested",
                    },
                ),
            ),
        ),
        (
            'cc_model_filenames { key: "9.0" value: "hopper.onnx" } metric_tags { key: "team" value: "a" }',
            ModelConfig(
                runtime=AUTO,
                filename_by_compute_capability={"9.0": "hopper.onnx"},
                metric_tags={"team": "a"},
            ),
        ),
        (
            'output [ { name: "x" dims: 1 }, { name: "y" data_type: TYPE_FP32 }, { name: "z" } ]',
            ModelConfig(
                runtime=AUTO,
                outputs={"x": Tensor(shape=[1]), "y": Tensor(datatype="FP32"), "z": Tensor()},
            ),
        ),
        # Whose shapes are written out, 0 means unbatched; else it is the default, and found out.
        ("max_batch_size: 0", ModelConfig(runtime=AUTO)),
        (
            'input { name: "x" data_type: TYPE_STRING dims: [ 2, -1 ] } '
            'output { name: "y" data_type: TYPE_BF16 dims: 1 }',
            ModelConfig(
                runtime=AUTO,
                batching=Batching(max_batch_size=0),
                inputs={"x": Tensor(datatype="BYTES", shape=[2, -1])},
                outputs={"y": Tensor(datatype="BF16", shape=[1])},
            ),
        ),
    ],
)
def test_single_fields(messages: Messages, text: str, config: ModelConfig) -> None:
    assert parsed(messages, text) == (config, [])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('name: "other"', "other"),
        ('backend: "python"', "python"),
        ('platform: "ensemble"', "ensemble"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ('input { name: "x" allow_ragged_batch: true }', "ragged"),
        ('input { name: "x" reshape { shape: [1] } }', "reshape"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input"),
        ("version_policy { latest { } }", "num_versions"),
        ("version_policy { specific { } }", "specific"),
        ("max_batch_size: -1", "max_batch_size"),
        ("dynamic_batching { priority_levels: 2 }", "priority"),
        ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }", "DELAY"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 0 }', "input 'x': dims"),
        ('input { name: "x" data_type: TYPE_FP32 dims: -2 }', "input 'x': dims"),
        ("input { data_type: TYPE_FP32 dims: 1 }", "name"),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: 1 } input { name: "x" data_type: 1 dims: 1 }',
            "twice",
        ),
        ("instance_group [ { kind: KIND_GPU }, { kind: KIND_CPU } ]", "not cpu, cuda"),
        ("instance_group [ { }, { kind: KIND_CPU } ]", "not cpu, auto"),
        ("instance_group [ { kind: KIND_GPU count: 2 }, { kind: KIND_GPU gpus: 1 } ]", "not cuda, cuda:1"),
        (
            "instance_group [ { kind: KIND_GPU gpus: 0 count: 2 }, { kind: KIND_GPU gpus: 1 count: 1 } ]",
            "cuda:1",
        ),
        ('metric_tags { key: "a-b" value: "c" }', "metric_tags"),
        ('metric_tags { key: "_b" value: "c" }', "metric_tags"),
        ('cc_model_filenames { key: "9.0" value: "../x" }', "filename"),
        ('cc_model_filenames { key: "sm90" value: "x" }', "filename"),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'cuda' "
            "parameters { key: 'device_id' value: '4' } } } }",
            "'device_id' is 'device' here",
        ),
        ("optimization { execution_accelerators { cpu_execution_accelerator { name: 'cuda' } } }", "cpu_"),
        (
            "optimization { execution_accelerators { cpu_execution_accelerator { name: 'tensorrt' } } }",
            "cpu_",
        ),
        ('parameters { key: "cudnn_conv_algo_search" value: { string_value: "9" } }', "cudnn_conv_algo"),
        ('parameters { key: "gpu_mem_limit" value: { string_value: "all" } }', "gpu_mem_limit"),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' "
            "parameters { key: 'wheels' value: '4' } } } }",
            "wheels",
        ),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' "
            "parameters { key: 'precision_mode' value: 'FP4' } } } }",
            "fp4",
        ),
        ("optimization { graph { level: 7 } }", "level"),
        (
            "optimization { execution_accelerators { cpu_execution_accelerator { name: 'openvino' } } }",
            "openvino",
        ),
        ('parameters { key: "execution_mode" value: { string_value: "fast" } }', "execution_mode"),
        ('input { name: "x" format: 7 }', "format"),
        ('default_model_filename: "../x"', "filename"),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", "exceeds"),
        ("max_batch_size = 4", "ModelConfig"),
        ("input { " * 500, "ModelConfig"),
    ],
)
def test_what_is_refused_by_name(messages: Messages, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parsed(messages, text)


def test_what_has_no_effect_is_said(messages: Messages) -> None:
    _, remarks = parsed(
        messages,
        'model_metrics { metric_control { metric_identifier { family: "f" } '
        "histogram_options { buckets: [ 1, 2.5 ] } } } response_cache { enable: true } "
        "optimization { input_pinned_memory { enable: false } cuda { graph_spec { batch_size: 1 "
        "input { key: 'x' value: { dim: [ 2 ] } } graph_lower_bound { batch_size: 1 } } } } "
        'parameters { key: "unknown" value: { string_value: "1" } }',
    )
    assert [remark.partition(": ")[2].split(":")[0] for remark in remarks] == [
        "model_metrics",
        "optimization.cuda.graph_spec without graphs",
        "optimization.cuda.graph_spec",
        "input_pinned_memory, output_pinned_memory",
        "response_cache",
        "parameters 'unknown'",
    ]


def test_warm_up(messages: Messages) -> None:
    config, remarks = parsed(
        messages,
        """model_warmup [ { name: "w" batch_size: 8 count: 2
             inputs { key: "ids" value: { data_type: TYPE_INT64 dims: [ 128, 2 ] zero_data: true } }
             inputs { key: "text" value: { data_type: TYPE_STRING dims: 1 input_data_file: "t" } } },
           { inputs { key: "x" value: { data_type: TYPE_FP32 dims: 3 random_data: true } } } ]""",
    )
    assert remarks == []
    assert config.warmup.requests == [
        WarmupRequest(
            name="w",
            batch_size=8,
            count=2,
            inputs={
                "ids": WarmupInput(shape=[128, 2], datatype="INT64"),
                "text": WarmupInput(shape=[1], datatype="BYTES", file="warmup/t"),
            },
        ),
        WarmupRequest(inputs={"x": WarmupInput(shape=[3], datatype="FP32", data="random")}),
    ]
    for text, word in (
        ('model_warmup { inputs { key: "x" value: { dims: 1 } } }', "zero_data"),
        ('model_warmup { inputs { key: "x" value: { dims: -1 zero_data: true } } }', "warmup"),
    ):
        with pytest.raises(ConfigError, match=word):
            parsed(messages, text)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_in_a_repository(tmp_path: Path, messages: Messages, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("theirs", "ours", "bad"):
        put(tmp_path / name / "1" / "net.onnx", "")
        put(tmp_path / name / "1" / "model.onnx", "")
    put(
        tmp_path / "theirs" / "config.pbtxt",
        'default_model_filename: "net.onnx" response_cache { enable: true }',
    )
    put(tmp_path / "ours" / "config.pbtxt", 'backend: "python"')
    put(tmp_path / "ours" / "model.toml", "")
    put(tmp_path / "bad" / "config.pbtxt", 'backend: "python"')
    scanner = Scanner(tmp_path, triton_message=lambda: messages.message(triton.MESSAGE)())
    with caplog.at_level(logging.WARNING):
        found = scanner.look()
        assert scanner.look() == found
    assert found["theirs"].versions[1].name == "net.onnx"
    assert found["ours"].error is None
    assert "python" in (found["bad"].error or "")
    assert (found["bad"].error or "").startswith("config.pbtxt: ")
    assert [record.getMessage() for record in caplog.records] == [
        "config.pbtxt has no effect: response_cache"
    ]


def test_whoever_has_none_does_not_pay_for_protobuf() -> None:
    program = (
        "import sys, servolley.server, servolley.repository.explicit; "
        "sys.exit(any(name.startswith('google.protobuf') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("text", "document", "field"),
    [
        ("sequence_batching { oldest { } }", '{"sequence_batching": {}}', "sequence_batching"),
        ("ensemble_scheduling { step [ { } ] }", '{"ensembleScheduling": {}}', "ensemble_scheduling"),
        ('model_operations { op_library_filename: "x" }', '{"model_operations": {}}', "model_operations"),
        ("model_repository_agents { }", '{"modelRepositoryAgents": {}}', "model_repository_agents"),
    ],
)
def test_fields_that_are_tritons_alone(messages: Messages, text: str, document: str, field: str) -> None:
    for parse, given in ((triton.parse_text, text), (triton.parse_json, document)):
        with pytest.raises(ConfigError) as refused:
            parse(given, messages.message(triton.MESSAGE)(), "m")
        assert str(refused.value) == f"'{field}' is not supported"


def test_fields_that_nobody_has(messages: Messages) -> None:
    for text in ("wheels { }", "dynamic_batching { sequence_batching { } }"):
        with pytest.raises(ConfigError, match="has no field named"):
            parsed(messages, text)


def test_what_is_only_shown(messages: Messages) -> None:
    config, remarks = parsed(
        messages,
        'input { name: "x" format: FORMAT_NCHW } input { name: "y" } input { name: "z" format: FORMAT_NHWC }'
        'parameters { key: "owner" value: { string_value: "vision" } } parameters { key: "" value: { } }'
        'parameters { key: "intra_op_thread_count" value: { string_value: "3" } }',
    )
    assert config.input_formats == {"x": "NCHW", "z": "NHWC"}
    assert config.parameters == {"owner": "vision", "": ""}
    assert config.runtime.intra_op_threads == 3
    assert sorted(remarks) == ["has no effect: parameters ''", "has no effect: parameters 'owner'"]
