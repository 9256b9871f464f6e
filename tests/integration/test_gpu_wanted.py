"""Models that ask for GPUs, on a machine that has none to give."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.server_process import wait_until


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime can use GPUs."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    return any((Path(folder) / "capi" / "libonnxruntime_providers_cuda.so").exists() for folder in folders)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return models.save_repository(
        tmp_path / "models", {name: models.half_plus_two() for name in ("auto", "one", "many")}
    )


@pytest.mark.skipif(has_cuda(), reason="this ONNX Runtime can use GPUs")
def test_asked_for_and_absent_is_an_error_and_auto_takes_what_there_is(
    serve: ServerFactory, root: Path
) -> None:
    (root / "auto" / "model.toml").write_text('[runtime]\ndevice = "auto"\nlanes = 3\n')
    (root / "one" / "model.toml").write_text('[runtime]\ndevice = "cuda:0"\n')
    (root / "many" / "model.toml").write_text('[runtime]\ndevices = ["cuda:0", "cuda:7"]\n')
    server = serve(root, wait=False)
    server.wait_listening()
    wait_until(lambda: any("not ready" in line for line in server.stderr), 30, "loading is over")
    assert server.predict("auto", {"instances": [1.0]}).json() == {"predictions": [2.5]}
    assert server.get("/v2/models/auto/config").json()["instance_group"][0]["kind"] == "KIND_CPU"
    available = next(line for line in server.stderr if "available" in line)
    assert "device=cpu" in available
    index = {entry["name"]: entry for entry in server.post("/v2/repository/index").json()}
    for name in ("one", "many"):
        assert server.get(f"/v2/models/{name}/ready").status == 503
        assert "cuda:0" in index[name]["reason"]
        assert "onnxruntime-gpu" in index[name]["reason"]
