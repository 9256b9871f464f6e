"""TensorFlow Serving's REST API as its users see it, beyond the case file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import models
from integration.conftest import ServerFactory
from integration.raw_http import RawConnection, request
from integration.server_process import Server, wait_until


@pytest.fixture(scope="module")
def tfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("tfs")
    model = models.half_plus_two()
    models.save_repository(root, {"m": model, "n": {98: model, 99: model}})
    (root / "n" / "model.toml").write_text("[versions]\nall = true\nlabels = { latest = 99, old = 98 }\n")
    with Server(root) as server:
        yield server.wait_ready()
        assert server.stop() == 0, server.log


def test_nesting_has_a_limit(tfs: Server) -> None:
    """P16 and N03 nest 500,000 levels in TensorFlow Serving's own test; ours ends at 100."""
    for depth, status in ((50, 200), (101, 400), (500_000, 400)):
        nested = "[" * depth + "]" * depth
        ignored = tfs.predict("m", f'{{"instances":[1], "junk":{nested}}}')
        assert ignored.status == status, depth
        assert tfs.predict("m", f'{{"signature_name":{nested},"instances":[1]}}').status == 400
        assert tfs.predict("m", f'{{"instances":{nested}}}').status == 400


@pytest.mark.parametrize(
    ("body", "predictions"),
    [
        ('{"instances":[1.0, 2.0, 5.0]}', [2.5, 3.0, 4.5]),
        ('{"instances":[{"x":1.0},{"x":2.0}]}', [2.5, 3.0]),
        ('{"signature_name":"serving_default","instances":[1]}', [2.5]),
        ('{"signature_name":"","instances":[1]}', [2.5]),
        (' {"instances" : [ 1 , 2 ] } \n', [2.5, 3.0]),
        ('{"instances":[1e1, -2E0, 0.5e+1]}', [7.0, 1.0, 4.5]),
    ],
)
def test_row_form(tfs: Server, body: str, predictions: list[float]) -> None:
    answer = tfs.predict("m", body)
    assert answer.status == 200, answer
    assert answer.json() == {"predictions": predictions}


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ('{"inputs":{"x":[1.0,2.0,5.0]}}', [2.5, 3.0, 4.5]),
        ('{"inputs":[1.0,2.0]}', [2.5, 3.0]),
        ('{"inputs":[]}', []),
    ],
)
def test_columnar_form(tfs: Server, body: str, outputs: list[float]) -> None:
    answer = tfs.predict("m", body)
    assert answer.status == 200, answer
    assert answer.json() == {"outputs": outputs}


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"instances":[1],"inputs":[1]}',
        '{"instances":{"x":1}}',
        '{"instances":1}',
        '{"instances":[1]} x',
        '{"instances":[1]}{}',
        '{"instances":["1"]}',
        '{"instances":[1e400]}',
        '{"instances":[01]}',
        '{"instances":[1,]}',
        '{"instances":[[1],[2]]}',
        '{"signature_name":"other","instances":[1]}',
        '{"inputs":{"y":[1]}}',
        '{"instances":[{"x":1,"y":2}]}',
    ],
)
def test_malformed_predict(tfs: Server, body: str) -> None:
    answer = tfs.predict("m", body)
    assert answer.status == 400, answer
    assert answer.error


def test_extra_columnar_inputs_are_ignored(tfs: Server) -> None:
    assert tfs.predict("m", {"inputs": {"x": [1.0], "other": [[]]}}).json() == {"outputs": [2.5]}


def test_several_outputs(server: Server) -> None:
    rows = [{"INPUT0": [i] * 16, "INPUT1": [1] * 16} for i in range(2)]
    answer = server.predict("two_inputs", {"instances": rows}).json()
    assert answer["predictions"] == [{"OUTPUT0": [i + 1] * 16, "OUTPUT1": [i - 1] * 16} for i in range(2)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    answer = server.predict("two_inputs", {"inputs": columns}).json()
    assert answer["outputs"] == {"OUTPUT0": [[1] * 16, [2] * 16], "OUTPUT1": [[-1] * 16, [0] * 16]}


@pytest.mark.parametrize(
    ("datatype", "accepted", "refused"),
    [
        ("INT8", ["-128", "127"], ["128", "-129", "1.0", "true"]),
        ("UINT8", ["0", "255"], ["256", "-1", "1e1"]),
        ("INT16", ["-32768", "32767"], ["32768"]),
        ("UINT16", ["0", "65535"], ["65536", "-1"]),
        ("INT32", ["-2147483648", "2147483647"], ["2147483648", "1.5"]),
        ("UINT32", ["0", "4294967295"], ["4294967296", "-1"]),
        ("INT64", ["-9223372036854775808", "9223372036854775807"], ["9223372036854775808"]),
        ("UINT64", ["0", "18446744073709551615"], ["18446744073709551616", "-1"]),
        ("BOOL", ["true", "false"], ["0", "1", '"true"', "null"]),
        ("BYTES", ['""', '"a"', '"\\u00e9"'], ["1", "null", "true", '{"b64":1}', '{"b64":"!"}']),
    ],
)
def test_number_ranges(server: Server, datatype: str, accepted: list[str], refused: list[str]) -> None:
    model = f"identity_{datatype.lower()}"
    for token in accepted:
        answer = server.predict(model, f'{{"instances":[[{token}]]}}')
        assert answer.status == 200, (token, answer)
        assert answer.json() == {"predictions": [[json.loads(token)]]}
    for token in refused:
        answer = server.predict(model, f'{{"instances":[[{token}]]}}')
        assert answer.status == 400, (token, answer)
        assert answer.error


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats(server: Server, datatype: str) -> None:
    """Unsupported in TensorFlow Serving's REST API, added in ours."""
    answer = server.predict(f"identity_{datatype.lower()}", '{"instances":[[0.5, -2.0, 1, 0.0]]}')
    assert answer.status == 200, answer
    assert answer.json() == {"predictions": [[0.5, -2.0, 1.0, 0.0]]}


def test_a_shape_that_the_model_refuses(server: Server) -> None:
    """The declared shape is not checked up front; the runtime's complaint is the client's error."""
    answer = server.predict("tiny", {"instances": [[1.0] * 15]})
    assert answer.status == 400, answer
    assert "/onnxruntime" not in answer.error


def test_unknown_models_and_versions(tfs: Server) -> None:
    for path, text in (
        ("/v1/models/nobody:predict", "Servable not found for request: Latest(nobody)"),
        ("/v1/models/m/versions/5:predict", "Servable not found for request: Specific(m, 5)"),
    ):
        answer = tfs.post(path, {"instances": [1]})
        assert (answer.status, answer.error) == (404, text)
    for path, text in (
        ("/v1/models/nobody", "Could not find any versions of model nobody"),
        ("/v1/models/m/versions/5", "Could not find version 5 of model m"),
        ("/v1/models/nobody/metadata", "Servable not found for request: Latest(nobody)"),
        ("/v1/models/m/versions/5/metadata", "Servable not found for request: Specific(m, 5)"),
    ):
        answer = tfs.get(path)
        assert (answer.status, answer.error) == (404, text)
    assert tfs.get("/v1/models/m/labels/nope").status == 400
    overflow = tfs.post("/v1/models/m/versions/99999999999999999999:predict", {"instances": [1]})
    assert overflow.status == 400
    assert "Failed to convert version" in overflow.error
    assert tfs.get("/v1/models/m/versions/99999999999999999999").status == 400


def test_status(tfs: Server) -> None:
    def entry(version: str) -> dict[str, Any]:
        status = {"error_code": "OK", "error_message": ""}
        return {"version": version, "state": "AVAILABLE", "status": status}

    assert tfs.get("/v1/models/m").json() == {"model_version_status": [entry("1")]}
    assert tfs.get("/v1/models/n").json() == {"model_version_status": [entry("99"), entry("98")]}
    assert tfs.get("/v1/models/n/versions/98").json() == {"model_version_status": [entry("98")]}
    assert tfs.get("/v1/models/n/labels/old").json() == {"model_version_status": [entry("98")]}
    assert tfs.get("/v1/models/m?query=ignored").status == 200


def test_metadata(tfs: Server) -> None:
    def info(name: str) -> dict[str, Any]:
        shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
        return {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": name}

    for path, version in (
        ("n/metadata", "99"),
        ("n/versions/98/metadata", "98"),
        ("n/labels/old/metadata", "98"),
    ):
        document = tfs.get(f"/v1/models/{path}").json()
        assert document == {
            "model_spec": {"name": "n", "signature_name": "", "version": version},
            "metadata": {
                "signature_def": {
                    "signature_def": {
                        "serving_default": {
                            "inputs": {"x": info(document_name(document, "inputs", "x"))},
                            "outputs": {"y": info(document_name(document, "outputs", "y"))},
                            "method_name": "tensorflow/serving/predict",
                            "defaults": {},
                        }
                    }
                }
            },
        }


def document_name(document: Any, side: str, alias: str) -> str:
    """The graph's own name of a tensor, which is the runtime's business ("x" or "x:0")."""
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    name = str(signature[side][alias]["name"])
    assert name.startswith(alias)
    return name


def test_labels_and_versions_route_predict(tfs: Server) -> None:
    for which in ("versions/98", "versions/99", "labels/latest", "labels/old", "versions/00098"):
        answer = tfs.post(f"/v1/models/n/{which}:predict", {"instances": [2]})
        assert answer.json() == {"predictions": [3.0]}, which
    before = tfs.metric("nv_inference_count", model="n", version="98")
    tfs.post("/v1/models/n/labels/old:predict", {"instances": [2]})
    assert tfs.metric("nv_inference_count", model="n", version="98") == before + 1


def test_case_of_the_path(tfs: Server) -> None:
    for path in ("/V1/models/m:predict", "/v1/MODELS/m:predict", "/v1/Models/n/VERSIONS/98:predict"):
        assert tfs.post(path, {"instances": [2]}).json() == {"predictions": [3.0]}, path
    assert tfs.get("/V1/MODELS/n/Labels/old").status == 200
    # Names and verbs are case-sensitive.
    assert tfs.post("/v1/models/M:predict", {"instances": [2]}).status == 404
    upper = tfs.post("/v1/models/m:PREDICT", {"instances": [2]})
    assert upper.status == 400
    assert "Malformed request: POST /v1/models/m:PREDICT" in upper.error


def test_percent_escapes(tfs: Server) -> None:
    assert tfs.post("/v1/models/%6d:predict", {"instances": [2]}).status == 200
    assert tfs.post("/v1/models/%6:predict", {"instances": [2]}).status == 400
    assert tfs.get("/v1/models/%6d").status == 200


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_wrong_verbs(tfs: Server, verb: str) -> None:
    answer = tfs.call(verb, "/v1/models/m:predict")
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]
    assert (answer.body == b"") == (verb == "HEAD")


def test_options(tfs: Server) -> None:
    assert tfs.call("OPTIONS", "/v1/models/m", headers={"Origin": "https://example.org"}).status == 200
    assert tfs.call("OPTIONS", "/v1/models/m").status == 400


def test_answers_are_never_compressed(tfs: Server) -> None:
    answer = tfs.post("/v1/models/m:predict", {"instances": [1.0] * 500}, {"Accept-Encoding": "gzip"})
    assert answer.status == 200
    assert "content-encoding" not in answer.headers


def test_keep_alive_after_errors(tfs: Server) -> None:
    good = request("POST", "/v1/models/m:predict", b'{"instances":[2]}')
    bad = request("POST", "/v1/models/m:predict", b'{"instances":')
    with RawConnection(tfs.address) as connection:
        connection.send(good + bad + good + request("GET", "/v1/models/nobody") + good)
        statuses = [connection.read_answer().status for _ in range(5)]
    assert statuses == [200, 400, 200, 404, 200]


def test_timeout(serve: ServerFactory, tmp_path: Path) -> None:
    """The REST timeout drops work that is still waiting: 504 while the model is busy, and it never runs."""
    root = models.save_repository(tmp_path / "models", {"slow": models.slow(rounds=6000)})
    (root / "slow" / "model.toml").write_text("[batching]\nmax_batch_size = 0\n")
    server = serve(root, config="[limits]\nrequest_timeout_ms = 200\n")
    before = server.statistics("slow")["inference_count"]
    data = request(
        "POST", "/v1/models/slow:predict", b'{"instances":[%s]}' % json.dumps([0.5] * 512).encode()
    )
    with RawConnection(server.address, timeout_s=60) as first, RawConnection(server.address) as others:
        first.send(data)
        wait_until(
            lambda: server.metric("servolley_received_bytes_total") > len(data), 5, "the first arrived"
        )
        others.send(data * 5)
        late = [others.read_answer() for _ in range(5)]
        first.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            first.socket.recv(1)
        first.socket.settimeout(60)
        # It had begun in time, and what has begun is finished.
        assert first.read_answer().status == 200
    assert [answer.status for answer in late] == [504] * 5
    assert late[0].error == "Request timeout expired"
    assert server.statistics("slow")["inference_count"] - before == 1
