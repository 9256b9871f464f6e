"""Messages over gRPC that are no protobuf, no gzip or no gRPC at all, under the conditions of hostile.py."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import grpc
import pytest

from integration.grpc_calls import (
    CODES,
    INTERNAL,
    INVALID_ARGUMENT,
    MODEL_INFER,
    NOT_FOUND,
    OK,
    PREDICT,
    RESOURCE_EXHAUSTED,
    STREAM_INFER,
    UNIMPLEMENTED,
    asked,
    assert_text_tells_nothing,
    channel_with_neighbours,
    field,
    small_request,
)
from integration.h2_client import H2Client, with_prefix
from integration.server_process import Server

pytestmark = pytest.mark.usefixtures("hostile_conditions")


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_with_neighbours(server.url) as channel:
        yield channel


# --- protobuf that is none (case 39)


def _nested_groups(depth: int, *, closed: bool) -> bytes:
    return b"\xa3\x06" * depth + (b"\xa4\x06" * depth if closed else b"")


PROTOBUF: dict[str, tuple[bytes, set[int]]] = {
    "10 MB of unknown fields": (field(1000, b"x") * (10**7 // 5), {OK}),
    "one unknown field of 10 MB": (field(1000, b"x" * 10**7), {OK}),
    "nested groups": (_nested_groups(1_000_000, closed=True), {OK, INVALID_ARGUMENT}),
    "open groups": (_nested_groups(1_000_000, closed=False), {INVALID_ARGUMENT}),
    "the end of no group": (b"\xa4\x06", {INVALID_ARGUMENT}),
    "nested messages": (b"\x2a\xff\xff\xff\x7f" * 1000, {INVALID_ARGUMENT}),
    "a varint without an end": (b"\x08" + b"\xff" * 100, {INVALID_ARGUMENT}),
    "a truncated varint": (b"\x08\xff", {INVALID_ARGUMENT}),
    "a truncated tag": (b"\xff", {INVALID_ARGUMENT}),
    "field zero": (b"\x00\x00", {INVALID_ARGUMENT}),
    # Read by its lower 32 bits, as an unknown field.
    "a field number above the largest": (b"\xf8\xff\xff\xff\xff\x7f\x00", {OK, INVALID_ARGUMENT}),
    "wire type six": (b"\x0e\x00", {INVALID_ARGUMENT}),
    "wire type seven": (b"\x0f\x00", {INVALID_ARGUMENT}),
    "a length beyond the end": (b"\x3a\xff\xff\xff\xff\x0f", {INVALID_ARGUMENT}),
    "a length of 64 bits": (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", {INVALID_ARGUMENT}),
    "truncated fixed bytes": (b"\x0d\x00\x00", {INVALID_ARGUMENT}),
    "a known field of another wire type": (b"\x08\x01", {OK, INVALID_ARGUMENT}),
}


@pytest.mark.parametrize("what", PROTOBUF)
@pytest.mark.parametrize("path", [MODEL_INFER, PREDICT])
def test_protobuf(channel: grpc.Channel, path: str, what: str) -> None:
    """Behind a message that is right in itself, and before it."""
    if path == MODEL_INFER:
        good = small_request().SerializeToString()
    else:
        tensor = b"\x08\x01" + field(2, field(2, b"\x08\x02")) + field(5, b"\0" * 8)
        good = field(1, field(1, b"half_plus_two")) + field(2, field(1, b"x") + field(2, tensor))
    assert asked(channel, path, good)[0] == OK
    bad, statuses = PROTOBUF[what]
    for message in (good + bad, bad + good):
        status, text = asked(channel, path, message)
        if message.startswith(bad) and statuses != {OK}:
            # What it swallows of the good part may make it whole.
            assert status in statuses | {OK, NOT_FOUND}, (CODES[status], text)
        else:
            assert status in statuses, (CODES[status], text)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 30, 60])
@pytest.mark.parametrize("path", [MODEL_INFER, PREDICT, "/inference.GRPCInferenceService/ModelReady"])
def test_truncated_messages(channel: grpc.Channel, path: str, size: int) -> None:
    message = small_request(id="x" * 100).SerializeToString()[:size]
    assert asked(channel, path, message)[0] in {INVALID_ARGUMENT, NOT_FOUND}


# --- framing (case 38)


def framed(server: Server, path: str, data: bytes, coding: str = "") -> tuple[int | None, str]:
    with H2Client(server.address) as client:
        stream = client.head(path, [("grpc-encoding", coding)] if coding else [])
        client.data(stream, data, end=True)
        (reply,) = client.finish(stream)
        assert_text_tells_nothing(reply.text)
        return reply.status, reply.text


@pytest.mark.parametrize("path", [MODEL_INFER, STREAM_INFER, "/grpc.health.v1.Health/Check"])
def test_encodings(server: Server, path: str) -> None:
    message = small_request().SerializeToString() if path == MODEL_INFER else b""
    zipped = gzip.compress(message)
    for coding in ("br", "snappy", "gzip, gzip", "x" * 1000):
        assert framed(server, path, with_prefix(message), coding)[0] == UNIMPLEMENTED
    # A flag that promises what no header names, and flags that nobody knows.
    assert framed(server, path, with_prefix(zipped, compressed=True))[0] == INTERNAL
    assert framed(server, path, with_prefix(zipped, compressed=True), "identity")[0] == INTERNAL
    for flags in (2, 3, 0x80, 0xFF):
        assert framed(server, path, bytes([flags]) + with_prefix(message)[1:])[0] == INTERNAL
    # The header without the flag is a message that is not compressed.
    assert framed(server, path, with_prefix(message), "gzip")[0] == OK


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_undecodable_messages(server: Server, coding: str) -> None:
    message = small_request().SerializeToString()
    whole = gzip.compress(message) if coding == "gzip" else zlib.compress(message)
    assert framed(server, MODEL_INFER, with_prefix(whole, compressed=True), coding)[0] == OK
    for bad in (
        b"",
        b"x",
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"garbage",
        message,
        whole[:10] + b"\xff" * 20,
    ):
        status, _ = framed(server, MODEL_INFER, with_prefix(bad, compressed=True), coding)
        assert status in {INVALID_ARGUMENT, INTERNAL}, (coding, bad)


def test_metadata(server: Server) -> None:
    """Much of it, strange values, and the protocol's own twice."""
    good = small_request().SerializeToString()
    with H2Client(server.address) as client:
        assert client.unary(MODEL_INFER, good, [("traceparent", "x"), ("priority", "-1")]).status == OK
        assert client.unary(MODEL_INFER, good, [("baggage", "k=v," * 2000)]).status == OK
        for fields in ([("baggage", "x" * 20_000)], [(f"x-{i}", "y" * 20) for i in range(400)]):
            reply = client.unary(MODEL_INFER, good, fields)
            assert reply.status == RESOURCE_EXHAUSTED, reply
        assert client.unary(MODEL_INFER, good).status == OK
    for fields in ([("grpc-timeout", "1S"), ("grpc-timeout", "2S")], [("x-bin", "***"), ("x-bin", "")]):
        with H2Client(server.address) as client:
            assert client.unary(MODEL_INFER, good, fields).status in {OK, INVALID_ARGUMENT}
