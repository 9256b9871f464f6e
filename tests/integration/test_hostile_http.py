"""Hostile HTTP: framing, smuggling, oversized heads, odd targets and verbs, clients that leave."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

import models
from integration.conftest import ServerFactory
from integration.hostile import (
    INFER,
    PREDICT,
    assert_refused,
    assert_still_right,
    assert_tells_nothing,
    first_answer_then_closed,
    survives,
    tensor,
)
from integration.raw_http import RawConnection, exchange, request
from integration.server_process import Server

pytestmark = pytest.mark.usefixtures("hostile_conditions")


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        (b"Content-Length: 5000000000\r\n", (413,)),
        (b"Content-Length: 18446744073709551616\r\n", (400, 413)),
        (b"Content-Length: -1\r\n", (400,)),
        (b"Content-Length: +5\r\n", (400,)),
        (b"Content-Length: 5a\r\n", (400,)),
        (b"Content-Length: 0x5\r\n", (400,)),
        (b"Content-Length: \r\n", (400,)),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", (400,)),
        (b"Content-Length: 5, 6\r\n", (400,)),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", (400,)),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", (400,)),
        (b"Transfer-Encoding: chunked, identity\r\n", (400,)),
        (b"Transfer-Encoding: identity\r\n", (400,)),
        (b"Transfer-Encoding: gzip, chunked\r\n", (400, 415, 501)),
        (b"Transfer-Encoding: xchunked\r\n", (400,)),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", (400,)),
        (b"Transfer-Encoding : chunked\r\n", (400,)),
        (b"Transfer-Encoding:\x0bchunked\r\n", (400,)),
        (b"X: a\r\n b\r\nContent-Length: 0\r\n", (400,)),
        (b"X: a\r\n\tb\r\nContent-Length: 0\r\n", (400,)),
        (b"X : a\r\n", (400,)),
        (b": a\r\n", (400,)),
        (b"X\r\n", (400,)),
        (b"X: a\0b\r\n", (400,)),
        (b"X: a\nY: b\r\n", (400,)),
        (b"Host: again\r\n", (400,)),
    ],
    ids=lambda value: str(value)[2:50],
)
def test_framing(server: Server, lines: bytes, statuses: tuple[int, ...]) -> None:
    """Refused and closed: what follows on the connection must not be read as a second request."""
    head = b"POST %s HTTP/1.1\r\nHost: t\r\n%s\r\n" % (PREDICT.encode(), lines)
    smuggled = b"0\r\n\r\nGET /v2/models/tiny HTTP/1.1\r\nHost: t\r\n\r\n"
    answer = first_answer_then_closed(server, head + smuggled)
    assert_refused(answer, *statuses)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\nabc\r\n0\r\n\r\n",
        b"-1\r\na\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\na",
        b"5\r\nabcdefg\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n"[:3] + b"x\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_chunk_sizes(server: Server, chunks: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" % PREDICT.encode()
    assert_refused(first_answer_then_closed(server, head + chunks), 400, 413)


def test_a_chunked_body_over_the_limit(serve: ServerFactory) -> None:
    server = serve({"identity_fp32": models.identity()}, "--max-body-size", "1MiB")
    with survives(server):
        head = b"POST %s HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" % PREDICT.encode()
        answer = first_answer_then_closed(server, head + b"10000\r\n%s\r\n" % (b" " * 0x10000) * 17)
        assert_refused(answer, 413)
        assert_refused(server.post(PREDICT, b" " * (1 << 20) + b"x"), 413)
        assert_refused(
            server.post(PREDICT, gzip.compress(b" " * (1 << 21)), {"Content-Encoding": "gzip"}), 413
        )
        good = b'{"instances":[[1.0]]}'
        assert server.post(PREDICT, good + b" " * ((1 << 20) - len(good))).status == 200


def test_a_refusal_comes_before_the_body(server: Server) -> None:
    """Nobody has to send 5 GB to learn that they are too many, nor a body that is expected in vain."""
    with RawConnection(server.address, timeout_s=5) as connection:
        connection.send(b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: 5000000000\r\n\r\n" % INFER.encode())
        assert_refused(connection.read_answer(), 413)
    with RawConnection(server.address, timeout_s=5) as connection:
        head = b"POST %s HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5000000000\r\n\r\n"
        connection.send(head % INFER.encode())
        assert_refused(connection.read_answer(), 413)


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: t\r\n\r\n", (414, 431)),
        (b"GET /" + b"a" * (1 << 20), (414, 431)),
        (b"G" * (1 << 20), (400, 414, 431)),
        (request("GET", "/v2", headers={f"X-{i}": "y" for i in range(10_000)}), (431,)),
        (request("GET", "/v2", headers={f"X-{i}": "" for i in range(101)}), (431,)),
        (request("GET", "/v2", headers={"X": "y" * (1 << 20)}), (431,)),
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\nX: " + b"y" * (1 << 20), (431,)),
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\n" + b"y" * (1 << 20), (400, 431)),
    ],
    ids=["line", "endless line", "endless method", "10000", "101", "1 MB", "endless header", "endless name"],
)
def test_oversized_heads(server: Server, data: bytes, statuses: tuple[int, ...]) -> None:
    answer = first_answer_then_closed(server, data)
    assert_refused(answer, *statuses)


def test_endless_trailers_and_chunk_extensions(server: Server) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" % PREDICT.encode()
    for rest in (
        b"0\r\n" + b"X: y\r\n" * 200_000,
        b"0\r\nX: " + b"y" * (1 << 20),
        b"1;" + b"x" * (1 << 20),
        b"1\r\na\r\n" * 70_000,
    ):
        answer = first_answer_then_closed(server, head + rest)
        assert_refused(answer, 400, 413, 431)


def test_clients_that_leave_in_the_middle(server: Server) -> None:
    body = json.dumps({"inputs": [tensor(shape=[1, 5000], data=[1.0] * 5000)]}).encode()
    whole = request("POST", INFER, body)
    for cut in (1, 10, 60, len(whole) // 2, len(whole) - 1, len(whole)):
        for end in ("reset", "close", "half"):
            connection = RawConnection(server.address)
            connection.send(whole[:cut])
            if end == "reset":
                connection.reset()
                continue
            if end == "half":
                connection.half_close()
                answers = connection.read_until_closed()
                if cut == len(whole):
                    assert [answer.status for answer in answers] == [200]
                else:
                    assert all(answer.status in {400, 408} for answer in answers)
            connection.close()
    assert_still_right(server)


def test_clients_that_leave_while_they_are_answered(server: Server) -> None:
    """Answers of 600 KB which nobody reads; the connections are reset."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "INPUT0",
                    "datatype": "FP32",
                    "shape": [1, 150528],
                    "parameters": {"binary_data_size": 602112},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    data = request(
        "POST",
        "/v2/models/identity_large/infer",
        head + b"\0" * 602112,
        {"Inference-Header-Content-Length": str(len(head))},
    )
    connections = []
    for _ in range(20):
        connection = RawConnection(server.address)
        connection.send(data * 2)
        connections.append(connection)
    for connection in connections:
        assert connection.socket.recv(1000)
        connection.reset()
    assert_still_right(server)


PATHS = {
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
    "/v2": "GET",
    "/v2/models": "GET",
    "/v2/models/tiny": "GET",
    "/v2/models/tiny/versions/1": "GET",
    "/v2/models/tiny/ready": "GET",
    "/v2/models/tiny/config": "GET",
    "/v2/models/tiny/stats": "GET",
    "/v2/models/stats": "GET",
    "/v2/models/tiny/infer": "POST",
    "/v2/models/tiny/versions/1/infer": "POST",
    "/v2/repository/index": "POST",
    "/v2/repository/models/tiny/load": "POST",
    "/v2/repository/models/tiny/unload": "POST",
    "/v1/models/tiny": "GET",
    "/v1/models/tiny/versions/1": "GET",
    "/v1/models/tiny/metadata": "GET",
    "/v1/models/tiny:predict": "POST",
    "/v1/models/tiny/versions/1:predict": "POST",
    "/metrics": "GET",
}


@pytest.mark.parametrize("path", PATHS)
def test_wrong_verbs(server: Server, path: str) -> None:
    for verb in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "HEAD", "BREW", "get"):
        if verb == PATHS[path]:
            continue
        with RawConnection(server.address) as connection:
            connection.send(request(verb, path, b"{}"))
            answer = connection.read_answer(to_head=verb == "HEAD")
        # HEAD may be answered where GET is; nothing else is.
        if verb == "HEAD" and PATHS[path] == "GET" and answer.status == 200:
            continue
        assert answer.status == 405, (verb, path, answer)
        assert PATHS[path] in answer.headers["allow"]
        if verb != "HEAD":
            assert_tells_nothing(answer)


def test_connect(server: Server) -> None:
    for data in (
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"CONNECT /v2 HTTP/1.1\r\nHost: t\r\n\r\n",
    ):
        (answer,) = exchange(server.address, data)
        assert_refused(answer, 400, 404, 405)


def test_get_with_a_body(server: Server) -> None:
    with RawConnection(server.address) as connection:
        connection.send(request("GET", "/v2/models/tiny", b'{"a":1}') + request("GET", "/v2"))
        assert connection.read_answer().json()["name"] == "tiny"
        assert connection.read_answer().json()["name"] == "servolley"


@pytest.mark.parametrize(
    ("target", "statuses"),
    [
        ("http://test/v2", (200, 400, 404)),
        ("ftp://test/v2", (400,)),
        ("*", (400, 404, 405)),
        ("v2", (400,)),
        ("//v2", (400, 404)),
        ("/v2/", (400, 404)),
        ("/v2//models", (400, 404)),
        ("/v2/../v2", (400, 404)),
        ("/v2/models/../models/tiny", (400, 404)),
        ("/v2/models/..", (400, 404)),
        ("/v2/models/%2e%2e", (400, 404)),
        ("/v2/models/%2E%2e/infer", (400, 404, 405)),
        ("/v2/models/..%2ftiny", (400, 404)),
        ("/v2/models/tiny%00", (400, 404)),
        ("/v2/models/tiny%0d%0aX:y", (400, 404)),
        ("/v2/models/%", (400, 404)),
        ("/v2/models/%zz", (400, 404)),
        ("/v2/models/%ff%fe", (400, 404)),
        ("/v2/models/tiny\x01", (400,)),
        ("/v2/models/tiny%20", (400, 404)),
        ("/v2#fragment", (400, 404)),
        ("/%76%32", (400, 404)),
        ("/etc/passwd", (404,)),
        ("/v1/models/..:predict", (400, 404, 405)),
        ("/v1/models/%2e%2e", (400, 404)),
        ("/v1/../v2", (400, 404)),
    ],
)
def test_odd_targets(server: Server, target: str, statuses: tuple[int, ...]) -> None:
    (answer,) = exchange(server.address, request("GET", target))
    assert answer.status in statuses, answer
    assert_tells_nothing(answer)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v2 HTTP/0.9\r\nHost: t\r\n\r\n",
        b"GET /v2 HTTP/2.0\r\nHost: t\r\n\r\n",
        b"GET /v2 HTTP/1.2\r\nHost: t\r\n\r\n",
        b"GET /v2\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"GET  /v2 HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /v2 HTTP/1.1 \r\nHost: t\r\n\r\n",
        b"GET /v2 HTTP/1.1\nHost: t\n\n",
        b"PRx * HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 300,
        b"\0" * 100,
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"(GET) /v2 HTTP/1.1\r\nHost: t\r\n\r\n",
    ],
)
def test_other_protocols(server: Server, data: bytes) -> None:
    answer = first_answer_then_closed(server, data, half_close=True)
    assert_refused(answer, 400, 505)


def test_http_1_0_is_answered_once(server: Server) -> None:
    for headers in (b"", b"Host: t\r\nConnection: keep-alive\r\n"):
        data = b"GET /v2 HTTP/1.0\r\n" + headers + b"\r\n"
        answer = first_answer_then_closed(server, data + data)
        assert answer.status == 200
        assert answer.headers["connection"] == "close"


def test_http2_is_told_apart_by_its_preface(server: Server) -> None:
    """Every port takes both protocols: SETTINGS come back, also when the preface arrives in pieces."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    for pieces in ([preface], [preface[:1], preface[1:2], preface[2:]], [preface[:2], preface[2:]]):
        with socket.create_connection(server.address, timeout=5) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
                server.assert_live()  # a round trip: the piece before has been read
            head = b""
            while len(head) < 9:
                head += connection.recv(9 - len(head))
            assert head[3] == 4, "the first frame is SETTINGS"
