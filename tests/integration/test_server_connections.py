"""Connections: keep-alive, pipelining, HEAD, 100-continue, curl, chunked bodies."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc

import models
from integration.conftest import ServerFactory
from integration.raw_http import RawConnection, request
from integration.server_process import Server
from integration.tensors import run_onnx, sample


def test_keep_alive(server: Server) -> None:
    before = server.metric("servolley_accepted_connections_total")
    with RawConnection(server.address) as connection:
        for i in range(50):
            connection.send(request("POST", "/v1/models/half_plus_two:predict", b'{"instances":[%d]}' % i))
            assert connection.read_answer().json() == {"predictions": [i / 2 + 2]}
            connection.send(request("GET", "/v2/models/half_plus_two/ready"))
            assert connection.read_answer().status == 200
    assert server.metric("servolley_accepted_connections_total") - before == 2


def test_connection_close(server: Server) -> None:
    for method, path, body in (
        ("POST", "/v1/models/half_plus_two:predict", b'{"instances":[1]}'),
        ("GET", "/v2", b""),
    ):
        with RawConnection(server.address) as connection:
            connection.send(request(method, path, body, {"Connection": "close"}))
            answer = connection.read_answer()
            assert answer.status == 200
            assert answer.headers["connection"].lower() == "close"
            connection.assert_closed()


def test_pipelining_across_hot_and_control_routes(server: Server) -> None:
    """Answers come in the order of the calls, whoever is done first."""
    calls: list[tuple[bytes, Any]] = []
    for i in range(60):
        match i % 6:
            case 0:
                body = b'{"instances":[%d]}' % i
                call = request("POST", "/v1/models/half_plus_two:predict", body)
                calls.append((call, lambda a, i=i: a.json() == {"predictions": [i / 2 + 2]}))
            case 1:
                calls.append((request("GET", "/v2/models/tiny"), lambda a: a.json()["name"] == "tiny"))
            case 2:
                # Rendered in pieces, with other work of the loop in between.
                calls.append((request("GET", "/metrics"), lambda a: b"nv_inference_count" in a.body))
            case 3:
                calls.append((request("GET", "/v1/models/nobody"), lambda a: a.status == 404))
            case 4:
                call = request("POST", "/v2/models/nobody/infer", b"{}")
                calls.append((call, lambda a: a.status == 404))
            case _:
                body = json.dumps(
                    {
                        "id": str(i),
                        "inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1, 1], "data": [i]}],
                    }
                ).encode()
                call = request("POST", "/v2/models/identity_int32/infer", body)
                calls.append((call, lambda a, i=i: a.json()["id"] == str(i)))
    with RawConnection(server.address) as connection:
        connection.send(b"".join(call for call, _ in calls))
        for i, (_, check) in enumerate(calls):
            assert check(connection.read_answer()), i


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/metrics"]
)
def test_head(server: Server, path: str) -> None:
    """HEAD has no body, whatever its status, and the connection stays usable."""
    with RawConnection(server.address) as connection:
        connection.send(request("HEAD", path))
        assert connection.read_answer(to_head=True).status in {200, 405}
        connection.send(request("GET", "/v2"))
        assert connection.read_answer().json()["name"] == "servolley"


def test_requests_in_small_pieces(server: Server) -> None:
    data = request("POST", "/v1/models/half_plus_two:predict", b'{"instances":[1.0]}')
    with RawConnection(server.address) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            connection.send(data[i : i + 1])
        assert connection.read_answer().json() == {"predictions": [2.5]}


def test_expect_100_continue(server: Server) -> None:
    body = b'{"instances":[1.0]}'
    head = request("POST", "/v1/models/half_plus_two:predict", body, {"Expect": "100-continue"})
    with RawConnection(server.address) as connection:
        connection.send(head[: -len(body)])
        assert connection.read_answer().status == 100
        connection.send(body)
        assert connection.read_answer().json() == {"predictions": [2.5]}


CURL = ["curl", "--silent", "--show-error", "--max-time", "30"]


def curl(*arguments: str | Path, data: bytes = b"") -> str:
    command = [*CURL, *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode()


@pytest.mark.skipif(subprocess.call(["which", "curl"], stdout=subprocess.DEVNULL) != 0, reason="no curl")
def test_curl(server: Server, tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    predict = f"{base}/v1/models/half_plus_two:predict"
    answer = curl("-d", '{"instances": [1.0, 2.0, 5.0]}', predict)
    assert json.loads(answer) == {"predictions": [2.5, 3.0, 4.5]}
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"instances": [float(i) for i in range(300_000)]}))
    # Large enough that curl asks first; then without a length; then packed.
    for extra in (
        ["-H", "Expect: 100-continue"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Content-Type: application/json"],
    ):
        predictions = json.loads(curl(*extra, "--data-binary", f"@{body}", predict))["predictions"]
        assert len(predictions) == 300_000
        assert predictions[-1] == 299_999 / 2 + 2
    shown = curl("-i", "--http1.1", f"{base}/v2/health/ready")
    assert shown.startswith("HTTP/1.1 200 OK\r\n")
    shown = curl("-I", f"{base}/v2")
    assert shown.startswith("HTTP/1.1 ")
    # Not here, and said so.
    assert "HTTP/1.1" in curl("-i", "--http2", f"{base}/v2")


def test_large_chunked_bodies(server: Server) -> None:
    array = sample("FP32", (8, 150528), 3)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "INPUT0",
                    "datatype": "FP32",
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    body = head + array.tobytes()
    sizes = [1, 7, 4096, 65_536, 1_000_003]
    chunks = b""
    at = i = 0
    while at < len(body):
        part = body[at : at + sizes[i % len(sizes)]]
        chunks += b"%x\r\n%s\r\n" % (len(part), part)
        at += len(part)
        i += 1
    headers = {"Transfer-Encoding": "chunked", "Inference-Header-Content-Length": str(len(head))}
    data = request("POST", "/v2/models/identity_large/infer", chunks + b"0\r\n\r\n", headers, length=False)
    with RawConnection(server.address) as connection:
        connection.send(data)
        answer = connection.read_answer()
    assert answer.status == 200, answer.body[:300]
    length = int(answer.headers["inference-header-content-length"])
    assert answer.body[length:] == array.tobytes()


def test_results_are_right_after_all_that(server: Server) -> None:
    array = sample("FP32", (1, 16), 9)
    (predicted,) = server.predict("tiny", {"instances": array.tolist()}).json()["predictions"]
    expected = run_onnx(models.tiny(), {"INPUT0": array})["OUTPUT0"][0]
    assert predicted == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_many_readers_of_metrics(serve: ServerFactory) -> None:
    """A scrape of many models leaves the loop to others."""
    server = serve({f"m{i}": models.half_plus_two() for i in range(30)})
    with RawConnection(server.address) as scraper, RawConnection(server.address) as asker:
        scraper.send(request("GET", "/metrics") * 10)
        worst = 0.0
        for _ in range(50):
            began = time.monotonic()
            asker.send(request("POST", "/v1/models/m7:predict", b'{"instances":[1.0]}'))
            assert asker.read_answer().status == 200
            worst = max(worst, time.monotonic() - began)
        for _ in range(10):
            assert scraper.read_answer().status == 200
    assert worst < 0.5, worst


def test_an_idle_stream_does_not_hold_the_end_up(serve: ServerFactory, tmp_path: Path) -> None:
    server = serve(models.save_repository(tmp_path / "r", {"tiny": models.tiny()}))
    with tritonclient.grpc.InferenceServerClient(server.url) as client:
        results: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: results.put((result, error)))
        tensor = tritonclient.grpc.InferInput("INPUT0", [1, 16], "FP32")
        tensor.set_data_from_numpy(sample("FP32", (1, 16), 1))
        client.async_stream_infer("tiny", [tensor])
        assert results.get(timeout=10)[1] is None
        with RawConnection(server.address) as half:
            half.send(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{")
            began = time.monotonic()
            assert server.stop() == 0, server.log
    assert time.monotonic() - began < 15  # of the 30 that a request would get
    assert "drain timeout" not in server.log


def test_the_environment_is_left_alone(serve: ServerFactory, tmp_path: Path) -> None:
    """No file appears in the working directory or the home directory because a server ran."""
    home = tmp_path / "home"
    home.mkdir()
    root = models.save_repository(tmp_path / "r", {"half_plus_two": models.half_plus_two()})
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "XDG_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "servolley", "serve", root, "--host", "127.0.0.1", "--port", "0"],
        cwd=home,
        env=environment | {"HOME": str(home)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if " ready " in line or line.rstrip().endswith(" ready"):
                break
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
    assert list(home.iterdir()) == []
