"""TensorFlow Serving's gRPC API with the stock ``tensorflow_serving`` modules; see slim_tensorflow.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

import models
from integration.grpc_calls import TIMEOUT_S, Inputs, channel_to, refusal
from integration.server_process import Server
from integration.slim_tensorflow import stock_module
from integration.tensors import NUMPY_TYPES, Array, assert_same, run_onnx, sample

predict_pb2 = stock_module("predict_pb2")
prediction_service_pb2_grpc = stock_module("prediction_service_pb2_grpc")
model_service_pb2_grpc = stock_module("model_service_pb2_grpc")
get_model_status_pb2 = stock_module("get_model_status_pb2")
get_model_metadata_pb2 = stock_module("get_model_metadata_pb2")

#: datatype -> (DataType's number, the field of its values), from tensorflow/core/framework/types.proto and
#: tensor.proto.
TENSORFLOW = {
    "FP32": (1, "float_val"),
    "FP64": (2, "double_val"),
    "INT32": (3, "int_val"),
    "UINT8": (4, "int_val"),
    "INT16": (5, "int_val"),
    "INT8": (6, "int_val"),
    "BYTES": (7, "string_val"),
    "INT64": (9, "int64_val"),
    "BOOL": (10, "bool_val"),
    "BF16": (14, "half_val"),
    "UINT16": (17, "int_val"),
    "FP16": (19, "half_val"),
    "UINT32": (22, "uint32_val"),
    "UINT64": (23, "uint64_val"),
}
DATATYPES = {number: datatype for datatype, (number, _) in TENSORFLOW.items()}
HALVES: dict[str, Any] = {"FP16": np.float16, "BF16": ml_dtypes.bfloat16}


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.url) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def values_of(datatype: str, array: Array) -> list[Any]:
    """As the typed field has them."""
    if datatype in HALVES:
        array = array.view(np.uint16)
    return list(array.ravel().tolist())


def content_of(datatype: str, array: Array) -> bytes:
    """As tensor_content has them: numbers as they lie; of strings all lengths first."""
    if datatype != "BYTES":
        return array.tobytes()
    words = array.ravel().tolist()
    assert all(len(word) < 128 for word in words), "lengths are varints"
    return bytes(len(word) for word in words) + b"".join(words)


def fill(tensor: Any, datatype: str, array: Array, *, content: bool = False) -> None:
    number, field = TENSORFLOW[datatype]
    tensor.dtype = number
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if content:
        tensor.tensor_content = content_of(datatype, array)
    else:
        getattr(tensor, field).extend(values_of(datatype, array))


def predict_request(model: str, inputs: Inputs, *, content: bool = False, **spec: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    for key, value in spec.items():
        if key == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, key, value)
    for name, (datatype, array) in inputs.items():
        fill(request.inputs[name], datatype, array, content=content)
    return request


def array_of(tensor: Any) -> Array:
    """A tensor of an answer; its values are in its typed field and nowhere else."""
    datatype = DATATYPES[tensor.dtype]
    field = TENSORFLOW[datatype][1]
    assert not tensor.tensor_content
    used = {name.name for name, _ in tensor.ListFields()}
    assert used <= {"dtype", "tensor_shape", field}
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    values = list(getattr(tensor, field))
    if datatype == "BYTES":
        return np.array(values, dtype=np.object_).reshape(shape)
    if datatype in HALVES:
        halves: Array = np.array(values, np.uint16).view(HALVES[datatype])
        return halves.reshape(shape)
    return np.array(values, NUMPY_TYPES[datatype]).reshape(shape)


def predicted(stub: Any, request: Any) -> dict[str, Array]:
    response = stub.Predict(request, timeout=TIMEOUT_S)
    return {name: array_of(tensor) for name, tensor in response.outputs.items()}


# --- datatypes and forms


@pytest.mark.parametrize("content", [False, True], ids=["typed", "content"])
@pytest.mark.parametrize("datatype", models.DTYPES)
def test_every_datatype(stub: Any, datatype: str, content: bool) -> None:
    model = f"identity_{datatype.lower()}"
    for shape in ((1, 1), (3, 5), (7, 64)):
        array = sample(datatype, shape, seed=len(shape))
        request = predict_request(model, {"INPUT0": (datatype, array)}, content=content)
        expected = run_onnx(models.identity(datatype), {"INPUT0": array}) if datatype != "BF16" else None
        answer = predicted(stub, request)["OUTPUT0"]
        assert_same(answer, array)
        if expected is not None:
            assert_same(answer, expected["OUTPUT0"])


@pytest.mark.parametrize("content", [False, True], ids=["typed", "content"])
@pytest.mark.parametrize("datatype", models.DTYPES)
def test_zero_elements(stub: Any, datatype: str, content: bool) -> None:
    array = sample(datatype, (2, 0))
    request = predict_request(f"identity_{datatype.lower()}", {"INPUT0": (datatype, array)}, content=content)
    assert_same(predicted(stub, request)["OUTPUT0"], array)


@pytest.mark.parametrize("datatype", models.DTYPES)
@pytest.mark.parametrize("given", [0, 1, 3])
def test_the_last_value_repeats(stub: Any, datatype: str, given: int) -> None:
    """The short form: what is missing is as the last value, and without one it is zero."""
    array = sample(datatype, (2, 3), seed=4)
    flat = array.ravel().copy()
    zero = b"" if datatype == "BYTES" else np.zeros(1, array.dtype)[0]
    flat[given:] = flat[given - 1] if given else zero
    request = predict_request(f"identity_{datatype.lower()}", {"INPUT0": (datatype, array)})
    del getattr(request.inputs["INPUT0"], TENSORFLOW[datatype][1])[given:]
    assert_same(predicted(stub, request)["OUTPUT0"], flat.reshape(2, 3))


def test_special_floats(stub: Any) -> None:
    array = np.array([[np.inf, -np.inf, np.nan, -0.0, 1e-45]], np.float32)
    for content in (False, True):
        request = predict_request("identity_fp32", {"INPUT0": ("FP32", array)}, content=content)
        assert_same(predicted(stub, request)["OUTPUT0"], array)


CASES: list[tuple[str, Inputs]] = [
    ("tiny", {"INPUT0": ("FP32", sample("FP32", (7, 16), 2))}),
    ("mlp", {"INPUT0": ("FP32", sample("FP32", (5, 256), 4))}),
    ("two_inputs", {f"INPUT{i}": ("INT32", sample("INT32", (3, 16), i)) for i in (0, 1)}),
    ("half_plus_two", {"x": ("FP32", sample("FP32", (4,), 5))}),
    ("scalar", {"INPUT0": ("FP32", np.array(2.5, np.float32))}),
    ("fixed_batch", {"INPUT0": ("FP32", sample("FP32", (1, 4), 7))}),
    ("passthrough", {"INPUT0": ("FP32", sample("FP32", (2, 4), 8))}),
    (
        "identity_pair",
        {"INPUT0": ("FP32", sample("FP32", (2, 3), 12)), "INPUT1": ("BYTES", sample("BYTES", (2, 5), 13))},
    ),
    ("unknown_rank", {"INPUT0": ("FP32", sample("FP32", (2, 1, 3, 2), 15))}),
    ("nonzero", {"INPUT0": ("FP32", np.array([[0, 1, 0], [2, 0, 3]], np.float32))}),
]


@pytest.mark.parametrize("content", [False, True], ids=["typed", "content"])
@pytest.mark.parametrize(("model", "inputs"), CASES, ids=[name for name, _ in CASES])
def test_equals_onnx_runtime(stub: Any, model: str, inputs: Inputs, content: bool) -> None:
    expected = run_onnx(models.MODELS[model](), {name: array for name, (_, array) in inputs.items()})
    answer = predicted(stub, predict_request(model, inputs, content=content))
    assert answer.keys() == expected.keys()
    for name, array in expected.items():
        if model in {"tiny", "mlp"}:  # sums: their order may depend on threads
            np.testing.assert_allclose(answer[name], array, rtol=1e-5, atol=1e-5)
        else:
            assert_same(answer[name], array)


def test_a_large_tensor(stub: Any) -> None:
    array = sample("FP32", (4, 150528))
    for content in (False, True):
        request = predict_request("identity_large", {"INPUT0": ("FP32", array)}, content=content)
        assert_same(predicted(stub, request)["OUTPUT0"], array)


# --- what is asked for, and what the answer says of itself


def pair() -> Inputs:
    return {f"INPUT{i}": ("INT32", sample("INT32", (1, 16), i)) for i in (0, 1)}


@pytest.mark.parametrize("names", [["OUTPUT0"], ["OUTPUT1"], ["OUTPUT1", "OUTPUT0"], []])
def test_output_filter(stub: Any, names: list[str]) -> None:
    request = predict_request("two_inputs", pair())
    request.output_filter.extend(names)
    expected = run_onnx(models.two_inputs(), {name: array for name, (_, array) in pair().items()})
    answer = predicted(stub, request)
    assert answer.keys() == set(names or expected)
    for name, array in answer.items():
        assert_same(array, expected[name])


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ({}, 7),
        ({"version": 3}, 3),
        ({"version": 7}, 7),
        ({"version_label": "stable"}, 3),
        ({"version_label": "canary"}, 7),
        ({"signature_name": "serving_default"}, 7),
    ],
    ids=str,
)
def test_the_answer_names_model_version_and_signature(stub: Any, spec: dict[str, Any], version: int) -> None:
    inputs = {"x": ("FP32", np.array([1.0, 2.0], np.float32))}
    response = stub.Predict(predict_request("two_versions", inputs, **spec), timeout=TIMEOUT_S)
    assert response.model_spec.name == "two_versions"
    assert response.model_spec.version.value == version
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.WhichOneof("version_choice") == "version"
    assert array_of(response.outputs["y"]).tolist() == [2.5, 3.0]


# --- errors


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({"model": "nobody"}, grpc.StatusCode.NOT_FOUND, "nobody"),
        ({"version": 4}, grpc.StatusCode.NOT_FOUND, "4"),
        ({"version": -1}, grpc.StatusCode.NOT_FOUND, ""),
        ({"version_label": "nobody"}, grpc.StatusCode.INVALID_ARGUMENT, "nobody"),
        ({"signature_name": "nobody"}, grpc.StatusCode.FAILED_PRECONDITION, "nobody"),
        ({"model": ""}, grpc.StatusCode.INVALID_ARGUMENT, "no name"),
    ],
    ids=str,
)
def test_wrong_specs(stub: Any, spec: dict[str, Any], code: grpc.StatusCode, text: str) -> None:
    inputs = {"x": ("FP32", np.array([1.0], np.float32))}
    request = predict_request(**{"model": "two_versions", "inputs": inputs, **spec})
    with refusal(code, text):
        stub.Predict(request, timeout=TIMEOUT_S)


def test_no_spec(stub: Any) -> None:
    with refusal(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
        stub.Predict(predict_pb2.PredictRequest(), timeout=TIMEOUT_S)


def _changed(what: str) -> Any:
    array = np.array([[1.0, 2.0]], np.float32)
    request = predict_request("identity_fp32", {"INPUT0": ("FP32", array)})
    tensor = request.inputs["INPUT0"]
    match what:
        case "no input":
            request.inputs.clear()
        case "unknown input":
            request.inputs["NOBODY"].CopyFrom(tensor)
        case "unknown output":
            request.output_filter.append("NOBODY")
        case "output twice":
            request.output_filter.extend(["OUTPUT0", "OUTPUT0"])
        case "other datatype":
            tensor.dtype = 9
        case "no datatype":
            tensor.dtype = 0
        case "too many values":
            tensor.float_val.append(3.0)
        case "values of another type":
            tensor.int_val.append(3)
        case "values twice":
            tensor.tensor_content = array.tobytes()
        case "short content":
            tensor.ClearField("float_val")
            tensor.tensor_content = array.tobytes()[:-1]
        case "long content":
            tensor.ClearField("float_val")
            tensor.tensor_content = array.tobytes() + b"\0"
        case "unknown rank":
            tensor.tensor_shape.unknown_rank = True
        case "other rank":
            tensor.tensor_shape.dim.add(size=1)
        case "negative size":
            tensor.tensor_shape.dim[0].size = -1
        case "size that wraps":
            tensor.tensor_shape.dim[0].size = 2**60 + 2
            tensor.tensor_shape.dim[1].size = 2**4
        case "many dimensions":
            for _ in range(100_000):
                tensor.tensor_shape.dim.add(size=1)
    return request


@pytest.mark.parametrize(
    "what",
    [
        "no input",
        "unknown input",
        "unknown output",
        "output twice",
        "other datatype",
        "no datatype",
        "too many values",
        "values of another type",
        "values twice",
        "short content",
        "long content",
        "unknown rank",
        "other rank",
        "negative size",
        "size that wraps",
        "many dimensions",
    ],
)
def test_wrong_tensors(stub: Any, what: str) -> None:
    with refusal(grpc.StatusCode.INVALID_ARGUMENT):
        stub.Predict(_changed(what), timeout=TIMEOUT_S)


def test_a_huge_short_form_takes_no_memory(stub: Any, server: Server) -> None:
    """A few bytes that stand for more than the server decodes for one request."""
    before = server.vitals().resident_bytes
    request = predict_request("identity_fp32", {"INPUT0": ("FP32", np.ones((1, 1), np.float32))})
    request.inputs["INPUT0"].tensor_shape.dim[0].size = 1 << 30
    with refusal(grpc.StatusCode.RESOURCE_EXHAUSTED):
        stub.Predict(request, timeout=TIMEOUT_S)
    assert server.vitals().resident_bytes - before < 32 << 20


# --- status and metadata through the same modules


def test_model_status(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "two_versions"
    found = stub.GetModelStatus(request, timeout=TIMEOUT_S).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert {(status.version, status.state, status.status.error_code) for status in found} == {
        (3, available, 0),
        (7, available, 0),
    }
    request.model_spec.version.value = 4
    with refusal(grpc.StatusCode.NOT_FOUND):
        stub.GetModelStatus(request, timeout=TIMEOUT_S)


def test_model_metadata(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "two_inputs"
    response = stub.GetModelMetadata(request, timeout=TIMEOUT_S)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert {
        name: (info.dtype, [dim.size for dim in info.tensor_shape.dim])
        for name, info in signature.inputs.items()
    } == {"INPUT0": (3, [-1, 16]), "INPUT1": (3, [-1, 16])}
    assert set(signature.outputs) == {"OUTPUT0", "OUTPUT1"}
    assert response.model_spec.version.value == 1
