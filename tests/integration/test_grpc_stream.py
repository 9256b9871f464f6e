"""ModelStreamInfer: answers in the order of the requests, errors inside the stream, every way to end it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import (
    STREAM_INFER,
    TIMEOUT_S,
    assert_small_answer,
    assert_text_tells_nothing,
    channel_to,
    infer_request,
    outputs_of,
    refusal,
    small_request,
)
from integration.h2_client import H2Client, with_prefix
from integration.server_process import Server, wait_until
from integration.tensors import assert_same, sample


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with channel_to(server.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def slow_server(serve: ServerFactory, tmp_path: Path) -> Server:
    """``slow`` on one thread, one request at a time; ``identity`` beside it."""
    root = models.save_repository(
        tmp_path / "slow_models", {"slow": models.slow(), "identity_fp32": models.identity()}
    )
    (root / "slow" / "model.toml").write_text(
        '[batching]\nmax_batch_size = 0\n[runtime]\nexecution = "threads"\ninstances = 1\n'
    )
    return serve(root)


def slow_row(**fields: Any) -> Any:
    return infer_request("slow", {"INPUT0": ("FP32", np.full((1, 512), 0.5, np.float32))}, **fields)


def given(array: Any, datatype: str = "FP32") -> InferInput:
    tensor = InferInput("INPUT0", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


# --- the stock client


def test_the_stock_client(server: Server) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with InferenceServerClient(server.url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i in range(300):
            client.async_stream_infer(
                "identity_fp32", [given(np.full((1, 4), i, np.float32))], request_id=str(i)
            )
        for i in range(300):
            result, error = answers.get(timeout=30)
            assert error is None
            response = result.get_response()
            assert (response.id, response.model_name, response.model_version) == (
                str(i),
                "identity_fp32",
                "1",
            )
            assert (result.as_numpy("OUTPUT0") == i).all()
        client.stop_stream()
    assert answers.empty()


@pytest.mark.parametrize("datatype", models.DTYPES)
def test_every_datatype(server: Server, datatype: str) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    array = sample(datatype, (3, 5))
    with InferenceServerClient(server.url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(f"identity_{datatype.lower()}", [given(array, datatype)])
        result, error = answers.get(timeout=30)
        assert error is None
        assert_same(result.as_numpy("OUTPUT0"), array)


def test_the_final_response_says_so(server: Server) -> None:
    """A model that is not decoupled has one response, which is its final one; no empty one follows."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with InferenceServerClient(server.url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i, asked in enumerate((True, False)):
            client.async_stream_infer(
                "identity_fp32",
                [given(np.full((1, 4), i, np.float32))],
                request_id=str(i),
                enable_empty_final_response=asked,
            )
        for i in range(2):
            result, error = answers.get(timeout=30)
            assert error is None
            response = result.get_response()
            assert response.id == str(i)
            assert response.parameters["triton_final_response"].bool_param is True
            assert len(response.outputs) == 1
        client.stop_stream()
    assert answers.empty()


def test_cancelled_by_the_stock_client(server: Server) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with InferenceServerClient(server.url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("identity_fp32", [given(np.ones((1, 4), np.float32))])
        _, error = answers.get(timeout=30)
        assert error is None
        client.stop_stream(cancel_requests=True)
        _, error = answers.get(timeout=30)
        assert isinstance(error, InferenceServerException)
        assert "CANCELLED" in error.status()
        assert client.is_server_live()


async def test_the_asynchronous_client(server: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for i in range(200):
            model = "nobody" if i == 50 else "identity_fp32"
            yield {
                "model_name": model,
                "inputs": [given(np.full((1, 4), i, np.float32))],
                "request_id": str(i),
            }
            await asyncio.sleep(0)

    async with triton_aio.InferenceServerClient(server.url) as client:
        i = 0
        async for result, error in client.stream_infer(requests()):
            if i == 50:
                assert "unknown model: 'nobody'" in error.message()
            else:
                assert error is None
                assert (result.as_numpy("OUTPUT0") == i).all()
            i += 1
        assert i == 200


# --- order and errors


def test_order_across_models_and_ways_of_running(serve: ServerFactory, tmp_path: Path) -> None:
    """A quick answer waits for the slow one before it."""
    server = slow_server(serve, tmp_path)
    requests = []
    for i in range(6):
        requests += [slow_row(id=f"slow{i}"), small_request(float(i), id=f"quick{i}")]
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = list(stub.ModelStreamInfer(iter(requests), timeout=TIMEOUT_S))
    assert [answer.infer_response.id for answer in answers] == [request.id for request in requests]
    assert not any(answer.error_message for answer in answers)


def test_errors_do_not_end_the_stream(stub: Any) -> None:
    wrong = small_request(id="wrong")
    wrong.inputs[0].shape[1] = 3
    malformed_version = small_request(id="version", model_version="one")
    unknown = small_request(id="unknown")
    unknown.model_name = "nobody"
    failing = infer_request("picky", {"INPUT0": ("INT64", np.array([[99]], np.int64))}, id="failing")
    bad = {"wrong": wrong, "version": malformed_version, "unknown": unknown, "failing": failing}
    requests = []
    for i, request in enumerate(bad.values()):
        requests += [small_request(float(i), id=str(i)), request]
    requests.append(small_request(9.0, id="last"))
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=TIMEOUT_S))
    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.infer_response.id == request.id
        if request.id in bad:
            assert answer.error_message
            assert_text_tells_nothing(answer.error_message)
            assert not answer.infer_response.outputs
        else:
            assert answer.error_message == ""
            assert_small_answer(answer.infer_response, outputs_of(answer.infer_response)["OUTPUT0"][0, 0])
    assert_small_answer(answers[-1].infer_response, 9.0)
    assert "nobody" in answers[5].error_message


def test_a_message_that_is_none_is_an_error_in_the_stream(server: Server) -> None:
    with H2Client(server.address) as client:
        stream = client.head(STREAM_INFER)
        for message in (
            small_request().SerializeToString(),
            b"\xff\xff",
            b"",
            small_request(3.0).SerializeToString(),
        ):
            client.data(stream, with_prefix(message))
        client.data(stream, b"", end=True)
        (reply,) = client.finish(stream)
    assert reply.status == 0
    answers = [service_pb2.ModelStreamInferResponse.FromString(message) for message in reply.messages]
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, False]
    assert_small_answer(answers[3].infer_response, 3.0)


# --- ends


def test_no_request_at_all(stub: Any) -> None:
    assert list(stub.ModelStreamInfer(iter(()), timeout=TIMEOUT_S)) == []


def test_half_close_waits_for_the_answers(serve: ServerFactory, tmp_path: Path) -> None:
    server = slow_server(serve, tmp_path)
    with H2Client(server.address) as client:
        stream = client.head(STREAM_INFER)
        for i in range(3):
            client.data(stream, with_prefix(slow_row(id=str(i)).SerializeToString()))
        client.data(stream, b"", end=True)
        (reply,) = client.finish(stream)
        assert (reply.status, len(reply.messages)) == (0, 3)


def test_answers_while_the_client_still_sends(stub: Any) -> None:
    """Each answer is here before the next request is sent."""
    requests: queue.Queue[Any] = queue.Queue()
    answers = stub.ModelStreamInfer(iter(requests.get, None), timeout=TIMEOUT_S)
    for i in range(100):
        requests.put(small_request(float(i)))
        assert_small_answer(next(answers).infer_response, float(i))
    requests.put(None)
    assert list(answers) == []


def test_cancel_drops_what_waits(serve: ServerFactory, tmp_path: Path) -> None:
    server = slow_server(serve, tmp_path)
    before = server.statistics("slow")["execution_count"]
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        go_on = threading.Event()

        def requests() -> Iterator[Any]:
            for _ in range(30):
                yield slow_row()
            go_on.wait(TIMEOUT_S)

        answers = stub.ModelStreamInfer(requests(), timeout=60)
        next(answers)
        wait_until(
            lambda: server.metric("nv_inference_pending_request_count", model="slow") >= 20, 5, "they wait"
        )
        answers.cancel()
        with refusal(grpc.StatusCode.CANCELLED):
            next(answers)
        wait_until(
            lambda: server.metric("nv_inference_pending_request_count", model="slow") == 0, 5, "forgotten"
        )
        go_on.set()
        assert server.metric("nv_inference_request_failure", model="slow", reason="CANCELED") >= 20
        assert server.statistics("slow")["execution_count"] - before <= 8
        (answer,) = stub.ModelStreamInfer(iter([small_request(5.0)]), timeout=TIMEOUT_S)
        assert_small_answer(answer.infer_response, 5.0)


def test_the_deadline_of_a_stream(serve: ServerFactory, tmp_path: Path) -> None:
    """A client that keeps its half open and asks for nothing is told at its deadline."""
    server = slow_server(serve, tmp_path)
    with H2Client(server.address) as client:
        silent = client.head(STREAM_INFER, [("grpc-timeout", "200m")])
        busy = client.head(STREAM_INFER, [("grpc-timeout", "200m")])
        for _ in range(20):
            client.data(busy, with_prefix(slow_row().SerializeToString()))
        for reply in client.finish(silent, busy):
            assert reply.status == 4, reply
    wait_until(lambda: server.metric("nv_inference_pending_request_count", model="slow") == 0, 5, "empty")
    assert server.statistics("slow")["execution_count"] <= 12


def test_more_requests_than_a_stream_may_have(serve: ServerFactory, tmp_path: Path) -> None:
    """A client that sends everything before it reads anything: it is held back, gets every answer, and others
    of its connection do not notice."""
    server = slow_server(serve, tmp_path)
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        all_sent = threading.Event()

        def requests() -> Iterator[Any]:
            for i in range(5):
                yield slow_row(id=str(i))
            for i in range(5, 5000):
                yield small_request(float(i), id=str(i))
            all_sent.set()

        answers = stub.ModelStreamInfer(requests(), timeout=120)
        assert all_sent.wait(60)
        assert_small_answer(stub.ModelInfer(small_request(7.0), timeout=TIMEOUT_S), 7.0)
        for i, answer in enumerate(answers):
            assert (answer.error_message, answer.infer_response.id) == ("", str(i))
            if i >= 5:
                assert_small_answer(answer.infer_response, float(i))
        assert i == 4999
    assert server.statistics("slow")["inference_count"] == 5


def test_a_stream_that_is_held_back_takes_what_waits_along(serve: ServerFactory, tmp_path: Path) -> None:
    server = slow_server(serve, tmp_path)

    def pending() -> float:
        return server.metric("nv_inference_pending_request_count", model="slow")

    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer((slow_row() for _ in range(1500)), timeout=120)
        wait_until(lambda: pending() >= 1000, 20, "1024 of them are taken")
        assert pending() < 1024
        answers.cancel()
        wait_until(lambda: pending() == 0, 5, "empty")
    assert server.statistics("slow")["execution_count"] <= 200


def test_streams_side_by_side(stub: Any) -> None:
    def requests(number: int) -> Iterator[Any]:
        for i in range(50):
            yield small_request(number * 1000.0 + i)

    streams = [stub.ModelStreamInfer(requests(number), timeout=TIMEOUT_S) for number in range(20)]
    for number, answers in enumerate(streams):
        for i, answer in enumerate(answers):
            assert_small_answer(answer.infer_response, number * 1000.0 + i)


def test_a_drain_leaves_a_stream_its_answers(serve: ServerFactory, tmp_path: Path) -> None:
    server = slow_server(serve, tmp_path)
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        go_on = threading.Event()

        def requests() -> Iterator[Any]:
            for i in range(3):
                yield slow_row(id=str(i))
            go_on.wait(TIMEOUT_S)

        answers = stub.ModelStreamInfer(requests(), timeout=60)
        assert next(answers).infer_response.id == "0"
        server.process.terminate()
        wait_until(lambda: any("draining" in line for line in server.stderr), 5, "it drains")
        assert [next(answers).infer_response.id for _ in range(2)] == ["1", "2"]
        go_on.set()
        assert list(answers) == []
    assert server.wait_exit(20) == 0
