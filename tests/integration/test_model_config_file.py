"""TensorFlow Serving's model_config_file: what it lists is served, and followed when it changes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.lifecycle import ALL_WAYS, Askers, await_states, constant_of, put, states
from integration.server_process import Server, wait_until

FLAGS = ("--poll-interval", "0.1", "--model_config_file_poll_wait_seconds", "0.1")


def entry(root: Path, name: str, rest: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{root / name}" model_platform: "tensorflow" {rest} }}'


def write(file: Path, *entries: str) -> None:
    hidden = file.with_suffix(".new")
    hidden.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    hidden.rename(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "r"
    for name, versions in (("m", (1, 2, 3)), ("n", (7,))):
        for version in versions:
            put(root, name, version, models.plus(version))
    return root


def started(serve: ServerFactory, file: Path, *flags: str) -> Server:
    return serve(None, *flags, config=f"[repository]\nmodel_config_file = '{file}'\n")


def test_models_policies_and_labels(serve: ServerFactory, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    policy = "model_version_policy { specific { versions: 1 versions: 3 } } "
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 3 }'
    write(file, entry(root, "m", policy + labels), entry(root, "n"))
    server = started(serve, file, *FLAGS)
    assert (states(server), states(server, "n")) == ({1: "AVAILABLE", 3: "AVAILABLE"}, {7: "AVAILABLE"})
    assert (constant_of(server, "m/labels/stable"), constant_of(server, "m/labels/canary")) == (1, 3)
    with Askers(server, *ALL_WAYS):
        # Another policy, another label, and n is gone.
        write(file, entry(root, "m", 'version_labels { key: "stable" value: 3 }'))
        await_states(server, {3: "AVAILABLE"})
        wait_until(lambda: constant_of(server, "m/labels/stable") == 3, 30, "the label has moved")
        wait_until(lambda: server.predict("n", {"instances": [0.0]}).status == 404, 30, "n is gone")
        file.write_text("model_config_list { oops }")
        wait_until(lambda: "tensorflow.serving.ModelServerConfig" in server.log, 30, "the complaint")
        assert states(server)[3] == "AVAILABLE"
        write(file, entry(root, "m"), entry(root, "n"))
        await_states(server, {7: "AVAILABLE"}, "n")


def test_a_file_that_cannot_be_used_at_start(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("nonsense")
    command = [sys.executable, "-m", "servolley", "serve", "--model_config_file", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "tensorflow.serving.ModelServerConfig" in ended.stderr


@pytest.mark.parametrize("flags", [("--poll-interval", "0"), ("--model-control-mode", "none")])
def test_the_file_is_read_again_where_nobody_looks_at_folders(
    serve: ServerFactory, root: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    file = tmp_path / "models.config"
    write(file, entry(root, "m"))
    server = started(serve, file, "--model_config_file_poll_wait_seconds", "0.1", *flags)
    put(root, "m", 4, models.plus(4))
    write(file, entry(root, "m"), entry(root, "n"))
    await_states(server, {7: "AVAILABLE"}, "n")
    await_states(server, {4: "AVAILABLE"})  # another list: its folders are looked at, once
    put(root, "m", 5, models.plus(5))
    file.write_text("model_config_list { oops }")
    wait_until(lambda: "tensorflow.serving.ModelServerConfig" in server.log, 30, "the complaint")
    assert states(server)[4] == "AVAILABLE"
    assert 5 not in states(server)


def test_a_base_path_that_is_not_there_changes_nothing(
    serve: ServerFactory, root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "models.config"
    write(file, entry(root, "m"))
    server = started(serve, file, *FLAGS)
    with Askers(server, *ALL_WAYS):
        write(file, entry(root, "m").replace(str(root / "m"), str(root / "typo")), entry(root, "n"))
        wait_until(lambda: "the model configuration stays as it was" in server.log, 30, "the complaint")
        time.sleep(0.5)
        assert states(server) == {3: "AVAILABLE"}
        assert server.get("/v2/health/ready").status == 200
        assert server.get("/v1/models/n").status == 404
        assert server.log.count("the model configuration stays as it was") == 1
        put(root, "typo", 4, models.plus(4))
        await_states(server, {4: "AVAILABLE"})
        await_states(server, {7: "AVAILABLE"}, "n")
