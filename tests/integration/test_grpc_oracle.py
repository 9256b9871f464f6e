"""ModelInfer in messages of one's own: raw and typed contents give what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import CONTENTS, TIMEOUT_S, Inputs, channel_to, infer_request, outputs_of, refusal
from integration.oracle_cases import CASES
from integration.server_process import Server
from integration.tensors import Array, assert_same, run_onnx, sample

FORMS = pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with channel_to(server.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def inferred(stub: Any, request: Any) -> dict[str, Array]:
    return outputs_of(stub.ModelInfer(request, timeout=TIMEOUT_S))


@FORMS
@pytest.mark.parametrize("datatype", models.DTYPES)
def test_every_datatype(stub: Any, datatype: str, typed: bool) -> None:
    for shape in ((1, 1), (3, 5), (7, 64), (2, 0)):
        array = sample(datatype, shape, seed=len(shape))
        inputs = {"INPUT0": (datatype, array)}
        if typed and datatype not in CONTENTS:
            request = infer_request(f"identity_{datatype.lower()}", inputs)
            request.ClearField("raw_input_contents")
            request.inputs[0].contents.fp32_contents.extend([0.0] * array.size)
            with refusal(grpc.StatusCode.INVALID_ARGUMENT, "use 'raw_input_contents'"):
                stub.ModelInfer(request, timeout=TIMEOUT_S)
            continue
        answer = inferred(stub, infer_request(f"identity_{datatype.lower()}", inputs, typed=typed))
        assert_same(answer["OUTPUT0"], array)
        if datatype != "BF16" and array.size:  # numpy hands the runtime no BF16
            assert_same(answer["OUTPUT0"], run_onnx(models.identity(datatype), {"INPUT0": array})["OUTPUT0"])


@FORMS
@pytest.mark.parametrize(("model", "inputs"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)])
def test_equals_onnx_runtime(stub: Any, model: str, inputs: Inputs, typed: bool) -> None:
    expected = run_onnx(models.MODELS[model](), {name: array for name, (_, array) in inputs.items()})
    actual = inferred(stub, infer_request(model, inputs, typed=typed))
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        if model in {"tiny", "mlp", "row_sums"}:  # sums: their order may depend on threads
            np.testing.assert_allclose(actual[name], array, rtol=1e-5, atol=1e-5)
            assert actual[name].dtype == array.dtype
        else:
            assert_same(actual[name], array)


def test_special_floats(stub: Any) -> None:
    array = np.array([[np.inf, -np.inf, np.nan, -0.0, 1e-45]], np.float32)
    for typed in (False, True):
        answer = inferred(stub, infer_request("identity_fp32", {"INPUT0": ("FP32", array)}, typed=typed))
        assert_same(answer["OUTPUT0"], array)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16)],
)
def test_typed_numbers_out_of_range(stub: Any, datatype: str, value: int) -> None:
    request = infer_request(f"identity_{datatype.lower()}", {"INPUT0": (datatype, sample(datatype, (1, 2)))})
    request.ClearField("raw_input_contents")
    getattr(request.inputs[0].contents, CONTENTS[datatype]).extend([0, value])
    with refusal(grpc.StatusCode.INVALID_ARGUMENT, "INPUT0"):
        stub.ModelInfer(request, timeout=TIMEOUT_S)


@FORMS
def test_large_tensors_side_by_side(stub: Any, typed: bool) -> None:
    def ask(seed: int) -> None:
        array = sample("FP32", (1, 150528), seed)
        request = infer_request("identity_large", {"INPUT0": ("FP32", array)}, typed=typed)
        assert_same(inferred(stub, request)["OUTPUT0"], array)

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(ask, range(24)))


@pytest.mark.parametrize("execution", ["inline", "threads"])
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_batched_equals_unbatched(serve: ServerFactory, tmp_path: Any, execution: str, typed: bool) -> None:
    root = models.save_repository(tmp_path / "batching", {"mlp": models.mlp(), "picky": models.picky()})
    delay = 20_000 if execution == "threads" else 0
    for name in ("mlp", "picky"):
        (root / name / "model.toml").write_text(
            f'[runtime]\nexecution = "{execution}"\n[batching]\nmax_queue_delay_us = {delay}\n'
        )
    server = serve(root)
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        arrays = [sample("FP32", (1 + i % 4, 256), seed=i) for i in range(60)]
        requests = [
            infer_request("mlp", {"INPUT0": ("FP32", array)}, typed=typed, id=str(i))
            for i, array in enumerate(arrays)
        ]
        together = [stub.ModelInfer.future(request, timeout=TIMEOUT_S) for request in requests]
        for i, (array, call) in enumerate(zip(arrays, together, strict=True)):
            assert call.result().id == str(i)
            expected = run_onnx(models.mlp(), {"INPUT0": array})["OUTPUT0"]
            np.testing.assert_allclose(outputs_of(call.result())["OUTPUT0"], expected, rtol=1e-5, atol=1e-5)
        if execution == "threads":
            largest = max(int(batch["batch_size"]) for batch in server.statistics("mlp")["batch_stats"])
            assert largest > 4, "no batch was formed"

        # One poisoned row of a batch fails alone.
        indices = [99 if i == 7 else i % 8 for i in range(32)]
        calls = [
            stub.ModelInfer.future(
                infer_request("picky", {"INPUT0": ("INT64", np.array([[index]], np.int64))}, typed=typed),
                timeout=TIMEOUT_S,
            )
            for index in indices
        ]
        table = np.arange(32, dtype=np.float32).reshape(8, 4)
        for i, call in enumerate(calls):
            if i == 7:
                assert call.exception().code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}
            else:
                assert_same(outputs_of(call.result())["OUTPUT0"], table[indices[i] : indices[i] + 1])
