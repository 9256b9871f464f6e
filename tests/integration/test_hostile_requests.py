"""Hostile names, versions, headers, parameters, and requests that ask a model for too much."""

from __future__ import annotations

import json

import pytest

from integration.hostile import (
    INFER,
    assert_refused,
    assert_tells_nothing,
    first_answer_then_closed,
    tensor,
)
from integration.raw_http import exchange, request
from integration.server_process import Server

pytestmark = pytest.mark.usefixtures("hostile_conditions")


# --- names and versions (case 25, as far as routes go)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "%20..",
        "..%2f..%2fetc",
        "%2fetc%2fpasswd",
        "a%2f..%2fb",
        "tiny%0a",
        "%01",
        "x" * 4096,
        "%7f",
        "%c2%85",
        "%e2%80%ae",
        "*",
        "tiny%5c..",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/{}"),
        ("GET", "/v2/models/{}/ready"),
        ("GET", "/v2/models/{}/config"),
        ("GET", "/v2/models/{}/stats"),
        ("POST", "/v2/models/{}/infer"),
        ("POST", "/v2/repository/models/{}/load"),
        ("POST", "/v2/repository/models/{}/unload"),
        ("GET", "/v1/models/{}"),
        ("GET", "/v1/models/{}/metadata"),
        ("POST", "/v1/models/{}:predict"),
    ],
)
def test_model_names(server: Server, method: str, path: str, name: str) -> None:
    data = request(method, path.format(name), b"{}" if method == "POST" else b"")
    (answer,) = exchange(server.address, data)
    assert_refused(answer, 400, 404, 503)
    assert answer.status != 503 or "repository" in path


@pytest.mark.parametrize(
    "version", ["99999999999999999999", "-1", "0", "2", "1.0", "latest", "%31", "+1", "1e0", ""]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/tiny/versions/{}"),
        ("GET", "/v2/models/tiny/versions/{}/ready"),
        ("POST", "/v2/models/tiny/versions/{}/infer"),
        ("GET", "/v1/models/tiny/versions/{}"),
        ("POST", "/v1/models/tiny/versions/{}:predict"),
    ],
)
def test_versions(server: Server, method: str, path: str, version: str) -> None:
    answer = server.call(method, path.format(version), b"{}" if method == "POST" else None)
    if version == "%31" and method == "POST":  # an escaped "1" is a "1": then the empty request is at fault
        assert_refused(answer, 400, 404)
    elif version == "%31":
        assert answer.status in {200, 400, 404}
    elif path.endswith("ready"):
        assert_refused(answer, 400, 404, 503)
    else:
        assert_refused(answer, 400, 404)


# --- settings, headers, parameters (cases 33 to 37)


def test_settings_cannot_be_changed(server: Server) -> None:
    for path, body in (
        ("/v2/logging", {"log_file": "/tmp/x"}),
        ("/v2/logging", {"log_verbose_level": 2**31}),
        ("/v2/trace/setting", {"trace_file": "/tmp/x"}),
        ("/v2/trace/setting", {"trace_rate": "-1"}),
        ("/v2/models/tiny/trace/setting", {"trace_rate": "x"}),
    ):
        assert_refused(server.post(path, body), 400, 501)


def test_log_lines_cannot_be_forged(server: Server) -> None:
    forged = "x\n2025-01-01T00:00:00.000Z INFO servolley.forged: line"
    answer = server.infer("identity_fp32", [tensor()], id=forged)
    assert answer.json()["id"] == forged
    assert_refused(server.infer("identity_fp32", [tensor(name=forged)], id=forged))
    server.get("/v2/models/x%0a2025-01-01T00:00:00.000Z%20INFO%20servolley.forged:%20line")
    server.call("GET", "/v2", headers={"User-Agent": "\x1b[31mred"})
    assert not any(line.startswith("2025-01-01") for line in server.stderr)
    assert not any("\x1b" in line for line in server.stderr)


def test_foreign_headers_change_nothing(server: Server) -> None:
    headers = {
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "baggage": "k=" + "v" * 8000,
        "priority": "1",
        "timeout": "1",
        "triton_x": "y",
        "sequence_id": "5",
        "X-Forwarded-For": "127.0.0.1",
    }
    assert server.post(INFER, {"inputs": [tensor()]}, headers).status == 200
    baggage = request("POST", INFER, b"{}", {"baggage": "k=" + "v" * (1 << 20)})
    assert_refused(first_answer_then_closed(server, baggage), 431)


@pytest.mark.parametrize(
    ("parameters", "statuses"),
    [
        ('{"triton_final_response":true}', (400,)),
        ('{"triton_enable_empty_final_response":true}', (400,)),
        ('{"priority":18446744073709551615}', (200, 400)),
        ('{"priority":18446744073709551616}', (400,)),
        ('{"priority":-1}', (400,)),
        ('{"priority":"1"}', (400,)),
        ('{"priority":1.5}', (400,)),
        ('{"timeout":0}', (200,)),
        ('{"timeout":-1}', (400,)),
        ('{"timeout":9223372036854775808}', (200, 400)),
        ('{"timeout":1e3}', (400,)),
        ('{"timeout":"1"}', (400,)),
        ('{"sequence_id":5}', (400, 501)),
        ('{"sequence_id":5,"sequence_start":true,"sequence_start":true}', (400, 501)),
        ('{"sequence_id":"%s"}' % ("s" * (1 << 20)), (400, 501)),
        ('{"sequence_start":"yes"}', (400,)),
        ('{"binary_data_output":1}', (400,)),
        ("[]", (400,)),
        ("5", (400,)),
        ('{"a":{}}', (400,)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_request_parameters(server: Server, parameters: str, statuses: tuple[int, ...]) -> None:
    body = f'{{"inputs":[{json.dumps(tensor())}],"parameters":{parameters}}}'
    answer = server.post(INFER, body)
    assert answer.status in statuses, answer.body[:300]
    assert_tells_nothing(answer)


@pytest.mark.parametrize("count", ["-1", "0", "1.5", '"3"', "null", "18446744073709551616"])
def test_classification_counts(server: Server, count: str) -> None:
    outputs = f'[{{"name":"OUTPUT0","parameters":{{"classification":{count}}}}}]'
    body = f'{{"inputs":[{json.dumps(tensor())}],"outputs":{outputs}}}'
    assert_refused(server.post(INFER, body))


def test_classification_of_more_than_32_bits(server: Server) -> None:
    body = {"inputs": [tensor()], "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 2**40}}]}
    assert_refused(server.post(INFER, body))


def test_classification_of_what_has_no_order(server: Server) -> None:
    words = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}
    outputs = [{"name": "OUTPUT0", "parameters": {"classification": 1}}]
    assert_refused(server.infer("identity_bytes", [words], outputs=outputs))
    flags = {"name": "INPUT0", "datatype": "BOOL", "shape": [1, 2], "data": [True, False]}
    assert_refused(server.infer("identity_bool", [flags], outputs=outputs))
    shared = [{"name": "OUTPUT0", "parameters": {"classification": 1, "shared_memory_region": "r"}}]
    assert_refused(server.infer("identity_fp32", [tensor()], outputs=shared), 400, 404, 501)


# --- execution (cases 43 to 46)


def test_an_answer_of_100_gb(server: Server) -> None:
    """A client's number decides how large the output is."""
    # Never 503: no waiting would help.
    for shapes, statuses in (
        (([100_000_000_000], [1000, 1000, 1000, 100]), (413,)),
        (([2**62], [2**32, 2**32]), (400, 413, 500)),  # beyond 64 bits, somewhere
    ):
        for shape in shapes:
            sizes = {"name": "INPUT0", "datatype": "INT64", "shape": [len(shape)], "data": shape}
            assert_refused(server.infer("expand", [sizes]), *statuses)
    negative = {"name": "INPUT0", "datatype": "INT64", "shape": [1], "data": [-5]}
    assert_refused(server.infer("expand", [negative]), 400, 500)
    small = {"name": "INPUT0", "datatype": "INT64", "shape": [1], "data": [3]}
    assert server.infer("expand", [small]).json()["outputs"][0]["data"] == [7, 7, 7]


def test_a_failing_run_says_what_and_not_where(server: Server) -> None:
    index = {"name": "INPUT0", "datatype": "INT64", "shape": [1, 1], "data": [99]}
    assert_refused(server.infer("picky", [index]), 400, 500)
    assert_refused(server.predict("picky", {"instances": [[99]]}), 400, 500)
    mixed = {"tokens": [[[1.0] * 4] * 3], "scale": [[1.0] * 4] * 2}
    assert_refused(server.predict("sequence_first", {"inputs": mixed}), 400, 500)
