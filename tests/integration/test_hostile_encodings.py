"""Hostile encodings: bombs, truncation, nesting, names of codings that nobody reads."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from integration.hostile import (
    INFER,
    PREDICT,
    assert_refused,
    assert_tells_nothing,
    tensor,
)
from integration.raw_http import exchange
from integration.server_process import Server

pytestmark = pytest.mark.usefixtures("hostile_conditions")


ZEROS = 200 << 20


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """About 200 KB each, 200 MB inflated."""
    zlib_bomb = zlib.compressobj(9)
    gzip_bomb = zlib.compressobj(9, wbits=31)
    block = b"\0" * (8 << 20)
    wrapped = {"deflate": b"", "gzip": b""}
    for _ in range(ZEROS // len(block)):
        wrapped["deflate"] += zlib_bomb.compress(block)
        wrapped["gzip"] += gzip_bomb.compress(block)
    return {"deflate": wrapped["deflate"] + zlib_bomb.flush(), "gzip": wrapped["gzip"] + gzip_bomb.flush()}


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("route", [INFER, PREDICT])
def test_compression_bombs(server: Server, bombs: dict[str, bytes], route: str, coding: str) -> None:
    assert_refused(server.post(route, bombs[coding], {"Content-Encoding": coding}), 413)
    members = b"".join([gzip.compress(b" " * (1 << 20))] * 100)
    assert_refused(server.post(route, members, {"Content-Encoding": "gzip"}), 400, 413)


@pytest.mark.parametrize("route", [INFER, PREDICT])
def test_undecodable_bodies(server: Server, route: str) -> None:
    good = json.dumps({"inputs": [tensor()]} if route == INFER else {"instances": [[1.0]]}).encode()
    packed = gzip.compress(good)
    for coding, body in (
        ("gzip", packed[:-9]),
        ("gzip", packed[: len(packed) // 2]),
        ("gzip", packed[:10]),
        ("gzip", b""),
        ("gzip", b"\x1f\x8b\x08garbage"),
        ("gzip", packed[:-8] + b"\0" * 8),
        ("gzip", packed + b"garbage"),
        ("gzip", gzip.compress(packed)),
        ("deflate", zlib.compress(good)[:-5]),
        ("deflate", b"garbage"),
        ("gzip", good),
        ("deflate", good),
    ):
        assert_refused(server.post(route, body, {"Content-Encoding": coding}))
    assert server.post(route, packed, {"Content-Encoding": "gzip"}).status == 200
    assert server.post(route, packed, {"Content-Encoding": "GZIP"}).status == 200
    assert server.post(route, zlib.compress(good), {"Content-Encoding": "deflate"}).status == 200
    assert server.post(route, good, {"Content-Encoding": "identity"}).status == 200


@pytest.mark.parametrize(
    "coding", ["br", "gzip, gzip", "zstd", "compress", "x", "gzip;q=1", "identity, gzip"]
)
@pytest.mark.parametrize("route", [INFER, PREDICT])
def test_unsupported_encodings(server: Server, route: str, coding: str) -> None:
    answer = server.post(route, b"x", {"Content-Encoding": coding})
    assert_refused(answer, 415)
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_two_content_encoding_headers(server: Server) -> None:
    body = gzip.compress(gzip.compress(json.dumps({"inputs": [tensor()]}).encode()))
    head = b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n" % (INFER.encode(), len(body))
    (answer,) = exchange(server.address, head + b"Content-Encoding: gzip\r\n" * 2 + b"\r\n" + body)
    assert_refused(answer, 400, 415)


@pytest.mark.parametrize("route", ["/v2/repository/index", "/v2/repository/models/tiny/load"])
def test_control_calls_do_not_read_encoded_bodies_as_if_they_were_not(server: Server, route: str) -> None:
    answer = server.post(route, gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    assert answer.status in {200, 400, 415, 503}, answer
    assert_tells_nothing(answer)
