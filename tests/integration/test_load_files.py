"""Loads that bring the model's files along, with the stock clients; and files that want to lie elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
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
from integration.lifecycle import ALL_WAYS, Askers, constant_of, repository, states
from integration.server_process import Server


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server makes temporary directories."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def server(serve: ServerFactory, tmp_path: Path, temporary: Path) -> Server:
    config = '[repository]\nmax_override_size = "2MiB"\n'
    root = repository(tmp_path / "r", 1)
    return serve(root, "--model-control-mode", "explicit", "--load-model", "m", config=config)


@pytest.fixture(params=[tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    client = request.param.InferenceServerClient(server.url)
    yield client
    client.close()


def plus(constant: float) -> bytes:
    return bytes(models.plus(constant).SerializeToString())


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_until_a_plain_load(client: Any, server: Server, temporary: Path) -> None:
    with Askers(server, *ALL_WAYS):
        client.load_model("m", config="{}", files={"file:5/model.onnx": plus(5)})
        assert constant_of(server) == 5
        assert states(server)[5] == "AVAILABLE"
        assert len(entries(temporary)) == 1
        config = {"default_model_filename": "net.onnx", "version_policy": {"all": {}}}
        files = {"file:6/net.onnx": plus(6), "file:7/net.onnx": plus(7)}
        client.load_model("m", config=json.dumps(config), files=files)
        assert constant_of(server) == 7
        assert constant_of(server, "m/versions/6") == 6
        assert len(entries(temporary)) == 1
        client.load_model("m")
        assert constant_of(server) == 1
    assert entries(temporary) == []


def test_a_model_that_is_on_no_disk(client: Any, server: Server, temporary: Path) -> None:
    client.load_model("new", config="{}", files={"file:1/model.onnx": plus(4)})
    assert constant_of(server, "new") == 4
    client.unload_model("new")
    assert not client.is_model_ready("new")
    assert entries(temporary) == []
    with pytest.raises(InferenceServerException, match="failed to poll"):
        client.load_model("new")


def test_labels_and_weights_beside_the_model(client: Any, server: Server) -> None:
    weights = bytes(range(16))
    config = {"output": [{"name": "OUTPUT0", "label_filename": "1/labels.txt"}]}
    files = {
        "file:1/model.onnx": models.external_weights("w.bin").SerializeToString(),
        "file:1/w.bin": weights,
        "file:1/labels.txt": b"a\nb\nc\nd\n",
    }
    client.load_model("external", config=json.dumps(config), files=files)
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1e30, 0, 0, 0]}
    outputs = [{"name": "OUTPUT0", "parameters": {"classification": 1}}]
    answer = server.infer("external", [tensor], outputs=outputs).json()
    assert answer["outputs"][0]["data"][0].endswith(":0:a")


HOSTILE = [
    "file:1/../../x",
    "file:../x/model.onnx",
    "file:/etc/cron.d/model.onnx",
    "file:1//etc/passwd",
    "file:1/a\\..\\b",
    "file:1/\0model.onnx",
    "file:1/.complete",
    "file:0/model.onnx",
    "file:model.onnx",
    "file:",
    "file:1/" + "a" * 300,
]


def test_files_that_want_to_lie_elsewhere(client: Any, server: Server, temporary: Path) -> None:
    before = entries(temporary.parent)
    for name in HOSTILE:
        with pytest.raises(InferenceServerException) as refused:
            client.load_model("m", config="{}", files={name: b"x"})
        assert refused.value.status() in {"400", "StatusCode.INVALID_ARGUMENT"}, name
        assert "<version>/<file name>" in refused.value.message()
    assert entries(temporary) == []
    assert entries(temporary.parent) == before
    assert constant_of(server) == 1


def load(server: Server, model: str = "m", **parameters: Any) -> tuple[int, str]:
    answer = server.post(f"/v2/repository/models/{model}/load", {"parameters": parameters})
    return answer.status, "" if answer.status == 200 else answer.error


def test_what_is_refused_leaves_nothing(server: Server, temporary: Path) -> None:
    good = {"config": "{}", "file:1/model.onnx": base64.b64encode(plus(3)).decode()}
    assert load(server, **good) == (200, "")
    (kept,) = entries(temporary)
    large = {f"file:1/{number}": "A" * (1 << 20) for number in range(3)}
    for parameters, status, word in (
        ({"file:1/model.onnx": "AAAA"}, 400, "needs a 'config'"),
        ({"config": "{}", "file:1/model.onnx": "no base64"}, 400, "not base64"),
        ({"config": "{}", "file:1/model.onnx": 3}, 400, "base64"),
        ({"config": "{}", "file:1/model.onnx": None}, 400, "base64"),
        ({"config": "{}", "file:1/model.onnx": "AAAA"}, 400, "failed to load"),
        ({"config": "{}", "file:1/other.onnx": "AAAA"}, 400, "model.onnx"),
        ({"config": "{", "file:1/model.onnx": "AAAA"}, 400, "ModelConfig"),
        (good | {"config": '{"version_policy": {"specific": {"versions": [9]}}}'}, 400, "version policy"),
        (good | {"file:01/model.onnx": "AAAA"}, 400, "twice"),
        (good | {"file:1/model.onnx/x": "AAAA"}, 400, "below"),
        (good | {f"file:1/f{number}": "" for number in range(1001)}, 400, "1000 files"),
        (good | large, 429, "together"),
    ):
        assert (answer := load(server, **parameters))[0] == status, answer
        assert word in answer[1]
        assert str(temporary) not in answer[1]
        assert constant_of(server) == 3
        assert entries(temporary) == [kept]


def test_many_at_once_and_the_end(server: Server, temporary: Path) -> None:
    def one(number: int) -> int:
        content = base64.b64encode(plus(number)).decode()
        return load(server, f"m{number % 4}", config="{}", **{"file:1/model.onnx": content})[0]

    one(0)
    with survives(server), ThreadPoolExecutor(12) as pool:
        assert set(pool.map(one, range(48))) <= {200, 409}
        for number in range(4):
            assert server.post(f"/v2/repository/models/m{number}/unload").status == 200
        assert entries(temporary) == []
    assert one(1) == 200
    assert server.stop() == 0
    assert entries(temporary) == []
