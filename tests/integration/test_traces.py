"""The trace and logging extensions with the stock clients, and what is found in the file afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

import models
from integration.conftest import ServerFactory
from integration.server_process import Server
from integration.tensors import sample

_ALL = (
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
)


def infer(module: Any, server: Server, model: str, request_id: str, times: int = 1) -> None:
    client = module.InferenceServerClient(server.url)
    given = module.InferInput("INPUT0", [1, 16], "FP32")
    given.set_data_from_numpy(sample("FP32", (1, 16)))
    for _ in range(times):
        client.infer(model, [given], request_id=request_id)
    client.close()


def traces(file: Path) -> list[tuple[dict[str, Any], dict[str, int]]]:
    objects = json.loads(file.read_text())
    return [
        (about, {stage["name"]: stage["ns"] for stage in times["timestamps"]})
        for about, times in zip(objects[::2], objects[1::2], strict=True)
    ]


def test_traces_of_both_protocols(serve: ServerFactory, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    server = serve({"tiny": models.tiny(), "quiet": models.tiny()}, "--trace-file", str(file))
    http = triton_http.InferenceServerClient(server.url)
    grpc = triton_grpc.InferenceServerClient(server.url)
    assert "trace" in http.get_server_metadata()["extensions"]
    infer(triton_http, server, "tiny", "untraced")

    answer = http.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert (answer["trace_level"], answer["trace_rate"]) == (["TIMESTAMPS"], "1")
    grpc.update_trace_settings(model_name="quiet", settings={"trace_level": "OFF"})
    assert http.get_trace_settings(model_name="quiet")["trace_level"] == ["OFF"]
    infer(triton_http, server, "quiet", "quiet")
    infer(triton_http, server, "tiny", "over HTTP")
    infer(triton_grpc, server, "tiny", "over gRPC")
    with pytest.raises(InferenceServerException):
        http.infer("tiny", [triton_http.InferInput("WRONG", [1, 16], "FP32")], request_id="refused")

    # Three more, with the stock client's words for "take the change back" at the end.
    http.update_trace_settings(settings={"trace_count": "3"})
    infer(triton_http, server, "tiny", "counted", times=5)
    settings = grpc.get_trace_settings().settings
    assert list(settings["trace_count"].value) == ["0"]
    grpc.update_trace_settings(settings={"trace_count": None, "trace_level": None})
    assert list(grpc.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert server.stop() == 0

    found = traces(file)
    ids = [about.get("request_id") for about, _ in found]
    assert ids == ["over HTTP", "over gRPC", "refused", "counted", "counted", "counted"]
    assert [about["code"] for about, _ in found] == ["OK", "OK", "INVALID_ARGUMENT", "OK", "OK", "OK"]
    assert [about["dialect"] for about, _ in found[:2]] == ["oip_http", "oip_grpc"]
    for about, times in found:
        assert (about["model_name"], about["model_version"]) == ("tiny", 1)
        if about["code"] == "OK":
            assert tuple(times) == _ALL
            assert list(times.values()) == sorted(times.values())
        else:
            assert tuple(times) == ("REQUEST_START", "REQUEST_END")


def test_tracing_from_the_start_in_small_files(serve: ServerFactory, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    flags = ("--trace-level", "TIMESTAMPS", "--trace-rate", "2", "--trace-log-frequency", "2")
    server = serve({"tiny": models.tiny()}, "--trace-file", str(file), *flags)
    infer(triton_http, server, "tiny", "x", times=6)
    assert server.stop() == 0
    assert [len(traces(tmp_path / f"trace.json.{part}")) for part in (0, 1)] == [2, 1]
    assert not file.exists()


def test_a_trace_file_needs_a_folder(serve: ServerFactory, tmp_path: Path) -> None:
    server = serve({"tiny": models.tiny()}, "--trace-file", str(tmp_path / "none" / "trace.json"), wait=False)
    assert server.process.wait(20) == 1
    assert "--trace-file: no folder" in server.log


def test_levels_of_the_log(serve: ServerFactory) -> None:
    server = serve({"tiny": models.tiny()})
    client = triton_grpc.InferenceServerClient(server.url)
    client.update_log_settings({"log_info": False})
    http = triton_http.InferenceServerClient(server.url)
    assert http.get_log_settings()["log_info"] is False
    assert http.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    for change in ({"log_file": "x"}, {"log_format": "default"}):
        with pytest.raises(InferenceServerException, match=r"not supported|cannot be changed"):
            http.update_log_settings(change)
    assert server.stop() == 0
    assert "draining" not in server.log
