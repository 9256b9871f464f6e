"""10,000 byte-mutated requests of every route and both dialects against a live server, which is the same
process afterwards and answers correctly. Seeded: a failure names the request that caused it."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.hostile import assert_tells_nothing, survives
from integration.raw_http import RawConnection, request
from integration.server_process import Server

SEED = 20250
COUNT = 10_000
WORKERS = 4
TIMEOUT_S = 15.0

#: Every status that a client's bytes may cause. 500 is not among them.
EXPECTED = {100, 200, 400, 404, 405, 408, 413, 414, 415, 417, 429, 431, 501, 503, 505}

TOKENS = [
    b"\r\n",
    b"\n",
    b"\0",
    b"\xff",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"1e999",
    b"NaN",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"%00",
    b"%2f",
    b"/../",
    b"Content-Length: 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Inference-Header-Content-Length: 3\r\n",
    b'"binary_data_size":',
    b'"classification":',
    b"9223372036854775807",
]


def corpus() -> list[bytes]:
    """Valid requests."""
    json_tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [2, 2], "data": [[1.5, -2], [3e2, 0]]}
    words = {"name": "INPUT1", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "\u00e9\n"]}
    binary = {k: v for k, v in json_tensor.items() if k != "data"} | {"parameters": {"binary_data_size": 16}}
    whole = json.dumps(
        {
            "id": "x",
            "inputs": [json_tensor],
            "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
            "parameters": {"priority": 1, "timeout": 5_000_000, "custom": "y"},
        }
    ).encode()
    head = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}).encode()
    classes = json.dumps(
        {"inputs": [json_tensor], "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 2}}]}
    ).encode()
    pair = json.dumps({"inputs": [{**json_tensor, "shape": [1, 4], "data": [1, 2, 3, 4]}, words]}).encode()
    infer = "/v2/models/identity_fp32/infer"
    row = b'{"signature_name":"serving_default","instances":[[1,2.5],[-3e-2,4]]}'
    strings = b'{"instances":[["a",{"b64":"aGVsbG8="}],["\\u00e9","\\ud83d\\ude80"]]}'
    column = b'{"inputs":{"INPUT0":[[1,2],[3,4]],"INPUT1":[["a"],["b"]]}}'
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (whole[:10], whole[10:50], whole[50:]))
    return [
        request("POST", infer, whole),
        request("POST", infer, classes, {"Accept-Encoding": "gzip"}),
        request("POST", infer, head + bytes(range(16)), {"Inference-Header-Content-Length": str(len(head))}),
        request("POST", infer, bytes(range(16)), {"Inference-Header-Content-Length": "0"}),
        request("POST", infer, gzip.compress(whole), {"Content-Encoding": "gzip"}),
        request("POST", infer, chunked + b"0\r\n\r\n", {"Transfer-Encoding": "chunked"}, length=False),
        request("POST", infer, whole, {"Expect": "100-continue"}),
        request("POST", "/v2/models/identity_pair/versions/1/infer", pair),
        request("POST", "/v1/models/identity_fp32:predict", row),
        request("POST", "/v1/models/identity_bytes/versions/1:predict", strings),
        request("POST", "/v1/models/identity_pair:predict", column),
        request("POST", "/v1/models/two_versions/labels/stable:predict", b'{"instances":[1]}'),
        request("POST", "/v1/models/half_plus_two:regress", b'{"examples":[{"x":1}]}'),
        request("POST", "/v2/repository/index", b'{"ready":true}'),
        request("POST", "/v2/repository/models/tiny/load", b'{"parameters":{"config":"{}"}}'),
        request("POST", "/v2/logging", b'{"log_info":true}'),
        *(
            request("GET", path)
            for path in (
                "/v2",
                "/v2/health/ready",
                "/v2/models/tiny/versions/1",
                "/v2/models/tiny/config",
                "/v2/models/tiny/stats?x=1",
                "/v1/models/two_versions/labels/stable",
                "/v1/models/tiny/metadata",
                "/metrics",
            )
        ),
        # Two calls at once, of which the second suffers for the first.
        request("POST", "/v1/models/identity_fp32:predict", row) + request("GET", "/v2/models/tiny/ready"),
    ]


def mutated(random_: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to eight changes: bytes flipped, removed, repeated, inserted, or another request's tail."""
    out = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            break
        at = random_.randrange(len(out))
        end = min(len(out), at + random_.choice((1, 1, 2, 5, 30)))
        match random_.randrange(7):
            case 0:
                out[at] ^= 1 << random_.randrange(8)
            case 1:
                out[at] = random_.randrange(256)
            case 2:
                del out[at:end]
            case 3:
                out[at:at] = out[at:end] * random_.choice((1, 3, 50))
            case 4:
                out[at:at] = random_.choice(TOKENS)
            case 5:
                out[at:end] = random_.choice(TOKENS)
            case _:
                other = random_.choice(others)
                out[at:] = other[random_.randrange(len(other)) :]
    return bytes(out)


def test_the_corpus_is_valid(server: Server) -> None:
    for data in corpus():
        with RawConnection(server.address) as connection:
            connection.send(data)
            answer = connection.read_answer()
            if answer.status == 100:
                answer = connection.read_answer()
        assert answer.status in {200, 501, 503}, (data, answer)


@pytest.mark.slow
def test_mutated_requests(server: Server) -> None:
    requests = corpus()
    statuses: Counter[int] = Counter()

    def hammer(worker: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        for number in range(worker, COUNT, WORKERS):
            random_ = random.Random(SEED * COUNT + number)
            data = mutated(random_, random_.choice(requests), requests)
            with RawConnection(server.address, TIMEOUT_S) as connection:
                try:
                    connection.send_what_is_taken(data).half_close()
                    answers = connection.read_until_closed()
                except (AssertionError, OSError) as error:
                    raise AssertionError(f"request {number}: {error!r}: {data!r}") from error
            for answer in answers:
                assert answer.status in EXPECTED, f"request {number}: {answer}: {data!r}"
                if answer.headers.get("content-type") == "application/json":
                    assert_tells_nothing(answer)
                seen[answer.status] += 1
        return seen

    pid = server.pid
    with survives(server):
        with ThreadPoolExecutor(WORKERS) as workers:
            for seen in workers.map(hammer, range(WORKERS)):
                statuses += seen
        assert server.pid == pid
        assert server.process.poll() is None
    # Mutation left some requests good and broke many: both kinds were really answered.
    assert statuses[200] > COUNT // 50, statuses
    assert statuses[400] > COUNT // 10, statuses
    answer = server.predict("identity_fp32", {"instances": [[1.0, 2.5]]})
    assert answer.json() == {"predictions": [[1.0, 2.5]]}
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]}
    assert server.infer("identity_fp32", [tensor]).json()["outputs"][0]["data"] == [1.0, 2.5]
