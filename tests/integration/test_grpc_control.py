"""gRPC's control calls with the stock clients: ``tritonclient.grpc``, and grpcio with its health and
reflection packages. TensorFlow Serving's calls go through messages that the client learns by reflection."""

from __future__ import annotations

import asyncio
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import InferenceServerClient, service_pb2, service_pb2_grpc
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import channel_to, refusal
from integration.server_process import Server, wait_until

TIMEOUT_S = 20.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url) as client:
        yield client


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.url) as channel:
        yield channel


# --- the Open Inference Protocol ---


def test_health(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'") as failure:
        client.is_model_ready("nobody")
    assert failure.value.status() == "StatusCode.NOT_FOUND"


def test_metadata_is_that_of_rest(client: InferenceServerClient, server: Server) -> None:
    assert client.get_server_metadata(as_json=True) == server.get("/v2").json()
    for model in ("tiny", "two_inputs", "two_versions", "scalar", "sequence_first"):
        rest = server.get(f"/v2/models/{model}").json()
        answer = client.get_model_metadata(model)
        assert (answer.name, list(answer.versions), answer.platform) == (
            rest["name"],
            rest["versions"],
            rest["platform"],
        )
        for kind in ("inputs", "outputs"):
            found = [
                {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
                for tensor in getattr(answer, kind)
            ]
            assert found == rest[kind]
    assert list(client.get_model_metadata("two_versions", "3").versions) == ["3"]
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'"):
        client.get_model_metadata("nobody")
    with pytest.raises(InferenceServerException, match="must be a decimal number"):
        client.get_model_metadata("tiny", "one")


@pytest.mark.parametrize("model", ["tiny", "scalar", "two_versions", "labelled"])
def test_the_configuration_is_that_of_rest(client: InferenceServerClient, server: Server, model: str) -> None:
    rest = server.get(f"/v2/models/{model}/config").json()
    config = client.get_model_config(model).config
    # Their class reads ours: every field of the document is one of Triton's.
    assert json_format.ParseDict(rest, type(config)()) == config
    assert config.max_batch_size == rest["max_batch_size"]


def test_statistics_are_those_of_rest(client: InferenceServerClient, server: Server) -> None:
    server.infer("mlp", [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 256], "data": [0.5] * 256}])
    answer = client.get_inference_statistics("mlp")
    rest = server.get("/v2/models/mlp/stats").json()
    assert json_format.ParseDict(rest, type(answer)()) == answer
    assert answer.model_stats[0].inference_count > 0
    everything = client.get_inference_statistics()
    assert {"tiny", "mlp", "two_versions"} <= {stats.name for stats in everything.model_stats}


def test_repository_index(client: InferenceServerClient, server: Server) -> None:
    rest = server.post("/v2/repository/index").json()
    found = client.get_model_repository_index().models
    assert [(m.name, m.version, m.state, m.reason) for m in found] == [
        (entry["name"], entry["version"], entry["state"], entry["reason"]) for entry in rest
    ]


def test_load_and_unload_say_that_the_repository_decides(client: InferenceServerClient) -> None:
    for change in (client.load_model, client.unload_model):
        with pytest.raises(
            InferenceServerException, match="explicit model load / unload is not allowed"
        ) as failure:
            change("tiny")
        assert failure.value.status() == "StatusCode.UNAVAILABLE"
    assert client.is_model_ready("tiny")


def test_calls_that_are_not_there_say_so(client: InferenceServerClient) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.register_system_shared_memory("r", "/key", 64),
        lambda: client.register_cuda_shared_memory("r", b"\0" * 64, 0, 64),
        client.unregister_system_shared_memory,
        client.unregister_cuda_shared_memory,
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match="not support") as failure:
            call()
        assert failure.value.status() == "StatusCode.UNIMPLEMENTED"
    assert client.get_log_settings().settings["log_info"].bool_param in {True, False}


async def test_the_asynchronous_client(server: Server) -> None:
    async with triton_aio.InferenceServerClient(server.url) as client:
        assert await client.is_server_ready()
        answers = await asyncio.gather(*(client.get_model_config("tiny") for _ in range(50)))
        assert {answer.config.name for answer in answers} == {"tiny"}
        with pytest.raises(InferenceServerException, match="unknown model"):
            await client.get_model_config("nobody")


def test_control_calls_beside_inference_on_one_connection(client: InferenceServerClient) -> None:
    """The hot path and Python's answers share the connection, its streams and its windows."""
    import numpy as np
    from tritonclient.grpc import InferInput

    rows = np.arange(16, dtype=np.float32).reshape(1, 16)
    tensor = InferInput("INPUT0", [1, 16], "FP32")
    tensor.set_data_from_numpy(rows)
    expected = client.infer("tiny", [tensor]).as_numpy("OUTPUT0")
    failures: queue.Queue[BaseException] = queue.Queue()

    def infer() -> None:
        try:
            for _ in range(100):
                np.testing.assert_array_equal(client.infer("tiny", [tensor]).as_numpy("OUTPUT0"), expected)
        except BaseException as error:
            failures.put(error)

    threads = [threading.Thread(target=infer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        assert client.get_model_config("tiny").config.name == "tiny"
    for thread in threads:
        thread.join()
    assert failures.empty(), failures.get()


# --- what clients may get wrong ---


def raw_call(channel: grpc.Channel, target: str, *messages: bytes) -> bytes:
    """A unary answer to any number of request messages, unread."""
    method = channel.stream_unary(target, request_serializer=None, response_deserializer=None)
    answer = method(iter(messages), timeout=TIMEOUT_S)
    assert isinstance(answer, bytes)
    return answer


def test_unknown_methods(channel: grpc.Channel) -> None:
    for target in ("/inference.GRPCInferenceService/Nothing", "/a.B/C", "/x"):
        with refusal(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {target}"):
            raw_call(channel, target, b"")


def test_malformed_messages(channel: grpc.Channel) -> None:
    for body in (b"\xff", b"\x0a\xff", b"\x0a\x01\xff"):
        with refusal(grpc.StatusCode.INVALID_ARGUMENT, "failed to parse the request"):
            raw_call(channel, "/inference.GRPCInferenceService/ModelReady", body)


def test_the_number_of_messages(channel: grpc.Channel) -> None:
    target = "/inference.GRPCInferenceService/ServerLive"
    with refusal(grpc.StatusCode.UNIMPLEMENTED, "one message"):
        raw_call(channel, target)
    assert raw_call(channel, target, b"") == b"\x08\x01"


def test_long_names_make_short_errors(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with refusal(grpc.StatusCode.INVALID_ARGUMENT, "not a model name"):
        stub.ModelReady(service_pb2.ModelReadyRequest(name="x" * (1 << 20)), timeout=TIMEOUT_S)
    with refusal(grpc.StatusCode.NOT_FOUND, "...TRUNCATED"):
        health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="é" * (1 << 20)), timeout=TIMEOUT_S
        )


def test_compressed_requests(server: Server) -> None:
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with grpc.insecure_channel(server.url, compression=compression) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.ModelReady(service_pb2.ModelReadyRequest(name="tiny"), timeout=TIMEOUT_S)
            assert answer.ready


def test_many_calls_on_one_connection(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = service_pb2.ModelReadyRequest(name="tiny")
    pending = [stub.ModelReady.future(request, timeout=TIMEOUT_S) for _ in range(1000)]
    assert all(call.result().ready for call in pending)


# --- TensorFlow Serving, by reflection ---


class Reflected:
    """A client that has no generated code: it asks the server what the messages are."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def call(self, service: str, method: str, request: dict[str, Any]) -> Any:
        descriptor = self.pool.FindServiceByName(service).methods_by_name[method]
        asked, answered = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
        send = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        return send(json_format.ParseDict(request, asked()), timeout=TIMEOUT_S)


@pytest.fixture
def reflected(channel: grpc.Channel) -> Reflected:
    return Reflected(channel)


def document(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def test_model_status_is_that_of_rest(reflected: Reflected, server: Server) -> None:
    for spec, path in (
        ({"name": "two_versions"}, "/v1/models/two_versions"),
        ({"name": "two_versions", "version": "3"}, "/v1/models/two_versions/versions/3"),
        ({"name": "two_versions", "version_label": "canary"}, "/v1/models/two_versions/labels/canary"),
    ):
        answer = reflected.call("tensorflow.serving.ModelService", "GetModelStatus", {"model_spec": spec})
        assert document(answer) == server.get(path).json()
    with refusal(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model nobody"):
        reflected.call(
            "tensorflow.serving.ModelService", "GetModelStatus", {"model_spec": {"name": "nobody"}}
        )


def test_model_metadata_is_that_of_rest(reflected: Reflected, server: Server) -> None:
    service = "tensorflow.serving.PredictionService"
    request = {"model_spec": {"name": "half_plus_two"}, "metadata_field": ["signature_def"]}
    answer = reflected.call(service, "GetModelMetadata", request)
    rest = server.get("/v1/models/half_plus_two/metadata").json()
    packed = answer.metadata["signature_def"]
    assert packed.TypeName() == "tensorflow.serving.SignatureDefMap"
    map_class = GetMessageClass(reflected.pool.FindMessageTypeByName(packed.TypeName()))
    assert document(map_class.FromString(packed.value)) == rest["metadata"]["signature_def"]
    assert str(answer.model_spec.version.value) == rest["model_spec"]["version"]
    with refusal(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nobody)"):
        reflected.call(service, "GetModelMetadata", request | {"model_spec": {"name": "nobody"}})


def test_a_reload_without_a_list_changes_nothing(reflected: Reflected) -> None:
    """What one with a list does, test_reload_config.py says."""
    with refusal(grpc.StatusCode.INVALID_ARGUMENT, "tensorflow.serving.ModelServerConfig"):
        reflected.call("tensorflow.serving.ModelService", "HandleReloadConfigRequest", {})


def test_calls_on_examples_are_there(reflected: Reflected) -> None:
    """What they answer, test_examples.py says."""
    for method, text in (("Classify", "ModelSpec"), ("Regress", "ModelSpec"), ("MultiInference", "tasks")):
        with refusal(grpc.StatusCode.INVALID_ARGUMENT, text):
            reflected.call("tensorflow.serving.PredictionService", method, {})


# --- reflection ---


def test_reflection(reflected: Reflected) -> None:
    services = set(reflected.database.get_services())
    assert services == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }
    assert len(reflected.pool.FindServiceByName("inference.GRPCInferenceService").methods) == 20
    with pytest.raises(KeyError):
        reflected.pool.FindMessageTypeByName("inference.Nothing")


def test_a_reflection_client_that_does_not_read(server: Server) -> None:
    """Each of its requests is answered with hundreds of times its size: the answers wait for the client."""
    before = server.vitals().resident_bytes
    request = reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="tensorflow.serving.PredictionService"
    )
    with channel_to(server.url) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        go_on = threading.Event()

        def requests() -> Iterator[Any]:
            for _ in range(5000):
                yield request
            go_on.wait(TIMEOUT_S)

        answers = stub.ServerReflectionInfo(requests(), timeout=60)
        first = next(answers)
        assert len(first.SerializeToString()) > 1000
        for _ in range(20):
            server.assert_live()
        assert server.vitals().resident_bytes - before < 64 << 20
        for _ in range(4999):
            assert next(answers) == first
        go_on.set()
        assert next(answers, None) is None


# --- health ---


def test_check(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in (
        "",
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "PredictionService",
        "ModelService",
        "tiny",
    ):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=TIMEOUT_S).status == SERVING, service
    with refusal(grpc.StatusCode.NOT_FOUND, "unknown service 'nobody'"):
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)


class Watch:
    """The states that a watcher hears of, in a thread of its own."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self.heard: list[int] = []
        self.end: grpc.RpcError | None = None
        stub = health_pb2_grpc.HealthStub(channel)
        self.call = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for answer in self.call:
                self.heard.append(answer.status)
        except grpc.RpcError as error:
            self.end = error

    def join(self) -> None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


def test_watching_from_loading_to_the_end(serve: ServerFactory, tmp_path: Path) -> None:
    """NOT_SERVING or SERVICE_UNKNOWN while models load, SERVING, NOT_SERVING when the server goes; and open
    watches do not hold the end up."""
    server = serve({"tiny": models.tiny()}, wait=False).wait_listening()
    with channel_to(server.url) as channel:
        watches = [Watch(channel, service) for service in ("", "tiny", "nobody")]
        server.wait_ready()
        wait_until(lambda: all(watch.heard[-1:] == [SERVING] for watch in watches[:2]), TIMEOUT_S, "serving")
        assert watches[2].heard == [SERVICE_UNKNOWN]
        assert server.stop(TIMEOUT_S) == 0
        for watch in watches:
            watch.join()
            assert watch.end is not None
            assert watch.end.code() == grpc.StatusCode.UNAVAILABLE
        for watch in watches[:2]:
            assert watch.heard[-2:] == [SERVING, NOT_SERVING]


def test_a_cancelled_watch_is_forgotten(server: Server) -> None:
    with channel_to(server.url) as channel:
        for _ in range(50):
            watch = Watch(channel, "tiny")
            wait_until(lambda watch=watch: watch.heard == [SERVING], TIMEOUT_S, "heard")  # type: ignore[misc]
            watch.call.cancel()
            watch.join()
            assert watch.end is not None
            assert watch.end.code() == grpc.StatusCode.CANCELLED
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == SERVING


def test_many_watchers(server: Server) -> None:
    with channel_to(server.url) as channel:
        watches = [Watch(channel, "tiny") for _ in range(100)]
        wait_until(lambda: all(watch.heard == [SERVING] for watch in watches), TIMEOUT_S, "all have heard")
        for watch in watches:
            watch.call.cancel()
        for watch in watches:
            watch.join()


# --- ports ---


def test_a_port_of_its_own_and_both_protocols_on_each(serve: ServerFactory, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve({"tiny": models.tiny()}, "--grpc-port", "0", "--unix-socket", path)
    assert server.grpc_port != server.port
    for url in (server.url, f"127.0.0.1:{server.grpc_port}", f"unix:{path}"):
        with channel_to(url) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == SERVING
    with socket.create_connection(("127.0.0.1", server.grpc_port), TIMEOUT_S) as http:
        http.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert http.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_port_of_its_own_prepares_the_services(serve: ServerFactory) -> None:
    """The first control call need not wait for protobuf; without such a port it does not take memory."""

    def loaded(server: Server) -> bool:
        return "_upb" in Path(f"/proc/{server.pid}/maps").read_text()

    announced = serve({"tiny": models.tiny()}, "--grpc-port", "0")
    wait_until(lambda: loaded(announced), TIMEOUT_S, "protobuf is there before any call")
    silent = serve({"tiny": models.tiny()})
    assert not loaded(silent)
    with channel_to(silent.url) as channel:
        assert raw_call(channel, "/inference.GRPCInferenceService/ServerLive", b"") == b"\x08\x01"
    assert loaded(silent)


def test_the_metrics_port_has_no_services(serve: ServerFactory) -> None:
    server = serve({"tiny": models.tiny()}, "--metrics-port", "0")
    line = next(line for line in server.log.splitlines() if "metrics on http://" in line)
    address = line.split("http://")[1].split("/")[0]
    with channel_to(address) as channel:
        for target in ("/grpc.health.v1.Health/Check", "/inference.GRPCInferenceService/ModelInfer"):
            with refusal(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {target}"):
                raw_call(channel, target, b"")


def test_a_drain_finishes_what_streams_are_open(serve: ServerFactory) -> None:
    server = serve({"tiny": models.tiny()}, "--drain-timeout", "60")
    with channel_to(server.url) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        stop = threading.Event()

        def requests() -> Iterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            stop.wait(60)

        answers = stub.ServerReflectionInfo(requests(), timeout=60)
        next(answers)
        server.signal(signal.SIGTERM)
        with refusal(grpc.StatusCode.UNAVAILABLE, "Server exiting"):
            next(answers)
        stop.set()
        assert server.wait_exit(TIMEOUT_S) == 0
