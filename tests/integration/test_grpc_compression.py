"""Compressed answers over gRPC: asked for by the operator, agreed on with the client."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, service_pb2

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import (
    MODEL_INFER,
    STREAM_INFER,
    TIMEOUT_S,
    channel_to,
    infer_request,
    outputs_of,
    small_request,
)
from integration.server_process import Server

ROWS = np.tile(np.arange(512, dtype=np.float32), (64, 1))


def answer_bytes(server: Server) -> float:
    """What the server sends for one answer of ROWS."""
    with channel_to(server.url) as channel:
        infer = channel.unary_unary(
            MODEL_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        request = infer_request("identity_fp32", {"INPUT0": ("FP32", ROWS)})
        infer(request, timeout=TIMEOUT_S)
        before = server.metric("servolley_sent_bytes_total")
        between = server.metric("servolley_sent_bytes_total")
        (answer,) = outputs_of(infer(request, timeout=TIMEOUT_S)).values()
        assert np.array_equal(answer, ROWS)
        after = server.metric("servolley_sent_bytes_total")
        return (after - between) - (between - before)  # less the page itself


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_both_ways(serve: ServerFactory, compression: grpc.Compression) -> None:
    server = serve({"identity_fp32": models.identity()}, "--grpc-compression", "medium")
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.url, options=options, compression=compression) as channel:
        infer = channel.unary_unary(
            MODEL_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        request = infer_request("identity_fp32", {"INPUT0": ("FP32", ROWS)})
        received = server.metric("servolley_received_bytes_total")
        (answer,) = outputs_of(infer(request, timeout=TIMEOUT_S)).values()
        assert np.array_equal(answer, ROWS)
        assert server.metric("servolley_received_bytes_total") - received < ROWS.nbytes / 2
        stream = channel.stream_stream(
            STREAM_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        small = small_request()
        small.model_name = "identity_fp32"
        answers = list(stream(iter([small, request, small, request]), timeout=TIMEOUT_S))
        assert [len(outputs_of(a.infer_response)) for a in answers] == [1, 1, 1, 1]
        assert np.array_equal(outputs_of(answers[3].infer_response)["OUTPUT0"], ROWS)


def test_levels(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "levels", {"identity_fp32": models.identity()})
    plain = answer_bytes(serve(root))
    assert plain > ROWS.nbytes
    sizes = [answer_bytes(serve(root, "--grpc-compression", level)) for level in ("low", "high")]
    assert sizes[0] < plain / 10
    assert sizes[1] <= sizes[0]


def test_tritons_flag(serve: ServerFactory) -> None:
    server = serve({"identity_fp32": models.identity()}, "--grpc-infer-response-compression-level", "low")
    assert answer_bytes(server) < ROWS.nbytes / 10
    with InferenceServerClient(server.url) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("identity_fp32").name == "identity_fp32"
