"""Requests that are run before a version is available: declared, in Triton's words, and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import field
from integration.lifecycle import (
    ALL_WAYS,
    QUICK,
    Askers,
    await_states,
    constant_of,
    put,
    repository,
    set_config,
    states,
)
from integration.server_process import Server, wait_until
from integration.slim_tensorflow import stock_module
from servolley.front.warm_up import RECORDED
from tf_records import record_file


def executions(server: Server, model: str) -> int:
    """Requests of clients; a warm-up is none."""
    return int(server.statistics(model)["execution_count"])


def test_declared_requests(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r",
        {"picky": models.picky(), "identity": models.identity("BYTES"), "unknown": models.unknown_rank()},
    )
    (root / "picky" / "ids.bin").write_bytes(np.array([5], np.int64).tobytes())
    (root / "picky" / "model.toml").write_text(
        """
        [warmup]
        batch_sizes = [3]
        [[warmup.requests]]
        batch_size = 4
        count = 2
        inputs.INPUT0 = { file = "ids.bin" }
        """
    )
    (root / "identity" / "model.toml").write_text(
        '[[warmup.requests]]\ninputs.INPUT0 = { shape = [7], data = "random" }\n'
    )
    (root / "unknown" / "model.toml").write_text("[[warmup.requests]]\ninputs.INPUT0 = { shape = [2, 3] }\n")
    server = serve(root)
    assert server.log.count("warmed up") == 3
    assert executions(server, "picky") == 0


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ('inputs.INPUT0 = { file = "ids.bin" }', "request 'w'"),  # an index beyond the table
        ("inputs.nobody = {}", "no input 'nobody'"),
        ("batch_size = 1000", "batch_size 1000"),
        ("inputs.INPUT0 = { shape = [2] }", "[2] is not [1]"),
        ('inputs.INPUT0 = { file = "../../../../etc/passwd" }', "outside"),
        ('inputs.INPUT0 = { datatype = "FP32" }', "INT64, not FP32"),
    ],
)
def test_a_failing_request_fails_the_load(
    serve: ServerFactory, tmp_path: Path, config: str, word: str
) -> None:
    root = models.save_repository(tmp_path / "r", {"m": models.picky()})
    (root / "m" / "ids.bin").write_bytes(np.array([99], np.int64).tobytes())
    (root / "m" / "model.toml").write_text(f'[[warmup.requests]]\nname = "w"\n{config}\n')
    server = serve(root, "--load-retries", "0", wait=False).wait_listening()
    wait_until(lambda: states(server) == {1: "END"}, 30, "the load has failed")
    (row,) = server.get("/v1/models/m").json()["model_version_status"]
    assert row["status"]["error_message"].startswith("warm-up: ")
    assert word in row["status"]["error_message"]
    assert str(tmp_path) not in row["status"]["error_message"]
    assert server.get("/v2/health/ready").status == 503


def test_the_old_version_goes_on_when_the_new_ones_warm_up_fails(
    serve: ServerFactory, tmp_path: Path
) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK, "--load-retries", "0")
    with Askers(server, *ALL_WAYS) as askers:
        set_config(root, "[[warmup.requests]]\ninputs.nobody = {}\n")
        put(root, "m", 2, models.plus(2))
        wait_until(lambda: states(server).get(2) == "END", 30, "version 2 has failed")
        assert states(server)[1] == "AVAILABLE"
        count = len(askers.answers)
        wait_until(lambda: len(askers.answers) > count + 20, 30, "answers")
        set_config(root, "[[warmup.requests]]\nbatch_size = 3\n")
        put(root, "m", 3, models.plus(3))
        await_states(server, {3: "AVAILABLE"})
        assert constant_of(server) == 3
    assert {answer.constant for answer in askers.answers} == {1.0, 3.0}


def test_tritons_words(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "r", {"picky": models.picky(), "bad": models.picky()})
    text = """
    backend: "onnxruntime" max_batch_size: 8
    model_warmup [
      { name: "zero" batch_size: 8 count: 3
        inputs { key: "INPUT0" value: { data_type: TYPE_INT64 dims: [ 1 ] zero_data: true } } },
      { name: "random" inputs { key: "INPUT0" value: { data_type: TYPE_INT64 dims: 1 random_data: true } } },
      { name: "file" batch_size: 2
        inputs { key: "INPUT0" value: { data_type: TYPE_INT64 dims: 1 input_data_file: "ids" } } } ]
    """
    for name, index in (("picky", 7), ("bad", 8)):
        (root / name / "config.pbtxt").write_text(text)
        (root / name / "warmup").mkdir()
        (root / name / "warmup" / "ids").write_bytes(np.array([index], np.int64).tobytes())
    server = serve(root, "--load-retries", "0", wait=False).wait_listening()
    wait_until(lambda: states(server, "picky") == {1: "AVAILABLE"}, 30, "picky is available")
    wait_until(lambda: states(server, "bad") == {1: "END"}, 30, "bad has failed")
    (row,) = server.get("/v1/models/bad").json()["model_version_status"]
    assert row["status"]["error_message"].startswith("warm-up: request 'file': ")


# --- recorded requests, with the stock messages


#: Fields of PredictionLog, whose stock class needs more of TensorFlow than there is here.
REGRESS_LOG, PREDICT_LOG = 3, 6


def log_of(kind: int, request: Any) -> bytes:
    recorder = field(1, b"whoever recorded it")
    return field(1, recorder) + field(kind, field(1, request.SerializeToString()))


def predict_log(value: float = 1.0, name: str = "x") -> bytes:
    request = stock_module("predict_pb2").PredictRequest()
    request.model_spec.name = "whoever"
    request.inputs[name].dtype = 1
    request.inputs[name].tensor_shape.dim.add(size=2)
    request.inputs[name].float_val.extend([value, 2.0])
    return log_of(PREDICT_LOG, request)


def regress_log(value: float) -> bytes:
    request = stock_module("regression_pb2").RegressionRequest()
    request.model_spec.name = "m"
    example: Any = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(value)
    return log_of(REGRESS_LOG, request)


def recorded(root: Path, *logs: bytes, version: int = 1) -> None:
    file = root / "m" / str(version) / RECORDED
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(record_file(logs))


def test_recorded_requests(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    recorded(root, predict_log(), regress_log(2.0), predict_log())
    server = serve(root, "--num_request_iterations_for_warmup", "2")
    assert "requests=3" in server.log
    assert executions(server, "m") == 0
    off = serve(root, "--enable_model_warmup=false")
    assert "warmed up" not in off.log


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        (record_file([b"\xff\xff"]), "INVALID_ARGUMENT", "no PredictionLog"),
        (b"this is no record file, whatever its name", "DATA_LOSS", "record 0"),
        (record_file([b""] * 3)[:-1], "UNIMPLEMENTED", "none"),
    ],
)
def test_record_files_that_are_none(
    serve: ServerFactory, tmp_path: Path, content: bytes, code: str, word: str
) -> None:
    root = repository(tmp_path / "r", 1)
    recorded(root)
    (root / "m" / "1" / RECORDED).write_bytes(content)
    server = serve(root, "--load-retries", "0", wait=False).wait_listening()
    wait_until(lambda: states(server) == {1: "END"}, 30, "the load has failed")
    (row,) = server.get("/v1/models/m").json()["model_version_status"]
    assert (row["status"]["error_code"], word in row["status"]["error_message"]) == (code, True), row


def test_a_recorded_request_that_fails_and_one_that_is_mended(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK, "--load-retries", "0")
    with Askers(server, *ALL_WAYS):
        put(root, "m", 2, models.plus(2))
        hidden = root / ".3"
        hidden.mkdir()
        (hidden / "model.onnx").write_bytes(models.plus(3).SerializeToString())
        (hidden / RECORDED).parent.mkdir()
        (hidden / RECORDED).write_bytes(record_file([predict_log(), predict_log(name="nobody")]))
        await_states(server, {2: "AVAILABLE"})
        hidden.rename(root / "m" / "3")
        wait_until(lambda: states(server).get(3) == "END", 30, "version 3 has failed")
        # The log is read by threads of this process, which may come after the answer.
        wait_until(lambda: f"record 1 of {RECORDED}" in server.log, 30, "the log says why")
        assert constant_of(server) == 2
        recorded(root, predict_log(), version=3)
        await_states(server, {3: "AVAILABLE"})
