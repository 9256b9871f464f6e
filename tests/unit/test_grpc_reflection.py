"""Server reflection, in both versions."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from unit.fake_core import GRPC_HALF_CLOSE
from unit.grpc_front import OIP, PREDICTION, REFLECTION, GrpcFront


@pytest_asyncio.fixture
async def front(descriptors: bytes) -> GrpcFront:
    front = GrpcFront(descriptors)
    await front.load()
    return front


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
