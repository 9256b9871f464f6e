"""Repositories that lie elsewhere: a folder behind file://, and a web server that a test starts."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import models
from integration.conftest import ServerFactory
from integration.lifecycle import (
    ALL_WAYS,
    Askers,
    await_constant,
    await_states,
    constant_of,
    put,
    repository,
    set_config,
    states,
)
from integration.server_process import Server, wait_until
from object_stores import BUCKET, REPOSITORY, GoogleStorage, Hub, need, object_store

# Looks often, and confirms soon.
QUICK = ("--remote-poll-interval", "0.2")


@pytest.fixture
def far(tmp_path: Path) -> Path:
    return repository(tmp_path / "far", 1)


@pytest.fixture
def cache(tmp_path: Path) -> tuple[str, Path]:
    return ("--cache-dir", tmp_path / "cache")


def from_url(url: str, *flags: str | Path) -> Server:
    return Server(url, *flags)


def figure(server: Server, name: str) -> float:
    """A sample of /metrics."""
    page = server.get("/metrics").body.decode().splitlines()
    (line,) = [line for line in page if line.startswith(name + " ")]
    return float(line.split()[-1])


def children(server: Server) -> list[int]:
    """Processes that the server has started and that still run."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


class Far(SimpleHTTPRequestHandler):
    """Lists and serves a folder; gone while ``gone`` is set."""

    gone: ClassVar[threading.Event]
    held: ClassVar[threading.Event]
    asked: ClassVar[threading.Event]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self.gone.is_set():
            self.send_error(503)
            return
        if self.path.endswith(".onnx"):
            self.asked.set()
            assert self.held.wait(60)
        super().do_GET()


class Web:
    def __init__(self, root: Path) -> None:
        self.gone, self.held, self.asked = threading.Event(), threading.Event(), threading.Event()
        self.held.set()

        class Own(Far):
            gone, held, asked = self.gone, self.held, self.asked

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Own, directory=str(root)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def web(far: Path) -> Iterator[Web]:
    web = Web(far)
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield web
    web.held.set()
    web.server.shutdown()
    thread.join(30)
    web.server.server_close()


def test_a_remote_repository_is_followed(far: Path, cache: tuple[str, Path]) -> None:
    with from_url(f"file://{far}", *cache, *QUICK) as server:
        server.wait_ready()
        with Askers(server, *ALL_WAYS) as askers:
            put(far, "m", 2, models.plus(2))
            await_states(server, {2: "AVAILABLE"})
            put(far, "n", 1, models.plus(5))
            await_states(server, {1: "AVAILABLE"}, "n")
            set_config(far, "[versions]\nlabels = { stable = 2 }\n")
            wait_until(
                lambda: server.predict("m/labels/stable", {"instances": [0.0]}).status == 200, 30, "a label"
            )
            shutil.rmtree(far / "m" / "2")
            await_states(server, {1: "AVAILABLE"})
        assert {answer.constant for answer in askers.answers} <= {1, 2}
        assert constant_of(server) == 1
        (child,) = children(server)
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log
    assert not Path(f"/proc/{child}").exists()


def test_over_http_and_when_it_is_gone(far: Path, web: Web, cache: tuple[str, Path]) -> None:
    with from_url(web.url, *cache, *QUICK) as server:
        server.wait_ready()
        assert constant_of(server) == 1
        put(far, "m", 2, models.plus(2))
        await_states(server, {2: "AVAILABLE"})
        assert figure(server, 'servolley_mirror_syncs_total{result="changed"}') == 2
        assert figure(server, "servolley_mirror_received_bytes_total") > 100
        assert time.time() - figure(server, "servolley_mirror_last_success_timestamp_seconds") < 60
        assert (
            figure(server, "servolley_mirror_problems")
            == figure(server, "servolley_mirror_restarts_total")
            == 0
        )
        web.gone.set()
        wait_until(lambda: "what is loaded keeps serving" in server.log, 30, "it is noticed")
        assert figure(server, 'servolley_mirror_syncs_total{result="failed"}') >= 1
        assert constant_of(server) == 2
        assert server.get("/v2/health/ready").status == 200
        web.gone.clear()
        put(far, "m", 3, models.plus(3))
        await_states(server, {3: "AVAILABLE"})
        assert server.stop() == 0
    # What was copied is enough for a start, whatever has become of the other side.
    web.gone.set()
    with from_url(web.url, *cache, *QUICK) as again:
        again.wait_ready()
        assert "what was copied before is served" in again.log
        assert constant_of(again) == 3
        web.gone.clear()
        put(far, "m", 4, models.plus(4))
        await_states(again, {4: "AVAILABLE"})
        assert again.stop() == 0


@pytest.mark.parametrize("scheme", ["gs", "hf"])
def test_an_object_store_is_followed(
    scheme: str, far: Path, cache: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, handler, url = {
        "gs": ("gcsfs", GoogleStorage, f"gs://{BUCKET}/models"),
        "hf": ("huggingface_hub", Hub, f"hf://{REPOSITORY}/models"),
    }[scheme]
    need(library)
    root = tmp_path / "store"
    root.mkdir()
    far = far.rename(root / "models")
    with object_store(handler, root) as store:
        monkeypatch.setenv("HF_ENDPOINT", store.url)
        config = tmp_path / "servolley.toml"
        if scheme == "gs":
            config.write_text(f"[remote.options]\nendpoint_url = '{store.url}'\ntoken = 'anon'\n")
        else:
            config.touch()
        with from_url(url, "--config", config, *cache, *QUICK) as server:
            server.wait_ready()
            assert constant_of(server) == 1
            put(far, "m", 2, models.plus(2))
            await_states(server, {2: "AVAILABLE"})
            put(far, "m", 2, models.plus(5))  # as large as before
            await_constant(server, 5)
            store.gone.set()
            wait_until(lambda: "what is loaded keeps serving" in server.log, 60, "it is noticed")
            assert constant_of(server) == 5
            store.gone.clear()
            shutil.rmtree(far / "m" / "2")
            await_states(server, {1: "AVAILABLE"})
            assert server.stop() == 0
            assert "Traceback" not in server.log
        store.gone.set()
        with from_url(url, "--config", config, *cache, *QUICK) as again:
            again.wait_ready()
            assert constant_of(again) == 1
            assert again.stop() == 0


def test_a_manifest(far: Path, web: Web, cache: tuple[str, Path]) -> None:
    def write_sums() -> None:
        files = [path for path in far.rglob("*.onnx") if not path.parent.name.startswith(".")]
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(far)}\n" for path in files
        ]
        (far / ".new").write_text("".join(lines))
        (far / ".new").rename(far / "SHA256SUMS")

    write_sums()
    with from_url(f"{web.url}/SHA256SUMS", *cache, *QUICK) as server:
        server.wait_ready()
        assert constant_of(server) == 1
        put(far, "m", 2, models.plus(2))
        write_sums()
        await_states(server, {2: "AVAILABLE"})
        # A file that is not what the list says changes nothing.
        put(far, "m", 3, models.plus(3))
        write_sums()
        (far / "m" / "3" / "model.onnx").write_bytes(models.plus(9).SerializeToString())
        wait_until(lambda: "SHA-256" in server.log or 3 in states(server), 30, "it is noticed")
        assert constant_of(server) in {2, 3}  # 3 if it was copied before it was spoiled
        assert server.stop() == 0


def test_live_before_it_is_copied_and_ended_while_it_is(web: Web, cache: tuple[str, Path]) -> None:
    web.held.clear()
    with from_url(web.url, *cache) as server:
        server.wait_listening()
        assert web.asked.wait(60)
        assert server.get("/v2/health/live").status == 200
        assert server.get("/v2/health/ready").status == 503
        (child,) = children(server)
        assert server.stop() == 0, server.log
        assert not Path(f"/proc/{child}").exists()
    assert not list((cache[1]).glob("*/m"))


def test_the_mirror_ends_with_a_server_that_was_killed(far: Path, cache: tuple[str, Path]) -> None:
    with from_url(f"file://{far}", *cache) as server:
        server.wait_ready()
        (child,) = children(server)
        server.signal(signal.SIGKILL)
        server.wait_exit()
        wait_until(lambda: not Path(f"/proc/{child}").exists(), 30, "the mirror ends")


def test_a_mirror_that_dies_is_started_again(far: Path, cache: tuple[str, Path]) -> None:
    with from_url(f"file://{far}", *cache, *QUICK) as server:
        server.wait_ready()
        (child,) = children(server)
        os.kill(child, signal.SIGKILL)
        put(far, "m", 2, models.plus(2))
        await_states(server, {2: "AVAILABLE"})
        assert children(server) != [child]
        assert server.stop() == 0


def test_loads_look_first(far: Path, web: Web, cache: tuple[str, Path]) -> None:
    put(far, "n", 7, models.plus(7))
    with from_url(web.url, *cache, "--model-control-mode", "explicit", "--load-model", "n") as server:
        server.wait_ready()
        assert (states(server), states(server, "n")) == ({}, {7: "AVAILABLE"})
        assert not list(cache[1].glob("*/m"))  # nobody has asked for it
        names = {entry["name"] for entry in server.post("/v2/repository/index").json()}
        assert names == {"m", "n"}
        load = "/v2/repository/models/m/load"
        assert server.post(load).status == 200
        assert constant_of(server) == 1
        put(far, "m", 2, models.plus(2))
        assert server.post(load).status == 200
        assert constant_of(server) == 2
        web.gone.set()
        refused = server.post(load)
        assert (refused.status, "127.0.0.1" in refused.error) == (503, False)
        assert constant_of(server) == 2
        web.gone.clear()
        assert server.post("/v2/repository/models/nobody/load").status == 404
        assert server.post("/v2/repository/models/m/unload").status == 200
        assert server.stop() == 0


def test_looking_once(far: Path, cache: tuple[str, Path]) -> None:
    with from_url(f"file://{far}", *cache, "--model-control-mode", "none") as server:
        server.wait_ready()
        assert constant_of(server) == 1
        assert server.stop() == 0


def test_one_file_of_a_web_server(serve: ServerFactory, far: Path, web: Web, cache: tuple[str, Path]) -> None:
    with from_url(f"{web.url}/m/1/model.onnx", "--name", "one", *cache) as server:
        server.wait_ready()
        assert constant_of(server, "one") == 1
        assert server.stop() == 0


def test_a_password_is_not_logged(web: Web, cache: tuple[str, Path]) -> None:
    with from_url(web.url.replace("://", "://u:secret@") + "/nobody", *cache) as server:
        assert server.wait_exit() == 1
        assert "FileNotFoundError" in server.log
        assert "secret" not in server.log


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://host/models", "not one of s3://"),
        ("s3://bucket/models", "servolley[s3]"),
        ("file:///absent/models", "file:///absent/models: FileNotFoundError"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/: "),
    ],
)
def test_starts_that_fail(url: str, complaint: str, cache: tuple[str, Path]) -> None:
    with from_url(url, *cache) as server:
        assert server.wait_exit() == 1
        assert complaint in server.log
        assert "Traceback" not in server.log
