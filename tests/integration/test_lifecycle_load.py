"""Trouble of every kind under constant load: what serves goes on serving, and the states tell the truth."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import onnxruntime
import pytest

import models
from integration.conftest import ServerFactory
from integration.lifecycle import (
    ALL_WAYS,
    EXAMPLE_WAYS,
    QUICK,
    TAKES_EXAMPLES,
    AskClassify,
    Askers,
    AskPredict,
    AskRest,
    asking,
    await_constant,
    await_states,
    constant_of,
    put,
    repository,
    set_config,
    states,
)
from integration.raw_http import RawConnection
from integration.server_process import wait_until

#: A load stands back behind the askers, for long where they leave little of the machine.
SLOW_S = 240


def await_more_answers(askers: Askers, count: int = 40) -> None:
    before = len(askers.answers)
    wait_until(lambda: askers.errors or len(askers.answers) >= before + count, 30, f"{count} more answers")


def test_a_hundred_swaps(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1, config=TAKES_EXAMPLES)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS, *EXAMPLE_WAYS) as askers:
        for version in range(2, 102):
            put(root, "m", version, models.plus(version), complete=True)
            await_states(server, {version: "AVAILABLE"})
            shutil.rmtree(root / "m" / str(version - 1))
        await_more_answers(askers)
    askers.assert_in_order(*sorted(askers.constants()))
    assert max(askers.constants()) == 101
    # Every way saw nearly every version, or the load was none.
    assert len(askers.constants()) > 90
    assert server.log.count(" available ") == 101


def duration(call: Callable[[], object]) -> float:
    """In seconds, of the quicker of two."""
    times = []
    for _ in range(2):
        before = time.monotonic()
        call()
        times.append(time.monotonic() - before)
    return min(times)


def test_clients_that_leave_amid_their_calls_keep_no_version(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1, config=TAKES_EXAMPLES)
    server = serve(root, *QUICK)
    rows = json.dumps({"examples": [{"x": 0.0, "other": [1.5] * 10}] * 4000}).encode()
    head = f"POST /v1/models/m:regress HTTP/1.1\r\nHost: m\r\nContent-Length: {len(rows)}\r\n\r\n"
    with asking(server, AskClassify) as classify:
        assert isinstance(classify, AskClassify)
        many = classify.request(rows=5000)
        rest_s = duration(lambda: server.post("/v1/models/m:regress", rows))
        grpc_s = duration(lambda: classify.stub.Classify(many, timeout=30))
        for version in range(2, 6):
            # At whatever point of its call each of them leaves: while it is read, built, run or taken.
            for patience in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
                with RawConnection(server.address) as connection:
                    connection.send(head.encode() + rows)
                    select.select([connection.socket], [], [], patience * rest_s)
                    connection.reset()
                with contextlib.suppress(grpc.RpcError):
                    classify.stub.Classify(many, timeout=patience * grpc_s)
            put(root, "m", version, models.plus(version), complete=True)
            await_states(server, {version: "AVAILABLE", version - 1: "END"})
        assert classify() == (5.0, 5)
    assert "Traceback" not in server.log


def rounds_that_take(seconds: float) -> int:
    """Of ``models.slow_to_load``, on this machine as busy as it is."""
    tried = 10
    model = models.slow_to_load(tried, 0).SerializeToString()
    before = time.monotonic()
    onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return max(1, round(tried * seconds / (time.monotonic() - before)))


def test_a_model_that_takes_five_seconds_to_load(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    slow = models.slow_to_load(rounds_that_take(5), 2)
    with Askers(server, *ALL_WAYS) as askers:
        put(root, "m", 2, slow)
        await_states(server, {1: "AVAILABLE", 2: "LOADING"})
        put(root, "n", 1, models.plus(5))  # another model need not wait for it
        await_states(server, {1: "AVAILABLE"}, "n")
        assert states(server)[2] == "LOADING"
        assert server.get("/v2/health/ready").status == 200
        await_states(server, {2: "AVAILABLE"}, timeout_s=SLOW_S)
        await_more_answers(askers)
    askers.assert_in_order(1, 2)
    assert pauses(askers) < 1


def pauses(askers: Askers) -> float:
    """The longest time, in seconds, in which nobody was answered."""
    received = sorted(answer.received for answer in askers.answers)
    return max(after - before for before, after in itertools.pairwise(received))


def test_a_version_that_vanishes_while_it_loads(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        put(root, "m", 2, models.slow_to_load(rounds_that_take(1), 2))
        await_states(server, {1: "AVAILABLE", 2: "LOADING"})
        shutil.rmtree(root / "m" / "2")
        await_states(server, {1: "AVAILABLE", 2: "END"}, timeout_s=SLOW_S)
        await_more_answers(askers)
    assert constant_of(server) == 1


def test_a_version_deleted_while_it_answers(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(
        tmp_path / "r", {"m": models.plus(1), "slow": {1: models.plus(1), 2: models.slow(6000)}}
    )
    server = serve(root, *QUICK)
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 512], "data": [0.5] * 512}
    with Askers(server, *ALL_WAYS), ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.infer, "slow", [tensor]) for _ in range(2)]
        wait_until(lambda: server.metric("nv_inference_pending_request_count", model="slow"), 30, "a queue")
        shutil.rmtree(root / "slow" / "2")
        await_states(server, {1: "AVAILABLE", 2: "UNLOADING"}, "slow")
        assert not any(answer.done() for answer in asked)
        assert server.post("/v2/models/slow/versions/2/infer", {"inputs": []}).status == 404
        assert constant_of(server, "slow") == 1
        assert [answer.result(60).status for answer in asked] == [200, 200]
        await_states(server, {1: "AVAILABLE", 2: "END"}, "slow")


def test_a_warm_up_that_fails_by_itself(serve: ServerFactory, tmp_path: Path) -> None:
    # Nobody said that zeros make sense to it: it is served, and the failure is nobody's answer.
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        put(root, "n", 1, models.fails_at_zero(7))
        await_states(server, {1: "AVAILABLE"}, "n")
        answer = server.predict("n", {"instances": [1.0, 2.0]})
        assert (answer.status, answer.json()) == (200, {"predictions": [8.0, 9.0]})
        assert server.predict("n", {"instances": [0.0]}).status == 400
        await_more_answers(askers)
    assert askers.constants() == {1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two MiB that are really full when they are full."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(serve: ServerFactory, small_disk: Path) -> None:
    root = repository(small_disk / "r", 1)
    server = serve(root, *QUICK)
    place = root / "m" / "2" / "model.onnx"
    with Askers(server, *ALL_WAYS) as askers:
        place.parent.mkdir()
        with pytest.raises(OSError, match="No space left"):
            place.write_bytes(models.heavy(4).SerializeToString())
        await_states(server, {1: "AVAILABLE", 2: "END"})
        with pytest.raises(OSError, match="No space left"):
            (root / "m" / "model.toml").write_text("#" * (4 << 20))
        # What is left of both is in nobody's way once there is room again.
        (root / "m" / "model.toml").unlink()
        place.write_bytes(models.plus(2).SerializeToString())
        await_states(server, {2: "AVAILABLE"})
        await_more_answers(askers)
    askers.assert_in_order(1, 2)


def test_folders_that_vanish_and_come_back(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    put(root, "n", 1, models.plus(5))
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        for _ in range(3):
            (root / "n").rename(tmp_path / "elsewhere")
            wait_until(lambda: server.get("/v1/models/n").status == 404, 30, "n is gone")
            (tmp_path / "elsewhere").rename(root / "n")
            await_states(server, {1: "AVAILABLE"}, "n")
        looks = server.log.count("keeps serving")
        root.rename(tmp_path / "elsewhere")
        root.write_text("a file where the repository was")
        wait_until(lambda: server.log.count("keeps serving") > looks, 30, "a look in vain")
        await_more_answers(askers)
        assert constant_of(server, "n") == 5
        root.unlink()
        (tmp_path / "elsewhere").rename(root)
        put(root, "m", 2, models.plus(2))
        await_states(server, {2: "AVAILABLE"})
        await_more_answers(askers)
    askers.assert_in_order(1, 2)


def test_a_repository_that_is_a_link(serve: ServerFactory, tmp_path: Path) -> None:
    # As a Kubernetes volume is published: everything changes with one rename.
    for constant in (1, 2):
        put(tmp_path / f"release{constant}", "m", constant, models.plus(constant))
    root = tmp_path / "r"
    root.symlink_to("release1")
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        (tmp_path / "next").symlink_to("release2")
        (tmp_path / "next").rename(root)
        await_states(server, {2: "AVAILABLE", 1: "END"})
        await_more_answers(askers)
    askers.assert_in_order(1, 2)


@pytest.mark.parametrize("way", [AskPredict, AskRest])
def test_labels_move(serve: ServerFactory, tmp_path: Path, way: type[AskPredict | AskRest]) -> None:
    config = "[versions]\nall = true\nlabels = {{ stable = {} }}\n"
    root = repository(tmp_path / "r", 1, 2, 3, config=config.format(1))
    server = serve(root, *QUICK)
    stable = partial(way, label="stable")
    with Askers(server, stable) as askers:
        for version in (2, 3):
            await_more_answers(askers)
            set_config(root, config.format(version))
            await_constant(server, version, "m/labels/stable")
    askers.assert_in_order(1, 2, 3)
    assert states(server) == dict.fromkeys((1, 2, 3), "AVAILABLE")


def test_configurations_change(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1, 2)
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        set_config(root, "[versions]\nall = true\n")
        await_states(server, {1: "AVAILABLE", 2: "AVAILABLE"})
        set_config(root, "[versions]\nspecific = [1]\n")
        await_states(server, {1: "AVAILABLE", 2: "END"})
        set_config(root, "[versions]\nlatest = 'all of them'\n")
        wait_until(lambda: "cannot load" in server.log, 30, "the configuration is refused")
        await_more_answers(askers)
        assert states(server)[1] == "AVAILABLE"
        assert server.get("/v2/health/ready").status == 200
        set_config(root, "[runtime]\nintra_op_threads = 2\n")  # other weights, as far as one can know
        await_states(server, {1: "END", 2: "AVAILABLE"})
        await_more_answers(askers)
    assert askers.constants() == {1, 2}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("filename = 'net.onnx'\n[versions\n", "not valid TOML"),
        ("filename = 'nett.onnx'\n", "no version directory holds nett.onnx"),
    ],
)
def test_a_typing_error_unloads_nothing(serve: ServerFactory, tmp_path: Path, broken: str, said: str) -> None:
    root = repository(tmp_path / "r", 1, config="filename = 'net.onnx'\n")
    (root / "m" / "1" / "model.onnx").rename(root / "m" / "1" / "net.onnx")
    server = serve(root, *QUICK)
    with Askers(server, *ALL_WAYS) as askers:
        set_config(root, broken)
        wait_until(lambda: "cannot load" in server.log, 30, "the configuration is refused")
        await_more_answers(askers)
        assert states(server) == {1: "AVAILABLE"}
        assert server.get("/v2/health/ready").status == 200
        (entry,) = server.post("/v2/repository/index").json()
        assert entry["state"] == "READY"
        assert said in entry["reason"]
        set_config(root, "filename = 'net.onnx'\n[versions]\nlabels = { stable = 1 }\n")
        by_label = partial(server.predict, "m/labels/stable", {"instances": [0.0]})
        wait_until(lambda: by_label().status == 200, 30, "the repaired configuration holds")
        assert states(server) == {1: "AVAILABLE"}
        (entry,) = server.post("/v2/repository/index").json()
        assert entry["reason"] == ""
    assert server.log.count(" loading ") == 1
    assert " unloaded " not in server.log


def test_anything_at_any_time(serve: ServerFactory, tmp_path: Path) -> None:
    """Seeded. Version 1 stays whatever happens, so that every request has somebody to answer it."""
    chance = random.Random(7)
    root = repository(tmp_path / "r", 1)
    server = serve(root, *QUICK)
    whole = {version: models.plus(version) for version in range(1, 8)}
    with Askers(server, *ALL_WAYS) as askers:
        for _ in range(80):
            version = chance.randrange(2, 8)
            place = root / "m" / str(version)
            match chance.choice(("put", "put", "delete", "corrupt", "truncate", "config", "wait")):
                case "put":
                    put(root, "m", version, whole[version], complete=chance.random() < 0.5)
                case "delete":
                    shutil.rmtree(place, ignore_errors=True)
                case "corrupt" if place.exists():
                    (place / "model.onnx").write_bytes(chance.randbytes(300))
                case "truncate" if place.exists():
                    shutil.copy(place / "model.onnx", place / "copy")
                    (place / "model.onnx").write_bytes((place / "copy").read_bytes()[:50])
                case "config":
                    policy = chance.choice(("all = true", "latest = 2", "latest = 1", "specific = [1, 3, 5]"))
                    set_config(
                        root, f"[versions]\n{policy}\n[batching]\nmax_batch_size = {chance.randint(2, 9)}\n"
                    )
                case _:
                    await_more_answers(askers, chance.randrange(1, 60))
        set_config(root, "[versions]\nlatest = 1\n")
        for version in range(2, 8):
            put(root, "m", version, whole[version])
        await_states(server, {7: "AVAILABLE"})
    assert constant_of(server) == 7
