"""Classify, Regress and MultiInference against a real server: gRPC through stubs of our own protos, REST
through http.client."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import model_parts
import models
from integration.grpc_calls import channel_to, refusal
from integration.hostile import assert_refused, survives
from integration.server_process import Server, wait_until
from servolley.front.grpc.messages import Messages

SERVICE = "/tensorflow.serving.PredictionService/"
TIMEOUT_S = 20.0

#: TensorFlow Serving's own twin: regress and classify of one model by several signatures.
TWIN_TOML = """
[signatures.regress_x_to_y]
method = "regress"
value = "y"
[signatures.regress_x_to_y2]
method = "regress"
value = "y2"
[signatures.regress_x2_to_y]
method = "regress"
value = "y"
features = { x = "x2" }
[signatures.classify_x_to_y]
method = "classify"
scores = "y"
[signatures.serving_default]
method = "regress"
value = "y"
defaults = { x = 4.0 }
"""


def twin() -> onnx.ModelProto:
    """``x`` [-1,1] -> y = x / 2 + 2, y2 = x / 2 + 3."""
    return model_parts.build(
        "twin",
        [
            helper.make_node("Mul", ["x", "half"], ["hx"]),
            helper.make_node("Add", ["hx", "two"], ["y"]),
            helper.make_node("Add", ["hx", "three"], ["y2"]),
        ],
        [model_parts.tensor("x", ["batch", 1])],
        [model_parts.tensor("y", ["batch", 1]), model_parts.tensor("y2", ["batch", 1])],
        {"half": model_parts.floats(0.5), "two": model_parts.floats(2), "three": model_parts.floats(3)},
    )


def chooser() -> onnx.ModelProto:
    """Strings, integers and a bool: ``scores`` [-1,2] = (count, flag), ``classes`` = the names as given."""
    return model_parts.build(
        "chooser",
        [
            helper.make_node("Cast", ["count"], ["count_float"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["flag"], ["flag_float"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["count_float", "flag_float"], ["scores"], axis=1),
            helper.make_node("Identity", ["names"], ["classes"]),
        ],
        [
            model_parts.tensor("count", ["batch", 1], TensorProto.INT32),
            model_parts.tensor("flag", ["batch", 1], TensorProto.BOOL),
            model_parts.tensor("names", ["batch", 2], TensorProto.STRING),
        ],
        [
            model_parts.tensor("scores", ["batch", 2]),
            model_parts.tensor("classes", ["batch", 2], TensorProto.STRING),
        ],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = models.save_repository(
        tmp_path_factory.mktemp("examples") / "models",
        {
            "twin": twin(),
            "chooser": chooser(),
            "half_plus_two": models.half_plus_two(),
            "labelled": models.identity("FP32", ("batch", 8)),
            "slow": models.slow(),
        },
    )
    (repository / "twin" / "model.toml").write_text(TWIN_TOML)
    (repository / "labelled" / "labels.txt").write_text("\n".join("abcdefgh"))
    (repository / "labelled" / "model.toml").write_text('[class_labels]\nOUTPUT0 = "labels.txt"\n')
    with Server(repository) as server:
        yield server.wait_ready()
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log
        assert "exception=" not in server.log


class Stub:
    """PredictionService of our own protos."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.messages = Messages.built()
        self._channel = channel

    def new(self, name: str) -> Any:
        return self.messages.message(f"tensorflow.serving.{name}")()

    def call(self, method: str, request: Any, timeout: float = TIMEOUT_S) -> Any:
        return self._begin(method)(request, timeout=timeout)

    def _begin(self, method: str) -> Any:
        descriptor = self.messages.method(SERVICE + method)
        response = type(self.new(descriptor.output_type.name))
        return self._channel.unary_unary(
            SERVICE + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def request(self, name: str, model: str, *rows: dict[str, Any], signature: str = "") -> Any:
        request = self.new(name)
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        fill(request.input, *rows)
        return request


def fill(given: Any, *rows: dict[str, Any]) -> None:
    for row in rows:
        features = given.example_list.examples.add().features.feature
        for name, values in row.items():
            kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(values[0])]
            getattr(features[name], kind).value.extend(values)


@pytest.fixture
def stub(server: Server) -> Iterator[Stub]:
    with channel_to(server.url) as channel:
        yield Stub(channel)


def test_the_documented_rest_calls(server: Server) -> None:
    answer = server.post(
        "/v1/models/twin:classify", {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}
    )
    assert (answer.status, answer.json()) == (200, {"results": [[["", 12.0]]]})
    assert answer.headers["content-type"] == "application/json"
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}
    for path in ("/v1/models/twin:regress", "/v1/models/twin/versions/1:regress", "/V1/Models/twin:regress"):
        assert server.post(path, body).json() == {"results": [42.0]}
    assert server.post("/v1/models/twin:regress", {"examples": [{}, {"x": 1}]}).json() == {
        "results": [4.0, 2.5]
    }


def test_regress_and_classify_over_grpc(stub: Stub) -> None:
    request = stub.request(
        "RegressionRequest", "twin", {"x": [80.0]}, {"x": [2.0]}, signature="regress_x_to_y2"
    )
    answer = stub.call("Regress", request)
    assert [r.value for r in answer.result.regressions] == [43.0, 4.0]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("twin", 1)
    assert answer.model_spec.signature_name == "regress_x_to_y2"

    rows = (
        {"count": [7], "flag": [1], "names": [b"cat", b"dog"]},
        {"count": [-1], "flag": [0], "names": [b"", b"x"]},
    )
    answer = stub.call("Classify", stub.request("ClassificationRequest", "chooser", *rows))
    assert [[(c.label, c.score) for c in row.classes] for row in answer.result.classifications] == [
        [("cat", 7.0), ("dog", 1.0)],
        [("", -1.0), ("x", 0.0)],
    ]


def test_labels_and_derived_signatures(stub: Stub, server: Server) -> None:
    scores = np.linspace(0, 1, 8, dtype=np.float32)
    row = {"INPUT0": [float(score) for score in scores]}
    answer = stub.call("Classify", stub.request("ClassificationRequest", "labelled", row))
    (found,) = answer.result.classifications
    assert [(c.label, c.score) for c in found.classes] == list(zip("abcdefgh", scores.tolist(), strict=True))
    # TensorFlow Serving's numbers are float32 in JSON, too.
    (rest,) = server.post("/v1/models/labelled:classify", {"examples": [row]}).json()["results"]
    assert [label for label, _ in rest] == list("abcdefgh")
    assert np.array([score for _, score in rest], np.float32).tobytes() == scores.tobytes()
    # No table at all: x -> y by their names.
    assert server.post("/v1/models/half_plus_two:regress", {"examples": [{"x": 1.0}]}).json() == {
        "results": [2.5]
    }


def test_multi_inference_is_one_run(stub: Stub, server: Server) -> None:
    request = stub.new("MultiInferenceRequest")
    for signature, method in (
        ("classify_x_to_y", "classify"),
        ("regress_x_to_y2", "regress"),
        ("regress_x_to_y", "regress"),
    ):
        task = request.tasks.add()
        task.model_spec.name, task.model_spec.signature_name = "twin", signature
        task.method_name = f"tensorflow/serving/{method}"
    fill(request.input, {"x": [80.0]}, {"x": [0.0]})
    before = server.statistics("twin")["execution_count"]
    answer = stub.call("MultiInference", request)
    scored, second, first = answer.results
    assert [c.classes[0].score for c in scored.classification_result.classifications] == [42.0, 2.0]
    assert [r.value for r in second.regression_result.regressions] == [43.0, 3.0]
    assert [r.value for r in first.regression_result.regressions] == [42.0, 2.0]
    assert server.statistics("twin")["execution_count"] == before + 1


def test_they_are_counted_as_what_they_are(stub: Stub, server: Server) -> None:
    def counted(api: str, code: str) -> float:
        return server.metric("servolley_inference_responses", model="twin", api=api, code=code)

    before = [counted(api, "OK") for api in ("tfs_grpc", "tfs_http")]
    connections = server.metric("servolley_accepted_connections")
    stub.call("Regress", stub.request("RegressionRequest", "twin", {"x": [80.0]}))
    server.post("/v1/models/twin:regress", {"examples": [{"x": 1.0}]})
    assert [counted(api, "OK") for api in ("tfs_grpc", "tfs_http")] == [before[0] + 1, before[1] + 1]
    # Each call and each look is one connection of a client; the inside has none.
    assert server.metric("servolley_accepted_connections") - connections <= 6


def test_errors_over_grpc(stub: Stub) -> None:
    codes = grpc.StatusCode
    good = {"x": [1.0]}
    for method, name in (("Classify", "ClassificationRequest"), ("Regress", "RegressionRequest")):
        with refusal(codes.NOT_FOUND, "Servable"):
            stub.call(method, stub.request(name, "nobody", good))
        with refusal(codes.INVALID_ARGUMENT, "Missing ModelSpec"):
            stub.call(method, stub.new(name))
        with refusal(codes.INVALID_ARGUMENT, "No signature"):
            stub.call(method, stub.request(name, "twin", good, signature="nope"))
        with refusal(codes.INVALID_ARGUMENT, "Input is empty."):
            stub.call(method, stub.request(name, "half_plus_two"))
    with refusal(codes.INVALID_ARGUMENT, "Feature: x"):
        stub.call("Regress", stub.request("RegressionRequest", "half_plus_two", {"z": [1.0]}))
    with refusal(codes.INVALID_ARGUMENT, "Expected type: float"):
        stub.call("Regress", stub.request("RegressionRequest", "half_plus_two", {"x": [b"1"]}))
    with refusal(codes.INVALID_ARGUMENT, "2 values"):
        stub.call("Regress", stub.request("RegressionRequest", "half_plus_two", {"x": [1.0, 2.0]}))
    with refusal(codes.UNIMPLEMENTED, "method_name"):
        request = stub.new("MultiInferenceRequest")
        request.tasks.add(method_name="tensorflow/serving/predict").model_spec.name = "twin"
        fill(request.input, good)
        stub.call("MultiInference", request)


def test_errors_over_rest(server: Server) -> None:
    with survives(server):
        for body, status in (
            (b"[" * 250_000, 400),
            (b"", 400),
            (b'{"examples":[]}', 400),
            (b'{"examples":[{"x":"a"}]}', 400),
            (b'{"examples":[{"x":[1.0,2.0]}]}', 400),
            (b'{"examples":[' + b"{}," * (2 << 20) + b"{}]}", 413),
        ):
            for verb in ("classify", "regress"):
                assert_refused(server.post(f"/v1/models/half_plus_two:{verb}", body), status)
        assert_refused(server.post("/v1/models/nobody:regress", {"examples": [{"x": 1.0}]}), 404)
        assert_refused(server.get("/v1/models/twin:regress"), 405)


def test_many_at_once_share_batches(server: Server) -> None:
    """Every answer is that of its own question."""
    results: dict[int, Any] = {}
    before = server.statistics("twin")

    def ask(number: int) -> None:
        for step in range(20):
            value = number * 100 + step
            body = {"signature_name": "regress_x_to_y", "examples": [{"x": float(value)}]}
            results[value] = server.post("/v1/models/twin:regress", body).json()["results"]

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == {value: [value / 2 + 2] for value in results}
    assert len(results) == 160
    assert server.statistics("twin")["inference_count"] == before["inference_count"] + 160


def test_a_large_call(stub: Stub, server: Server) -> None:
    rows = [{"x": [float(i)]} for i in range(50_000)]
    answer = stub.call("Regress", stub.request("RegressionRequest", "half_plus_two", *rows))
    assert [r.value for r in answer.result.regressions] == [0.5 * i + 2 for i in range(50_000)]
    server.assert_live()


def test_deadlines_and_cancels_take_the_work_out_of_the_queue(stub: Stub, server: Server) -> None:
    row = {"INPUT0": [0.0] * 512}

    def canceled() -> float:
        return server.metric("nv_inference_request_failure", model="slow", reason="CANCELED")

    before = canceled()
    # The first holds the model up; those behind it run out of time.
    blocker = stub._begin("Regress").future(
        stub.request("RegressionRequest", "slow", *[row] * 8), timeout=TIMEOUT_S
    )
    server.assert_live()
    calls = [
        stub._begin("Classify").future(stub.request("ClassificationRequest", "slow", row), timeout=0.05)
        for _ in range(3)
    ]
    for call in calls:
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: canceled() == before + 3, 10, "the cancelled requests")
    assert blocker.code() is grpc.StatusCode.INVALID_ARGUMENT  # 512 values are no regression
    assert stub.call("Classify", stub.request("ClassificationRequest", "slow", row)).result.classifications


def test_the_rest_timeout(tmp_path: Path) -> None:
    repository = models.save_repository(tmp_path / "models", {"slow": models.slow(rounds=1600)})
    config = tmp_path / "servolley.toml"
    config.write_text("[limits]\nrequest_timeout_ms = 100\n")
    with Server(repository, "--config", config) as server:
        server.wait_ready()
        body = {"examples": [{"INPUT0": [0.0] * 512}]}
        blocker = http.client.HTTPConnection(*server.address, timeout=60)
        blocker.request("POST", "/v1/models/slow:classify", json.dumps(body))
        # A later connection is read later: when it has its answer, the model is held up.
        server.assert_live()
        late = server.post("/v1/models/slow:classify", body)
        assert (late.status, late.error) == (504, "Request timeout expired")
        assert blocker.getresponse().status == 200
        blocker.close()
        assert server.stop() == 0, server.log
