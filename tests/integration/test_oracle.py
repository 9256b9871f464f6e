"""Three oracles: server equals direct ONNX Runtime, batched equals unbatched, answers out = requests in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput

import models
from integration.oracle_cases import CASES
from integration.raw_http import RawConnection, request
from integration.server_process import Answer, Server
from integration.tensors import NUMPY_TYPES, Array, assert_same, run_onnx, sample, to_bytes

EXECUTIONS = ["inline", "threads"]


def infer(server: Server, model: str, inputs: Mapping[str, tuple[str, Array]]) -> dict[str, Array]:
    with InferenceServerClient(server.url) as client:
        tensors = []
        for name, (datatype, array) in inputs.items():
            tensor = InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        result = client.infer(model, tensors)
        return {
            output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]
        }


def binary_request(model: str, inputs: Mapping[str, tuple[str, Array]], request_id: str = "") -> bytes:
    """One binary-form request as bytes, for pipelining."""
    head: dict[str, Any] = {"id": request_id, "inputs": [], "parameters": {"binary_data_output": True}}
    body = b""
    for name, (datatype, array) in inputs.items():
        data = to_bytes(datatype, array)
        body += data
        head["inputs"].append(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(data)},
            }
        )
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return request("POST", f"/v2/models/{model}/infer", text + body, headers)


def binary_outputs(answer: Answer) -> tuple[str, dict[str, Array]]:
    """(id, outputs) of a binary-form answer."""
    assert answer.status == 200, answer
    length = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.body[:length])
    rest = answer.body[length:]
    outputs = {}
    for output in head["outputs"]:
        size = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = np.frombuffer(rest[:size], NUMPY_TYPES[output["datatype"]]).reshape(
            output["shape"]
        )
        rest = rest[size:]
    assert not rest
    return head.get("id", ""), outputs


# --- the server equals ONNX Runtime


@pytest.mark.parametrize(("model", "inputs"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)])
def test_equals_onnx_runtime(server: Server, model: str, inputs: Mapping[str, tuple[str, Array]]) -> None:
    expected = run_onnx(models.MODELS[model](), {name: array for name, (_, array) in inputs.items()})
    actual = infer(server, model, inputs)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        if model in {"tiny", "mlp", "row_sums"}:  # sums: their order may depend on threads
            np.testing.assert_allclose(actual[name], array, rtol=1e-5, atol=1e-5)
            assert actual[name].dtype == array.dtype
        else:
            assert_same(actual[name], array)


def test_an_output_without_elements(server: Server) -> None:
    inputs = {"INPUT0": ("FP32", np.zeros((2, 3), np.float32))}
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [2, 3], "data": [0] * 6}
    (output,) = server.infer("nonzero", [tensor]).json()["outputs"]
    assert (output["shape"], output["data"]) == ([2, 0], [])
    (answer,) = _pipelined(server, [binary_request("nonzero", inputs)])
    # Only empty binary outputs: no header, and the client reads the body as JSON.
    assert "inference-header-content-length" not in answer.headers
    (output,) = answer.json()["outputs"]
    assert (output["shape"], output["parameters"]["binary_data_size"]) == ([2, 0], 0)


@pytest.mark.parametrize("datatype", [t for t in models.DTYPES if t not in {"BF16", "BYTES"}])
def test_raw_binary_request(server: Server, datatype: str) -> None:
    """Inference-Header-Content-Length: 0: the body is the only input's data, of one row."""
    array = sample(datatype, (1, 6), 20)
    answer = server.post(
        f"/v2/models/identity_{datatype.lower()}/infer",
        to_bytes(datatype, array),
        {"Inference-Header-Content-Length": "0"},
    )
    _, outputs = binary_outputs(answer)
    assert_same(outputs["OUTPUT0"], array)


# --- batched equals unbatched


def _pipelined(server: Server, requests: Sequence[bytes]) -> list[Answer]:
    """All requests in one write; the answers in order."""
    with RawConnection(server.address, timeout_s=60) as connection:
        connection.send(b"".join(requests))
        return [connection.read_answer() for _ in requests]


@pytest.fixture(scope="module")
def batching_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models inline and on threads; on threads with a moment's delay, so that batches form."""
    root = tmp_path_factory.mktemp("batching")
    for execution in EXECUTIONS:
        for name, build in (
            ("mlp", models.mlp),
            ("picky", models.picky),
            ("identity", models.identity),
            ("words", lambda: models.identity("BYTES")),
        ):
            models.save_repository(root, {f"{name}_{execution}": build()})
            delay = 20_000 if execution == "threads" else 0
            (root / f"{name}_{execution}" / "model.toml").write_text(
                f'[runtime]\nexecution = "{execution}"\n'
                f"[batching]\nmax_batch_size = 64\nmax_queue_delay_us = {delay}\n"
            )
    with Server(root) as server:
        yield server.wait_ready()
        assert server.stop() == 0, server.log


def _largest_batch(server: Server, model: str) -> int:
    return max(int(batch["batch_size"]) for batch in server.statistics(model)["batch_stats"])


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_batched_equals_unbatched(batching_server: Server, execution: str) -> None:
    model = f"mlp_{execution}"
    arrays = [sample("FP32", (1 + i % 4, 256), seed=i) for i in range(60)]
    requests = [binary_request(model, {"INPUT0": ("FP32", array)}, str(i)) for i, array in enumerate(arrays)]
    alone = [
        binary_outputs(answer)[1]["OUTPUT0"] for r in requests for answer in _pipelined(batching_server, [r])
    ]
    together = [binary_outputs(answer) for answer in _pipelined(batching_server, requests)]
    assert [request_id for request_id, _ in together] == [str(i) for i in range(60)]
    for array, single, (_, outputs) in zip(arrays, alone, together, strict=True):
        np.testing.assert_allclose(outputs["OUTPUT0"], single, rtol=1e-5, atol=1e-5)
        expected = run_onnx(models.mlp(), {"INPUT0": array})["OUTPUT0"]
        np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)
    assert _largest_batch(batching_server, model) > 4, "no batch was formed"
    assert _largest_batch(batching_server, model) <= 64


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_batched_identity_is_bitwise(batching_server: Server, execution: str) -> None:
    model = f"identity_{execution}"
    # Widths differ: only some of them may share a batch.
    arrays = [sample("FP32", (1 + i % 4, 3 + i % 3), seed=i) for i in range(60)]
    requests = [binary_request(model, {"INPUT0": ("FP32", a)}, str(i)) for i, a in enumerate(arrays)]
    before = batching_server.statistics(model)
    for i, answer in enumerate(_pipelined(batching_server, requests)):
        request_id, outputs = binary_outputs(answer)
        assert request_id == str(i)
        assert_same(outputs["OUTPUT0"], arrays[i])
    after = batching_server.statistics(model)
    assert after["inference_count"] - before["inference_count"] == sum(len(array) for array in arrays)
    assert after["execution_count"] - before["execution_count"] < 60


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_batched_strings(batching_server: Server, execution: str) -> None:
    arrays = [sample("BYTES", (1 + i % 4, 4), seed=i) for i in range(40)]
    bodies = [
        {
            "id": str(i),
            "inputs": [
                {
                    "name": "INPUT0",
                    "datatype": "BYTES",
                    "shape": list(array.shape),
                    "data": [item.decode() for item in array.ravel()],
                }
            ],
        }
        for i, array in enumerate(arrays)
    ]
    requests = [
        request("POST", f"/v2/models/words_{execution}/infer", json.dumps(body).encode()) for body in bodies
    ]
    for body, answer in zip(bodies, _pipelined(batching_server, requests), strict=True):
        document = answer.json()
        assert document["id"] == body["id"]
        (output,) = document["outputs"]
        (tensor,) = body["inputs"]
        assert isinstance(tensor, dict)
        assert (output["shape"], output["data"]) == (tensor["shape"], tensor["data"])


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("poisoned", [{0}, {31}, {7, 8, 20}, set(range(32))], ids=str)
def test_a_poisoned_row_fails_alone(batching_server: Server, execution: str, poisoned: set[int]) -> None:
    model = f"picky_{execution}"
    indices = [99 if i in poisoned else i % 8 for i in range(32)]
    requests = [
        binary_request(model, {"INPUT0": ("INT64", np.array([[index]], np.int64))}, str(i))
        for i, index in enumerate(indices)
    ]
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    for i, answer in enumerate(_pipelined(batching_server, requests)):
        if i in poisoned:
            assert answer.status in {400, 500}
            assert "99" in answer.error
            assert "/" not in answer.error.replace("and/or", ""), "a path of the runtime's sources"
        else:
            request_id, outputs = binary_outputs(answer)
            assert request_id == str(i)
            assert_same(outputs["OUTPUT0"], table[indices[i] : indices[i] + 1])


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_poisoned_row_fails_its_whole_request_only(batching_server: Server, execution: str) -> None:
    model = f"picky_{execution}"
    rows = [np.array([[1], [2]]), np.array([[3], [77]]), np.array([[4]]), np.array([[-8], [7], [0]])]
    requests = [binary_request(model, {"INPUT0": ("INT64", array.astype(np.int64))}) for array in rows]
    answers = _pipelined(batching_server, requests)
    assert [answer.status == 200 for answer in answers] == [True, False, True, True]
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    for i in (0, 2, 3):
        assert_same(binary_outputs(answers[i])[1]["OUTPUT0"], table[rows[i][:, 0]])


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_one_request_of_the_maximum_among_small_ones(batching_server: Server, execution: str) -> None:
    model = f"identity_{execution}"
    arrays = [sample("FP32", (64 if i == 10 else 1, 8), seed=i) for i in range(21)]
    requests = [binary_request(model, {"INPUT0": ("FP32", array)}) for array in arrays]
    for array, answer in zip(arrays, _pipelined(batching_server, requests), strict=True):
        assert_same(binary_outputs(answer)[1]["OUTPUT0"], array)
    (over,) = _pipelined(
        batching_server, [binary_request(model, {"INPUT0": ("FP32", sample("FP32", (65, 8)))})]
    )
    assert over.status == 400
    assert f"inference request batch-size must be <= 64 for '{model}'" in over.error


# --- answers out = requests in


@pytest.mark.parametrize("model", ["sequence_first", "nonzero", "unknown_rank", "fixed_batch", "scalar"])
def test_models_that_must_not_be_batched(server: Server, model: str) -> None:
    """Concurrent requests whose rows a careless batcher would mix."""

    def inputs(i: int) -> dict[str, tuple[str, Array]]:
        if model == "sequence_first":
            return {
                "tokens": ("FP32", sample("FP32", (2, 2, 4), i)),
                "scale": ("FP32", sample("FP32", (2, 4), i + 1000)),
            }
        if model == "scalar":
            return {"INPUT0": ("FP32", np.array(i, np.float32))}
        if model == "nonzero":
            hits = np.random.default_rng(i).integers(0, 2, (3, 4))
            hits[0, 0] = 1
            return {"INPUT0": ("FP32", hits.astype(np.float32))}
        return {"INPUT0": ("FP32", sample("FP32", (1, 4), i))}

    asked = [inputs(i) for i in range(48)]
    requests = [binary_request(model, each, str(i)) for i, each in enumerate(asked)]
    build = models.MODELS[model]
    for i, answer in enumerate(_pipelined(server, requests)):
        request_id, outputs = binary_outputs(answer)
        assert request_id == str(i)
        expected = run_onnx(build(), {name: array for name, (_, array) in asked[i].items()})
        for name, array in expected.items():
            assert_same(outputs[name], array)


def test_interleaved_models_and_connections(server: Server) -> None:
    """16 connections, each pipelining requests of several models: every answer is the asker's, in order."""

    def ask(worker: int) -> int:
        kinds = ["identity_int32", "two_inputs", "identity_fp64"]
        arrays = []
        requests = []
        for i in range(60):
            model = kinds[(worker + i) % 3]
            datatype = {"identity_fp64": "FP64"}.get(model, "INT32")
            array = np.full((1 + i % 3, 16), worker * 1000 + i).astype(NUMPY_TYPES[datatype])
            inputs = {"INPUT0": (datatype, array)}
            if model == "two_inputs":
                inputs["INPUT1"] = (datatype, array)
            arrays.append(array * 2 if model == "two_inputs" else array)
            requests.append(binary_request(model, inputs, f"{worker}.{i}"))
        for i, answer in enumerate(_pipelined(server, requests)):
            request_id, outputs = binary_outputs(answer)
            assert request_id == f"{worker}.{i}"
            assert_same(outputs["OUTPUT0"], arrays[i])
        return len(requests)

    with ThreadPoolExecutor(16) as workers:
        assert sum(workers.map(ask, range(16))) == 16 * 60


def test_large_bodies_side_by_side(server: Server) -> None:
    def ask(seed: int) -> None:
        array = sample("FP32", (1, 150528), seed)
        (answer,) = _pipelined(server, [binary_request("identity_large", {"INPUT0": ("FP32", array)})])
        assert_same(binary_outputs(answer)[1]["OUTPUT0"], array)

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(ask, range(48)))


def test_both_dialects_give_the_same_numbers(server: Server, tmp_path: Path) -> None:
    array = sample("FP32", (3, 16), 77)
    expected = run_onnx(models.tiny(), {"INPUT0": array})["OUTPUT0"]
    predicted = np.array(
        server.predict("tiny", {"instances": array.tolist()}).json()["predictions"], np.float32
    )
    inferred = infer(server, "tiny", {"INPUT0": ("FP32", array)})["OUTPUT0"]
    np.testing.assert_allclose(inferred, expected, rtol=1e-5, atol=1e-5)
    assert_same(predicted, inferred)
