"""10,000 mutated messages and 10,000 mutated connections against a live server, which is the same process
afterwards and answers correctly. Seeded: a failure names the case that caused it."""

from __future__ import annotations

import random
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from tritonclient.grpc import service_pb2

from integration.grpc_calls import (
    MODEL_INFER,
    PREDICT,
    STREAM_INFER,
    assert_small_answer,
    assert_text_tells_nothing,
    infer_request,
    small_request,
)
from integration.h2_client import H2Client, call_fields, with_prefix
from integration.hostile import survives
from integration.server_process import Server
from integration.slim_tensorflow import stock_module
from integration.tensors import sample

SEED = 30250
MESSAGES = 10_000
CONNECTIONS = 10_000
AT_ONCE = 100
WORKERS = 2

#: Every status that a client's bytes may cause; INTERNAL and UNKNOWN are not among them.
EXPECTED = {0, 3, 5, 8, 9, 12}

READY = "/inference.GRPCInferenceService/ModelReady"
TOKENS = [
    b"\0",
    b"\xff",
    b"\xff" * 9 + b"\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"INPUT0",
    b"OUTPUT0",
    b"BYTES",
    b"\xc3\x28",
    b"classification",
    b"sequence_id",
    b"timeout",
]


def predict_message(content: bool) -> bytes:
    request = stock_module("predict_pb2").PredictRequest()
    request.model_spec.name = "identity_fp32"
    request.model_spec.signature_name = "serving_default"
    request.output_filter.append("OUTPUT0")
    tensor = request.inputs["INPUT0"]
    tensor.dtype = 1
    for size in (2, 2):
        tensor.tensor_shape.dim.add(size=size)
    if content:
        tensor.tensor_content = np.arange(4, dtype=np.float32).tobytes()
    else:
        tensor.float_val.extend([1.5, -2.0, 3e2])
    message: bytes = request.SerializeToString()
    return message


def corpus() -> list[tuple[str, bytes]]:
    """Valid calls."""
    rich = small_request(id="x", model_version="1", outputs=["OUTPUT0"])
    rich.parameters["priority"].uint64_param = 1
    rich.parameters["timeout"].int64_param = 5_000_000
    rich.parameters["custom"].string_param = "y"
    rich.outputs[0].parameters["classification"].int64_param = 2
    rich.inputs[0].parameters["anything"].double_param = 0.5
    words = {"INPUT0": ("BYTES", sample("BYTES", (2, 3)))}
    pair = {"INPUT0": ("FP32", sample("FP32", (1, 4))), "INPUT1": ("BYTES", sample("BYTES", (1, 2)))}
    requests = [
        small_request(),
        rich,
        infer_request("identity_bytes", words),
        infer_request("identity_bytes", words, typed=True),
        infer_request("identity_pair", pair),
        infer_request("identity_pair", pair, typed=True),
        infer_request("identity_fp16", {"INPUT0": ("FP16", sample("FP16", (2, 2)))}),
        *(
            infer_request(f"identity_{kind.lower()}", {"INPUT0": (kind, sample(kind, (2, 2)))}, typed=True)
            for kind in ("BOOL", "INT8", "INT64", "UINT32", "UINT64", "FP64")
        ),
    ]
    return [
        *((MODEL_INFER, request.SerializeToString()) for request in requests),
        (PREDICT, predict_message(content=False)),
        (PREDICT, predict_message(content=True)),
        (PREDICT, predict_message(content=False)),
        (PREDICT, predict_message(content=True)),
        (READY, service_pb2.ModelReadyRequest(name="tiny", version="1").SerializeToString()),
    ]


def mutated(random_: random.Random, data: bytes, others: list[bytes], least: int = 0) -> bytes:
    """One to eight changes behind the first ``least`` bytes: bits and bytes changed, removed, repeated,
    inserted, or the tail of another."""
    out = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 8))):
        if len(out) <= least:
            break
        at = random_.randrange(least, len(out))
        end = min(len(out), at + random_.choice((1, 1, 2, 5, 30)))
        match random_.randrange(8):
            case 0:
                out[at] ^= 1 << random_.randrange(8)
            case 1:
                out[at] = random_.randrange(256)
            case 2:
                out[at] = (out[at] + random_.choice((-1, 1))) % 256
            case 3:
                del out[at:end]
            case 4:
                out[at:at] = out[at:end] * random_.choice((1, 3, 50))
            case 5:
                out[at:at] = random_.choice(TOKENS)
            case 6:
                out[at:end] = random_.choice(TOKENS)
            case _:
                other = random_.choice(others)
                out[at:] = other[random_.randrange(len(other)) :]
    return bytes(out)


def assert_right(server: Server) -> None:
    with H2Client(server.address) as client:
        reply = client.unary(MODEL_INFER, small_request(7.0).SerializeToString())
        assert_small_answer(service_pb2.ModelInferResponse.FromString(reply.messages[0]), 7.0)
        reply = client.unary(PREDICT, predict_message(content=False))
        answer = stock_module("predict_pb2").PredictResponse.FromString(reply.messages[0])
        assert list(answer.outputs["OUTPUT0"].float_val) == [1.5, -2.0, 300.0, 300.0]


def test_the_corpus_is_valid(server: Server) -> None:
    with H2Client(server.address) as client:
        for path, message in corpus():
            reply = client.unary(path, message)
            assert reply.status == 0, (message, reply)


def test_mutated_messages(server: Server) -> None:
    calls = corpus()
    others = [message for _, message in calls]
    pid = server.pid

    def hammer(worker: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        numbers = list(range(worker, MESSAGES, WORKERS))
        with H2Client(server.address) as client:
            for first in range(0, len(numbers), AT_ONCE):
                sent = []
                for number in numbers[first : first + AT_ONCE]:
                    random_ = random.Random(SEED * MESSAGES + number)
                    path, message = random_.choice(calls)
                    data = mutated(random_, message, others)
                    if random_.randrange(4) == 0 and path == MODEL_INFER:
                        path = STREAM_INFER
                    sent.append((number, path, data, client.begin(path, data)))
                replies = client.finish(*(stream for *_, stream in sent))
                for (number, path, data, _), reply in zip(sent, replies, strict=True):
                    assert reply.status in EXPECTED, f"message {number}: {reply}: {path} {data!r}"
                    assert_text_tells_nothing(reply.text)
                    if reply.status == 0:
                        assert len(reply.messages) == 1, f"message {number}: {reply}: {path} {data!r}"
                    if path == STREAM_INFER and reply.status == 0:
                        answer = service_pb2.ModelStreamInferResponse.FromString(reply.messages[0])
                        assert_text_tells_nothing(answer.error_message)
                        seen[3 if answer.error_message else 0] += 1
                    else:
                        assert reply.status is not None
                        seen[reply.status] += 1
        return seen

    statuses: Counter[int] = Counter()
    with survives(server):
        with ThreadPoolExecutor(WORKERS) as workers:
            for seen in workers.map(hammer, range(WORKERS)):
                statuses += seen
        assert (server.pid, server.process.poll()) == (pid, None)
    # Mutation left some messages good and broke many: both kinds were really answered.
    assert statuses[0] > MESSAGES // 50, statuses
    assert statuses[3] > MESSAGES // 10, statuses
    assert_right(server)


# --- connections


def recordings() -> list[bytes]:
    """What clients say on whole connections."""

    def recorded(*calls: tuple[str, bytes], cut: int = 0, **extra: str) -> bytes:
        connection = H2Connection(H2Configuration(client_side=True))
        connection.initiate_connection()
        connection.increment_flow_control_window(1 << 20)
        for number, (path, payload) in enumerate(calls):
            stream = connection.get_next_available_stream_id()
            fields = [
                *call_fields(path),
                ("grpc-accept-encoding", "identity, deflate, gzip"),
                *((name.replace("_", "-"), value) for name, value in extra.items()),
            ]
            connection.send_headers(stream, fields)
            if cut:
                connection.send_data(stream, payload[:cut], pad_length=number)
                connection.ping(b"12345678")
                payload = payload[cut:]
            connection.send_data(stream, payload, end_stream=True)
            if number % 3 == 2:
                connection.reset_stream(stream)
        return bytes(connection.data_to_send())

    small = with_prefix(small_request().SerializeToString())
    predict = with_prefix(predict_message(content=False))
    return [
        recorded((MODEL_INFER, small)),
        recorded((MODEL_INFER, small), (PREDICT, predict), (READY, small), (MODEL_INFER, small)),
        recorded((STREAM_INFER, small * 5), (STREAM_INFER, small), cut=30),
        recorded((MODEL_INFER, small), (PREDICT, predict), cut=7, grpc_timeout="5S", x_more="y" * 300),
        recorded((MODEL_INFER, small), grpc_encoding="gzip"),
        recorded((READY, small), ("/grpc.health.v1.Health/Watch", with_prefix(b"")), ("/x/y", small)),
    ]


def test_mutated_connections(server: Server) -> None:
    streams = recordings()
    pid = server.pid
    greeting = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

    def hammer(worker: int) -> int:
        answered = 0
        for number in range(worker, CONNECTIONS, WORKERS):
            random_ = random.Random(SEED * MESSAGES - number - 1)
            # Mostly behind the preface, which would be all that is looked at otherwise.
            least = greeting if random_.randrange(20) else 0
            data = mutated(random_, random_.choice(streams), streams, least)
            with socket.create_connection(server.address, 15) as connection:
                try:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    received = bytearray()
                    while piece := connection.recv(1 << 16):
                        received += piece
                except TimeoutError as error:
                    raise AssertionError(f"connection {number}: {data!r}") from error
                except OSError:
                    continue  # reset by the server, which has heard enough
            answered += b"INPUT0" in received or b"OUTPUT0" in received
        return answered

    with survives(server):
        with ThreadPoolExecutor(WORKERS) as workers:
            answered = sum(workers.map(hammer, range(WORKERS)))
        assert (server.pid, server.process.poll()) == (pid, None)
    assert answered > CONNECTIONS // 20
    assert_right(server)


@pytest.mark.parametrize("number", range(6))
def test_every_cut_of_a_connection(server: Server, number: int) -> None:
    """Each recording, ended behind each of its bytes."""
    data = recordings()[number]
    with survives(server):
        for cut in range(1, len(data), 1 + len(data) // 150):
            with socket.create_connection(server.address, 15) as connection:
                connection.sendall(data[:cut])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
    assert_right(server)
