"""What the gRPC services answer, over a manager whose engine is the stand-in: the same as the REST routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from servolley.front.example_calls import ExampleCalls
from servolley.front.grpc.calls import GrpcCalls
from servolley.front.grpc.health import POLL_S
from servolley.front.grpc.messages import Messages
from servolley.front.grpc.services import GrpcServices
from servolley.repository.control import NoModelControl
from servolley.repository.layout import ModelOnDisk
from unit import fake_core
from unit.fake_core import GRPC_CANCEL, GRPC_HALF_CLOSE, GRPC_MESSAGE, GRPC_OPEN
from unit.test_routes import Front, row

OIP = "/inference.GRPCInferenceService/"
PREDICTION = "/tensorflow.serving.PredictionService/"
MODELS = "/tensorflow.serving.ModelService/"
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"


Entry = tuple[float, Callable[[], None]]


@dataclass
class Timer:
    pending: list[Entry]
    entry: Entry

    def cancel(self) -> None:
        self.pending.remove(self.entry)


class Timers:
    """A loop whose clock is a test's: tasks are real, timers run when told."""

    def __init__(self) -> None:
        self.pending: list[Entry] = []

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.pending.append((delay, callback))
        return Timer(self.pending, (delay, callback))

    def fire(self) -> None:
        ((_, callback),) = self.pending
        self.pending.clear()
        callback()


class GrpcFront(Front):
    """One connection to the services of Front's models."""

    def __init__(self, descriptors: bytes) -> None:
        super().__init__()
        self.messages = Messages(descriptors)
        self.context.examples = ExampleCalls(self.context, lambda: self.messages)
        self.timers = Timers()
        loop = cast("Any", self.timers)
        self.services = GrpcServices(self.context, loop)
        self.core = fake_core.Connection(self.engine)
        self.calls = GrpcCalls(cast("Any", self.core), self.services.find, loop, lambda _: None)
        self.exchange = -1

    def event(self, kind: int, exchange: int, target: str = "", body: bytes = b"") -> None:
        self.calls.dispatch(cast("Any", fake_core.ControlCall(exchange, "POST", target, [], body, kind)))

    def begin(self, target: str, request: dict[str, Any] | bytes | None) -> int:
        """Sends a request, a document or bytes; returns the exchange's number."""
        self.exchange += 2
        self.event(GRPC_OPEN, self.exchange, target)
        if request is not None:
            self.say(target, self.exchange, request)
        return self.exchange

    def say(self, target: str, exchange: int, request: dict[str, Any] | bytes) -> None:
        if not isinstance(request, bytes):
            message = self.messages.message(self.messages.method(target).input_type.full_name)
            request = json_format.ParseDict(request, message()).SerializeToString()
        self.event(GRPC_MESSAGE, exchange, body=request)

    def answers(self, target: str, exchange: int) -> list[Any]:
        response = self.messages.message(self.messages.method(target).output_type.full_name)
        return [response.FromString(body) for number, body in self.core.messages if number == exchange]

    async def call(self, target: str, request: dict[str, Any] | bytes) -> Any:
        """The response message of a unary call, or its (code, text)."""
        exchange = self.begin(target, request)
        self.event(GRPC_HALF_CLOSE, exchange)
        for _ in range(3):
            await asyncio.sleep(0)
        code, text = self.core.finished[exchange]
        answers = self.answers(target, exchange)
        if code != 0:
            assert not answers
            return code, text
        (answer,) = answers
        return answer

    async def document(self, target: str, request: dict[str, Any]) -> dict[str, Any]:
        """The response in protobuf's JSON form, every field shown."""
        answer = await self.call(target, request)
        assert not isinstance(answer, tuple), answer
        return shown(answer, self.messages.pool)


def shown(message: Any, pool: DescriptorPool) -> dict[str, Any]:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=pool,
    )


def numbers_as_text(document: Any) -> Any:
    """A REST document as protobuf's JSON form writes it: 64-bit numbers are strings there."""
    if isinstance(document, dict):
        return {key: numbers_as_text(value) for key, value in document.items()}
    if isinstance(document, list):
        return [numbers_as_text(value) for value in document]
    return str(document) if isinstance(document, int) and not isinstance(document, bool) else document


@pytest_asyncio.fixture
async def front(descriptors: bytes) -> GrpcFront:
    front = GrpcFront(descriptors)
    await front.load()
    return front


# --- Open Inference Protocol ---


async def test_health(front: GrpcFront) -> None:
    assert (await front.call(f"{OIP}ServerLive", {})).live
    assert not (await front.call(f"{OIP}ServerReady", {})).ready  # because of "bad"
    del front.manager._models["bad"]
    assert (await front.call(f"{OIP}ServerReady", {})).ready
    front.context.draining = True
    assert not (await front.call(f"{OIP}ServerReady", {})).ready
    assert not (await front.call(f"{OIP}ServerLive", {})).live


async def test_model_ready(front: GrpcFront) -> None:
    for request, ready in (
        ({"name": "m"}, True),
        ({"name": "m", "version": "3"}, True),
        ({"name": "m", "version": "003"}, True),
        ({"name": "m", "version": "2"}, False),
        ({"name": "bad"}, False),
    ):
        assert (await front.call(f"{OIP}ModelReady", request)).ready is ready
    unknown = (5, "Request for unknown model: 'x' is not found")
    assert await front.call(f"{OIP}ModelReady", {"name": "x"}) == unknown


@pytest.mark.parametrize(
    ("method", "request_", "path"),
    [
        ("ServerMetadata", {}, "/v2"),
        ("ModelMetadata", {"name": "m"}, "/v2/models/m"),
        ("ModelMetadata", {"name": "m", "version": "1"}, "/v2/models/m/versions/1"),
        ("ModelConfig", {"name": "m"}, "/v2/models/m/config"),
        ("ModelStatistics", {"name": "m"}, "/v2/models/m/stats"),
        ("ModelStatistics", {"name": "m", "version": "3"}, "/v2/models/m/versions/3/stats"),
        ("ModelStatistics", {}, "/v2/models/stats"),
    ],
)
async def test_answers_are_those_of_rest(
    front: GrpcFront, method: str, request_: dict[str, Any], path: str
) -> None:
    rest = await front.get(path)
    answer = await front.document(f"{OIP}{method}", request_)
    if method == "ModelConfig":
        answer = answer["config"]
    assert numbers_as_text(answer) == numbers_as_text(rest)


async def test_index(front: GrpcFront) -> None:
    for request, rest in (({}, {}), ({"ready": True}, {"ready": True}), ({"repository_name": "r"}, {})):
        reply = await front.ask("POST", "/v2/repository/index", rest)
        answer = await front.document(f"{OIP}RepositoryIndex", request)
        assert answer["models"] == orjson.loads(reply.body)


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_models_that_are_not_there(front: GrpcFront, method: str) -> None:
    for request, code, text in (
        ({"name": "x"}, 5, "Request for unknown model: 'x' is not found"),
        ({"name": "m", "version": "2"}, 5, "Request for unknown model: 'm' version 2 is not at ready state"),
        ({"name": "bad"}, 14, "Request for unknown model: 'bad' has no version at ready state"),
        ({"name": "../m"}, 3, "not a model name"),
        ({"name": "x" * 100_000}, 3, "not a model name"),
    ):
        assert await front.call(OIP + method, request) == (code, text)


@pytest.mark.parametrize("version", ["x", "-1", "1.0", " 1", "\u0661", "9" * 19, "9" * 5000, str(1 << 63)])
async def test_versions_are_decimal_numbers(front: GrpcFront, version: str) -> None:
    code, text = await front.call(f"{OIP}ModelMetadata", {"name": "m", "version": version})
    assert (code, text) == (3, "model_version must be a decimal number or empty")


async def test_a_name_is_needed(front: GrpcFront) -> None:
    for method in ("ModelReady", "ModelMetadata", "ModelConfig"):
        assert await front.call(OIP + method, {}) == (3, "not a model name")


async def test_load_and_unload(front: GrpcFront) -> None:
    text = "explicit model load / unload is not allowed if polling is enabled"
    for verb in ("Load", "Unload"):
        method = f"{OIP}RepositoryModel{verb}"
        assert await front.call(method, {"model_name": "m"}) == (14, text)
        assert await front.call(method, {"model_name": ".."}) == (3, "not a model name")
        foreign = {"model_name": "m", "repository_name": "r"}
        assert (await front.call(method, foreign))[0] == 12
        empty: dict[str, Any] = {"model_name": "m", "parameters": {"k": {}}}
        assert await front.call(method, empty) == (3, "parameter 'k' has no value")


async def test_load_hands_its_parameters_over(front: GrpcFront) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    class Control(NoModelControl):
        async def load(self, name: str, parameters: dict[str, Any]) -> None:
            seen.append((name, parameters))

        async def unload(self, name: str, parameters: dict[str, Any]) -> None:
            seen.append((name, parameters))

    front.context.control = Control()
    parameters = {
        "config": {"string_param": "{}"},
        "file:1/model.onnx": {"bytes_param": "AAE="},
        "unload_dependents": {"bool_param": True},
        "n": {"int64_param": "7"},
    }
    answer = await front.call(f"{OIP}RepositoryModelLoad", {"model_name": "m", "parameters": parameters})
    assert answer.ByteSize() == 0
    await front.call(f"{OIP}RepositoryModelUnload", {"model_name": "m"})
    given = {"config": "{}", "file:1/model.onnx": b"\0\1", "unload_dependents": True, "n": 7}
    assert seen == [("m", given), ("m", {})]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        *(
            (f"{OIP}CudaSharedMemory{verb}", "this server does not support CUDA shared memory")
            for verb in ("Status", "Register", "Unregister")
        ),
        *(
            (
                f"{OIP}SystemSharedMemory{verb}",
                "this server does not support shared memory: it is started without --shared-memory",
            )
            for verb in ("Register", "Unregister")
        ),
        (f"{OIP}TraceSetting", "this server does not support trace settings"),
        (
            f"{MODELS}HandleReloadConfigRequest",
            "this server does not support changes of its configuration",
        ),
    ],
)
async def test_what_is_not_built_says_so(front: GrpcFront, target: str, text: str) -> None:
    assert await front.call(target, {}) == (12, text)


async def test_log_settings(front: GrpcFront) -> None:
    rest = await front.get("/v2/logging")
    settings = (await front.call(f"{OIP}LogSettings", {})).settings
    found = {
        key: getattr(value, str(value.WhichOneof("parameter_choice"))) for key, value in settings.items()
    }
    assert found == rest
    assert settings["log_verbose_level"].WhichOneof("parameter_choice") == "uint32_param"
    change = {"settings": {"log_info": {"bool_param": False}}}
    assert await front.call(f"{OIP}LogSettings", change) == (
        12,
        "this server does not support changes of log settings",
    )


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\xff", b"\x0a\x01\xff", b"\x0a\x05abc", b"\x0b"])
async def test_malformed_messages(front: GrpcFront, body: bytes) -> None:
    for target in (f"{OIP}ModelReady", f"{MODELS}GetModelStatus", f"{HEALTH}Check", f"{HEALTH}Watch"):
        exchange = front.begin(target, body)
        code, text = front.core.finished[exchange]
        assert code == 3, target
        assert text.startswith("failed to parse the request: not a ")


async def test_unknown_methods(front: GrpcFront) -> None:
    for target in (
        f"{OIP}Nothing",
        f"{OIP}ModelInfer",
        "/",
        "",
        "/a.B/C",
        "/tensorflow.serving.SessionService/SessionRun",
    ):
        exchange = front.begin(target, None)
        assert front.core.finished[exchange] == (12, f"unknown method {target}")


# --- TensorFlow Serving ---


async def test_model_status(front: GrpcFront) -> None:
    def rows(*of: dict[str, Any]) -> dict[str, Any]:
        return {"model_version_status": list(of)}

    for spec, expected in (
        ({"name": "m"}, rows(row(3), row(1))),
        ({"name": "m", "version": "1"}, rows(row(1))),
        ({"name": "m", "version_label": "stable"}, rows(row(1))),
        ({"name": "bad"}, rows(row(1, "END", "INVALID_ARGUMENT", "not a model"))),
    ):
        assert await front.document(f"{MODELS}GetModelStatus", {"model_spec": spec}) == expected


async def test_model_metadata(front: GrpcFront) -> None:
    for spec, path in (
        ({"name": "m"}, "/v1/models/m/metadata"),
        ({"name": "m", "version_label": "stable"}, "/v1/models/m/labels/stable/metadata"),
        ({"name": "m", "version": "1"}, "/v1/models/m/versions/1/metadata"),
    ):
        rest = await front.get(path)
        request = {"model_spec": spec, "metadata_field": ["signature_def"]}
        answer = await front.call(f"{PREDICTION}GetModelMetadata", request)
        packed = answer.metadata["signature_def"]
        assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        signatures = front.messages.message("tensorflow.serving.SignatureDefMap").FromString(packed.value)
        assert shown(signatures, front.messages.pool) == rest["metadata"]["signature_def"]
        assert answer.model_spec.name == "m"
        assert str(answer.model_spec.version.value) == rest["model_spec"]["version"]


async def test_metadata_of_an_unknown_rank(front: GrpcFront) -> None:
    cast("Any", front.manager.models["m"].versions[3].servable).inputs[0].rank_known = False
    request = {"model_spec": {"name": "m"}, "metadata_field": ["signature_def"]}
    answer = await front.call(f"{PREDICTION}GetModelMetadata", request)
    signatures: Any = front.messages.message("tensorflow.serving.SignatureDefMap").FromString(
        answer.metadata["signature_def"].value
    )
    shape = signatures.signature_def["serving_default"].inputs["x"].tensor_shape
    assert shape.unknown_rank
    assert not shape.dim


@pytest.mark.parametrize(
    ("method", "spec", "code", "text"),
    [
        (f"{MODELS}GetModelStatus", None, 3, "Missing ModelSpec"),
        (f"{MODELS}GetModelStatus", {}, 3, "ModelSpec has no model name"),
        (f"{MODELS}GetModelStatus", {"name": "x"}, 5, "Could not find any versions of model x"),
        (f"{MODELS}GetModelStatus", {"name": "m", "version": "5"}, 5, "Could not find version 5 of model m"),
        (
            f"{MODELS}GetModelStatus",
            {"name": "m", "version_label": "l"},
            3,
            "Unrecognized servable version label: l",
        ),
        (f"{PREDICTION}GetModelMetadata", None, 3, "Missing ModelSpec"),
        (f"{PREDICTION}GetModelMetadata", {"name": "x"}, 5, "Servable not found for request: Latest(x)"),
        (
            f"{PREDICTION}GetModelMetadata",
            {"name": "m", "version": "5"},
            5,
            "Servable not found for request: Specific(m, 5)",
        ),
    ],
)
async def test_serving_errors(
    front: GrpcFront, method: str, spec: dict[str, Any] | None, code: int, text: str
) -> None:
    request: dict[str, Any] = {} if spec is None else {"model_spec": spec}
    if "Metadata" in method:
        request["metadata_field"] = ["signature_def"]
    assert await front.call(method, request) == (code, text)


async def test_only_signatures_are_metadata(front: GrpcFront) -> None:
    target, spec = f"{PREDICTION}GetModelMetadata", {"name": "m"}
    for fields in ([], ["x"], ["signature_def", "x"]):
        code, _ = await front.call(target, {"model_spec": spec, "metadata_field": fields})
        assert code == 3


# --- health ---

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
SERVERS = [
    "",
    "inference.GRPCInferenceService",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "PredictionService",
    "ModelService",
]


async def test_check(front: GrpcFront) -> None:
    async def status(service: str) -> int:
        return int((await front.call(f"{HEALTH}Check", {"service": service})).status)

    for service in SERVERS:
        assert await status(service) == NOT_SERVING
    assert await status("m") == SERVING
    assert await status("bad") == NOT_SERVING
    assert await front.call(f"{HEALTH}Check", {"service": "x"}) == (5, "unknown service 'x'")
    del front.manager._models["bad"]
    for service in SERVERS:
        assert await status(service) == SERVING
    front.context.draining = True
    for service in [*SERVERS, "m"]:
        assert await status(service) == NOT_SERVING


def told(front: GrpcFront, exchange: int) -> list[int]:
    return [answer.status for answer in front.answers(f"{HEALTH}Watch", exchange)]


async def test_watchers_hear_of_changes_and_only_of_them(front: GrpcFront) -> None:
    server, model, nobody = (front.begin(f"{HEALTH}Watch", {"service": name}) for name in ("", "m", "later"))
    assert [told(front, each) for each in (server, model, nobody)] == [
        [NOT_SERVING],
        [SERVING],
        [SERVICE_UNKNOWN],
    ]
    assert [delay for delay, _ in front.timers.pending] == [POLL_S]
    front.timers.fire()
    assert told(front, server) == [NOT_SERVING]

    del front.manager._models["bad"]
    found = {"later": ModelOnDisk("later", None, versions={1: Path("1")})}
    await front.manager.load_first(found)  # which waits for "m" to go, too
    front.timers.fire()
    assert told(front, server) == [NOT_SERVING, SERVING]
    assert told(front, model) == [SERVING, SERVICE_UNKNOWN]
    assert told(front, nobody) == [SERVICE_UNKNOWN, SERVING]
    assert front.core.finished == {}

    front.event(GRPC_CANCEL, server)
    front.event(GRPC_CANCEL, model)
    assert len(front.timers.pending) == 1
    front.event(GRPC_CANCEL, nobody)
    assert front.timers.pending == []  # nobody watches, nobody looks
    await front.manager.close()


async def test_watchers_hear_that_the_server_goes(front: GrpcFront) -> None:
    exchange = front.begin(f"{HEALTH}Watch", {"service": "m"})
    front.context.draining = True
    front.services.tell_watchers()
    front.calls.end_streams()
    assert told(front, exchange) == [SERVING, NOT_SERVING]
    assert front.core.finished[exchange] == (14, "Server exiting")
    assert front.timers.pending == []


async def test_watching_ends_with_the_connection(front: GrpcFront) -> None:
    front.begin(f"{HEALTH}Watch", {"service": "m"})
    front.calls.close()
    assert front.timers.pending == []


async def test_what_can_never_be_known_is_not_watched(front: GrpcFront) -> None:
    exchange = front.begin(f"{HEALTH}Watch", {"service": "x" * 1000})
    assert front.core.finished[exchange] == (3, "neither a service nor a model name")
    assert front.timers.pending == []


def test_servers_without_calls_tell_nobody() -> None:
    GrpcServices(cast("Any", None), cast("Any", None)).tell_watchers()


# --- reflection ---


@pytest.fixture(params=["v1", "v1alpha"])
def target(request: pytest.FixtureRequest) -> str:
    return REFLECTION.format(request.param)


def converse(front: GrpcFront, target: str, *requests: dict[str, Any]) -> list[Any]:
    exchange = front.begin(target, None)
    for request in requests:
        front.say(target, exchange, request)
    front.event(GRPC_HALF_CLOSE, exchange)
    assert front.core.finished[exchange] == (0, "")
    return front.answers(target, exchange)


async def test_services_are_listed(front: GrpcFront, target: str) -> None:
    (answer,) = converse(front, target, {"host": "h", "list_services": ""})
    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ]
    assert answer.valid_host == "h"
    assert answer.original_request.WhichOneof("message_request") == "list_services"


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.GRPCInferenceService", "inference/service.proto"),
        ("inference.GRPCInferenceService.ModelInfer", "inference/service.proto"),
        ("inference.ModelInferRequest.InferInputTensor", "inference/service.proto"),
        ("tensorflow.DataType", "tensorflow/tensor.proto"),
        ("tensorflow.serving.PredictionService", "tensorflow_serving/prediction_service.proto"),
        ("google.protobuf.Any", "google/protobuf/any.proto"),
    ],
)
async def test_descriptors_are_complete(front: GrpcFront, target: str, symbol: str, file: str) -> None:
    by_symbol, by_name = converse(
        front, target, {"file_containing_symbol": symbol}, {"file_by_filename": file}
    )
    serialized = list(by_symbol.file_descriptor_response.file_descriptor_proto)
    assert serialized == list(by_name.file_descriptor_response.file_descriptor_proto)
    files = [FileDescriptorProto.FromString(each) for each in serialized]
    assert files[0].name == file
    names = {each.name for each in files}
    assert len(names) == len(files)
    assert all(set(each.dependency) <= names for each in files)


async def test_what_reflection_does_not_find(front: GrpcFront, target: str) -> None:
    answers = converse(
        front,
        target,
        {"file_by_filename": "nothing.proto"},
        {"file_containing_symbol": "inference.Nothing"},
        {"file_containing_symbol": "inference.GRPCInferenceService.Nothing"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": "." * 1000},
        {"file_containing_extension": {"containing_type": "inference.ModelConfig", "extension_number": 5}},
        {"all_extension_numbers_of_type": "inference.Nothing"},
        {},
    )
    assert [answer.error_response.error_code for answer in answers] == [5] * 7 + [3]
    assert all(answer.error_response.error_message for answer in answers)


async def test_no_message_has_extensions(front: GrpcFront, target: str) -> None:
    (answer,) = converse(front, target, {"all_extension_numbers_of_type": "inference.ModelConfig"})
    assert answer.all_extension_numbers_response.base_type_name == "inference.ModelConfig"
    assert not answer.all_extension_numbers_response.extension_number


async def test_every_listed_service_answers_every_method_but_the_hot_ones(front: GrpcFront) -> None:
    hot = {f"{OIP}ModelInfer", f"{OIP}ModelStreamInfer", f"{PREDICTION}Predict"}
    (listed,) = converse(front, REFLECTION.format("v1"), {"list_services": ""})
    for service in listed.list_services_response.service:
        descriptor = front.messages.pool.FindServiceByName(service.name)
        for method in descriptor.methods_by_name:
            target = f"/{service.name}/{method}"
            assert (front.services.find(target) is None) == (target in hot), target
