"""The server as a process: start, addresses, readiness, logs, footprint."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import models
from certificates import Authority
from integration.conftest import ServerFactory
from integration.raw_http import RawConnection, request
from integration.server_process import LISTENING, Server, wait_until


def assert_right(server: Server, model: str = "half_plus_two") -> None:
    assert server.predict(model, {"instances": [1.0]}).json() == {"predictions": [2.5]}


def run_to_end(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "servolley", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_port_that_was_chosen_is_printed(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    lines = [line for line in [*server.stdout, *server.stderr] if LISTENING.search(line)]
    assert len(lines) == 1
    assert f"http://127.0.0.1:{server.port}" in lines[0]
    assert_right(server)


def test_sockets_open_before_models_load(serve: ServerFactory) -> None:
    """Live at once, ready when the models are."""
    # Its warm-up takes a second.
    server = serve({"big": models.slow(rounds=800), "half_plus_two": models.half_plus_two()}, wait=False)
    server.wait_listening()
    assert server.get("/v2/health/live").status == 200
    ready = server.get("/v2/health/ready")
    loading = server.get("/v2/models/big/ready")
    assert ready.status == 503, "the model loaded too fast for this test"
    assert ready.error
    assert loading.status == 503
    answer = server.infer("big", [])
    assert answer.status in {404, 503}
    assert answer.error
    states = {e["name"]: e["state"] for e in server.post("/v2/repository/index").json()}
    assert states["big"] in {"LOADING", "UNAVAILABLE", "READY"}
    status = server.get("/v1/models/big").json()["model_version_status"]
    assert status[0]["state"] in {"START", "LOADING", "AVAILABLE"}
    server.wait_ready()
    assert server.get("/v2/models/big/ready").status == 200
    assert_right(server)


def test_a_single_file(serve: ServerFactory, tmp_path: Path) -> None:
    file = models.save_model(tmp_path / "somewhere", models.half_plus_two())
    server = serve(file, "--name", "m")
    assert_right(server, "m")
    assert server.get("/v2/models").json()["models"] == [
        {"name": "m", "versions": ["1"], "ready": True, "labels": {}}
    ]
    unnamed = serve(file)
    assert_right(unnamed, "model")


def test_one_models_directory(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path, {"one": models.half_plus_two()})
    assert_right(serve(root / "one"), "one")
    assert_right(serve(root / "one", "--name", "other"), "other")


def test_an_empty_repository(serve: ServerFactory, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    server = serve(tmp_path / "empty")
    assert server.get("/v2/models").json() == {"models": []}
    assert server.post("/v2/repository/index").json() == []
    assert server.predict("m", {"instances": [1]}).status == 404


def test_a_unix_socket(serve: ServerFactory, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve({"half_plus_two": models.half_plus_two()}, "--unix-socket", path)
    with RawConnection(str(path)) as connection:
        for _ in range(3):
            connection.send(request("POST", "/v1/models/half_plus_two:predict", b'{"instances":[1.0]}'))
            assert connection.read_answer().json() == {"predictions": [2.5]}
    assert_right(server)
    assert server.stop() == 0
    assert not path.exists()


def test_a_port_for_metrics(serve: ServerFactory) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve({"half_plus_two": models.half_plus_two()}, "--metrics-port", str(port))
    with RawConnection(("127.0.0.1", port)) as connection:
        connection.send(request("GET", "/metrics"))
        assert b"servolley_connections" in connection.read_answer().body
        connection.send(request("GET", "/v2"))
        assert connection.read_answer().status == 404
    assert_right(server)


def test_a_port_that_is_taken(serve: ServerFactory, tmp_path: Path) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    root = models.save_repository(tmp_path / "r", {"half_plus_two": models.half_plus_two()})
    ended = run_to_end("serve", root, "--host", "127.0.0.1", "--port", str(server.port))
    assert ended.returncode == 1
    assert "address already in use" in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    assert_right(server)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere/at/all"], "no such file"),
        ([], "PATH"),
        (["--config", "/nowhere.toml", "."], "nowhere.toml"),
    ],
)
def test_what_cannot_start_says_why(arguments: list[str], words: str) -> None:
    ended = run_to_end("serve", *arguments)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_setting(tmp_path: Path) -> None:
    config = tmp_path / "servolley.toml"
    config.write_text("[limits]\nmax_body_sise = 5\n")
    (tmp_path / "models").mkdir()
    ended = run_to_end("serve", tmp_path / "models", "--config", config)
    assert ended.returncode == 1
    assert "did you mean 'max_body_size'" in ended.stderr


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) [\w.]+: .+")


def test_text_logs(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    assert server.stop() == 0
    assert server.stderr
    for line in server.stderr:
        assert LINE.fullmatch(line), line
    assert any("model=half_plus_two" in line and "available" in line for line in server.stderr)
    assert any("stopped" in line for line in server.stderr)


def test_json_logs(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()}, "--log-format", "json")
    assert server.stop() == 0
    records = [json.loads(line) for line in server.stderr]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    (available,) = [r for r in records if r["message"] == "available"]
    assert (available["model"], available["version"]) == ("half_plus_two", 1)
    assert any(str(server.port) in record["message"] for record in records) or server.stdout


def test_log_level(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()}, "--log-level", "error", wait=False)
    # Even then somebody must learn the port.
    server.wait_listening(10)
    server.wait_ready()
    assert server.stop() == 0
    assert not any(" INFO " in line for line in server.stderr)


def test_runtime_warnings_are_log_lines(serve: ServerFactory) -> None:
    """What ONNX Runtime has to say about a model does not break the log's form."""
    server = serve({"misdeclared": models.misdeclared()})
    assert server.stop() == 0
    for line in server.stderr:
        assert LINE.fullmatch(line), line


# --- TLS


def test_certificates_that_cannot_be_used(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "r", {"half_plus_two": models.half_plus_two()})
    certificate, key = Authority(tmp_path / "certificates").issue("server")
    _, other_key = Authority(tmp_path / "others").issue("server")
    for files, complaint in (
        ((tmp_path / "absent", key), f"TLS certificate {tmp_path / 'absent'}: No such file or directory"),
        ((certificate, other_key), f"TLS key {other_key} does not belong to the certificate {certificate}"),
        ((key, certificate), f"TLS certificate {key}: not PEM, or no certificate in it"),
    ):
        server = serve(root, "--tls-cert", files[0], "--tls-key", files[1], wait=False)
        assert server.wait_exit(20) == 1
        assert server.stderr[-1] == f"servolley: {complaint}"
        assert "listening" not in server.log


# --- footprint


def test_idle_memory(serve: ServerFactory) -> None:
    """90 MB is the promise for one small model; a loaded test machine gets a margin of two."""
    server = serve({"tiny": models.tiny()})
    resident = server.vitals().resident_bytes
    assert resident < 180e6, f"{resident / 1e6:.0f} MB"


def test_time_to_ready(serve: ServerFactory) -> None:
    """0.8 s from exec to ready is the promise; a loaded test machine gets a margin of two. Best of three."""
    times = []
    for _ in range(3):
        server = serve({"tiny": models.tiny()}, wait=False)
        server.wait_ready()
        times.append(time.monotonic() - server.started)
        assert server.stop() == 0
    assert min(times) < 1.6, times


def test_heavy_modules_stay_out_of_the_server(serve: ServerFactory) -> None:
    server = serve({"tiny": models.tiny()})
    server.predict("tiny", {"instances": [[1.0] * 16]})
    server.get("/metrics")
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libonnxruntime.so" in maps
    for word in ("numpy", "onnxruntime_pybind11_state", "grpc", "protobuf", "_upb"):
        assert word not in maps, word


def test_stopping_frees_the_port_at_once(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "r", {"half_plus_two": models.half_plus_two()})
    first = serve(root)
    assert_right(first)
    assert first.stop() == 0
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(first.address)


def test_weights_lie_on_huge_pages(serve: ServerFactory) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel gives nobody huge pages")
    server = serve({"heavy": models.heavy(50)})
    rollup = Path(f"/proc/{server.pid}/smaps_rollup").read_text()
    (huge_kib,) = (int(line.split()[1]) for line in rollup.splitlines() if line.startswith("AnonHugePages:"))
    assert huge_kib > 40 << 10


def test_a_hangup_with_nothing_to_read_again(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    server.signal(signal.SIGHUP)
    wait_until(lambda: "SIGHUP ignored" in server.log, 5, "the line")
    assert_right(server)
    assert server.log.count("SIGHUP") == 1
