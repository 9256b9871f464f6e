"""What the lifecycle tests share: putting versions into place, and clients that ask without a pause."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import onnx

import models
from integration.server_process import Server, wait_until
from integration.slim_tensorflow import stock_module
from integration.witness import Asked, Connection, Witness, contradictions

#: Flags of a server that notices soon.
QUICK = ("--poll-interval", "0.1")


def put(root: Path, name: str, version: int, model: onnx.ModelProto, *, complete: bool = False) -> None:
    """Puts a version into place as one should: whole, by a rename. One that is there already is replaced.
    ``complete``: it says so itself, and one look is enough."""
    hidden = root / f".{name}-{version}"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    (hidden / "model.onnx").write_bytes(model.SerializeToString())
    if complete:
        (hidden / ".complete").touch()
    (root / name).mkdir(exist_ok=True)
    place = root / name / str(version)
    if place.exists():
        (hidden / "model.onnx").rename(place / "model.onnx")
    else:
        hidden.rename(place)


def states(server: Server, model: str = "m") -> dict[int, str]:
    answer = server.get(f"/v1/models/{model}")
    if answer.status == 404:
        return {}
    return {int(row["version"]): row["state"] for row in answer.json()["model_version_status"]}


def await_states(server: Server, expected: dict[int, str], model: str = "m", timeout_s: float = 60) -> None:
    """Versions at END that are not expected do not count."""

    def reached() -> bool:
        found = states(server, model)
        return {v: s for v, s in found.items() if v in expected or s != "END"} == expected

    try:
        wait_until(reached, timeout_s, f"{model} is {expected}")
    except AssertionError:
        raise AssertionError(f"{model} is {states(server, model)}, not {expected}:\n{server.log}") from None


def constant_of(server: Server, path: str = "m") -> float:
    """What ``models.plus`` adds, asked over REST. ``path``: m, m/versions/1 or m/labels/stable."""
    answer = server.predict(path, {"instances": [0.0]})
    assert answer.status == 200, answer
    return float(answer.json()["predictions"][0])


def await_constant(server: Server, constant: float, path: str = "m") -> None:
    wait_until(lambda: constant_of(server, path) == constant, 30, f"{path} adds {constant}")


class Ask:
    """One way of asking ``models.plus`` under the name m: what it added, and the version it gave."""

    by_default = True  # asks for whatever version is served by default

    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(self) -> tuple[float, int | None]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class AskOverHttp(Ask):
    def __init__(self, server: Server) -> None:
        from tritonclient.http import InferenceServerClient, InferInput

        self._client = InferenceServerClient(server.url)
        self._input = InferInput("x", [1], "FP32")
        self._input.set_data_from_numpy(np.zeros(1, np.float32))

    def __call__(self) -> tuple[float, int | None]:
        result = self._client.infer("m", [self._input])
        return float(result.as_numpy("y")[0]), int(result.get_response()["model_version"])

    def close(self) -> None:
        self._client.close()


class AskOverGrpc(Ask):
    def __init__(self, server: Server) -> None:
        from tritonclient.grpc import InferenceServerClient, InferInput

        self._client = InferenceServerClient(server.url)
        self._input = InferInput("x", [1], "FP32")
        self._input.set_data_from_numpy(np.zeros(1, np.float32))

    def __call__(self) -> tuple[float, int | None]:
        result = self._client.infer("m", [self._input])
        return float(result.as_numpy("y")[0]), int(result.get_response().model_version)

    def close(self) -> None:
        self._client.close()


class AskRest(Ask):
    """TensorFlow Serving's REST, which does not say which version answered."""

    def __init__(self, server: Server, label: str = "") -> None:
        self._connection = Connection(server)
        self._path = f"/v1/models/m/labels/{label}:predict" if label else "/v1/models/m:predict"

    def __call__(self) -> tuple[float, int | None]:
        status, answer = self._connection.call("POST", self._path, {"instances": [0.0]})
        assert status == 200, answer
        return float(answer["predictions"][0]), None

    def close(self) -> None:
        self._connection.close()


class AskPredict(Ask):
    """TensorFlow Serving's Predict, by a label if there is one."""

    def __init__(self, server: Server, label: str = "") -> None:
        self._channel = grpc.insecure_channel(server.url)
        stub = stock_module("prediction_service_pb2_grpc").PredictionServiceStub(self._channel)
        request = stock_module("predict_pb2").PredictRequest()
        request.model_spec.name = "m"
        if label:
            request.model_spec.version_label = label
            self.by_default = False
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(0.0)
        self._predict: Callable[[], Any] = lambda: stub.Predict(request, timeout=30)

    def __call__(self) -> tuple[float, int | None]:
        response = self._predict()
        return response.outputs["y"].float_val[0], response.model_spec.version.value

    def close(self) -> None:
        self._channel.close()


#: Makes of ``models.plus`` a model that takes examples; with the second signature a second run is needed.
TAKES_EXAMPLES = """
[signatures.serving_default]
method = "regress"
value = "y"
[signatures.other]
method = "regress"
value = "y"
features = { x = "x2" }
[signatures.classes]
method = "classify"
scores = "y"
"""
#: A feature that no input reads, with which a body is large enough to be read beside the server's loop.
PADDING = b"p" * (40 << 10)


class AskExamples(Ask):
    """TensorFlow Serving's calls with examples over gRPC; ``TAKES_EXAMPLES`` has to be configured."""

    def __init__(self, server: Server) -> None:
        self._channel = grpc.insecure_channel(server.url)
        self.stub = stock_module("prediction_service_pb2_grpc").PredictionServiceStub(self._channel)

    def fill(self, given: Any, **features: float) -> None:
        row = given.example_list.examples.add().features.feature
        row["padding"].bytes_list.value.append(PADDING)
        for name, value in features.items():
            row[name].float_list.value.append(value)

    def close(self) -> None:
        self._channel.close()


class AskClassify(AskExamples):
    def __call__(self) -> tuple[float, int | None]:
        response = self.stub.Classify(self.request(), timeout=30)
        ((found,),) = [row.classes for row in response.result.classifications]
        return found.score, response.model_spec.version.value

    def request(self, rows: int = 1) -> Any:
        """A ClassificationRequest."""
        request = stock_module("classification_pb2").ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = "m", "classes"
        self.fill(request.input, x=0.0)
        for _ in range(rows - 1):
            row = request.input.example_list.examples.add().features.feature
            row["x"].float_list.value.append(0.0)
        return request


class AskMultiInference(AskExamples):
    """Two runs in one call, which one version has to answer."""

    def __call__(self) -> tuple[float, int | None]:
        request = stock_module("inference_pb2").MultiInferenceRequest()
        for signature in ("serving_default", "other"):
            task = request.tasks.add(method_name="tensorflow/serving/regress")
            task.model_spec.name, task.model_spec.signature_name = "m", signature
        self.fill(request.input, x=0.0, x2=0.0)
        results = self.stub.MultiInference(request, timeout=30).results
        ((value, version),) = {
            (result.regression_result.regressions[0].value, result.model_spec.version.value)
            for result in results
        }
        return value, version


class AskRestRegress(Ask):
    """Over REST, which does not say which version answered."""

    def __init__(self, server: Server) -> None:
        self._connection = Connection(server)
        self._body = {"examples": [{"x": 0.0, "padding": PADDING.decode()}]}

    def __call__(self) -> tuple[float, int | None]:
        status, answer = self._connection.call("POST", "/v1/models/m:regress", self._body)
        assert status == 200, answer
        return float(answer["results"][0]), None

    def close(self) -> None:
        self._connection.close()


EXAMPLE_WAYS: tuple[Callable[[Server], Ask], ...] = (AskClassify, AskMultiInference, AskRestRegress)
ALL_WAYS: tuple[Callable[[Server], Ask], ...] = (AskOverHttp, AskOverGrpc, AskRest, AskPredict)


@dataclass(frozen=True, slots=True)
class Answered:
    """constant: what was added. version: None where the protocol does not say."""

    constant: float
    version: int | None
    sent: float
    received: float


class Askers:
    """A thread for each way of asking, and a witness; ``with`` ends them and raises what went wrong in any,
    and where the answers belie what the server said of its versions."""

    def __init__(self, server: Server, *ways: Callable[[Server], Ask]) -> None:
        self.answers: list[Answered] = []
        self.errors: list[str] = []
        self.witness = Witness(server)
        self._asked: list[Asked] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, way)) for way in ways]

    def constants(self) -> set[float]:
        return {answer.constant for answer in self.answers}

    def assert_in_order(self, *constants: float) -> None:
        """These and no others were added, and no request that was sent after an answer with one of them was
        answered with an earlier one."""
        assert self.constants() == set(constants)
        newest, latest = 0, 0.0  # the place of the newest constant that had been received by a time
        places = {constant: place for place, constant in enumerate(constants)}
        by_reception = sorted(self.answers, key=lambda answer: answer.received)
        waiting = iter(by_reception)
        following = next(waiting)
        for answer in sorted(self.answers, key=lambda answer: answer.sent):
            while following.received < answer.sent:
                newest, latest = max((newest, latest), (places[following.constant], following.received))
                following = next(waiting)
            assert places[answer.constant] >= newest, f"{answer}, after {constants[newest]} at {latest}"

    def _ask(self, server: Server, way: Callable[[Server], Ask]) -> None:
        with asking(server, way) as ask:
            while not self._stop.is_set():
                sent = time.monotonic()
                try:
                    constant, version = ask()
                except Exception as error:
                    self.errors.append(f"{way}: {error!r}")
                    return
                answer = Answered(constant, version, sent, time.monotonic())
                self.answers.append(answer)
                if version is not None:
                    wanted = None if ask.by_default else version
                    self._asked.append(Asked(sent, answer.received, wanted, version))

    def __enter__(self) -> Self:
        self.witness.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self.witness.__exit__(kind, error, trace)
        if kind is None:
            assert not self.errors, self.errors
            assert not self.witness.errors, self.witness.errors
            found = contradictions(self.witness.looks, [*self._asked, *self.witness.asked])
            assert not found, found[:5]


@contextmanager
def asking(server: Server, way: Callable[[Server], Ask]) -> Iterator[Ask]:
    ask = way(server)
    try:
        yield ask
    finally:
        ask.close()


def repository(root: Path, *versions: int, config: str = "") -> Path:
    """A model m whose version n adds n."""
    for version in versions:
        put(root, "m", version, models.plus(version))
    if config:
        (root / "m" / "model.toml").write_text(config)
    return root


def set_config(root: Path, config: str, name: str = "m") -> None:
    hidden = root / name / ".model.toml"
    hidden.write_text(config)
    hidden.rename(root / name / "model.toml")
