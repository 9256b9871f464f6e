"""Hostile messages over gRPC: shapes that wrap, sizes that lie, protobuf that is none, and parameters out of
every range. The conditions of hostile.py hold around each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from integration.grpc_calls import (
    CODES,
    INTERNAL,
    INVALID_ARGUMENT,
    MODEL_INFER,
    NOT_FOUND,
    OK,
    PREDICT,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    asked,
    channel_with_neighbours,
    field,
    infer_request,
    small_request,
    varint,
)
from integration.hostile import MEMORY_TOLERANCE_BYTES
from integration.server_process import Server, wait_until
from integration.tensors import sample

pytestmark = pytest.mark.usefixtures("hostile_conditions")


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_with_neighbours(server.url) as channel:
        yield channel


def assert_refused(channel: grpc.Channel, request: Any, *codes: int) -> None:
    status, text = asked(channel, MODEL_INFER, request.SerializeToString())
    assert status in (codes or (INVALID_ARGUMENT,)), (CODES[status], text)
    assert text


# --- shapes and sizes (cases 1 to 6)


@pytest.mark.parametrize(
    "shape",
    [
        [2**4, 2**60 + 2],
        [4, 2**60 + 2],
        [2**32, 2**32],
        [2**62, 2],
        [2, -5],
        [-1],
        [-1, 2],
        [-(2**63), 1],
        [],
        [2],
        [1] * 17,
        [1] * 65,
        [1] * 100_000,
        [0] * 17,
    ],
    ids=lambda shape: str(shape)[:30],
)
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_shapes(channel: grpc.Channel, shape: list[int], typed: bool) -> None:
    for model in ("identity_fp32", "unknown_rank"):
        request = infer_request(model, {"INPUT0": ("FP32", np.ones((1, 2), np.float32))}, typed=typed)
        request.inputs[0].shape[:] = shape
        if model == "unknown_rank" and shape == [2]:
            continue  # which is right
        assert_refused(channel, request)


@pytest.mark.parametrize("count", [0, 1, 15, 17, 1000])
def test_more_or_fewer_elements_than_the_shape_says(channel: grpc.Channel, count: int) -> None:
    for datatype in ("FP32", "BYTES", "BOOL", "FP16", "INT64"):
        for typed in (False, True):
            if typed and datatype == "FP16":
                continue
            array = sample(datatype, (count,))
            request = infer_request(
                f"identity_{datatype.lower()}", {"INPUT0": (datatype, array)}, typed=typed
            )
            request.inputs[0].shape[:] = [4, 4]
            assert_refused(channel, request)


@pytest.mark.parametrize(
    "elements",
    [
        b"\xff\xff\xff\xff",
        b"\x05\0\0\0abcd",
        b"\x01\0\0\0a\x01\0\0\0",
        b"\x01\0\0\0a\0",
        b"\x01\0\0\0a" * 3,
        b"\0\0\0\0",
        b"",
    ],
)
def test_malformed_strings(channel: grpc.Channel, elements: bytes) -> None:
    """Two elements are promised."""
    request = infer_request("identity_bytes", {"INPUT0": ("BYTES", sample("BYTES", (1, 2)))})
    request.raw_input_contents[0] = elements
    assert_refused(channel, request)


def test_contents_in_the_wrong_places(channel: grpc.Channel) -> None:
    array = np.ones((1, 2), np.float32)
    good = {"INPUT0": ("FP32", array)}
    both = infer_request("identity_fp32", good)
    both.inputs[0].contents.fp32_contents.extend([1.0, 2.0])
    neither = infer_request("identity_fp32", good)
    neither.ClearField("raw_input_contents")
    too_many = infer_request("identity_fp32", good)
    too_many.raw_input_contents.append(array.tobytes())
    foreign = infer_request("identity_fp32", good, typed=True)
    foreign.inputs[0].contents.fp64_contents.extend([1.0, 2.0])
    only_foreign = infer_request("identity_fp32", good)
    only_foreign.ClearField("raw_input_contents")
    only_foreign.inputs[0].contents.int_contents.extend([1, 2])
    half = infer_request("two_inputs", {f"INPUT{i}": ("INT32", sample("INT32", (1, 16))) for i in (0, 1)})
    half.raw_input_contents.pop()
    for request in (both, neither, too_many, foreign, only_foreign, half):
        assert_refused(channel, request)


# --- names (cases 11, 12 and 25)


def test_names(channel: grpc.Channel) -> None:
    def changed(**changes: str) -> Any:
        request = small_request()
        for key, value in changes.items():
            if key == "input":
                request.inputs[0].name = value
            elif key == "datatype":
                request.inputs[0].datatype = value
            else:
                setattr(request, key, value)
        return request

    twice = small_request()
    twice.inputs.add().CopyFrom(twice.inputs[0])
    twice.raw_input_contents.append(twice.raw_input_contents[0])
    for request in (
        twice,
        changed(input="NOBODY"),
        changed(input=""),
        changed(input="INPUT0\0"),
        changed(input="x" * 10**6),
        changed(datatype=""),
        changed(datatype="fp32"),
        changed(datatype="FP32\0"),
        changed(datatype="x" * 10**6),
        small_request(outputs=["OUTPUT0", "OUTPUT0"]),
        small_request(outputs=["NOBODY"]),
        small_request(outputs=[""]),
    ):
        assert_refused(channel, request)
    for name in ("", "../etc", "a/../b", "/etc/passwd", " ..", "x" * 4096, "\x01", ".", "x\0", "é" * 10**6):
        assert_refused(channel, changed(model_name=name), INVALID_ARGUMENT, NOT_FOUND)
    for version in ("99999999999999999999", "-1", "1 ", "0x1", "x" * 10**6, "\0"):
        assert_refused(channel, changed(model_version=version))
    assert_refused(channel, changed(model_version="0"), NOT_FOUND)


@pytest.mark.parametrize("path", [MODEL_INFER, PREDICT])
def test_texts_that_are_not_unicode(channel: grpc.Channel, path: str) -> None:
    """In every string of a request; what a string's bytes hold is nobody's business."""
    if path == MODEL_INFER:
        good = small_request(id="mark", outputs=["OUTPUT0"]).SerializeToString()
        marks = [b"identity_fp32", b"mark", b"INPUT0", b"FP32", b"OUTPUT0"]
    else:
        dim = field(2, varint(1 << 3) + varint(2) + field(2, b"name"))
        tensor = b"\x08\x01" + field(2, dim) + field(5, b"\0" * 8)
        spec = field(1, b"half_plus_two") + field(3, b"serving_default")
        good = field(1, spec) + field(2, field(1, b"x") + field(2, tensor)) + field(3, b"y")
        marks = [b"half_plus_two", b"serving_default", b"name"]
    assert asked(channel, path, good)[0] == OK
    for mark in marks:
        for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5"):
            message = good.replace(mark, bad + b"x" * (len(mark) - len(bad)))
            assert message != good
            assert asked(channel, path, message)[0] == INVALID_ARGUMENT, (mark, bad)


# --- parameters (cases 10, 35, 36 and 37)


@pytest.mark.parametrize(
    ("key", "field_name", "value", "codes"),
    [
        ("priority", "uint64_param", 2**64 - 1, [OK]),
        ("priority", "int64_param", -1, [INVALID_ARGUMENT]),
        ("priority", "string_param", "1", [INVALID_ARGUMENT]),
        ("timeout", "int64_param", 0, [OK]),
        ("timeout", "int64_param", -1, [INVALID_ARGUMENT]),
        ("timeout", "int64_param", 2**63 - 1, [OK]),
        ("timeout", "string_param", "1", [INVALID_ARGUMENT]),
        ("sequence_id", "int64_param", 0, [OK]),
        ("sequence_id", "int64_param", 7, [UNIMPLEMENTED]),
        ("sequence_id", "string_param", "x" * 10**6, [UNIMPLEMENTED, INVALID_ARGUMENT]),
        ("sequence_id", "double_param", 1.0, [INVALID_ARGUMENT]),
        ("sequence_start", "bool_param", True, [UNIMPLEMENTED]),
        ("sequence_start", "int64_param", 1, [INVALID_ARGUMENT]),
        ("triton_final_response", "bool_param", True, [INVALID_ARGUMENT]),
        ("triton_x", "int64_param", 1, [INVALID_ARGUMENT]),
        ("anything", "string_param", "x" * 10**6, [OK]),
        ("anything", "double_param", float("nan"), [OK]),
        ("x" * 10**6, "bool_param", True, [OK]),
    ],
    ids=lambda value: str(value)[:24],
)
def test_parameters(channel: grpc.Channel, key: str, field_name: str, value: Any, codes: list[int]) -> None:
    request = small_request()
    setattr(request.parameters[key], field_name, value)
    status, text = asked(channel, MODEL_INFER, request.SerializeToString())
    assert status in codes, (CODES[status], text)


def test_a_parameter_without_a_value(channel: grpc.Channel) -> None:
    request = small_request()
    request.parameters["anything"].SetInParent()
    assert_refused(channel, request)


@pytest.mark.parametrize(
    ("field_name", "value"),
    [
        ("int64_param", -1),
        ("int64_param", 0),
        ("int64_param", 2**40),
        ("int64_param", -(2**63)),
        ("string_param", "1"),
        ("bool_param", True),
        ("double_param", 1.0),
    ],
)
def test_classification(channel: grpc.Channel, field_name: str, value: Any) -> None:
    request = small_request(outputs=["OUTPUT0"])
    setattr(request.outputs[0].parameters["classification"], field_name, value)
    assert_refused(channel, request)


def test_a_million_of_everything(channel: grpc.Channel) -> None:
    good = small_request().SerializeToString()
    parameter = field(4, field(1, b"k") + field(2, b"\x08\x01"))
    for message, statuses in (
        (good + parameter * 10**6, {OK, INVALID_ARGUMENT}),
        (good + field(5, field(1, b"INPUT0")) * 10**6, {INVALID_ARGUMENT}),
        (good + field(5, field(1, b"N")) * 10**6, {INVALID_ARGUMENT}),
        (good + field(6, field(1, b"OUTPUT0")) * 10**6, {INVALID_ARGUMENT}),
        (good + field(7, b"") * 10**6, {INVALID_ARGUMENT}),
        (field(1, b"identity_fp32") * 10**6 + good, {OK}),
    ):
        status, text = asked(channel, MODEL_INFER, message)
        assert status in statuses, (CODES[status], text)
    spec = field(1, field(1, b"half_plus_two"))
    for part in (field(2, field(1, b"N")), field(2, field(1, b"x")), field(3, b"y"), field(3, b"N")):
        assert asked(channel, PREDICT, spec + part * 10**6)[0] == INVALID_ARGUMENT


def test_millions_of_tiny_strings(server: Server, channel: grpc.Channel) -> None:
    """Two bytes on the wire for each element (case 15). The runtime makes a string of 32 bytes of each, and
    gives their memory back with one of the next runs, whosever that is."""
    count = 10_000_000
    shape = varint(1) + varint(count)
    tensor = field(1, b"INPUT0") + field(2, b"BYTES") + field(3, shape) + field(5, field(8, b"") * count)
    before = server.vitals().resident_bytes
    status, _ = asked(channel, MODEL_INFER, field(1, b"identity_bytes") + field(5, tensor))
    assert status in {OK, RESOURCE_EXHAUSTED}
    assert server.vitals().resident_bytes - before < 1 << 30

    def given_back() -> bool:
        assert asked(channel, MODEL_INFER, small_request().SerializeToString())[0] == OK
        return server.vitals().resident_bytes - before < MEMORY_TOLERANCE_BYTES

    wait_until(given_back, 30, "memory back")


def test_typed_contents_that_grow(server: Server, channel: grpc.Channel) -> None:
    """A byte on the wire is eight of the tensor (case 16): there is one cap on what a request decodes to."""
    count = 60_000_000
    shape = varint(1) + varint(count)
    tensor = field(1, b"INPUT0") + field(2, b"INT64") + field(3, shape) + field(5, field(3, b"\1" * count))
    before = server.vitals().resident_bytes
    status, _ = asked(channel, MODEL_INFER, field(1, b"identity_int64") + field(5, tensor))
    assert status == RESOURCE_EXHAUSTED
    assert server.vitals().resident_bytes - before < 256 << 20


@pytest.mark.parametrize("shape", [[10**11], [2**31, 2**31], [2**62, 2]], ids=str)
def test_an_answer_of_the_clients_size(channel: grpc.Channel, shape: list[int]) -> None:
    """The model allocates what the input's numbers say (cases 44 and 46)."""
    request = infer_request("expand", {"INPUT0": ("INT64", np.array(shape, np.int64))})
    status, text = asked(channel, MODEL_INFER, request.SerializeToString())
    assert status in {INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE}, (CODES[status], text)
    small = infer_request("expand", {"INPUT0": ("INT64", np.array([2, 3], np.int64))})
    assert asked(channel, MODEL_INFER, small.SerializeToString())[0] == OK
