"""TensorFlow Serving's REST API: every case of the case file that concerns predict and routes, against a live
server. Cases that are answered differently on purpose have their reason listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import model_parts
import models
from integration.server_process import Answer, Server

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for line in (Path(__file__).parents[1] / "data" / "tfs_json_cases.jsonl").read_text().splitlines()
    if (case := json.loads(line))
}

#: Case -> (our status, words of our body, why). The file says what TensorFlow Serving answers.
DELIBERATELY_DIFFERENT: dict[str, tuple[int, str, str]] = {
    "P21": (400, "UINT8", "300 is no UINT8; TensorFlow Serving checks 8- and 16-bit integers as 32-bit ones"),
    "RN05": (405, "Method Not Allowed", "a known path with the wrong verb is 405 with Allow, not 400"),
    "RN09": (405, "Method Not Allowed", "a known path with the wrong verb is 405 with Allow, not 400"),
    "RN13": (200, '"models"', "GET /v1/models lists the models instead of missing a name"),
    "RN18": (404, "Not Found", "404 has a JSON body like every other error, not HTML"),
    "RN19": (405, "Method Not Allowed", "a known path with the wrong verb is 405 with Allow, not 400"),
}

#: Group -> the verb whose answers it is about, and the output that a model of constants answers with.
ON_EXAMPLES = {"classify_encode": ("classify", "scores"), "regress_encode": ("regress", "outputs")}

ELEMENTS = {
    "DT_FLOAT": TensorProto.FLOAT,
    "DT_DOUBLE": TensorProto.DOUBLE,
    "DT_INT32": TensorProto.INT32,
    "DT_UINT8": TensorProto.UINT8,
    "DT_UINT64": TensorProto.UINT64,
    "DT_BOOL": TensorProto.BOOL,
    "DT_STRING": TensorProto.STRING,
}


def group(name: str) -> list[str]:
    return [identifier for identifier, case in CASES.items() if case["group"] == name]


def echo(signature: dict[str, str]) -> onnx.ModelProto:
    """Every input comes back under the same name with "_out" behind; any shape."""
    inputs = [helper.make_tensor_value_info(name, ELEMENTS[kind], None) for name, kind in signature.items()]
    outputs = [
        helper.make_tensor_value_info(f"{name}_out", ELEMENTS[kind], None) for name, kind in signature.items()
    ]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in signature]
    return _model(helper.make_graph(nodes, "echo", inputs, outputs))


def constants(outputs: dict[str, dict[str, Any]]) -> onnx.ModelProto:
    """These tensors, whatever the input ``x`` is."""
    initializers, nodes, values = [], [], []
    for name, tensor in outputs.items():
        kind = ELEMENTS[tensor["dtype"]]
        if tensor["dtype"] == "DT_STRING":
            array = np.array([v.encode() for v in tensor["values"]], dtype=np.object_)
        else:
            numbers = [float(v) if isinstance(v, str) else v for v in tensor["values"]]
            array = np.array(numbers, dtype=helper.tensor_dtype_to_np_dtype(kind))
        initializers.append(numpy_helper.from_array(array.reshape(tensor["shape"]), f"{name}_value"))
        nodes.append(helper.make_node("Identity", [f"{name}_value"], [name]))
        values.append(helper.make_tensor_value_info(name, kind, tensor["shape"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    return _model(helper.make_graph(nodes, "constants", [x], values, initializers))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", model_parts.OPSET)])
    model.ir_version = model_parts.IR_VERSION
    return model


@pytest.fixture(scope="module")
def tfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("tfs")
    for identifier in group("predict_decode"):
        models.save_repository(root, {identifier: echo(CASES[identifier]["sig"])})
    for identifier in group("predict_encode"):
        models.save_repository(root, {identifier: constants(CASES[identifier]["outputs"])})
    for name, (_, output) in ON_EXAMPLES.items():
        for identifier in group(name):
            values = CASES[identifier]["value"]
            tensor = {"dtype": "DT_FLOAT", "shape": [len(values)], "values": values}
            models.save_repository(root, {identifier: constants({output: tensor})})
    half_plus_two = models.half_plus_two()
    models.save_repository(root, {"m": half_plus_two, "n": {98: half_plus_two, 99: half_plus_two}})
    models.save_repository(root, {"foo": half_plus_two})
    (root / "n" / "model.toml").write_text("[versions]\nall = true\nlabels = { latest = 99, old = 98 }\n")
    with Server(root) as server:
        yield server.wait_ready()
        server.assert_alive()
        assert server.stop() == 0, server.log


def flattened(data: Any) -> list[Any]:
    return [item for each in data for item in flattened(each)] if isinstance(data, list) else [data]


def shape_of(data: Any) -> list[int]:
    if not isinstance(data, list):
        return []
    return [len(data), *(shape_of(data[0]) if data else [])]


def same_value(actual: Any, expected: Any) -> bool:
    if isinstance(expected, str) and not isinstance(actual, str):
        return bool(actual == float(expected))
    if isinstance(actual, float):
        return bool(np.float32(actual) == np.float32(expected) or actual == expected)
    return type(actual) is type(expected) and bool(actual == expected)


def test_the_case_file_is_covered() -> None:
    groups = {case["group"] for case in CASES.values()}
    assert (
        groups
        == {"predict_decode", "predict_encode", "route", "error_encode", "classify_regress_decode"}
        | ON_EXAMPLES.keys()
    )
    assert DELIBERATELY_DIFFERENT.keys() <= CASES.keys()
    assert len(CASES) == 65


@pytest.mark.parametrize("identifier", group("predict_decode"))
def test_predict_decode(tfs: Server, identifier: str) -> None:
    case = CASES[identifier]
    answer = tfs.predict(identifier, case["body"])
    if identifier in DELIBERATELY_DIFFERENT:
        assert_different(answer, identifier)
        return
    expected = case["expect"]
    assert answer.status == expected["http"], answer
    if answer.status != 200:
        assert answer.error
        return
    document = answer.json()
    row = expected["format"] == "row"
    assert list(document) == ["predictions" if row else "outputs"]
    (content,) = document.values()
    for name, tensor in expected["tensors"].items():
        data = content
        if len(expected["tensors"]) > 1:
            data = [each[f"{name}_out"] for each in content] if row else content[f"{name}_out"]
        assert shape_of(data) == tensor["shape"]
        values = flattened(data)
        assert len(values) == len(tensor["values"])
        assert all(map(same_value, values, tensor["values"])), values


@pytest.mark.parametrize("identifier", group("predict_encode"))
def test_predict_encode(tfs: Server, identifier: str) -> None:
    case = CASES[identifier]
    body = {"inputs": [0.0]} if case.get("format") == "columnar" else {"instances": [0.0]}
    answer = tfs.predict(identifier, body)
    expected = case["expect"]
    if expected.get("status") == "INVALID_ARGUMENT":
        assert answer.status == 400
        assert answer.error
        return
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    if "tokens" in expected:
        # Numbers as they are written, not as they are read.
        tokens = json.loads(answer.body, parse_float=str, parse_int=str, parse_constant=str)
        assert tokens == {"predictions": expected["tokens"]}
    else:
        assert answer.json() == expected["body"]


@pytest.mark.parametrize("identifier", group("route"))
def test_route(tfs: Server, identifier: str) -> None:
    case = CASES[identifier]
    expected = case["expect"]
    body = {"instances": [1.0]} if case["method"] == "POST" else None
    answer = tfs.call(case["method"], case["path"], body)
    if identifier in DELIBERATELY_DIFFERENT:
        assert_different(answer, identifier)
        return
    if "name" not in expected:
        assert answer.status == expected["http"], answer
        hint = expected.get("hint", "")
        assert hint in answer.error
        return
    assert answer.status == 200, answer
    versions = [entry["version"] for entry in answer.json()["model_version_status"]]
    if "version" in expected:
        assert versions == [str(expected["version"])]
    elif "label" in expected:
        # TensorFlow Serving ignores the label here and shows every version; we honour it.
        assert versions == ["99"]
    else:
        assert versions == ["1"]


def assert_different(answer: Answer, identifier: str) -> None:
    status, words, why = DELIBERATELY_DIFFERENT[identifier]
    assert answer.status == status, f"{identifier}: {why}"
    assert words in answer.body.decode()
    if status == 405:
        assert answer.headers["allow"]
    if status >= 400:
        assert answer.error


@pytest.mark.parametrize("identifier", [each for name in ON_EXAMPLES for each in group(name)])
def test_classify_and_regress_encode(tfs: Server, identifier: str) -> None:
    case = CASES[identifier]
    verb, _ = ON_EXAMPLES[case["group"]]
    rows = max(1, len(case["value"]))
    answer = tfs.post(f"/v1/models/{identifier}:{verb}", {"examples": [{"x": 1.0}] * rows})
    if "tokens" not in case["expect"]:
        assert answer.status == 400
        assert answer.error
        return
    assert answer.status == 200, answer
    tokens = json.loads(answer.body, parse_float=str, parse_int=str, parse_constant=str)
    assert tokens == {"results": case["expect"]["tokens"]}


def test_errors_are_encoded(tfs: Server) -> None:
    """Y06: quotes inside a message are escaped."""
    answer = tfs.predict("P03", {"instances": [{'a"b\\': 1}]})
    assert answer.status == 400
    assert answer.error
    label = tfs.post('/v1/models/m/labels/a"b:predict', {"instances": [1.0]})
    assert label.error == 'Unrecognized servable version label: a"b'
    text = CASES["Y06"]["value"]
    # The only texts of a client that come back whole: names. The encoding is the same for all.
    quoted = tfs.post("/v1/models/m/labels/Bad%20key%3A%20%22key%22:predict", {"instances": [1.0]})
    assert json.loads(quoted.body) == {"error": f"Unrecognized servable version label: {text}"}
    assert json.dumps(CASES["Y06"]["expect"]["body"]["error"])[1:-1].encode() in quoted.body


@pytest.mark.parametrize("verb", ["classify", "regress"])
@pytest.mark.parametrize("identifier", group("classify_regress_decode"))
def test_classify_and_regress_read_examples(tfs: Server, identifier: str, verb: str) -> None:
    """What the good case means, tests/unit/test_examples.py says; its signature is none of this model's."""
    case = CASES[identifier]
    answer = tfs.post(f"/v1/models/m:{verb}", case["body"])
    assert answer.status == 400
    found = "No signature was found" in answer.error
    assert found == ("status" not in case["expect"]), answer.error
