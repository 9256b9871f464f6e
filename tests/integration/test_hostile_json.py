"""Hostile JSON: deep, endless, not UTF-8, not numbers, larger when decoded than when sent."""

from __future__ import annotations

import json

import numpy as np
import pytest

import model_parts
import models
from integration.conftest import ServerFactory
from integration.hostile import (
    INFER,
    JSON_ROUTES,
    MEMORY_TOLERANCE_BYTES,
    PREDICT,
    assert_refused,
    assert_tells_nothing,
    survives,
    tensor,
)
from integration.server_process import Server, wait_until

pytestmark = pytest.mark.usefixtures("hostile_conditions")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'], ids=["arrays", "objects", "both"])
@pytest.mark.parametrize("route", JSON_ROUTES)
def test_nesting_of_250_000(server: Server, route: str, opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}[opening]
    # Load and unload answer 503 before they look, because nobody may load here.
    statuses = (400, 503) if route.endswith("load") else (400,)
    for body in (opening * 250_000, opening * 250_000 + b"1" + closing * 250_000):
        assert_refused(server.post(route, body), *statuses)
    for key in (b"inputs", b"outputs", b"parameters", b"id", b"instances", b"unknown"):
        nested = opening * 250_000 + b"1" + closing * 250_000
        assert_refused(server.post(route, b'{"%s":%s}' % (key, nested)), *statuses)


def test_nested_data_is_capped_at_100(server: Server) -> None:
    for depth, status in ((2, 200), (101, 400), (10_000, 400)):
        data = "[" * depth + "1,2" + "]" * depth
        body = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1,2],"data":{data}}}]}}'
        assert server.post(INFER, body).status == status


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[' + b",".join([b'{"name":"a"}'] * 1_000_000) + b"]}",
        b'{"inputs":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
        b'{"inputs":[],"outputs":[' + b",".join([b'{"name":"OUTPUT0"}'] * 1_000_000) + b"]}",
        b"{" + b",".join([b'"a":1'] * 10_000_000) + b"}",
        b'{"parameters":{' + b",".join(b'"k%d":1' % i for i in range(1_000_000)) + b'},"inputs":[]}',
        b'{"' + b"k" * 60_000_000 + b'":1}',
        b'{"inputs":[{"name":"' + b"n" * 60_000_000 + b'","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
        b'{"id":"' + b"\\u0000" * 5_000_000 + b'","inputs":[]}',
    ],
    ids=["inputs", "empty inputs", "outputs", "keys", "parameters", "long key", "long name", "long id"],
)
@pytest.mark.parametrize("route", [INFER, PREDICT])
def test_multitudes(server: Server, route: str, body: bytes) -> None:
    assert_refused(server.post(route, body), 400, 413)


def test_a_million_outputs_of_a_good_request(server: Server) -> None:
    outputs = b",".join([b'{"name":"OUTPUT0"}'] * 1_000_000)
    body = b'{"inputs":[%s],"outputs":[%s]}' % (json.dumps(tensor()).encode(), outputs)
    assert_refused(server.post(INFER, body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"INPUT\xff"}]}',
        b'{"id":"\xff\xfe","inputs":[]}',
        b'{"id":"\\ud800","inputs":[]}',
        b'{"id":"\\ud800\\u0041","inputs":[]}',
        b'{"id":"\xed\xa0\x80","inputs":[]}',
        b'\xef\xbb\xbf{"inputs":[]}',
        b'{"inputs":[]}\xff',
        b'{"inputs":[]} x',
        b'{"inputs":[]}{}',
        b"\xff\xfe{\0}\0",
        b'{"id":"\n","inputs":[]}',
        b'{"id":"\\x","inputs":[]}',
        b'{"inputs":[],}',
        b"{'inputs':[]}",
        b'{"inputs":[]',
        b"",
        b"null",
        b"[]",
        b"1",
        b'"inputs"',
        b"{" * 3,
        b"\0" * 100,
    ],
)
def test_documents_that_are_not_json(server: Server, body: bytes) -> None:
    for route in (INFER, PREDICT):
        assert_refused(server.post(route, body))


@pytest.mark.parametrize("suffix", [b" x", b"{}", b"\0", b"]", b"\xff"])
def test_garbage_behind_a_good_document(server: Server, suffix: bytes) -> None:
    good = json.dumps({"inputs": [tensor()]}).encode()
    assert server.post(INFER, good + b" \r\n\t").status == 200
    assert_refused(server.post(INFER, good + suffix))
    assert_refused(server.post(PREDICT, b'{"instances":[[1.0]]}' + suffix))


def test_names_with_nul(server: Server) -> None:
    assert_refused(server.infer("identity_fp32", [tensor(name="INPUT0\0")]))
    assert_refused(server.infer("identity_fp32", [tensor()], outputs=[{"name": "OUTPUT0\0"}]))


def test_invalid_utf8_in_string_elements(server: Server) -> None:
    good = b'{"inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[1,1],"data":["%s"]}]}'
    for word in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\\ud800", b"\\udc00x"):
        assert_refused(server.post("/v2/models/identity_bytes/infer", good % word))
        assert_refused(server.post("/v1/models/identity_bytes:predict", b'{"instances":[["%s"]]}' % word))


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_tokens_that_are_no_numbers(server: Server, token: str) -> None:
    for kind, status in (("FP32", 200), ("FP64", 200), ("INT32", 400), ("UINT8", 400), ("BOOL", 400)):
        body = f'{{"inputs":[{{"name":"INPUT0","datatype":"{kind}","shape":[1,1],"data":[{token}]}}]}}'
        answer = server.post(f"/v2/models/identity_{kind.lower()}/infer", body)
        assert answer.status == status, (kind, answer)
        assert_tells_nothing(answer)


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        ("INT8", "128"),
        ("INT8", "-129"),
        ("UINT8", "256"),
        ("UINT8", "-1"),
        ("INT16", "32768"),
        ("UINT16", "65536"),
        ("INT32", "2147483648"),
        ("UINT32", "4294967296"),
        ("INT64", "9223372036854775808"),
        ("UINT64", "18446744073709551616"),
        ("UINT64", "-1"),
        ("INT32", "1.5"),
        ("INT32", "1.0"),
        ("INT64", "1e3"),
        ("INT32", '"1"'),
        ("INT32", "true"),
        ("BOOL", "1"),
        ("BOOL", '"true"'),
        ("FP32", '"1"'),
        ("FP32", "true"),
        ("FP32", "null"),
        ("FP64", "1e400"),
        ("FP64", "-1e400"),
        ("BYTES", "1"),
        ("BYTES", "null"),
    ],
)
def test_numbers_out_of_their_types(server: Server, kind: str, token: str) -> None:
    body = f'{{"inputs":[{{"name":"INPUT0","datatype":"{kind}","shape":[1,1],"data":[{token}]}}]}}'
    assert_refused(server.post(f"/v2/models/identity_{kind.lower()}/infer", body))


def test_literals_beyond_the_float_range(server: Server) -> None:
    """1e400 is beyond every float: refused."""
    for token in ("1e400", "-1e400", "1" + "0" * 400):
        body = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1,1],"data":[{token}]}}]}}'
        assert_refused(server.post(INFER, body))


def test_very_long_numbers(server: Server) -> None:
    for token, value in (("0." + "3" * 100_000, 1 / 3), ("1" * 30 + "." + "1" * 100_000, 1.1111111e29)):
        body = f'{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1,1],"data":[{token}]}}]}}'
        answer = server.post(INFER, body)
        assert answer.status == 200, answer
        assert np.float32(answer.json()["outputs"][0]["data"][0]) == np.float32(value)


@pytest.mark.slow
def test_ten_million_tiny_strings(serve: ServerFactory) -> None:
    """40 MB of empty strings: answered or refused, with the memory back afterwards."""
    server = serve({"words": models.identity("BYTES")})
    before = server.vitals().resident_bytes
    with survives(server):
        count = 10_000_000
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "INPUT0",
                        "datatype": "BYTES",
                        "shape": [1, count],
                        "parameters": {"binary_data_size": 4 * count},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = server.post("/v2/models/words/infer", head + b"\0" * 4 * count, headers)
        assert answer.status in {200, 413}, answer.body[:200]
        if answer.status == 200:
            assert len(answer.body) > 4 * count
        # The runtime's arena gives back with a later run what it no longer needs.
        small = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}

        def given_back() -> bool:
            assert server.infer("words", [small]).status == 200
            return server.vitals().resident_bytes < before + MEMORY_TOLERANCE_BYTES

        wait_until(given_back, 15, "memory back")


def test_json_that_grows_when_it_is_decoded(serve: ServerFactory) -> None:
    """One cap on what all tensors of a request decode to, whatever their number."""
    names = [f"i{n}" for n in range(8)]
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["b", "n"]) for name in names]
    outputs = [helper.make_tensor_value_info(f"o{n}", TensorProto.DOUBLE, ["b", "n"]) for n in range(8)]
    nodes = [helper.make_node("Identity", [f"i{n}"], [f"o{n}"]) for n in range(8)]
    model = helper.make_model(
        helper.make_graph(nodes, "eight", values, outputs),
        opset_imports=[helper.make_opsetid("", model_parts.OPSET)],
    )
    model.ir_version = model_parts.IR_VERSION
    server = serve({"eight": model}, config='[limits]\nmax_decoded_size = "16MiB"\n')
    with survives(server):
        for count, status in ((1000, 200), (500_000, 413)):
            zeros = ("0," * count)[:-1]
            inputs = ",".join(
                f'{{"name":"{name}","datatype":"FP64","shape":[1,{count}],"data":[{zeros}]}}'
                for name in names
            )
            answer = server.post("/v2/models/eight/infer", f'{{"inputs":[{inputs}]}}')
            assert answer.status == status, answer.body[:300]
            assert_tells_nothing(answer)
            columns = ",".join(f'"{name}":[[{zeros}]]' for name in names)
            answer = server.predict("eight", f'{{"inputs":{{{columns}}}}}')
            assert answer.status == status, answer.body[:300]
            assert_tells_nothing(answer)
