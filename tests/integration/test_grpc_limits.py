"""Much of everything on one connection: calls one after another and at once, messages of every size, answers
that nobody reads."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import (
    MODEL_INFER,
    PREDICT,
    STREAM_INFER,
    TIMEOUT_S,
    assert_small_answer,
    channel_to,
    infer_request,
    outputs_of,
    raw_method,
    refusal,
    small_request,
)
from integration.h2_client import H2Client, with_prefix
from integration.hostile import survives
from integration.server_process import Server
from integration.tensors import assert_same, sample

MIB = 1 << 20
RESOURCE_EXHAUSTED = 8


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose memory nobody else moves."""
    root = models.save_repository(
        tmp_path_factory.mktemp("limits"),
        {
            "identity_fp32": models.identity(),
            "identity_uint8": models.identity("UINT8"),
            "identity_large": models.identity_large(),
        },
    )
    with Server(root) as server:
        yield server.wait_ready()
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log


def bytes_request(size: int) -> Any:
    """As one message of exactly that many bytes."""
    array = np.zeros((1, size), np.uint8)
    request = infer_request("identity_uint8", {"INPUT0": ("UINT8", array)})
    while (excess := request.ByteSize() - size) != 0:
        array = array[:, : array.shape[1] - excess]
        request = infer_request("identity_uint8", {"INPUT0": ("UINT8", array)})
    assert len(request.SerializeToString()) == size
    return request


# --- many calls


def test_ten_thousand_calls_one_after_another(own: Server) -> None:
    message = small_request(3.0).SerializeToString()
    with survives(own), channel_to(own.url) as channel:
        infer = raw_method(channel, MODEL_INFER)
        expected = infer(message, timeout=TIMEOUT_S)
        began = time.monotonic()
        for _ in range(10_000):
            assert infer(message, timeout=TIMEOUT_S) == expected
        assert time.monotonic() - began < 60
    assert_small_answer(service_pb2.ModelInferResponse.FromString(expected), 3.0)


def test_ten_thousand_streams_one_after_another(own: Server) -> None:
    message = with_prefix(small_request(3.0).SerializeToString())
    with survives(own), H2Client(own.address) as client:
        began = time.monotonic()
        for _ in range(10_000):
            stream = client.head(STREAM_INFER)
            client.data(stream, message, end=True)
            (reply,) = client.finish(stream)
            assert (reply.status, len(reply.messages)) == (0, 1)
        assert time.monotonic() - began < 60
    answer = service_pb2.ModelStreamInferResponse.FromString(reply.messages[0])
    assert_small_answer(answer.infer_response, 3.0)


def test_a_thousand_streams_at_once(own: Server) -> None:
    messages = [with_prefix(small_request(float(i), id=str(i)).SerializeToString()) for i in range(1000)]
    with survives(own), H2Client(own.address) as client:
        streams = [client.head(STREAM_INFER if i % 2 else MODEL_INFER) for i in range(1000)]
        for stream, message in zip(streams, messages, strict=True):
            client.data(stream, message[:-7])
        client.flush()
        own.assert_live()
        for stream, message in zip(streams, messages, strict=True):
            client.data(stream, message[-7:], end=True)
        for i, reply in enumerate(client.finish(*streams)):
            assert reply.status == 0
            (answer,) = reply.messages
            if i % 2:
                response = service_pb2.ModelStreamInferResponse.FromString(answer).infer_response
            else:
                response = service_pb2.ModelInferResponse.FromString(answer)
            assert response.id == str(i)
            assert_small_answer(response, float(i))


def test_a_thousand_calls_at_once_with_grpcio(own: Server) -> None:
    with survives(own), channel_to(own.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(small_request(float(i)), timeout=TIMEOUT_S) for i in range(1000)]
        for i, call in enumerate(calls):
            assert_small_answer(call.result(), float(i))


def test_more_streams_than_announced(own: Server) -> None:
    """Who has not heard of the limit is told that those above it are safe to try again (REFUSED_STREAM); who
    has acknowledged it and goes on loses the connection."""
    message = with_prefix(small_request().SerializeToString())
    refused_stream = 7
    with survives(own):
        with H2Client(own.address) as client:
            streams = [client.head(MODEL_INFER) for _ in range(1024 + 50)]
            client.flush()
            client.wait(lambda: sum(client.replies[stream].over for stream in streams) == 50)
            assert [client.replies[stream].reset for stream in streams] == [None] * 1024 + [
                refused_stream
            ] * 50
            assert client.connection.remote_settings.max_concurrent_streams == 1024
            for stream in streams[:1024]:
                client.data(stream, message, end=True)
            assert {reply.status for reply in client.finish(*streams[:1024])} == {0}
        with H2Client(own.address) as client:
            client.wait(lambda: client.connection.remote_settings.max_concurrent_streams == 1024)
            client.connection.remote_settings.update({3: 1 << 30})
            client.connection.remote_settings.acknowledge()
            for _ in range(1024 + 50):
                client.head(MODEL_INFER)
            client.flush()
            client.wait(lambda: False)
            assert client.closed


# --- sizes


@pytest.mark.parametrize("path", [MODEL_INFER, PREDICT])
def test_an_empty_message(own: Server, path: str) -> None:
    with H2Client(own.address) as client:
        reply = client.unary(path, b"")
    assert reply.status in {3, 5}, reply
    assert reply.text


@pytest.mark.parametrize("size", [4 * 10**6, 4 * MIB, 64 * 10**6, 64 * MIB])
def test_large_messages(own: Server, size: int) -> None:
    """64 MiB is the limit, and below it nothing is special."""
    request = bytes_request(size)
    with survives(own), channel_to(own.url) as channel:
        infer = raw_method(channel, MODEL_INFER)
        answer = service_pb2.ModelInferResponse.FromString(
            infer(request.SerializeToString(), timeout=TIMEOUT_S)
        )
        assert answer.raw_output_contents[0] == request.raw_input_contents[0]


@pytest.mark.parametrize("size", [64 * MIB + 1, 100 * MIB, 2**32 - 1])
@pytest.mark.parametrize("path", [MODEL_INFER, PREDICT, STREAM_INFER, "/grpc.health.v1.Health/Check"])
def test_messages_above_the_limit(own: Server, path: str, size: int) -> None:
    """Refused by their prefix: nothing of them is waited for, and the connection goes on."""
    with survives(own), H2Client(own.address) as client:
        stream = client.head(path)
        client.data(stream, with_prefix(b"\0" * 100, length=size))
        (reply,) = client.finish(stream)
        assert reply.status == RESOURCE_EXHAUSTED
        assert reply.text == f"a message of {size} bytes; the limit is {64 * MIB}"
        assert client.unary(MODEL_INFER, small_request().SerializeToString()).status == 0


def test_the_limit_is_that_of_bodies(serve: ServerFactory) -> None:
    server = serve({"identity_uint8": models.identity("UINT8")}, config='[limits]\nmax_body_size = "1MiB"\n')
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(bytes_request(MIB), timeout=TIMEOUT_S)
        with refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "the limit is 1048576"):
            stub.ModelInfer(bytes_request(MIB + 1), timeout=TIMEOUT_S)
    for coding in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.url, options=options, compression=coding) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ModelInfer(bytes_request(MIB), timeout=TIMEOUT_S)
            with refusal(grpc.StatusCode.RESOURCE_EXHAUSTED):
                stub.ModelInfer(bytes_request(MIB + 1), timeout=TIMEOUT_S)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_bombs(own: Server, coding: str) -> None:
    """Some 250 kB that would be 256 MB: at most the limit is ever held."""
    zeros = b"\0" * (256 * 10**6)
    bomb = gzip.compress(zeros, 9) if coding == "gzip" else zlib.compress(zeros, 9)
    del zeros
    with survives(own), H2Client(own.address) as client:
        for path in (MODEL_INFER, STREAM_INFER, "/inference.GRPCInferenceService/ServerLive"):
            stream = client.head(path, [("grpc-encoding", coding)])
            client.data(stream, with_prefix(bomb, compressed=True), end=True)
            (reply,) = client.finish(stream)
            assert reply.status == RESOURCE_EXHAUSTED, reply
        assert client.unary(MODEL_INFER, small_request().SerializeToString()).status == 0


def test_many_announced_messages(own: Server) -> None:
    """The sum of what one connection announces has a limit, too, and announcing costs no memory."""
    with survives(own), H2Client(own.address) as client:
        before = own.vitals().resident_bytes
        streams = [client.head(MODEL_INFER) for _ in range(100)]
        for stream in streams:
            client.data(stream, with_prefix(b"\0", length=60 * MIB))
        client.flush()
        client.wait(lambda: sum(client.replies[stream].over for stream in streams) >= 96)
        refused = [client.replies[stream] for stream in streams if client.replies[stream].over]
        assert {reply.status for reply in refused} == {RESOURCE_EXHAUSTED}
        assert own.vitals().resident_bytes - before < 32 * MIB
        assert client.unary(MODEL_INFER, small_request().SerializeToString()).status == 0


# --- clients that do not read


def push(client: H2Client, path: str, message: bytes, count: int, seconds: float) -> int:
    """Sends as many calls as the server's windows take; how many that were."""
    data = with_prefix(message)
    stop = time.monotonic() + seconds
    client.socket.settimeout(0.2)
    begun = 0
    while begun < count and time.monotonic() < stop:
        room = client.connection.outbound_flow_control_window
        if room < len(data) or client.connection.open_outbound_streams >= 1000:
            try:
                client.read()
            except TimeoutError:
                break  # the windows stay closed
            continue
        stream = client.head(path)
        client.data(stream, data, end=True)
        try:
            client.flush()
        except TimeoutError:
            break
        begun += 1
    return begun


@pytest.mark.parametrize("acknowledges", [False, True], ids=["window closed", "window of one"])
def test_answers_that_nobody_takes(own: Server, acknowledges: bool) -> None:
    """200 large answers, 120 MB, of which the client's windows take none or a byte each."""
    array = sample("FP32", (1, 150528))
    message = infer_request("identity_large", {"INPUT0": ("FP32", array)}).SerializeToString()
    with survives(own):
        before = own.vitals().resident_bytes
        with H2Client(own.address, window=int(acknowledges), acknowledges=False) as client:
            begun = push(client, MODEL_INFER, message, 200, seconds=3)
            assert begun >= 10
            assert own.vitals().resident_bytes - before < 64 * MIB
            with channel_to(own.url) as channel:  # others are served meanwhile
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                request = infer_request("identity_large", {"INPUT0": ("FP32", array)})
                assert_same(outputs_of(stub.ModelInfer(request, timeout=TIMEOUT_S))["OUTPUT0"], array)


def test_a_stream_of_answers_that_nobody_takes(own: Server) -> None:
    array = sample("FP32", (1, 150528))
    message = with_prefix(infer_request("identity_large", {"INPUT0": ("FP32", array)}).SerializeToString())
    with survives(own):
        before = own.vitals().resident_bytes
        with H2Client(own.address, window=0, acknowledges=False) as client:
            stream = client.head(STREAM_INFER)
            client.socket.settimeout(0.5)
            try:
                for _ in range(400):
                    client.data(stream, message)
                    client.flush()
            except TimeoutError:
                pass
            else:
                raise AssertionError("the server's windows did not close")
            assert own.vitals().resident_bytes - before < 64 * MIB
            own.assert_live()
            # The client wakes up: everything that was taken in is answered, in order.
            client.acknowledges = True
            client.socket.settimeout(20)
            client.connection.update_settings({4: 1 << 24})
            client.connection.increment_flow_control_window(1 << 30)
            reply = client.replies[stream]
            client.flush()
            client.wait(lambda: len(reply.data) > 5 * len(message))
            own.assert_live()


def test_a_socket_that_nobody_reads(own: Server) -> None:
    """Windows wide open, but not a byte is taken from the socket once the greeting is done."""
    array = sample("FP32", (1, 150528))
    message = with_prefix(infer_request("identity_large", {"INPUT0": ("FP32", array)}).SerializeToString())
    with survives(own):
        before = own.vitals().resident_bytes
        with H2Client(own.address, window=(1 << 31) - 1) as client:
            client.wait(lambda: client.connection.outbound_flow_control_window >= 16 * MIB)
            assert client.connection.remote_settings.initial_window_size >= MIB
            client.socket.settimeout(1)
            sent = 0
            # What the connection's window takes without being given back.
            while client.connection.outbound_flow_control_window >= len(message):
                stream = client.head(MODEL_INFER)
                client.data(stream, message, end=True)
                try:
                    client.flush()
                except TimeoutError:
                    break
                sent += 1
            assert sent >= 5
            own.assert_live()
            assert own.vitals().resident_bytes - before < 64 * MIB
