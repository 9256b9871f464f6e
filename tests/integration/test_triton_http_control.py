"""The stock ``tritonclient.http``: every control call that exists, and clear refusals of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

import models
from integration.server_process import Server
from integration.tensors import Array, assert_same, sample

DATATYPES = list(models.DTYPES)


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url, concurrency=8) as client:
        yield client


def given(name: str, datatype: str, array: Array, *, binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("nobody")


def test_server_metadata(client: InferenceServerClient) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "servolley"
    assert metadata["version"]
    assert {"classification", "binary_tensor_data", "statistics", "model_configuration"} <= set(
        metadata["extensions"]
    )
    # Nothing is listed that answers "not supported".
    assert not {"system_shared_memory", "cuda_shared_memory", "trace", "sequence"} & set(
        metadata["extensions"]
    )


def test_model_metadata(client: InferenceServerClient) -> None:
    assert client.get_model_metadata("two_inputs") == {
        "name": "two_inputs",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": f"INPUT{i}", "datatype": "INT32", "shape": [-1, 16]} for i in (0, 1)],
        "outputs": [{"name": f"OUTPUT{i}", "datatype": "INT32", "shape": [-1, 16]} for i in (0, 1)],
    }
    assert client.get_model_metadata("two_versions")["versions"] == ["3", "7"]
    assert client.get_model_metadata("two_versions", "3")["versions"] == ["3"]
    for datatype in DATATYPES:
        metadata = client.get_model_metadata(f"identity_{datatype.lower()}")
        assert metadata["inputs"][0]["datatype"] == datatype
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'"):
        client.get_model_metadata("nobody")


@pytest.mark.parametrize(
    ("model", "shape"),
    [("scalar", []), ("fixed_batch", [1, 4]), ("sequence_first", [-1, -1, 4]), ("tiny", [-1, 16])],
)
def test_model_config_agrees_with_metadata(
    client: InferenceServerClient, model: str, shape: list[int]
) -> None:
    config = client.get_model_config(model)
    metadata = client.get_model_metadata(model)
    assert metadata["inputs"][0]["shape"] == shape
    dims = config["input"][0]["dims"]
    assert ([-1, *dims] if config["max_batch_size"] > 0 else dims) == shape
    assert config["name"] == model
    assert config["platform"] == "onnxruntime_onnx"
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert isinstance(config["max_batch_size"], int)
    assert (config["max_batch_size"] > 0) == (model == "tiny")


def test_statistics_move(client: InferenceServerClient) -> None:
    def numbers() -> dict[str, Any]:
        (stats,) = client.get_inference_statistics("mlp")["model_stats"]
        assert (stats["name"], stats["version"]) == ("mlp", "1")
        assert isinstance(stats, dict)
        return stats

    before = numbers()
    for rows in (1, 2, 5):
        client.infer("mlp", [given("INPUT0", "FP32", sample("FP32", (rows, 256)))])
    with pytest.raises(InferenceServerException):
        client.infer("mlp", [given("INPUT0", "FP32", sample("FP32", (1, 255)))])
    after = numbers()
    assert after["inference_count"] - before["inference_count"] == 8
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1_600_000_000_000
    durations = after["inference_stats"]
    for phase in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert durations[phase]["count"] - before["inference_stats"][phase]["count"] == 3
        assert durations[phase]["ns"] >= before["inference_stats"][phase]["ns"]
    assert durations["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert {"cache_hit", "cache_miss"} <= durations.keys()
    sizes = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    assert {1, 2, 5} <= sizes.keys()
    assert {"response_stats", "memory_usage"} <= after.keys()
    everything = client.get_inference_statistics()["model_stats"]
    assert {"tiny", "mlp", "two_versions"} <= {stats["name"] for stats in everything}


def test_repository_index(client: InferenceServerClient) -> None:
    index = {(entry["name"], entry["version"]): entry for entry in client.get_model_repository_index()}
    assert index["tiny", "1"]["state"] == "READY"
    assert {version for name, version in index if name == "two_versions"} == {"3", "7"}


def test_load_and_unload_say_that_the_repository_decides(client: InferenceServerClient) -> None:
    for change in (client.load_model, client.unload_model):
        with pytest.raises(
            InferenceServerException, match="explicit model load / unload is not allowed"
        ) as e:
            change("tiny")
        assert e.value.status() == "503"
    assert client.is_model_ready("tiny")


def test_calls_that_are_not_there_say_so(client: InferenceServerClient) -> None:
    for call in (
        lambda: client.register_system_shared_memory("r", "/key", 64),
        lambda: client.register_cuda_shared_memory("r", b"A" * 88, 0, 64),
        client.unregister_system_shared_memory,
    ):
        with pytest.raises(InferenceServerException, match="not support") as failure:
            call()
        assert failure.value.status() == "501"
    assert client.get_log_settings()["log_info"] in {True, False}


def test_query_parameters_are_ignored(client: InferenceServerClient) -> None:
    query = {"a": "1", "b": ["2", "3"]}
    assert client.is_server_live(query_params=query)
    assert client.get_model_metadata("tiny", query_params=query)["name"] == "tiny"
    array = sample("FP32", (1, 4))
    result = client.infer("identity_fp32", [given("INPUT0", "FP32", array)], query_params=query)
    assert_same(result.as_numpy("OUTPUT0"), array)
