"""What the gRPC services answer, over a manager whose engine is the stand-in: the same as the REST routes."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest
import pytest_asyncio

from servolley.repository.control import NoModelControl
from servolley.status import Code, StatusError
from unit.grpc_front import HEALTH, MODELS, OIP, PREDICTION, GrpcFront, numbers_as_text, shown
from unit.routes_front import row


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
            (
                f"{OIP}{kind}SharedMemory{verb}",
                "this server does not support shared memory: it is started without --shared-memory",
            )
            for kind in ("System", "Cuda")
            for verb in ("Register", "Unregister")
        ),
    ],
)
async def test_what_is_not_built_says_so(front: GrpcFront, target: str, text: str) -> None:
    assert await front.call(target, {}) == (12, text)


async def test_reload_of_the_configuration(front: GrpcFront) -> None:
    target = f"{MODELS}HandleReloadConfigRequest"
    code, text = await front.call(target, {})
    assert (code, "explicit control mode" in text) == (9, True)
    seen = []

    class Control:
        async def reload(self, config: Any) -> None:
            seen.append(config)
            if not config.model_config_list.config:
                raise StatusError(Code.UNKNOWN, "no")

    front.context.reload = cast("Any", Control())
    entry = {"name": "a", "base_path": "/a"}
    answer = await front.call(target, {"config": {"model_config_list": {"config": [entry]}}})
    assert (answer.status.error_code, answer.status.error_message) == (0, "")
    assert seen[0].model_config_list.config[0].base_path == "/a"
    assert await front.call(target, {"config": {"model_config_list": {}}}) == (2, "no")


async def test_log_settings(front: GrpcFront) -> None:
    rest = await front.get("/v2/logging")
    settings = (await front.call(f"{OIP}LogSettings", {})).settings
    found = {
        key: getattr(value, str(value.WhichOneof("parameter_choice"))) for key, value in settings.items()
    }
    assert found == rest
    assert settings["log_verbose_level"].WhichOneof("parameter_choice") == "uint32_param"
    change = {"settings": {"log_info": {"bool_param": False}}}
    settings = (await front.call(f"{OIP}LogSettings", change)).settings
    assert settings["log_info"].bool_param is False
    assert (await front.get("/v2/logging"))["log_info"] is False
    assert await front.call(f"{OIP}LogSettings", {"settings": {"log_info": {}}}) == (
        3,
        "setting 'log_info' has no value",
    )


async def test_trace_settings(front: GrpcFront) -> None:
    rest = await front.get("/v2/models/m/trace/setting")
    settings = (await front.call(f"{OIP}TraceSetting", {"model_name": "m"})).settings
    found = {key: list(value.value) for key, value in settings.items()}
    assert found == {key: [value] if isinstance(value, str) else value for key, value in rest.items()}
    change = {"settings": {"trace_rate": {"value": ["7"]}}, "model_name": "m"}
    settings = (await front.call(f"{OIP}TraceSetting", change)).settings
    assert list(settings["trace_rate"].value) == ["7"]
    reset: dict[str, Any] = {"settings": {"trace_rate": {"value": []}}, "model_name": "m"}
    settings = (await front.call(f"{OIP}TraceSetting", reset)).settings
    assert list(settings["trace_rate"].value) == ["1000"]
    assert await front.call(f"{OIP}TraceSetting", {"model_name": "nobody"}) == (
        5,
        "Request for unknown model: 'nobody' is not found",
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
