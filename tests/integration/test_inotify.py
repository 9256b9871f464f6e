"""A server that would look once an hour, and learns of changes from the kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.lifecycle import Askers, AskOverGrpc, AskOverHttp, await_states, put, repository, set_config
from integration.server_process import Server
from servolley.repository.inotify import is_local

pytestmark = pytest.mark.skipif(not is_local(Path("/tmp")), reason="/tmp is on no local file system")

HOURLY = ("--poll-interval", "3600")


def test_changes_are_noticed_at_once(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    server = serve(root, *HOURLY)
    with Askers(server, AskOverHttp, AskOverGrpc):
        put(root, "m", 2, models.plus(2))
        await_states(server, {2: "AVAILABLE"})
        put(root, "n", 7, models.plus(7))
        await_states(server, {7: "AVAILABLE"}, "n")
        set_config(root, "[versions]\nall = true\n")
        await_states(server, {1: "AVAILABLE", 2: "AVAILABLE"})
        shutil.rmtree(root / "m" / "1")
        await_states(server, {2: "AVAILABLE"})


def watches(server: Server) -> bool:
    descriptors = Path(f"/proc/{server.pid}/fd").iterdir()
    return any("inotify" in str(each.readlink()) for each in descriptors if each.is_symlink())


def test_it_can_be_switched_off(serve: ServerFactory, tmp_path: Path) -> None:
    root = repository(tmp_path / "r", 1)
    assert watches(serve(root, *HOURLY))
    assert not watches(serve(root, *HOURLY, config="[repository]\nwatch = false\n"))
    assert not watches(serve(root, "--poll-interval", "0"))
