"""Versions come, go, change and are renamed on disk while clients ask: nobody notices."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.lifecycle import (
    ALL_WAYS,
    QUICK,
    Askers,
    AskPredict,
    asking,
    await_constant,
    await_states,
    constant_of,
    put,
    repository,
    set_config,
    states,
)
from integration.server_process import Server, wait_until


def test_swaps_under_load(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        for version in range(2, 8):
            put(root, "m", version, models.plus(version))
            await_states(server, {version: "AVAILABLE"})
        assert server.get("/v2/health/ready").status == 200
    askers.assert_in_order(1, 2, 3, 4, 5, 6, 7)
    assert all(answer.version in {None, answer.constant} for answer in askers.answers)
    assert constant_of(server) == 7


def test_rollback_by_deleting_the_newest(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1, 2)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        wait_until(lambda: len(askers.answers) > 20, 30, "the first answers")
        shutil.rmtree(root / "m" / "2")
        await_states(server, {1: "AVAILABLE", 2: "END"})
    askers.assert_in_order(2, 1)
    assert constant_of(server) == 1


def test_a_version_that_is_replaced_under_load(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        for constant in (10, 20, 30):
            put(root, "m", 1, models.plus(constant))
            await_constant(server, constant)
            assert states(server) == {1: "AVAILABLE"}
    askers.assert_in_order(1, 10, 20, 30)


def test_a_replacement_that_cannot_be_loaded(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS):
        (root / "m" / "1" / "model.onnx").write_bytes(b"\xff" * 1000)
        wait_until(lambda: "cannot load" in server.log, 30, "the failure")
        assert states(server) == {1: "AVAILABLE"}
        assert server.get("/v2/health/ready").status == 200
        put(root, "m", 1, models.plus(3))
        await_constant(server, 3)


def test_other_batching_needs_no_new_weights(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)

    def has_batches_of(size: int) -> bool:
        return bool(server.get("/v2/models/m/config").json()["max_batch_size"] == size)

    with Askers(server, *ALL_WAYS):
        for size in (3, 5):
            set_config(root, f"[batching]\nmax_batch_size = {size}\n")
            wait_until(partial(has_batches_of, size), 30, f"batches of {size}")
    assert server.predict("m", {"instances": [0.0] * 6}).status == 400
    assert server.log.count(" reconfiguring ") == 2
    assert server.log.count(" loading ") == 1


def test_labels_move_with_what_they_name(serve: ServerFactory, tmp_path: Path) -> None:
    config = "[versions]\nall = true\nlabels = {{ stable = {} }}\n"
    root = repository(tmp_path / "r", 1, config=config.format(1))
    server = serve(root, *QUICK)
    stable = partial(AskPredict, label="stable")
    with Askers(server, stable) as askers:
        wait_until(lambda: askers.answers, 30, "an answer")
        set_config(root, config.format(2))  # ahead of its version
        wait_until(lambda: len(askers.answers) > 50, 30, "more answers")
        put(root, "m", 2, models.plus(2))
        await_constant(server, 2, "m/labels/stable")
        set_config(root, config.format(1))
        await_constant(server, 1, "m/labels/stable")
    assert {(answer.constant, answer.version) for answer in askers.answers} == {(1, 1), (2, 2)}
    assert states(server) == {1: "AVAILABLE", 2: "AVAILABLE"}
    assert server.predict("m/labels/nobody", {"instances": [0.0]}).status == 400
    with asking(server, stable) as ask:
        assert ask() == (1, 1)


def test_half_copied_versions_are_left_alone(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    # Longer than this test may be held up between two pieces: what is found the same twice is whole.
    server = serve(root, "--poll-interval", "0.7")
    content = models.heavy(4).SerializeToString()
    place = root / "m" / "2" / "model.onnx"
    place.parent.mkdir()
    looks = Looks(server, root)
    with Askers(server, *ALL_WAYS), place.open("wb") as file:
        for start in range(0, len(content), len(content) // 8):
            file.write(content[start : start + len(content) // 8])
            file.flush()
            looks.wait_for_one()
            assert states(server) == {1: "AVAILABLE"}
    await_states(server, {2: "AVAILABLE"})
    assert "cannot load" not in server.log


class Looks:
    """Waits for looks at the repository: each notices a folder that is not a version."""

    def __init__(self, server: Server, root: Path) -> None:
        self._server, self._root, self._count = server, root, 0

    def wait_for_one(self) -> None:
        self._count += 1
        name = f"look{self._count}"
        (self._root / "m" / name).mkdir()
        wait_until(lambda: f"directory={name}" in self._server.log, 30, name)


def test_a_version_that_says_it_is_complete(serve: ServerFactory, tmp_path: Path) -> None:
    # Two looks would take longer than anybody waits.
    root = repository(tmp_path / "r", 1)
    server = serve(root, "--poll-interval", "2")
    hidden = root / "m" / ".2"
    hidden.mkdir()
    (hidden / "model.onnx").write_bytes(models.plus(2).SerializeToString())
    (hidden / ".complete").touch()
    hidden.rename(root / "m" / "2")
    looks = server.log.count(" loading ")
    wait_until(lambda: server.log.count(" loading ") > looks, 3.9, "one look")
    await_states(server, {2: "AVAILABLE"})


def test_models_appear_and_vanish(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS):
        put(root, "n", 5, models.plus(5))
        await_states(server, {5: "AVAILABLE"}, "n")
        put(root, "broken", 1, models.sequence_output())
        wait_until(lambda: "cannot load" in server.log, 30, "the failure")
        assert server.get("/v2/health/ready").status == 200
        shutil.rmtree(root / "n")
        wait_until(lambda: server.get("/v2/models/n").status == 404, 30, "n is gone")
    assert constant_of(server) == 1


@pytest.mark.parametrize("flags", [("--poll-interval", "0"), ("--model-control-mode", "none")])
def test_nobody_looks_again(serve: ServerFactory, tmp_path: Path, flags: tuple[str, ...]) -> None:
    root = repository(tmp_path / "r", 1)
    server, watchful = serve(root, *flags), serve(root)  # which looks as often as by default
    put(root, "m", 2, models.plus(2))
    await_states(watchful, {2: "AVAILABLE"})
    assert states(server) == {1: "AVAILABLE"}
    assert server.post("/v2/repository/models/m/load").status == 503


# --- hostile case 50


def test_disk_trouble_leaves_what_serves(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS):
        # A disk that was full: nothing but the beginning, and it stays so.
        place = root / "m" / "2" / "model.onnx"
        place.parent.mkdir()
        place.write_bytes(models.plus(2).SerializeToString()[:40])
        wait_until(lambda: states(server).get(2) == "END", 30, "version 2 has failed")
        index = {e["version"]: e for e in server.post("/v2/repository/index").json()}
        assert (index["1"]["state"], index["2"]["state"]) == ("READY", "UNAVAILABLE")
        assert server.post("/v2/models/m/versions/2/infer", {"inputs": []}).status in {404, 503}
        shutil.move(root, tmp_path / "elsewhere")
        wait_until(lambda: "keeps serving" in server.log, 30, "the look in vain")
        shutil.move(tmp_path / "elsewhere", root)
        put(root, "m", 3, models.plus(3))
        await_states(server, {3: "AVAILABLE", 2: "END"})
    assert constant_of(server) == 3
