"""Loading and unloading by the repository API, with the stock clients and without good manners."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import models
from integration.conftest import ServerFactory
from integration.hostile import survives
from integration.lifecycle import ALL_WAYS, Askers, await_states, constant_of, put, repository, states
from integration.server_process import Server, wait_until

EXPLICIT = ("--model-control-mode", "explicit")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "r", 1)


@pytest.fixture
def server(serve: ServerFactory, root: Path) -> Server:
    return serve(root, *EXPLICIT)


@pytest.fixture(params=[tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    client = request.param.InferenceServerClient(server.url)
    yield client
    client.close()


def index(client: Any) -> list[dict[str, Any]]:
    found = client.get_model_repository_index()
    if isinstance(found, list):
        return found
    return [
        {field: getattr(model, field) for field in ("name", "version", "state", "reason")}
        for model in found.models
    ]


def change(server: Server, verb: str, model: str = "m", **parameters: Any) -> int:
    return server.post(f"/v2/repository/models/{model}/{verb}", {"parameters": parameters}).status


def test_load_and_unload_with_the_stock_clients(client: Any, root: Path, server: Server) -> None:
    assert client.is_server_ready()
    (unloaded,) = index(client)
    assert unloaded["name"] == "m"
    assert not unloaded.get("state")
    client.load_model("m")
    assert client.is_model_ready("m")
    assert [(entry["version"], entry["state"]) for entry in index(client)] == [("1", "READY")]
    put(root, "m", 2, models.plus(2))
    assert constant_of(server) == 1  # nobody has asked for it
    client.load_model("m")
    assert constant_of(server) == 2
    client.unload_model("m")
    assert not client.is_model_ready("m")
    assert client.is_server_ready()
    assert {entry["state"] for entry in index(client)} <= {"UNLOADING", "UNAVAILABLE"}
    client.load_model("m")
    assert constant_of(server) == 2


def test_a_configuration_with_a_load(client: Any, server: Server) -> None:
    def max_batch_size() -> int:
        return int(server.get("/v2/models/m/config").json()["max_batch_size"])

    client.load_model("m")
    inferred = max_batch_size()
    config = {
        "max_batch_size": 3,
        "dynamic_batching": {"max_queue_delay_microseconds": 100},
        "version_policy": {"specific": {"versions": [1]}},
    }
    client.load_model("m", config=json.dumps(config))
    assert max_batch_size() == 3
    assert server.log.count(" loading ") == 1  # the weights stay
    client.load_model("m")
    assert max_batch_size() == inferred


#: What is wrong with it, by a word of the refusal.
REFUSED_CONFIGS = [
    ("not json", "ModelConfig"),
    ("[]", "object"),
    ('{"max_batch": 3}', "max_batch"),
    ('{"name": "other"}', "other"),
    ('{"backend": "python"}', "python"),
    ('{"platform": "tensorrt_plan"}', "tensorrt_plan"),
    ('{"default_model_filename": "../../etc/passwd"}', "filename"),
    ('{"output": [{"name": "y", "label_filename": "../../../../etc/passwd"}]}', "outside"),
    ('{"version_policy": {"specific": {"versions": [9]}}}', "version policy"),
    ('{"instance_group": [{"kind": "KIND_GPU", "gpus": [77]}]}', ""),
    ('{"max_batch_size": 99999999999}', "ModelConfig"),
    (
        '{"parameters": {"k": {"string_value": "' + "x" * (1 << 20) + '"}}, "sequence_batching": {}}',
        "sequence",
    ),
    ('{"input":' + "[" * 2000 + "]" * 2000 + "}", "ModelConfig"),
]


def test_configurations_that_are_refused(client: Any, server: Server) -> None:
    client.load_model("m")
    for config, word in REFUSED_CONFIGS:
        with pytest.raises(InferenceServerException) as refused:
            client.load_model("m", config=config)
        status = str(refused.value.status()).removeprefix("StatusCode.")
        assert status in {"400", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}, config[:100]
        assert word in refused.value.message(), config[:100]
        assert len(refused.value.message()) < 2000
        assert constant_of(server) == 1  # the old model keeps serving


def test_models_that_cannot_be_loaded(client: Any, root: Path, server: Server) -> None:
    def refusal(name: str, **arguments: Any) -> str:
        with pytest.raises(InferenceServerException) as refused:
            client.load_model(name, **arguments)
        assert str(root) not in refused.value.message()
        return str(refused.value.status()).removeprefix("StatusCode.")

    assert refusal("nobody") in {"404", "NOT_FOUND"}
    for version, content in ((1, b"\xff" * 100), (2, models.external_weights("/etc/hostname"))):
        name = f"bad{version}"
        put(root, name, 1, models.plus(1))
        data = content if isinstance(content, bytes) else content.SerializeToString()
        (root / name / "1" / "model.onnx").write_bytes(data)
        assert refusal(name) in {"400", "INVALID_ARGUMENT"}
    client.load_model("m")
    (root / "m" / "1" / "model.onnx").write_bytes(b"\xff" * 100)
    assert refusal("m") in {"400", "INVALID_ARGUMENT"}
    assert constant_of(server) == 1
    client.unload_model("nobody")


def test_what_is_loaded_at_start(serve: ServerFactory, root: Path) -> None:
    put(root, "n", 1, models.plus(5))
    some = serve(root, *EXPLICIT, "--load-model", "n")
    assert (states(some, "n"), states(some)) == ({1: "AVAILABLE"}, {})
    every = serve(root, *EXPLICIT, "--load-model", "*")
    assert (states(every, "n"), states(every)) == ({1: "AVAILABLE"}, {1: "AVAILABLE"})
    none = serve(root, *EXPLICIT, "--load-model", "nobody", wait=False)
    assert none.wait_exit() == 1
    assert "nobody" in none.log


# --- hostile cases 25 to 27


NO_NAMES = [
    "..%2Fetc",
    "a%2F..%2Fb",
    "%2Fetc",
    "%20..",
    "x" * 4096,
    "a%01b",
    ".",
    "..",
    ".hidden",
    "a%5Cb",
]


def test_names_that_are_none(server: Server) -> None:
    for verb in ("load", "unload"):
        for name in NO_NAMES:
            assert change(server, verb, name) in {400, 404}, name


def test_versions_that_are_none(server: Server) -> None:
    assert change(server, "load") == 200
    for version in ("99999999999999999999", "-1", "0", "1a"):
        path = f"/v2/models/m/versions/{version}"
        assert server.post(path + "/infer", {"inputs": []}).status in {400, 404}, version
        assert server.get(path).status in {400, 404}, version


def at_once(count: int, what: Callable[[int], int]) -> Counter[int]:
    """Statuses of ``count`` calls, from 50 threads that start together."""
    with ThreadPoolExecutor(50) as pool:
        barrier = threading.Barrier(50)

        def call(number: int) -> int:
            if number < 50:
                barrier.wait(30)
            return what(number)

        return Counter(pool.map(call, range(count)))


def test_five_hundred_loads_at_once(server: Server) -> None:
    with survives(server):
        assert at_once(500, lambda _: change(server, "load")) == {200: 500}
        assert server.log.count(" loading ") == 1
        assert constant_of(server) == 1


def test_load_against_unload(server: Server) -> None:
    with survives(server):
        statuses = at_once(400, lambda number: change(server, "load" if number % 2 else "unload"))
        assert statuses.keys() <= {200, 409}
        assert change(server, "load") == 200
        assert constant_of(server) == 1


def test_loads_with_different_configurations_under_load(server: Server) -> None:
    assert change(server, "load") == 200
    with Askers(server, *ALL_WAYS):
        statuses = at_once(
            100, lambda number: change(server, "load", config=f'{{"max_batch_size": {number % 3 + 2}}}')
        )
    assert statuses.keys() <= {200, 409}
    assert change(server, "load") == 200


def test_unload_while_a_request_runs(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "r", {"slow": models.slow(800)})
    server = serve(root, *EXPLICIT, "--load-model", "slow")
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 512], "data": [0.5] * 512}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.infer, "slow", [tensor])
        wait_until(lambda: server.metric("nv_inference_pending_request_count") or asked.done(), 30, "it")
        assert change(server, "unload", "slow") == 200
        assert server.infer("slow", [tensor]).status == 503
        assert states(server, "slow")[1] in {"UNLOADING", "END"}
        assert asked.result(60).status == 200
    await_states(server, {1: "END"}, "slow")
    assert change(server, "load", "slow") == 200
    assert server.infer("slow", [tensor]).status == 200
