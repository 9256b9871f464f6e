"""Classify, Regress and MultiInference without a model: which feature fills which input, what becomes of the
answers, over REST and gRPC. The model's place is taken by a function."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from servolley.config.model import ModelConfig, Signature
from servolley.repository.layout import ModelOnDisk
from unit.examples_front import ExamplesFront, classification, example, serve_half_plus, spec
from unit.grpc_front import PREDICTION


@pytest_asyncio.fixture
async def front(descriptors: bytes) -> AsyncIterator[ExamplesFront]:
    front = ExamplesFront(descriptors)
    await serve_half_plus(front)
    yield front
    assert not any(lease.held for lease in front.inner.leases)


# --- the facts' own examples


async def test_rest_as_documented(front: ExamplesFront) -> None:
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}
    assert await front.rest("classify", body) == [[["", 12.0]]]
    assert await front.rest("regress", {"examples": [{"x": 80.0}, {"x": [82.0]}]}) == [42.0, 43.0]
    assert front.inner.timeouts == [(True, 30_000_000)] * 2
    (request, _) = front.inner.requests
    assert [(lease.servable.name, lease.servable.version) for lease in front.inner.leases] == [("h", 7)] * 2
    assert list(request.output_filter) == ["y"]


async def test_grpc_echoes_the_model_spec(front: ExamplesFront) -> None:
    answer = await front.call(f"{PREDICTION}Regress", classification(example(x=80.0), example(x=2.0)))
    assert [r.value for r in answer.result.regressions] == [42.0, 3.0]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("h", 7)
    request = classification(example(x=20.0), signature="classify_x_to_y", version=7)
    answer = await front.call(f"{PREDICTION}Classify", request)
    ((one,),) = [row.classes for row in answer.result.classifications]
    assert (one.label, one.score) == ("", 12.0)
    assert answer.model_spec.signature_name == "classify_x_to_y"
    assert front.inner.timeouts[0] == (False, 0)


async def test_a_common_context(front: ExamplesFront) -> None:
    """The example's own features win."""
    rows = {"examples": [{"features": {}}, example(x=2.0)], "context": example(x=80.0)}
    request = {"model_spec": {"name": "h"}, "input": {"example_list_with_context": rows}}
    answer = await front.call(f"{PREDICTION}Regress", request)
    assert [r.value for r in answer.result.regressions] == [42.0, 3.0]
    body = {"context": {"x": 80.0}, "examples": [{}, {"x": 2.0}, {"other": 1}]}
    assert await front.rest("regress", body) == [42.0, 3.0, 42.0]


async def test_several_at_once_are_one_run(front: ExamplesFront) -> None:
    def task(signature: str, method: str = "regress", name: str = "h") -> dict[str, Any]:
        spec = {"name": name, "signature_name": signature}
        return {"model_spec": spec, "method_name": f"tensorflow/serving/{method}"}

    async def call(*tasks: dict[str, Any], **features: Any) -> Any:
        rows = {"example_list": {"examples": [example(**features)]}}
        return await front.call(f"{PREDICTION}MultiInference", {"tasks": list(tasks), "input": rows})

    tasks = [task("classify_x_to_y", "classify"), task("regress_x_to_y2"), task("serving_default")]
    answer = await call(*tasks, x=80.0)
    scored, *regressed = answer.results
    assert scored.classification_result.classifications[0].classes[0].score == 42.0
    assert [r.regression_result.regressions[0].value for r in regressed] == [43.0, 42.0]
    assert [r.model_spec.signature_name for r in answer.results] == [
        "classify_x_to_y",
        "regress_x_to_y2",
        "serving_default",
    ]
    assert {r.model_spec.version.value for r in answer.results} == {7}
    assert len(front.inner.requests) == 1
    # Other features are another run.
    answer = await call(task(""), task("regress_other"), x=80.0, x2=2.0)
    assert [r.regression_result.regressions[0].value for r in answer.results] == [42.0, 3.0]
    assert len(front.inner.requests) == 3

    assert (await call(x=1.0))[0] == 3
    assert (await call(task(""), task("", name="m"), x=1.0))[0] == 3
    code, text = await call(task(""), task("serving_default"), x=1.0)
    assert (code, "Duplicate evaluation of signature: serving_default" in text) == (3, True)
    assert (await call(task("", "predict"), x=1.0))[0] == 12
    assert (await call(task("", "classify"), x=1.0))[0] == 3
    assert (await call(*[task("")] * 65, x=1.0))[0] == 3
    # Whatever it came to, a call is routed once.
    assert len(front.inner.leases) == 5


# --- features and inputs


@pytest.mark.parametrize(
    ("tf_dtype", "given", "field", "expected"),
    [
        ("DT_FLOAT", 1.5, "float_val", [1.5]),
        ("DT_FLOAT", 3, "float_val", [3.0]),
        ("DT_DOUBLE", 1.5, "double_val", [1.5]),
        ("DT_INT64", -5, "int64_val", [-5]),
        ("DT_INT32", -5, "int_val", [-5]),
        ("DT_UINT8", 200, "int_val", [200]),
        ("DT_UINT32", (1 << 32) - 1, "uint32_val", [(1 << 32) - 1]),
        ("DT_UINT64", 5, "uint64_val", [5]),
        ("DT_BOOL", 1, "bool_val", [True]),
        ("DT_STRING", b"\xff\x00", "string_val", [b"\xff\x00"]),
    ],
)
async def test_every_kind(
    front: ExamplesFront, tf_dtype: str, given: Any, field: str, expected: list[Any]
) -> None:
    await front.serve([spec("x", tf_dtype)], [spec("y")])
    front.inner.model = lambda _: {"y": ("float_val", [2], [1.0, 2.0])}
    answer = await front.call(f"{PREDICTION}Regress", classification(example(x=given), example(x=[given])))
    assert [r.value for r in answer.result.regressions] == [1.0, 2.0]
    tensor = front.inner.requests[0].inputs["x"]
    assert list(getattr(tensor, field)) == expected * 2
    assert [dim.size for dim in tensor.tensor_shape.dim] == [2, 1]


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        ([-1], 1, [2]),
        ([-1], 2, None),
        ([-1, 4], 4, [2, 4]),
        ([-1, 4], 3, None),
        ([-1, -1], 3, [2, 3]),
        ([-1, 2, -1], 6, [2, 2, 3]),
        ([-1, 2, -1], 5, None),
        ([-1, -1, -1], 1, [2, 1, 1]),
        ([-1, -1, -1], 4, None),
        ([2, 3], 3, [2, 3]),
        ([], 1, None),
        (None, 3, [2, 3]),
    ],
)
async def test_shapes(
    front: ExamplesFront, shape: list[int] | None, values: int, expected: list[int] | None
) -> None:
    x = spec("x", shape=shape or [], rank_known=shape is not None)
    await front.serve([x], [spec("y")])
    front.inner.model = lambda _: {"y": ("float_val", [2], [1.0, 2.0])}
    row = example(x=[0.5] * values)
    answer = await front.call(f"{PREDICTION}Regress", classification(row, row))
    if expected is None:
        assert answer[0] == 3
        assert "Feature: x" in answer[1]
    else:
        (request,) = front.inner.requests
        assert [dim.size for dim in request.inputs["x"].tensor_shape.dim] == expected


async def test_a_scalar_input_takes_one_example(front: ExamplesFront) -> None:
    await front.serve([spec("x", shape=[])], [spec("y")])
    front.inner.model = lambda _: {"y": ("float_val", [1], [1.0])}
    assert await front.rest("regress", {"examples": [{"x": 1.0}]}) == [1.0]
    assert not front.inner.requests[0].inputs["x"].tensor_shape.dim


async def test_features_by_table_and_defaults(front: ExamplesFront) -> None:
    signature = Signature(
        method="regress", features={"a": "f"}, defaults={"f": [1, 2], "s": "none", "flag": True}
    )
    inputs = [spec("a", shape=[-1, 2]), spec("s", "DT_STRING"), spec("flag", "DT_BOOL")]
    await front.serve(inputs, [spec("y")], {"serving_default": signature})
    front.inner.model = lambda _: {"y": ("float_val", [3], [1.0, 2.0, 3.0])}
    rows = [{}, {"f": [3.0, 4.0], "s": "x", "flag": 0}, {"f": []}]
    assert await front.rest("regress", {"examples": rows}) == [1.0, 2.0, 3.0]
    (request,) = front.inner.requests
    assert list(request.inputs["a"].float_val) == [1, 2, 3, 4, 1, 2]
    assert list(request.inputs["s"].string_val) == [b"none", b"x", b"none"]
    assert list(request.inputs["flag"].bool_val) == [True, False, True]
    # Without the table's word for it an input is no feature.
    assert (await front.rest("regress", {"examples": [{"a": [1.0, 2.0], "f": 1.0}]}))[0] == 400


@pytest.mark.parametrize(
    ("tf_dtype", "rows"),
    [
        ("DT_FLOAT", [{}]),
        ("DT_FLOAT", [{"x": 1.0}, {"y": 1.0}]),
        ("DT_FLOAT", [{"x": []}]),
        ("DT_FLOAT", [{"x": "1"}]),
        ("DT_FLOAT", [{"x": [1.0]}, {"x": [1.0, 2.0]}]),
        ("DT_INT64", [{"x": 1.0}]),
        ("DT_INT32", [{"x": 1 << 31}]),
        ("DT_UINT64", [{"x": -1}]),
        ("DT_BOOL", [{"x": 2}]),
        ("DT_STRING", [{"x": 1}]),
        ("DT_HALF", [{"x": 1.0}]),
    ],
)
async def test_examples_that_do_not_fit(front: ExamplesFront, tf_dtype: str, rows: list[Any]) -> None:
    await front.serve([spec("x", tf_dtype)], [spec("y")])
    status, text = await front.rest("regress", {"examples": rows})
    assert (status, "x" in text) == (400, True)
    assert not front.inner.requests


async def test_defaults_cannot_outgrow_memory(front: ExamplesFront) -> None:
    wide = Signature(method="regress", defaults={"x": [0.0] * 100_000})
    await front.serve([spec("x", shape=[-1, 100_000])], [spec("y")], {"serving_default": wide})
    status, text = await front.rest("regress", {"examples": [{}] * 1000})
    assert (status, "together" in text) == (413, True)


# --- signatures


async def test_outputs_by_their_names(front: ExamplesFront) -> None:
    await front.serve(
        [spec("x")], [spec("classes", "DT_STRING", [-1, 2]), spec("scores", shape=[-1, 2]), spec("o")]
    )
    front.inner.model = lambda _: {
        "classes": ("string_val", [1, 2], [b"cat", b"d\xffg"]),
        "scores": ("float_val", [1, 2], [0.25, 0.75]),
        "o": ("float_val", [1], [1.0]),
    }
    assert await front.rest("classify", {"examples": [{"x": 1.0}]}) == [[["cat", 0.25], ["d\ufffdg", 0.75]]]
    status, text = await front.rest("regress", {"examples": [{"x": 1.0}]})
    assert (status, "model.toml" in text) == (400, True)


async def test_labels_of_the_model(front: ExamplesFront) -> None:
    await front.serve([spec("x")], [spec("p", shape=[-1, 3], labels=["a", "b"]), spec("n", "DT_INT64", [-1])])
    front.inner.model = lambda _: {"p": ("float_val", [1, 3], [0.5, 0.25, 0.25])}
    assert await front.rest("classify", {"examples": [{"x": 1.0}]}) == [[["a", 0.5], ["b", 0.25], ["", 0.25]]]


async def test_classes_without_scores(front: ExamplesFront) -> None:
    labels = Signature(method="classify", classes="n")
    await front.serve([spec("x")], [spec("n", "DT_INT64", [-1])], {"serving_default": labels})
    front.inner.model = lambda _: {"n": ("int64_val", [2], [5, 6])}
    assert await front.rest("classify", {"examples": [{"x": 1.0}] * 2}) == [[["5", 0.0]], [["6", 0.0]]]


@pytest.mark.parametrize(
    ("verb", "outputs", "answer"),
    [
        ("regress", [spec("y")], {"y": ("float_val", [3], [1.0] * 3)}),
        ("regress", [spec("y")], {"y": ("float_val", [1, 2], [1.0] * 2)}),
        ("regress", [spec("y")], {"y": ("float_val", [], [1.0])}),
        ("regress", [spec("y")], {"y": ("float_val", [1, 1, 1], [1.0])}),
        (
            "classify",
            [spec("scores"), spec("classes", "DT_STRING")],
            {"scores": ("float_val", [1, 2], [1.0] * 2), "classes": ("string_val", [1, 1], [b"a"])},
        ),
    ],
)
async def test_outputs_that_are_no_answer(front: ExamplesFront, verb: str, outputs: Any, answer: Any) -> None:
    await front.serve([spec("x")], outputs)
    front.inner.model = lambda _: answer
    assert (await front.rest(verb, {"examples": [{"x": 1.0}]}))[0] == 400


async def test_signatures_that_are_none(front: ExamplesFront) -> None:
    row = {"examples": [{"x": 1.0}]}
    status, text = await front.rest("regress", row | {"signature_name": "nope"})
    assert (status, "nope" in text) == (400, True)
    status, text = await front.rest("regress", row | {"signature_name": "classify_x_to_y"})
    assert (status, "Was: tensorflow/serving/classify" in text) == (400, True)
    assert (await front.call(f"{PREDICTION}Classify", classification(example(x=1.0), signature="nope")))[
        0
    ] == 3
    for wrong in (
        Signature(method="regress", value="nobody"),
        Signature(method="regress", features={"nobody": "x"}),
        Signature(method="regress", defaults={"x": "text"}),
    ):
        await front.serve([spec("x")], [spec("y")], {"serving_default": wrong})
        listed = (await front.get("/v1/models/h/metadata"))["metadata"]["signature_def"]["signature_def"]
        assert list(listed) == ["serving_default"]
        request = classification({"features": {}})
        code, text = await front.call(f"{PREDICTION}Regress", request)
        assert (code, "[signatures]" in text) == (9, True), text


async def test_signatures_change_while_the_model_stays(front: ExamplesFront) -> None:
    outputs = [spec("y"), spec("z", "DT_DOUBLE", [-1])]
    signatures = {"s": Signature(method="regress", value="y")}
    await front.serve([spec("x")], outputs, signatures)
    call = {"signature_name": "s", "examples": [{"x": 2.0}]}
    assert await front.rest("regress", call) == [3.0]
    servable = front.manager.models["h"].available()[7]
    for changed, answer in (
        ({"s": Signature(method="regress", value="z")}, [4.0]),
        ({"t": Signature(method="regress", value="z")}, None),
    ):
        front.manager.apply({"h": ModelOnDisk("h", None, ModelConfig(signatures=changed), {7: Path("7")})})
        result = await front.rest("regress", call)
        assert result == answer if answer else result[0] == 400
    assert front.manager.models["h"].available()[7] is servable


async def test_metadata_lists_them(front: ExamplesFront) -> None:
    rest = (await front.get("/v1/models/h/metadata"))["metadata"]["signature_def"]["signature_def"]
    assert set(rest) == {
        "serving_default",
        "regress_x_to_y2",
        "regress_other",
        "defaulted",
        "classify_x_to_y",
    }
    assert rest["serving_default"]["method_name"] == "tensorflow/serving/predict"
    scored = rest["classify_x_to_y"]
    assert scored["method_name"] == "tensorflow/serving/classify"
    assert (list(scored["inputs"]), list(scored["outputs"])) == (["inputs"], ["scores"])
    assert scored["inputs"]["inputs"]["dtype"] == "DT_STRING"
    assert rest["regress_x_to_y2"]["outputs"]["outputs"]["name"] == "z"
    request = {"model_spec": {"name": "h"}, "metadata_field": ["signature_def"]}
    answer = await front.call(f"{PREDICTION}GetModelMetadata", request)
    signatures = front.messages.message("tensorflow.serving.SignatureDefMap")
    packed = cast("Any", signatures.FromString(answer.metadata["signature_def"].value)).signature_def
    assert {name: each.method_name for name, each in packed.items()} == {
        name: each["method_name"] for name, each in rest.items()
    }


async def test_models_and_versions(front: ExamplesFront) -> None:
    row = {"examples": [{"x": 1.0}]}
    assert await front.rest("regress", row, "nobody") == (
        404,
        "Servable not found for request: Latest(nobody)",
    )
    assert (await front.rest("regress", row, "h/versions/3"))[0] == 404
    assert (await front.rest("regress", row, "h/labels/stable"))[0] == 400
    assert await front.rest("regress", row, "h/versions/7") == [2.5]
    for request, code in (
        ({}, 3),
        ({"model_spec": {}}, 3),
        ({"model_spec": {"name": "nobody"}}, 5),
        (classification(example(x=1.0), version=8), 5),
        ({"model_spec": {"name": "h"}}, 3),
        (classification(), 3),
    ):
        assert (await front.call(f"{PREDICTION}Regress", request))[0] == code, request
    assert (await front.call(f"{PREDICTION}Regress", b"\xff"))[0] == 3


async def test_calls_that_are_too_large(front: ExamplesFront) -> None:
    large = b'{"examples":[' + b"{}," * (2 << 20) + b"{}]}"
    assert (await front.rest("regress", large))[0] == 413
    exchange = front.begin(f"{PREDICTION}Regress", b"\x0a" * (5 << 20))
    for _ in range(3):
        await asyncio.sleep(0)
    assert front.core.finished[exchange][0] == 8


async def test_large_calls_are_read_beside_the_loop(front: ExamplesFront) -> None:
    rows = [{"x": float(i)} for i in range(20_000)]
    assert await front.rest("regress", {"examples": rows}) == [0.5 * i + 2 for i in range(20_000)]


async def test_compressed_bodies(front: ExamplesFront) -> None:
    body = b'{"examples": [{"x": 80.0}]}'
    bomb = gzip.compress(b" " * (64 << 20))

    async def ask(packed: bytes, encoding: str) -> int:
        headers = {"content-encoding": encoding}
        reply = await front.ask("POST", "/v1/models/h:regress", packed, **headers)
        return reply.status

    assert await ask(body, "identity") == 200
    assert await ask(gzip.compress(body), "GZIP") == 200
    assert await ask(zlib.compress(body), "deflate") == 200
    assert await ask(bomb, "gzip") == 413
    assert await ask(body, "br") == 415
    for bad in (body, b"", gzip.compress(body)[:-9], gzip.compress(body) * 2, gzip.compress(body) + b"x"):
        assert await ask(bad, "gzip") == 400
