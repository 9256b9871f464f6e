"""Control calls, without sockets: a router over a manager whose engine is the stand-in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
import pytest_asyncio

from servolley.config.model import Batching, ModelConfig, Runtime
from servolley.front.calls import Reply
from servolley.front.router import percent_decode
from servolley.repository.layout import ModelOnDisk
from servolley.status import Code
from unit import fake_core

if TYPE_CHECKING:
    pass

from unit.routes_front import Front

LARGEST = (1 << 63) - 1


@pytest_asyncio.fixture
async def front() -> Front:
    front = Front()
    await front.load()
    return front


# --- both dialects ---


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "HEAD", "TRACE", "CONNECT", "get"])
@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v2", "GET"),
        ("/v2/health/live", "GET"),
        ("/v2/models/m", "GET"),
        ("/v2/models/m/versions/1/infer", "POST"),
        ("/v2/models/m/infer", "POST"),
        ("/v2/repository/index", "POST"),
        ("/v2/logging", "GET, POST"),
        ("/v1/models/m", "GET, OPTIONS"),
        ("/v1/models/m:predict", "OPTIONS, POST"),
        ("/V1/MODELS/m/Labels/x:predict", "OPTIONS, POST"),
        ("/metrics", "GET"),
        ("/monitoring/prometheus/metrics", "GET"),
    ],
)
async def test_wrong_verbs(front: Front, verb: str, path: str, allow: str) -> None:
    reply = await front.ask(verb, path)
    assert (reply.status, reply.headers) == (405, (("Allow", allow),))
    assert orjson.loads(reply.body) == {"error": "Method Not Allowed"}


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v2/", "//v2", "/v2/../v2", "/V2", "/v3", "*", "", "/v1", "/v2/health", "http://host/v2"),
        *("/v2/models/", "/v2/models//ready", "/v2/models/m/", "/v2/models/a/../b", "/metrics/x"),
        *("/v2/models/m/versions/1a", "/v2/models/m/versions/", "/v2/models/m/versions/-1/config"),
        "/v2/models/m/versions/1/trace/setting",
    ],
)
async def test_unknown_paths(front: Front, path: str) -> None:
    assert await front.error("GET", path) == (404, "Not Found")


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", "%2E", "a%2Fb", "%00", "%20", " m", "m%0a", "x" * 256, "%ff", "%zz", "%", "%4", ".git"],
)
async def test_impossible_model_names(front: Front, name: str) -> None:
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/ready", f"/v1/models/{name}"):
        status, _ = await front.error("GET", path)
        assert status == 400, path


@pytest.mark.parametrize(
    ("digits", "status"),
    [("99999999999999999999", 400), (str(LARGEST + 1), 400), (str(LARGEST), 404), ("9" * 6000, 400)],
)
async def test_versions_beyond_64_bits(front: Front, digits: str, status: int) -> None:
    for path in (f"/v2/models/m/versions/{digits}/config", f"/v1/models/m/versions/{digits}"):
        assert (await front.error("GET", path))[0] == status


async def test_zero_padded_versions_are_numbers(front: Front) -> None:
    assert (await front.get("/v2/models/m/versions/" + "0" * 5000 + "3"))["versions"] == ["3"]


async def test_names_are_percent_decoded(front: Front) -> None:
    assert (await front.get("/v2/models/%6d"))["name"] == "m"
    assert (await front.get("/v2/models/m?verbose=1"))["name"] == "m"
    assert percent_decode("caf%C3%A9%20%2B") == "café +"
    assert percent_decode("cafÃ©") == "café"  # raw UTF-8, as the core shows it


async def test_bodies_of_get_are_ignored(front: Front) -> None:
    assert (await front.ask("GET", "/v2/health/live", b"\xff{")).status == 200


# --- Open Inference Protocol ---


async def test_health(front: Front) -> None:
    front.manager.models["m"].versions[3].failure = None
    assert await front.ask("GET", "/v2/health/live") == Reply(200)
    assert await front.error("GET", "/v2/health/ready") == (503, "Server not ready")  # because of "bad"
    del front.manager._models["bad"]
    assert await front.ask("GET", "/v2/health/ready") == Reply(200)
    front.context.draining = True
    assert (await front.ask("GET", "/v2/health/ready")).status == 503
    assert await front.error("GET", "/v2/health/live") == (503, "Server exiting")


async def test_live_and_not_ready_while_loading() -> None:
    front = Front()
    assert (await front.ask("GET", "/v2/health/live")).status == 200
    assert (await front.ask("GET", "/v2/health/ready")).status == 503


async def test_server_metadata(front: Front) -> None:
    document = await front.get("/v2")
    assert document["name"] == "servolley"
    assert document["version"] == "1.2.3"
    assert "statistics" in document["extensions"]  # perf_analyzer asks
    assert "model_repository" not in document["extensions"]  # not before load and unload work


async def test_model_list(front: Front) -> None:
    assert await front.get("/v2/models") == {
        "models": [
            {"name": "m", "versions": ["1", "3"], "ready": True, "labels": {"stable": 1}},
            {"name": "bad", "versions": [], "ready": False, "labels": {}},
        ]
    }


async def test_model_metadata(front: Front) -> None:
    expected = {
        "name": "m",
        "versions": ["1", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    assert await front.get("/v2/models/m") == expected
    assert await front.get("/v2/models/m/versions/1") == expected | {"versions": ["1"]}


async def test_models_that_are_not_there(front: Front) -> None:
    assert await front.error("GET", "/v2/models/x") == (404, "Request for unknown model: 'x' is not found")
    assert await front.error("GET", "/v2/models/m/versions/2") == (
        404,
        "Request for unknown model: 'm' version 2 is not at ready state",
    )
    assert await front.error("GET", "/v2/models/bad/config") == (
        503,
        "Request for unknown model: 'bad' has no version at ready state",
    )


async def test_model_ready(front: Front) -> None:
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/3/ready"):
        assert await front.ask("GET", path) == Reply(200)
    for path in ("/v2/models/bad/ready", "/v2/models/m/versions/2/ready"):
        assert await front.error("GET", path) == (503, "Model version not ready")
    assert (await front.error("GET", "/v2/models/x/ready"))[0] == 404


async def test_model_config(front: Front) -> None:
    config = await front.get("/v2/models/m/config")
    assert config["name"] == "m"
    assert config["platform"] == "onnxruntime_onnx"
    assert config["max_batch_size"] == 8
    assert config["version_policy"] == {"all": {}}
    assert config["input"] == [
        {
            "name": "x",
            "data_type": "TYPE_FP32",
            "format": "FORMAT_NONE",
            "dims": [16],  # without the batch dimension
            "is_shape_tensor": False,
            "allow_ragged_batch": False,
            "optional": False,
            "is_non_linear_format_io": False,
        }
    ]
    assert config["output"][0]["dims"] == [4]
    assert config["dynamic_batching"]["preferred_batch_size"] == [8]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    # What would make perf_analyzer look for more members must be absent.
    assert not {"sequence_batching", "ensemble_scheduling", "model_transaction_policy"} & config.keys()


async def test_model_config_of_an_unbatched_model_on_a_gpu(front: Front) -> None:
    record = front.manager.models["m"]
    runtime = Runtime(device="cuda:2")
    config = ModelConfig(runtime=runtime, batching=Batching(max_batch_size=0), class_labels={"y": "l.txt"})
    record.found = ModelOnDisk("m", None, config)
    servable = cast("Any", record.versions[3].servable)
    servable.max_batch_size, servable.devices = 0, ["cuda:2"]
    servable.inputs = [fake_core.TensorSpec("s", "BYTES", "DT_STRING", [2, -1])]
    document = await front.get("/v2/models/m/config")
    assert document["input"][0]["data_type"] == "TYPE_STRING"
    assert document["input"][0]["dims"] == [2, -1]
    assert document["output"][0]["label_filename"] == "l.txt"
    assert document["instance_group"][0]["gpus"] == [2]
    assert document["instance_group"][0]["kind"] == "KIND_GPU"
    assert "dynamic_batching" not in document


async def test_statistics(front: Front) -> None:
    one = await front.get("/v2/models/m/versions/3/stats")
    assert [entry["version"] for entry in one["model_stats"]] == ["3"]
    assert len((await front.get("/v2/models/m/stats"))["model_stats"]) == 2
    assert len((await front.get("/v2/models/stats"))["model_stats"]) == 2
    entry = one["model_stats"][0]
    assert entry["inference_count"] == 12
    assert entry["inference_stats"]["success"] == {"count": 6, "ns": 9_000_000}
    counts = {entry["inference_stats"][f"compute_{phase}"]["count"] for phase in ("input", "infer", "output")}
    assert counts == {6}
    assert entry["batch_stats"] == [
        {
            "batch_size": 4,
            "compute_input": {"count": 3, "ns": 1},
            "compute_infer": {"count": 3, "ns": 2},
            "compute_output": {"count": 3, "ns": 3},
        }
    ]
    assert set(entry) == {
        "name", "version", "last_inference", "inference_count", "execution_count", "inference_stats",
        "response_stats", "batch_stats", "memory_usage",
    }  # fmt: skip


async def test_index(front: Front) -> None:
    expected = [
        {"name": "m", "version": "1", "state": "READY", "reason": ""},
        {"name": "m", "version": "3", "state": "READY", "reason": ""},
        {"name": "bad", "version": "1", "state": "UNAVAILABLE", "reason": "not a model"},
    ]
    for path, body in (
        ("/v2/repository/index", None),
        ("/v2/repository/any/index", {}),
        ("/v2/repository/index", b""),
    ):
        reply = await front.ask("POST", path, body)
        assert orjson.loads(reply.body) == expected
    reply = await front.ask("POST", "/v2/repository/index", {"ready": True})
    assert orjson.loads(reply.body) == expected[:2]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready":1}', b"\xff", b"[" * 250_000, b'{"ready":true}x'])
async def test_index_refuses_bad_bodies(front: Front, body: bytes) -> None:
    assert (await front.error("POST", "/v2/repository/index", body))[0] == 400


async def test_load_and_unload_are_refused(front: Front) -> None:
    text = "explicit model load / unload is not allowed if polling is enabled"
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/m/{verb}"
        assert await front.error("POST", path, {"parameters": {}}) == (503, text)
        assert (await front.error("POST", f"/v2/repository/r/models/m/{verb}"))[0] == 501
        assert (await front.error("POST", f"/v2/repository/models/%2e%2e/{verb}"))[0] == 400
        assert (await front.error("POST", path, b'{"parameters":3}'))[0] == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/cudasharedmemory/region/r/register"),
        ("POST", "/v2/systemsharedmemory/region/r/register"),
        ("POST", "/v2/systemsharedmemory/unregister"),
        ("POST", "/v2/cudasharedmemory/unregister"),
        ("POST", "/v2/models/m/generate"),
        ("POST", "/v2/models/m/versions/1/generate_stream"),
    ],
)
async def test_what_is_not_built_says_so(front: Front, method: str, path: str) -> None:
    status, text = await front.error(method, path, {})
    assert status == 501
    assert "does not support" in text


async def test_log_settings(front: Front) -> None:
    settings = await front.get("/v2/logging")
    assert settings["log_error"] is True
    assert set(settings) == {
        "log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format",
    }  # fmt: skip
    reply = await front.ask("POST", "/v2/logging", {"log_info": False, "log_error": None})
    assert orjson.loads(reply.body) == settings | {"log_info": False}
    assert await front.get("/v2/logging") == settings | {"log_info": False}
    status, text = await front.error("POST", "/v2/logging", {"log_error": False, "log_file": "/x"})
    assert status == 501
    assert "cannot be changed" in text
    assert (await front.get("/v2/logging"))["log_error"] is True


async def test_trace_settings(front: Front) -> None:
    settings = await front.get("/v2/trace/setting")
    assert settings["trace_level"] == ["OFF"]
    assert set(settings) == {
        "trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode",
    }  # fmt: skip
    reply = await front.ask("POST", "/v2/models/m/trace/setting", {"trace_rate": "5"})
    assert orjson.loads(reply.body) == settings | {"trace_rate": "5"}
    assert await front.get("/v2/trace/setting") == settings
    for path in ("/v2/models/nobody/trace/setting",):
        assert await front.error("GET", path) == (404, "Request for unknown model: 'nobody' is not found")
    status, text = await front.error("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]})
    assert status == 400
    assert "--trace-file" in text


# --- metrics ---


async def test_metrics(front: Front) -> None:
    for path in ("/metrics", "/metrics/", "/monitoring/prometheus/metrics"):
        reply = await front.ask("GET", path)
        assert reply.status == 200
        assert reply.content_type.startswith("text/plain; version=0.0.4")
        assert b'nv_inference_count{model="m",version="3"} 12.0\n' in reply.body
        assert b'servolley_build_info{onnxruntime="1.99.0",version="1.2.3"} 1.0\n' in reply.body


def test_the_error_table_is_the_cores() -> None:
    source = (Path(__file__).parents[2] / "csrc/base/status.cc").read_text()
    rows = {
        (line.split('"')[1], line.rsplit(",", 2)[1].strip(" }"))
        for line in source.splitlines()
        if line.startswith('    {"')
    }
    for code in Code:
        assert (code.canonical, str(code.http_status)) in rows, code


def test_the_grpc_numbers_are_the_cores() -> None:
    source = (Path(__file__).parents[2] / "csrc/base/status.h").read_text()
    numbers = {name.lower(): int(number) for name, number in re.findall(r"\bk(\w+) = (\d+)", source)}
    for code in Code:
        assert numbers[code.canonical.replace("_", "").lower()] == code.grpc_number, code
