"""The server on a GPU: its answers are those of ONNX Runtime on the CPU, but for rounding. The same tests run
on the CPU first, so that where they fail on a GPU it is not they that are wrong."""

from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from benchmarks.gpu_yardsticks import DeviceMemory
from tritonclient.http import InferenceServerClient, InferInput

import models
from integration.conftest import ServerFactory
from integration.server_process import Server
from integration.tensors import Array, run_onnx, sample

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(os.environ.get("SERVOLLEY_TEST_BUILD", ROOT / "build" / "dev")) / "standin"

DEVICES = [pytest.param("cpu"), pytest.param("cuda:0", marks=pytest.mark.gpu)]

#: (model, shape of one row): small ones, whose rows are gathered, and one that goes up as it is.
CASES = [("tiny", (16,)), ("mlp", (256,)), ("small_conv", (3, 32, 32)), ("identity_large", (150_528,))]
ROWS = (1, 2, 3, 7, 8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_repository(
        tmp_path_factory.mktemp("gpu"), {name: models.MODELS[name]() for name, _ in CASES}
    )


def infer(server: Server, model: str, rows: Array) -> Array:
    with InferenceServerClient(server.url) as client:
        tensor = InferInput("INPUT0", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        output: Array | None = client.infer(model, [tensor]).as_numpy("OUTPUT0")
        assert output is not None
        return output


def on(device: str, repository: Path, more: str = "") -> Path:
    for name, _ in CASES:
        (repository / name / "model.toml").write_text(
            f'[batching]\nmax_batch_size = 32\n[runtime]\ndevice = "{device}"\n{more}'
        )
    return repository


def check_answers(server: Server) -> None:
    """Every model and number of rows, alone and in company."""
    questions = [
        (name, sample("FP32", (rows, *shape), seed))
        for seed, rows in enumerate(ROWS)
        for name, shape in CASES
    ]
    expected = [run_onnx(models.MODELS[name](), {"INPUT0": array})["OUTPUT0"] for name, array in questions]

    def check(index: int) -> None:
        name, array = questions[index]
        # ONNX Runtime multiplies with TF32's ten bits of mantissa where a GPU can.
        np.testing.assert_allclose(infer(server, name, array), expected[index], rtol=2e-2, atol=2e-2)

    for index in range(len(questions)):
        check(index)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(check, [*range(len(questions))] * 8))


@pytest.mark.parametrize("device", DEVICES)
def test_answers_are_onnx_runtimes_alone_and_in_company(
    serve: ServerFactory, repository: Path, device: str
) -> None:
    check_answers(serve(on(device, repository)))


@pytest.mark.gpu
def test_graphs_answer_what_runs_answer(serve: ServerFactory, repository: Path) -> None:
    server = serve(on("cuda:0", repository, "cuda_graphs = true\n"))
    check_answers(server)
    for name, _ in CASES:
        assert server.metric("servolley_cuda_graphs", model=name) == 1, server.log


@pytest.mark.gpu
@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_tensors_in_a_clients_memory_on_the_gpu(serve: ServerFactory, repository: Path, module: Any) -> None:
    row = sample("FP32", (1, 150_528), 1)
    source = DeviceMemory("cuda:0", row.tobytes())
    target = DeviceMemory("cuda:0", bytes(row.nbytes))
    server = serve(on("cuda:0", repository), "--shared-memory")
    with module.InferenceServerClient(server.url) as client:
        for name, memory in (("source", source), ("target", target)):
            client.register_cuda_shared_memory(name, base64.b64encode(memory.handle), 0, memory.bytes)
        given = module.InferInput("INPUT0", list(row.shape), "FP32")
        given.set_shared_memory("source", row.nbytes)
        result = client.infer("identity_large", [given])
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), row)
        wanted = module.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory("target", row.nbytes)
        client.infer("identity_large", [given], outputs=[wanted])
        client.unregister_cuda_shared_memory()
    assert target.content() == row.tobytes()
    source.close()
    target.close()


@pytest.mark.parametrize("device", DEVICES)
def test_metrics_name_the_gpus_in_use(serve: ServerFactory, repository: Path, device: str) -> None:
    server = serve(on(device, repository))
    infer(server, "identity_large", sample("FP32", (2, 150_528), 1))
    text = server.get("/metrics").body.decode()
    assert ('servolley_gpu_broken{device="cuda:0"} 0.0' in text) == (device == "cuda:0")
    pinned = float(text.split("\nservolley_pool_pinned_bytes ", 1)[1].split("\n", 1)[0])
    assert (pinned > 0) == (device == "cuda:0")


def test_who_uses_no_gpu_opens_no_driver(
    serve: ServerFactory, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (STANDIN / "libcuda.so.1").is_file()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(STANDIN))
    server = serve(on("cpu", repository))
    infer(server, "tiny", sample("FP32", (1, 16), 1))
    assert server.get("/v2").status == server.get("/metrics").status == 200
    assert "libcuda" not in Path(f"/proc/{server.pid}/maps").read_text()
