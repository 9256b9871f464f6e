"""Hostile tensors: shapes that wrap, sizes that lie, data that does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.hostile import (
    INFER,
    PAIR,
    assert_refused,
    post_binary,
    tensor,
)
from integration.raw_http import exchange
from integration.server_process import Server

pytestmark = pytest.mark.usefixtures("hostile_conditions")


@pytest.mark.parametrize(
    "shape",
    [
        [2**4, 2**60 + 2],
        [4, 2**60 + 2],
        [2**32, 2**32],
        [2**63, 2],
        [2, -5],
        [-1],
        [-1, 2],
        [-(2**63), 1],
        [2**64, 1],
        [2**200, 1],
        [],
        [1] * 65,
        [1] * 100_000,
        [0] * 17,
        None,
        "12",
        {"a": 1},
        ["1", "2"],
        [True, 2],
        [None, 2],
        [1.5, 2],
        [[1, 2]],
    ],
    ids=lambda shape: str(shape)[:30],
)
def test_shapes(server: Server, shape: Any) -> None:
    assert_refused(server.infer("identity_fp32", [tensor(shape=shape)]))
    binary = tensor(shape=shape, data=..., parameters={"binary_data_size": 8})
    assert_refused(post_binary(server, {"inputs": [binary]}, b"\0" * 8))


@pytest.mark.parametrize("token", ["1e30", "1e0", "1.0", "-0", "00", "0x1", "+1", "1e-1", "NaN"])
def test_shape_tokens(server: Server, token: str) -> None:
    body = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[{token},2],"data":[1,2]}}]}}'
    answer = server.post(INFER, body)
    # Minus zero is a number that says zero rows, for which there are too many values.
    assert_refused(answer)


@pytest.mark.parametrize("count", [0, 1, 15, 17, 1000])
def test_more_or_fewer_elements_than_the_shape_says(server: Server, count: int) -> None:
    assert_refused(server.infer("identity_fp32", [tensor(shape=[4, 4], data=[1.0] * count)]))
    words = {"name": "INPUT0", "datatype": "BYTES", "shape": [4, 4], "data": ["w"] * count}
    assert_refused(server.infer("identity_bytes", [words]))
    binary = tensor(shape=[4, 4], data=..., parameters={"binary_data_size": 4 * count})
    assert_refused(post_binary(server, {"inputs": [binary]}, b"\0" * 4 * count))


def test_nested_data_must_fit_the_shape(server: Server) -> None:
    for data in (
        [[1.0, 2.0, 3.0], [4.0]],
        [[1.0], [2.0], [3.0, 4.0]],
        [[[1.0, 2.0]], [3.0, 4.0]],
        [1.0, [2.0]],
    ):
        assert_refused(server.infer("identity_fp32", [tensor(shape=[2, 2], data=data)]))


@pytest.mark.parametrize(
    "size", ["9", "7", "0", "-8", "8.0", '"8"', "null", "9223372036854775808", "1e1", "[8]"]
)
def test_binary_data_size(server: Server, size: str) -> None:
    rest = f'"shape":[1,2],"parameters":{{"binary_data_size":{size}}}'
    head = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32",{rest}}}]}}'
    assert_refused(post_binary(server, head, b"\0" * 8))


def test_binary_data_size_given_twice(server: Server) -> None:
    for sizes in ('"binary_data_size":8,"binary_data_size":8', '"binary_data_size":4,"binary_data_size":8'):
        head = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1,2],"parameters":{{{sizes}}}}}]}}'
        assert_refused(post_binary(server, head, b"\0" * 8))


def test_two_sources_of_data_or_none(server: Server) -> None:
    both = tensor(parameters={"binary_data_size": 8})
    assert_refused(post_binary(server, {"inputs": [both]}, b"\0" * 8))
    assert_refused(server.infer("identity_fp32", [tensor(data=...)]))
    shared = tensor(data=..., parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8})
    assert_refused(server.infer("identity_fp32", [shared]), 400, 404, 501)


def test_bytes_left_over(server: Server) -> None:
    binary = tensor(data=..., parameters={"binary_data_size": 8})
    assert_refused(post_binary(server, {"inputs": [binary]}, b"\0" * 9))
    assert_refused(post_binary(server, {"inputs": [tensor()]}, b"\0"))


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
def test_malformed_binary_strings(server: Server, elements: bytes) -> None:
    """Two elements are promised."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "INPUT0",
                    "datatype": "BYTES",
                    "shape": [1, 2],
                    "parameters": {"binary_data_size": len(elements)},
                }
            ]
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert_refused(server.post("/v2/models/identity_bytes/infer", head + elements, headers))


@pytest.mark.parametrize(
    "length", ["-1", "100000", "99999999999", "abc", "", "5 5", "0x10", "1.0", "+5", "5,5"]
)
def test_inference_header_content_length(server: Server, length: str) -> None:
    binary = tensor(data=..., parameters={"binary_data_size": 8})
    assert_refused(post_binary(server, {"inputs": [binary]}, b"\0" * 8, length))


def test_inference_header_content_length_of_zero_or_twice(server: Server) -> None:
    # A raw body cannot say which of two inputs it is.
    assert_refused(server.post(PAIR, b"\0" * 64, {"Inference-Header-Content-Length": "0"}))
    # Not a whole number of rows.
    assert_refused(server.post("/v2/models/tiny/infer", b"\0" * 63, {"Inference-Header-Content-Length": "0"}))
    body = json.dumps({"inputs": [tensor()]}).encode()
    lines = b"Inference-Header-Content-Length: %d\r\n" % len(body)
    head = b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n" % (INFER.encode(), len(body))
    (answer,) = exchange(server.address, head + lines * 2 + b"\r\n" + body)
    assert_refused(answer)


def test_statistics_do_not_grow_with_every_row_count(server: Server) -> None:
    before = server.statistics("identity_fp32")["execution_count"]
    for rows in range(1000, 1500):
        answer = server.infer("identity_fp32", [tensor(shape=[rows, 0], data=[])])
        assert answer.status == 200, answer
    statistics = server.statistics("identity_fp32")
    assert statistics["execution_count"] == before + 500
    batches = statistics["batch_stats"]
    assert len(batches) < 420
    assert sum(batch["compute_infer"]["count"] for batch in batches) == before + 500
