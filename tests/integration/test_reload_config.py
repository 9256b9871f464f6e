"""TensorFlow Serving's HandleReloadConfigRequest, with the stock messages over grpcio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format

import models
from integration.conftest import ServerFactory
from integration.grpc_calls import channel_to, refusal
from integration.hostile import survives
from integration.lifecycle import ALL_WAYS, QUICK, Askers, await_states, constant_of, put, states
from integration.server_process import Server, wait_until
from integration.slim_tensorflow import stock_module
from integration.test_model_config_file import entry, started, write

Reload = Callable[..., Any]


def reloader(channel: grpc.Channel) -> Reload:
    stub = stock_module("model_service_pb2_grpc").ModelServiceStub(channel)

    def reload(*entries: str, timeout_s: float = 60) -> Any:
        request = stock_module("model_management_pb2").ReloadConfigRequest()
        request.config.model_config_list.SetInParent()
        text_format.Parse(" ".join(entries), request.config.model_config_list)
        return stub.HandleReloadConfigRequest(request, timeout=timeout_s)

    return reload


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "r"
    for name, versions in (("m", (1, 2, 3)), ("n", (7,))):
        for version in versions:
            put(root, name, version, models.plus(version))
    return root


@pytest.fixture
def server(serve: ServerFactory, root: Path) -> Server:
    return serve(root, *QUICK)


@pytest.fixture
def reload(server: Server) -> Iterator[Reload]:
    with channel_to(server.url) as channel:
        yield reloader(channel)


def policy(*versions: int) -> str:
    wanted = " ".join(f"versions: {version}" for version in versions)
    return f"model_version_policy {{ specific {{ {wanted} }} }}"


def label(name: str, version: int) -> str:
    return f'version_labels {{ key: "{name}" value: {version} }}'


def test_a_list_takes_the_place_of_the_repository(
    reload: Reload, server: Server, root: Path, tmp_path: Path
) -> None:
    put(tmp_path / "elsewhere", "o", 9, models.plus(9))
    with Askers(server, *ALL_WAYS):
        answer = reload(
            entry(root, "m", policy(1, 3) + label("stable", 1)), entry(tmp_path / "elsewhere", "o")
        )
        # When it answers, everything is there.
        assert states(server, "o") == {9: "AVAILABLE"}
        assert constant_of(server, "m/labels/stable") == 1
        assert constant_of(server, "m/versions/3") == 3
        assert constant_of(server, "o") == 9
        assert (answer.status.error_code, answer.status.error_message) == (0, "")
        wait_until(lambda: server.predict("n", {"instances": [0.0]}).status == 404, 30, "n is gone")
        # Folders of the list are followed as the repository was.
        put(tmp_path / "elsewhere", "o", 10, models.plus(10))
        wait_until(lambda: constant_of(server, "o") == 10, 30, "a new version")
        reload(entry(root, "m", policy(1, 3) + label("stable", 3)))
        assert constant_of(server, "m/labels/stable") == 3
        wait_until(lambda: server.predict("o", {"instances": [0.0]}).status == 404, 30, "o is gone")
    assert server.log.count("model=m version=3 loading") <= 1


def test_an_empty_list_unloads_everything(reload: Reload, server: Server) -> None:
    assert reload().status.error_code == 0
    await_states(server, {})
    wait_until(lambda: states(server, "n") == {}, 30, "n is gone")
    assert server.get("/v2/health/live").status == 200


def test_what_cannot_be_used_changes_nothing(
    reload: Reload, server: Server, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    good = entry(root, "n")
    invalid, precondition = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
    for wrong, code, word in (
        (entry(tmp_path, "empty"), precondition, "no version"),
        (entry(root, "nobody"), precondition, "no version"),
        (entry(root, "m", policy(8)), precondition, "version policy"),
        (entry(root, "m", label("l", 1)), precondition, "label 'l'"),
        (good, invalid, "two models"),
        ('config { name: "../x" base_path: "/tmp" }', invalid, "not a model name"),
        ('config { name: "x" }', invalid, "base_path"),
        (r'config { name: "x" base_path: "/a\000b" }', invalid, "no path"),
        ("config { }" * 10_001, invalid, "more than"),
    ):
        with refusal(code, word):
            reload(good, wrong)
        assert states(server) == {3: "AVAILABLE"}
    custom = stock_module("model_management_pb2").ReloadConfigRequest()
    custom.config.custom_model_config.SetInParent()
    with channel_to(server.url) as channel, refusal(invalid, "custom_model_config"):
        stub = stock_module("model_service_pb2_grpc").ModelServiceStub(channel)
        stub.HandleReloadConfigRequest(custom, timeout=30)
    assert constant_of(server) == 3


def test_a_model_that_cannot_be_loaded(reload: Reload, server: Server, root: Path) -> None:
    put(root, "bad", 1, models.plus(1))
    (root / "bad" / "1" / "model.onnx").write_bytes(b"\xff" * 100)
    with Askers(server, *ALL_WAYS):
        with refusal(grpc.StatusCode.UNKNOWN, "1 model(s) did not become available: bad version 1"):
            reload(entry(root, "m"), entry(root, "bad"))
        assert states(server, "bad") == {1: "END"}
        assert states(server)[3] == "AVAILABLE"
        put(root, "bad", 1, models.plus(5))
        reload(entry(root, "m"), entry(root, "bad"))
        assert constant_of(server, "bad") == 5


def test_many_at_once_during_inference(reload: Reload, server: Server, root: Path) -> None:
    def one(number: int) -> str:
        try:
            reload(entry(root, "m", policy(number % 3 + 1, 3)), entry(root, "n"))
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    reload(entry(root, "m"), entry(root, "n"))  # the connection is there, and the messages
    with survives(server), Askers(server, *ALL_WAYS), ThreadPoolExecutor(24) as pool:
        outcomes = set(pool.map(one, range(48)))
    assert "OK" in outcomes
    assert outcomes <= {"OK", "ABORTED"}
    reload(entry(root, "m"))
    await_states(server, {3: "AVAILABLE"})


def test_a_file_that_is_polled_holds_again(serve: ServerFactory, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    write(file, entry(root, "m"))
    polled = started(serve, file, "--poll-interval", "0.1", "--model_config_file_poll_wait_seconds", "2")
    with channel_to(polled.url) as channel:
        reloader(channel)(entry(root, "n"))
    assert states(polled, "n") == {7: "AVAILABLE"}
    await_states(polled, {3: "AVAILABLE"})
    wait_until(lambda: states(polled, "n") == {}, 30, "n is gone")
    assert "holds again" in polled.log


def test_a_file_that_is_read_once_does_not(serve: ServerFactory, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    write(file, entry(root, "m"))
    once = started(serve, file, "--poll-interval", "0.05")
    with channel_to(once.url) as channel:
        reloader(channel)(entry(root, "n"))
        wait_until(lambda: states(once) == {}, 30, "m is gone")
        # Another version of a model in the list: so the folders have been looked at since.
        put(root, "n", 8, models.plus(8))
        await_states(once, {8: "AVAILABLE"}, "n")
        assert states(once) == {}


def test_where_the_repository_api_decides(serve: ServerFactory, root: Path) -> None:
    explicit = serve(root, "--model-control-mode", "explicit", "--load-model", "m")
    with (
        channel_to(explicit.url) as channel,
        refusal(grpc.StatusCode.FAILED_PRECONDITION, "explicit control mode"),
    ):
        reloader(channel)(entry(root, "n"))
    assert states(explicit) == {3: "AVAILABLE"}
