"""What the gRPC tests share: channels, inference requests in every form, and their answers as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from integration.hostile import INTERNALS
from integration.tensors import NUMPY_TYPES, Array, to_bytes

TIMEOUT_S = 30.0

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT = "/tensorflow.serving.PredictionService/Predict"

#: The field of InferTensorContents for each datatype; the others travel as raw bytes only.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

#: name -> (datatype, array)
Inputs = Mapping[str, tuple[str, Array]]


@contextmanager
def channel_to(url: str, **options: int) -> Iterator[grpc.Channel]:
    """A connection of its own: grpcio would share one between equal channels. Messages have no limit."""
    settings = {
        "grpc.use_local_subchannel_pool": 1,
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
    }
    settings |= {f"grpc.{name}": value for name, value in options.items()}
    with grpc.insecure_channel(url, options=list(settings.items())) as channel:
        yield channel


@contextmanager
def refusal(code: grpc.StatusCode, text: str = "") -> Iterator[None]:
    """A call that must fail with that code, a text that includes ``text``, and nothing internal in it."""
    with pytest.raises(grpc.RpcError) as failure:
        yield
    details = failure.value.details()
    assert (failure.value.code(), text in details) == (code, True), failure.value
    assert_text_tells_nothing(details)


def assert_text_tells_nothing(text: str) -> None:
    assert not INTERNALS.search(text), text
    assert len(text) < 4096, f"{len(text)} bytes of error text"


def raw_method(channel: grpc.Channel, target: str) -> Any:
    """A unary method whose messages are bytes."""
    return channel.unary_unary(target, request_serializer=None, response_deserializer=None)


def infer_request(
    model: str,
    inputs: Inputs,
    *,
    typed: bool = False,
    outputs: Sequence[str] = (),
    **fields: Any,
) -> Any:
    """A ModelInferRequest with raw or, if ``typed``, typed contents. ``fields``: id, model_version."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    for name, (datatype, array) in inputs.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            tensor.contents.SetInParent()
            getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(to_bytes(datatype, array))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def small_request(value: float = 1.0, **fields: Any) -> Any:
    """One row of two numbers for identity_fp32."""
    array = np.array([[value, 2.0]], np.float32)
    return infer_request("identity_fp32", {"INPUT0": ("FP32", array)}, **fields)


def assert_small_answer(response: Any, value: float = 1.0) -> None:
    (array,) = outputs_of(response).values()
    assert array.tolist() == [[value, 2.0]]


@contextmanager
def channel_with_neighbours(url: str) -> Iterator[grpc.Channel]:
    """A connection on which others are still served when one is through with it."""
    with channel_to(url) as channel:
        yield channel
        answer = raw_method(channel, MODEL_INFER)(small_request().SerializeToString(), timeout=TIMEOUT_S)
        assert_small_answer(service_pb2.ModelInferResponse.FromString(answer))


def outputs_of(response: Any) -> dict[str, Array]:
    """The outputs of a ModelInferResponse, which are always raw."""
    assert len(response.raw_output_contents) == len(response.outputs)
    found = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        assert not output.HasField("contents")
        found[output.name] = from_bytes(output.datatype, list(output.shape), raw)
    return found


def from_bytes(datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY_TYPES[datatype]).reshape(shape)
    words = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        words.append(raw[4 : 4 + size])
        assert len(words[-1]) == size
        raw = raw[4 + size :]
    return np.array(words, dtype=np.object_).reshape(shape)


# --- calls and messages by hand

OK, INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED = 0, 3, 5, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
CODES = {code.value[0]: code for code in grpc.StatusCode}


def asked(channel: grpc.Channel, path: str, message: bytes) -> tuple[int, bytes]:
    """(status, answer or text)"""
    try:
        return OK, raw_method(channel, path)(message, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        assert_text_tells_nothing(error.details())
        return error.code().value[0], error.details().encode()


def varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**64 - 1
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload
