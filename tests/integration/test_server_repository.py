"""What the server makes of a model repository: versions, model.toml, broken models, names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import models
from integration.conftest import ServerFactory
from integration.server_process import Server, wait_until


def assert_right(server: Server, model: str = "half_plus_two") -> None:
    assert server.predict(model, {"instances": [1.0]}).json() == {"predictions": [2.5]}


def run_to_end(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "servolley", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_broken_model_does_not_stop_the_others(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "mixed",
        {
            "half_plus_two": models.half_plus_two(),
            "sequence_output": models.sequence_output(),
            "float8_input": models.float8_input(),
            "truncated": models.tiny(),
            "garbage": models.tiny(),
            "outside": models.external_weights("../../secret.bin"),
        },
    )
    for name, content in (
        ("truncated", models.tiny().SerializeToString()[:200]),
        ("garbage", b"\xff" * 1000),
    ):
        (root / name / "1" / "model.onnx").write_bytes(content)
    (root / "secret.bin").write_bytes(b"\0" * 16)
    server = serve(root, wait=False)
    server.wait_listening()
    wait_until(lambda: any("not ready" in line for line in server.stderr), 30, "loading is over")
    assert_right(server)
    # Strict readiness: a wanted model is missing.
    assert server.get("/v2/health/ready").status == 503
    index = {entry["name"]: entry for entry in server.post("/v2/repository/index").json()}
    assert index["half_plus_two"]["state"] == "READY"
    for name in ("sequence_output", "float8_input", "truncated", "garbage", "outside"):
        assert index[name]["state"] == "UNAVAILABLE", name
        assert index[name]["reason"], name
        assert str(tmp_path) not in index[name]["reason"], name
        status = server.get(f"/v1/models/{name}").json()["model_version_status"][0]
        assert status["state"] == "END"
        assert status["status"]["error_code"] != "OK"
        assert status["status"]["error_message"]
        assert server.predict(name, {"instances": [1]}).status == 404
        assert server.infer(name, []).status == 503
    assert "float8" in index["float8_input"]["reason"].lower()


def test_readiness_that_ignores_broken_models(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r", {"good": models.half_plus_two(), "bad": models.float8_input()}
    )
    server = serve(root, "--strict-readiness", "false")
    assert_right(server, "good")


def test_exit_on_error(tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r", {"good": models.half_plus_two(), "bad": models.float8_input()}
    )
    ended = run_to_end("serve", root, "--exit-on-error", "--host", "127.0.0.1", "--port", "0")
    assert ended.returncode == 1
    assert "cannot be loaded" in ended.stderr


def test_an_unknown_key_in_model_toml(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r", {"good": models.half_plus_two(), "typo": models.half_plus_two()}
    )
    (root / "typo" / "model.toml").write_text("[batching]\nmax_batch_sise = 4\n")
    server = serve(root, "--strict-readiness", "false")
    (entry,) = [e for e in server.post("/v2/repository/index").json() if e["name"] == "typo"]
    assert entry["state"] == "UNAVAILABLE"
    assert "unknown key 'batching.max_batch_sise', did you mean 'max_batch_size'" in entry["reason"]
    assert str(tmp_path) not in entry["reason"]
    assert any("did you mean 'max_batch_size'" in line for line in server.stderr)
    assert_right(server, "good")


def test_model_toml_is_honoured(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r",
        {
            "small": models.identity(),
            "single": models.identity(),
            "third": {1: models.half_plus_two(), 2: models.half_plus_two(), 3: models.half_plus_two()},
            "renamed": models.half_plus_two(),
        },
    )
    (root / "small" / "model.toml").write_text(
        "[batching]\nmax_batch_size = 2\npreferred_batch_sizes = [2]\nmax_queue_size = 7\n"
        'max_queue_delay_us = 10\n[runtime]\nexecution = "threads"\ninstances = 2\n'
    )
    (root / "single" / "model.toml").write_text("[batching]\nmax_batch_size = 0\n")
    (root / "third" / "model.toml").write_text("[versions]\nspecific = [1, 3]\n")
    (root / "renamed" / "1" / "model.onnx").rename(root / "renamed" / "1" / "net.onnx")
    (root / "renamed" / "model.toml").write_text('filename = "net.onnx"\n')
    server = serve(root)
    config = server.get("/v2/models/small/config").json()
    assert config["max_batch_size"] == 2
    assert config["instance_group"][0]["count"] == 2
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 10
    assert config["dynamic_batching"]["preferred_batch_size"] == [2]
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 7
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [3, 1], "data": [1, 2, 3]}
    over = server.infer("small", [tensor])
    assert over.status == 400
    assert "inference request batch-size must be <= 2 for 'small'" in over.error
    assert server.infer("single", [tensor]).status == 200
    assert server.get("/v2/models/single/config").json()["max_batch_size"] == 0
    assert server.get("/v2/models/third").json()["versions"] == ["1", "3"]
    assert server.get("/v2/models/third/versions/2").status == 404
    assert_right(server, "third")
    assert_right(server, "renamed")


def test_the_highest_version_is_the_default(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r",
        {"m": {2: models.half_plus_two(), 10: models.half_plus_two(), 9: models.half_plus_two()}},
    )
    server = serve(root)
    assert server.get("/v2/models/m").json()["versions"] == ["10"]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    assert server.infer("m", [tensor]).json()["model_version"] == "10"
    assert server.get("/v1/models/m").json()["model_version_status"][0]["version"] == "10"


def test_names_with_spaces_and_letters_of_the_world(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r", {"two words": models.half_plus_two(), "模型": models.half_plus_two()}
    )
    server = serve(root)
    assert_right(server, "two%20words")
    assert_right(server, "%E6%A8%A1%E5%9E%8B")
    assert server.get("/v2/models/%E6%A8%A1%E5%9E%8B").json()["name"] == "模型"
    assert server.metric("nv_inference_count", model="模型") == 1


def test_several_repositories(serve: ServerFactory, tmp_path: Path) -> None:
    for root, names in (("one", ("a", "both")), ("two", ("b", "both"))):
        models.save_repository(tmp_path / root, {name: models.half_plus_two() for name in names})
    flags = [flag for root in ("one", "two") for flag in ("--model-repository", tmp_path / root)]
    server = serve(None, *flags, "--poll-interval", "0.1", wait=False)
    server.wait_listening()
    wait_until(lambda: any("not ready" in line for line in server.stderr), 30, "loading is over")
    assert_right(server, "a")
    assert_right(server, "b")
    index = {entry["name"]: entry for entry in server.post("/v2/repository/index").json()}
    assert (index["both"]["state"], index["both"]["reason"]) == (
        "UNAVAILABLE",
        "it is in more than one repository",
    )
    shutil.rmtree(tmp_path / "two" / "both")
    wait_until(lambda: server.get("/v2/models/both/ready").status == 200, 30, "there is one of it")
    explicit = serve(None, *flags, "--model-control-mode", "explicit")
    for name in ("a", "b"):
        assert explicit.post(f"/v2/repository/models/{name}/load").status == 200
        assert_right(explicit, name)
