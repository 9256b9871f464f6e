"""`servolley models ...` against a running server, as a child process: output, exit codes, keys."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import models
from certificates import Authority
from integration.conftest import ServerFactory
from integration.lifecycle import constant_of, put, repository
from integration.server_process import Server

TOKEN = "a-word-that-nobody-guesses"


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-m", "servolley", "models", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def done(*arguments: str | Path) -> str:
    ran = command(*arguments)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout


def shown(*arguments: str | Path) -> Any:
    return json.loads(done(*arguments, "--json"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "r", 1, 2, config="[versions]\nall = true\nlabels = { stable = 1 }\n")


def test_list_load_unload(serve: ServerFactory, root: Path) -> None:
    put(root, "n", 1, models.plus(7))
    server = serve(root, "--model-control-mode", "explicit", "--load-model", "m")
    at = ("--server", f"http://{server.url}")
    table = [line.split() for line in done("list", *at).splitlines()]
    assert table == [
        ["MODEL", "VERSION", "STATE", "LABELS", "REASON"],
        ["m", "1", "READY", "stable"],
        ["m", "2", "READY", "-"],
        ["n", "-", "-", "-"],
    ]
    assert done("load", "n", *at) == "n: loaded\n"
    assert constant_of(server, "n") == 7
    (entry,) = shown("list", "n", *at)
    assert (entry["name"], entry["version"], entry["state"]) == ("n", "1", "READY")
    assert shown("unload", "n", *at) == {"model": "n", "loaded": False}
    assert server.get("/v2/models/n/ready").status == 503
    config = root / "config.json"
    config.write_text('{"max_batch_size": 3}')
    done("load", "n", "--config", config, *at)
    assert server.get("/v2/models/n/config").json()["max_batch_size"] == 3


def test_labels(serve: ServerFactory, root: Path) -> None:
    server = serve(root, "--poll-interval", "0.1")
    at = ("--server", server.url)
    assert constant_of(server, "m/labels/stable") == 1
    assert done("label", "m", "stable", "2", *at) == "m: stable leads to 2\n"
    assert constant_of(server, "m/labels/stable") == 2
    assert shown("label", "m", *at) == {"stable": {"version": 2, "routed": 2}}
    assert shown("label", "m", "canary", "1", *at) == {"label": "canary", "version": 1, "routed": 1}
    assert done("label", "m", "stable", "--remove", *at) == "m: no label stable\n"
    assert server.predict("m/labels/stable", {"instances": [0.0]}).status == 400
    assert constant_of(server, "m/labels/canary") == 1


def test_traffic(serve: ServerFactory, root: Path) -> None:
    server = serve(root)
    at = ("--server", server.url)
    assert shown("traffic", "m", *at)["default_version"] == "2"
    rows = [line.split() for line in done("split", "m", "1=90", "2=10", *at).splitlines()]
    assert ["weights.1", "90"] in rows
    assert ["by_hand", "True"] in rows
    answers = [constant_of(server) for _ in range(100)]
    assert (answers.count(1), answers.count(2)) == (90, 10)
    assert shown("traffic", "m", *at)["weights"] == {"1": 90, "2": 10}
    assert shown("traffic", "m", "reset", *at)["by_hand"] is False
    assert {constant_of(server) for _ in range(20)} == {2}
    refused = command("traffic", "m", "promote", *at)  # there is no canary
    assert (refused.returncode, refused.stdout) == (1, "")
    assert command("split", "m", "7=1", *at).returncode == 1


def test_exit_codes(serve: ServerFactory, root: Path, tmp_path: Path) -> None:
    server = serve(root)
    at = ("--server", server.url)
    for arguments, code, word in (
        (("load", "m", *at), 1, "polling"),  # the repository decides alone
        (("list", "nobody", *at), 1, "nobody"),
        (("label", "m", "stable", "9", *at), 1, "9"),
        (("label", "m", "stable", *at), 2, "VERSION"),
        (("label", "m", "--remove", *at), 2, "LABEL"),
        (("split", "m", "1:90", *at), 2, "VERSION=WEIGHT"),
        (("split", "m", "1=90", "1=10", *at), 2, "VERSION=WEIGHT"),
        (("load", "m", "--config", tmp_path / "absent", *at), 2, "absent"),
        (("list", "--server", "ftp://x"), 3, "not a server"),
        (("list", "--server", "http://[::1"), 3, "not a server"),
        (("list", "--server", f"unix:{tmp_path}/absent"), 3, "absent"),
        (("list", "--token-file", tmp_path / "absent", *at), 3, "absent"),
        (("list", "--server", f"https://{server.url}"), 3, server.url),
        (("frobnicate",), 2, "frobnicate"),
        ((), 2, "ACTION"),
    ):
        ran = command(*arguments)
        assert (ran.returncode, word in ran.stderr, ran.stdout) == (code, True, ""), ran
        assert "Traceback" not in ran.stderr


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ran = command("list", "--server", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert ran.returncode == 3
    assert "refused" in ran.stderr


def test_what_answers_is_no_server_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

        thread = threading.Thread(target=answer)
        thread.start()
        ran = command("list", "--server", f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join(30)
    assert ran.returncode == 3
    assert "servolley" in ran.stderr


def test_with_a_key_on_a_socket_and_over_tls(serve: ServerFactory, root: Path, tmp_path: Path) -> None:
    token, path = tmp_path / "token", tmp_path / "admin"
    token.write_text(TOKEN)
    server = serve(root, "--admin-listen", f"unix:{path}", "--admin-token-file", token)
    refused = command("list", "--server", f"unix:{path}")
    assert (refused.returncode, "admin token" in refused.stderr) == (1, True)
    elsewhere = command("list", "--server", server.url, "--token-file", token)
    assert (elsewhere.returncode, "--admin-listen" in elsewhere.stderr) == (1, True)
    key = ("--server", f"unix:{path}", "--token-file", token)
    assert "READY" in done("list", *key)
    done("label", "m", "stable", "2", *key)
    assert constant_of(server, "m/labels/stable") == 2

    authority = Authority(tmp_path / "tls")
    certificate, private = authority.issue("server")
    flags = ("--tls-cert", certificate, "--tls-key", private, "--admin-token-file", token)
    with Server(root, *flags, tls=authority.client_context()) as secure:
        secure.wait_ready()
        url = ("--server", f"https://{secure.url}")
        assert command("list", *url, "--token-file", token).returncode == 3  # an authority that nobody knows
        assert "READY" in done("list", *url, "--token-file", token, "--ca-file", authority.ca)
        assert secure.stop() == 0


def test_split_and_traffic(serve: ServerFactory, root: Path) -> None:
    (root / "m" / "model.toml").write_text("[versions]\nall = true\n[canary]\nweight = 50\n")
    server = serve(root)
    at = ("--server", f"http://{server.url}")
    assert shown("split", "m", "1=1", "2=4", *at)["weights"] == {"1": 1, "2": 4}
    assert [constant_of(server) for _ in range(5)].count(2) == 4
    assert shown("traffic", "m", "rollback", *at)["canary"]["state"] == "rolled_back"
    assert {constant_of(server) for _ in range(4)} == {1}
    lines = [line.split() for line in done("traffic", "m", *at).splitlines()]
    assert ["canary.state", "rolled_back"] in lines
    refused = command("split", "m", "2=1", *at)
    assert refused.returncode != 0
    assert "version 2 was rolled back: reset that first" in refused.stderr
    assert shown("traffic", "m", "reset", *at)["weights"] == {"1": 50, "2": 50}
