"""A server that is told to end says so for a while before its ports close."""

from __future__ import annotations

import signal
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import channel_to
from integration.raw_http import RawConnection
from integration.server_process import Server, wait_until

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICES = ["", "m", "PredictionService", "tensorflow.serving.ModelService", "inference.GRPCInferenceService"]


def leave(serve: ServerFactory, delay_s: float, number: signal.Signals = signal.SIGTERM) -> Server:
    server = serve({"m": models.half_plus_two()}, "--drain-delay", str(delay_s))
    server.signal(number)
    wait_until(lambda: server.get("/v2/health/ready").status == 503, 5, "not ready")
    return server


def assert_serves(server: Server) -> None:
    assert server.predict("m", {"instances": [1.0]}).json() == {"predictions": [2.5]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_not_ready_and_serving_then_the_drain(serve: ServerFactory, number: signal.Signals) -> None:
    began = time.monotonic()
    server = leave(serve, 2, number)
    with channel_to(server.url) as channel:  # a new connection
        health = health_pb2_grpc.HealthStub(channel)
        for service in SERVICES:
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request).status == NOT_SERVING, service
        triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert triton.ServerLive(service_pb2.ServerLiveRequest()).live
        assert not triton.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert not triton.ModelReady(service_pb2.ModelReadyRequest(name="m")).ready
    assert server.get("/v2/health/live").status == 200
    assert server.get("/v2/models/m/ready").status == 503
    assert server.get("/v2/models/nobody/ready").status != 503
    assert_serves(server)
    assert not any("draining" in line for line in server.stderr)
    assert server.wait_exit(10) == 0
    assert time.monotonic() - began > 2
    assert any("draining" in line for line in server.stderr)


def test_watchers_hear_of_it_at_once(serve: ServerFactory) -> None:
    server = serve({"m": models.half_plus_two()}, config="[limits]\ndrain_delay_s = 60")
    with channel_to(server.url) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answers = health.Watch(health_pb2.HealthCheckRequest(service="PredictionService"), timeout=30)
        assert next(answers).status == SERVING
        server.signal(signal.SIGTERM)
        assert next(answers).status == NOT_SERVING
        assert_serves(server)
        server.signal(signal.SIGINT)
        with pytest.raises(grpc.RpcError):
            next(answers)
        assert server.wait_exit(10) == 0


def test_a_second_signal_ends_the_delay(serve: ServerFactory) -> None:
    server = leave(serve, 60)
    time.sleep(1.1)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait_exit(10) == 0, server.log
    assert time.monotonic() - began < 5
    assert not any("ending at once" in line for line in server.stderr)


def test_the_same_signal_at_once_is_the_first(serve: ServerFactory) -> None:
    """timeout(1) sends it to the process and to its group."""
    server = leave(serve, 60)
    server.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert_serves(server)
    server.signal(signal.SIGINT)
    assert server.wait_exit(10) == 0, server.log


def test_without_a_delay_the_ports_close_at_once(serve: ServerFactory) -> None:
    server = serve({"m": models.half_plus_two()})
    with RawConnection(server.address) as held:
        held.send(b"GET /v2/health/live HTTP/1.1\r\n")
        server.assert_live()
        server.signal(signal.SIGTERM)
        wait_until(lambda: any("draining" in line for line in server.stderr), 5, "it drains")
        with pytest.raises(ConnectionRefusedError):
            RawConnection(server.address)


def test_who_was_never_ready_ends_at_once(serve: ServerFactory) -> None:
    server = serve({"big": models.slow(rounds=800)}, "--drain-delay", "60", wait=False)
    server.wait_listening()
    server.signal(signal.SIGTERM)
    assert server.wait_exit(30) == 0, server.log
    assert not any("serving on" in line for line in server.stderr)
