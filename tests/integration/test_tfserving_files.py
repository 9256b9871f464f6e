"""TensorFlow Serving's batching_parameters_file and monitoring_config_file, as its users start a server."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.server_process import Server


def limit_of(server: Server, model: str) -> int:
    return int(server.get(f"/v2/models/{model}/config").json()["max_batch_size"])


def test_batching_parameters(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r", {"m": models.half_plus_two(), "own": models.tiny(), "fixed": models.fixed_batch()}
    )
    (root / "own" / "model.toml").write_text("[batching]\nmax_batch_size = 3\n")
    file = tmp_path / "batching.txt"
    file.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 200000 } num_batch_threads { value: 2 }\n"
        "allowed_batch_sizes: 2 allowed_batch_sizes: 4\n"
    )
    server = serve(root, "--enable_batching=true", "--batching_parameters_file", file)
    # A model that cannot be batched is served all the same.
    assert [limit_of(server, name) for name in ("m", "own", "fixed")] == [4, 3, 0]
    assert "allowed_batch_sizes" in server.log
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: server.predict("m", {"instances": [number]}), range(4)))
    assert [answer.json()["predictions"] for answer in answers] == [[0.5 * n + 2.0] for n in range(4)]
    assert server.statistics("m")["execution_count"] < 4
    # As in TensorFlow Serving, more than one batch at once is refused.
    assert "4" in server.predict("m", {"instances": [0.0] * 5}).error
    assert server.predict("m", {"instances": [0.0] * 4}).status == 200


def test_without_batching(serve: ServerFactory, tmp_path: Path) -> None:
    server = serve({"m": models.half_plus_two()}, "--enable_batching=false")
    assert limit_of(server, "m") == 0
    assert server.predict("m", {"instances": [1.0, 2.0]}).json() == {"predictions": [2.5, 3.0]}


def test_monitoring(serve: ServerFactory, tmp_path: Path) -> None:
    file = tmp_path / "monitoring.txt"
    file.write_text('prometheus_config { enable: true path: "/somewhere/else.txt" }')
    server = serve({"m": models.half_plus_two()}, "--monitoring_config_file", file)
    for path in ("/somewhere/else.txt", "/metrics", "/monitoring/prometheus/metrics"):
        page = server.get(path)
        assert page.status == 200
        assert b"# TYPE" in page.body
    assert server.post("/somewhere/else.txt").status == 405
    assert server.get("/somewhere/elseXtxt").status == 404


@pytest.mark.parametrize(
    ("flags", "content", "word"),
    [
        (("--enable_batching", "--batching_parameters_file"), "max_batch_size: 3", "BatchingParameters"),
        (("--batching_parameters_file",), "", "needs --enable_batching"),
        (("--monitoring_config_file",), "nonsense", "tensorflow.serving.MonitoringConfig"),
        (("--monitoring_config_file",), 'prometheus_config { enable: true path: "/v1/x" }', "/v1/x"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, flags: tuple[str, ...], content: str, word: str) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    root = models.save_repository(tmp_path / "r", {"m": models.half_plus_two()})
    command = [sys.executable, "-m", "servolley", "serve", str(root), *flags, str(file), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert word in ended.stderr
