"""Classify and regress calls in JSON, as TensorFlow Serving reads and writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest

from servolley.front import examples_json
from servolley.front.grpc.messages import Messages
from servolley.status import StatusError

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "tfs_json_cases.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize(
    "case", [c for c in CASES if c["group"] == "classify_regress_decode"], ids=lambda c: c["id"]
)
def test_json_as_tensorflow_serving_reads_it(case: dict[str, Any], descriptors: bytes) -> None:
    given = cast("Any", Messages(descriptors).message("tensorflow.serving.Input")())
    expected = case["expect"]
    if "status" in expected:
        with pytest.raises(StatusError) as failure:
            examples_json.read(case["body"].encode(), given)
        assert (failure.value.code.canonical, failure.value.code.http_status) == (
            expected["status"],
            expected["http"],
        )
        return
    assert examples_json.read(case["body"].encode(), given) == expected["signature_name"]
    assert given.WhichOneof("kind") == expected["kind"]
    rows = getattr(given, expected["kind"])

    def plain(message: Any) -> dict[str, Any]:
        out = {}
        for name, feature in message.features.feature.items():
            kind = feature.WhichOneof("kind")
            values = list(getattr(feature, kind).value)
            if kind == "bytes_list":
                values = [v.decode() for v in values]
            out[name] = {
                kind.removesuffix("_list"): [examples_json.number(v) if _special(v) else v for v in values]
            }
        return out

    assert [plain(row) for row in rows.examples] == expected["examples"]
    if "context" in expected:
        assert plain(rows.context) == expected["context"]


def _special(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 250_000,
        b'{"examples":[]}',
        b'{"examples":{}}',
        b"{}",
        b'{"examples":[1]}',
        b'{"examples":[{"x":null}]}',
        b'{"examples":[{"x":[1,1.0]}]}',
        b'{"examples":[{"x":["a",1]}]}',
        b'{"examples":[{"x":{"b64":1}}]}',
        b'{"examples":[{"x":{"b64":"*"}}]}',
        b'{"examples":[{"x":{"b64":"","c":1}}]}',
        b'{"examples":[{"x":18446744073709551616}]}',
        b'{"examples":[{"x":9223372036854775808}]}',
        b'{"examples":[{"x":' + b"1" * 5000 + b"}]}",
        b'{"examples":[{"x":"\\ud800"}]}',
        b'{"examples":[{"\\ud800":1}]}',
        b'{"examples":[{"x":1}],"signature_name":"\\ud800"}',
        b'{"examples":[{"x":1}]} x',
        b'{"examples":[{"x":"\xff"}]}',
    ],
)
def test_hostile_json(body: bytes, descriptors: bytes) -> None:
    given = cast("Any", Messages(descriptors).message("tensorflow.serving.Input")())
    with pytest.raises(StatusError) as failure:
        examples_json.read(body, given)
    assert failure.value.code.http_status == 400


@pytest.mark.parametrize("case", [c for c in CASES if c["group"] == "regress_encode"], ids=lambda c: c["id"])
def test_json_as_tensorflow_serving_writes_it(case: dict[str, Any], descriptors: bytes) -> None:
    result = cast("Any", Messages(descriptors).message("tensorflow.serving.RegressionResult")())
    for value in case["value"]:
        result.regressions.add().value = float(value)
    if "status" in case["expect"]:
        with pytest.raises(StatusError):
            examples_json.render_regression(result)
        return
    text = examples_json.render_regression(result).decode()
    inner = text[text.index("[") + 1 : text.rindex("]")]
    assert [token.strip() for token in inner.split(",")] == case["expect"]["tokens"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0"), (0.1, "0.1"), (1e30, "1e+30"), (16777216.0, "16777216.0"), (1 / 3, "0.333333343")],
)
def test_numbers(value: float, text: str, descriptors: bytes) -> None:
    result = cast("Any", Messages(descriptors).message("tensorflow.serving.Regression")())
    result.value = value
    assert examples_json.number(result.value) == text
