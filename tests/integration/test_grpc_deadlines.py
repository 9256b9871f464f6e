"""Time and disappearance: grpc-timeout, cancelled and abandoned calls, and what is then not run."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

import models
from integration.grpc_calls import (
    MODEL_INFER,
    PREDICT,
    TIMEOUT_S,
    assert_small_answer,
    channel_to,
    infer_request,
    refusal,
    small_request,
)
from integration.h2_client import H2Client, with_prefix
from integration.hostile import survives
from integration.server_process import Server, wait_until

DEADLINE_EXCEEDED = 4
INVALID_ARGUMENT = 3
LIVE = "/inference.GRPCInferenceService/ServerLive"
WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture(scope="module")
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``slow`` runs one request at a time; whatever else is asked of it waits."""
    root = models.save_repository(
        tmp_path_factory.mktemp("deadlines"), {"slow": models.slow(), "identity_fp32": models.identity()}
    )
    (root / "slow" / "model.toml").write_text(
        '[batching]\nmax_batch_size = 0\n[runtime]\nexecution = "threads"\ninstances = 1\n'
    )
    with Server(root) as server:
        yield server.wait_ready()
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log


def slow_row(**fields: Any) -> Any:
    return infer_request("slow", {"INPUT0": ("FP32", np.full((1, 512), 0.5, np.float32))}, **fields)


def executions(server: Server) -> int:
    return int(server.statistics("slow")["execution_count"])


def pending(server: Server) -> int:
    return int(server.metric("nv_inference_pending_request_count", model="slow"))


def failures(server: Server, reason: str) -> float:
    return server.metric("nv_inference_request_failure", model="slow", reason=reason)


@pytest.fixture
def stub(one_at_a_time: Server) -> Iterator[Any]:
    with channel_to(one_at_a_time.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


# --- deadlines


def test_who_waits_too_long_is_refused_and_never_runs(one_at_a_time: Server) -> None:
    server = one_at_a_time
    before = executions(server)
    message = slow_row().SerializeToString()
    with H2Client(server.address) as client:
        patient = [client.begin(MODEL_INFER, message) for _ in range(3)]
        hasty = [client.begin(MODEL_INFER, message, [("grpc-timeout", "20m")]) for _ in range(20)]
        replies = client.finish(*patient, *hasty)
    assert [reply.status for reply in replies] == [0] * 3 + [DEADLINE_EXCEEDED] * 20
    assert {reply.text for reply in replies[3:]} == {"Request timeout expired"}
    assert executions(server) - before == 3


def test_the_requests_own_timeout(stub: Any, one_at_a_time: Server) -> None:
    """The ``timeout`` parameter is in microseconds, and of two limits the earlier counts."""
    before = executions(one_at_a_time)
    patient = [stub.ModelInfer.future(slow_row(), timeout=TIMEOUT_S) for _ in range(3)]
    wait_until(lambda: pending(one_at_a_time) >= 2, 5, "two wait")
    hasty = slow_row()
    hasty.parameters["timeout"].int64_param = 10_000
    with refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "Request timeout expired"):
        stub.ModelInfer(hasty, timeout=TIMEOUT_S)
    for call in patient:
        call.result()
    assert executions(one_at_a_time) - before == 3


@pytest.mark.parametrize("timeout", ["0S", "0n", "1n", "999n", "0H"])
@pytest.mark.parametrize("path", [MODEL_INFER, PREDICT, LIVE, WATCH])
def test_a_deadline_that_has_passed(one_at_a_time: Server, timeout: str, path: str) -> None:
    """The request is not even looked at; on the hot calls it is, but it does not run."""
    message = {MODEL_INFER: slow_row().SerializeToString(), PREDICT: _predict_message()}.get(path, b"")
    before = executions(one_at_a_time)
    with H2Client(one_at_a_time.address) as client:
        reply = client.unary(path, message, [("grpc-timeout", timeout)])
    assert (reply.status, reply.messages) == (DEADLINE_EXCEEDED, [])
    assert executions(one_at_a_time) == before


def _predict_message() -> bytes:
    """One row of ``slow`` for Predict, in TensorFlow's short form: one value that repeats."""

    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2, len(payload)]) + payload

    shape = field(2, b"\x08\x01") + field(2, b"\x08\x80\x04")  # [1, 512]
    tensor = b"\x08\x01" + field(2, shape) + field(5, struct.pack("<f", 0.5))
    return field(1, field(1, b"slow")) + field(2, field(1, b"INPUT0") + field(2, tensor))


def test_the_predict_message_is_good(one_at_a_time: Server) -> None:
    before = executions(one_at_a_time)
    with H2Client(one_at_a_time.address) as client:
        assert client.unary(PREDICT, _predict_message()).status == 0
        late = [client.begin(PREDICT, _predict_message(), [("grpc-timeout", "20m")]) for _ in range(8)]
        statuses = [reply.status for reply in client.finish(*late)]
    assert statuses.count(DEADLINE_EXCEEDED) >= 6
    assert executions(one_at_a_time) - before == 1 + statuses.count(0) <= 3


@pytest.mark.parametrize("timeout", ["", "S", "1", "-1S", "1.5S", "1s", "1 S", "123456789S", "S1", "\u0661S"])
def test_malformed_timeouts(one_at_a_time: Server, timeout: str) -> None:
    with H2Client(one_at_a_time.address) as client:
        for path in (MODEL_INFER, LIVE):
            reply = client.unary(path, b"", [("grpc-timeout", timeout)])
            assert (reply.status, reply.text) == (INVALID_ARGUMENT, "malformed grpc-timeout")


@pytest.mark.parametrize("timeout", ["99999999H", "99999999S", "1H"])
def test_long_timeouts(one_at_a_time: Server, timeout: str) -> None:
    with H2Client(one_at_a_time.address) as client:
        fields = [("grpc-timeout", timeout)]
        assert client.unary(MODEL_INFER, small_request().SerializeToString(), fields).status == 0
        assert client.unary(LIVE, b"", fields).messages == [b"\x08\x01"]


def test_a_call_whose_message_does_not_come(one_at_a_time: Server) -> None:
    with H2Client(one_at_a_time.address) as client:
        calls = [client.head(path, [("grpc-timeout", "100m")]) for path in (MODEL_INFER, PREDICT, LIVE)]
        partial = client.head(MODEL_INFER, [("grpc-timeout", "100m")])
        client.data(partial, with_prefix(small_request().SerializeToString())[:-1])
        for reply in client.finish(*calls, partial):
            assert reply.status == DEADLINE_EXCEEDED
        assert client.unary(LIVE, b"").status == 0


def test_the_deadline_of_a_watch(one_at_a_time: Server) -> None:
    request = health_pb2.HealthCheckRequest(service="slow")
    with H2Client(one_at_a_time.address) as client:
        reply = client.unary(WATCH, request.SerializeToString(), [("grpc-timeout", "150m")])
        assert (reply.status, len(reply.messages)) == (DEADLINE_EXCEEDED, 1)
    with channel_to(one_at_a_time.url) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=0.1)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with refusal(grpc.StatusCode.DEADLINE_EXCEEDED):
            next(watch)


# --- cancellation and connection loss


def test_cancelled_calls_never_run(stub: Any, one_at_a_time: Server) -> None:
    server = one_at_a_time
    before, cancelled = executions(server), failures(server, "CANCELED")
    first = stub.ModelInfer.future(slow_row(), timeout=TIMEOUT_S)
    others = [stub.ModelInfer.future(slow_row(), timeout=TIMEOUT_S) for _ in range(20)]
    wait_until(lambda: pending(server) >= 19, 5, "the others wait")
    for call in others:
        call.cancel()
    wait_until(lambda: failures(server, "CANCELED") - cancelled >= 18, 5, "the others are cancelled")
    first.result()
    wait_until(lambda: pending(server) == 0, 5, "the queue is empty")
    assert executions(server) - before <= 3


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_lost_connection_cancels_its_calls(one_at_a_time: Server, how: str) -> None:
    server = one_at_a_time
    before, cancelled = executions(server), failures(server, "CANCELED")
    client = H2Client(server.address)
    for _ in range(20):
        client.begin(MODEL_INFER, slow_row().SerializeToString())
    client.flush()
    wait_until(lambda: pending(server) >= 18, 5, "they wait")
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    wait_until(lambda: failures(server, "CANCELED") - cancelled >= 18, 5, "they are cancelled")
    wait_until(lambda: pending(server) == 0, 5, "the queue is empty")
    assert executions(server) - before <= 3


def test_a_connection_lost_in_mid_message(one_at_a_time: Server) -> None:
    """Announced and half sent: its memory comes back, also that of 16 MB messages."""
    server = one_at_a_time
    whole = with_prefix(small_request().SerializeToString())
    large = with_prefix(b"\0" * 100, length=16 << 20)
    with survives(server):
        for i in range(60):
            client = H2Client(server.address)
            stream = client.head(MODEL_INFER)
            data = large if i % 4 == 0 else whole[: 1 + i * (len(whole) - 2) // 60]
            client.data(stream, data)
            client.flush()
            if i % 2:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
    with channel_to(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert_small_answer(stub.ModelInfer(small_request(), timeout=TIMEOUT_S))


def test_resets_in_mid_message_leave_the_connection_whole(one_at_a_time: Server) -> None:
    whole = with_prefix(small_request().SerializeToString())
    with survives(one_at_a_time), H2Client(one_at_a_time.address) as client:
        for i in range(200):
            stream = client.head(MODEL_INFER)
            client.data(stream, whole[: i % len(whole)] if i % 3 else with_prefix(b"", length=1 << 20))
            client.flush()
            client.reset(stream)
            client.flush()
        assert client.unary(MODEL_INFER, small_request().SerializeToString()).status == 0


# --- half-closes


def test_half_closes(one_at_a_time: Server) -> None:
    whole = with_prefix(small_request().SerializeToString())
    with H2Client(one_at_a_time.address) as client:
        # In the frame of the head, without a message.
        empty = client.head(MODEL_INFER)
        client.connection.end_stream(empty)
        # In mid message, in the prefix and behind it.
        halves = []
        for cut in (1, 4, 5, len(whole) - 1):
            halves.append(client.head(MODEL_INFER))
            client.data(halves[-1], whole[:cut], end=True)
        # Never: a unary call is answered when its message is here.
        never = client.head(MODEL_INFER)
        client.data(never, whole)
        twice = client.head(MODEL_INFER)
        client.data(twice, whole + whole, end=True)
        assert client.finish(empty)[0].status == 12
        assert [reply.status for reply in client.finish(*halves)] == [13] * 4
        (reply,) = client.finish(never)
        assert (reply.status, len(reply.messages)) == (0, 1)
        # The second message comes with or behind the answer to the first.
        assert client.finish(twice)[0].status in {0, 12}


def test_the_socket_half_closed_behind_a_call(one_at_a_time: Server) -> None:
    """As good as gone: nobody could tell the server any more that an answer has been read."""
    with survives(one_at_a_time):
        for _ in range(20):
            with H2Client(one_at_a_time.address) as client:
                client.begin(MODEL_INFER, small_request().SerializeToString())
                client.flush()
                client.socket.shutdown(socket.SHUT_WR)
                client.wait(lambda: False)  # until it is closed
                assert client.closed
