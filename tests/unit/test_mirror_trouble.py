"""What goes wrong on the remote side, on the way and here takes nothing away and is never seen."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from servolley.mirror.folder import RemoteFolder
from servolley.mirror.names import MirrorError
from unit.mirror_bench import Bench, Opened

pytestmark = pytest.mark.usefixtures("written_through")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.put("m/1/model.onnx", "one")
    return bench


def spoil(monkeypatch: pytest.MonkeyPatch, path: str, change: Any) -> None:
    """Reading a file whose name ends so gives ``change`` of each chunk."""
    open_file = RemoteFolder.open

    def opened(self: RemoteFolder, name: str) -> Any:
        file: Any = open_file(self, name)
        return Opened(file, change) if name.endswith(path) else file

    monkeypatch.setattr(RemoteFolder, "open", opened)


def raising(error: Exception) -> Any:
    def change(_: bytes) -> bytes:
        raise error

    return change


def test_a_file_that_is_cut_off_is_not_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("n/1/model.onnx", "whole")
    with monkeypatch.context() as broken:
        spoil(broken, "m/1/model.onnx", lambda chunk: chunk[:-1])
        outcome = bench.sync()
    assert "cut off" in outcome.problems["m"]
    assert set(bench.contents()) == {"n/1/model.onnx"}  # the neighbour does not notice
    assert bench.sync().problems == {}
    assert set(bench.served()) == {"m", "n"}


def test_a_file_longer_than_it_says_is_not_read_to_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = 0

    def endless(_: bytes) -> bytes:
        nonlocal chunks
        chunks += 1
        return b"x" * 100

    spoil(monkeypatch, "m/1/model.onnx", endless)
    assert "m" in bench.sync().problems
    assert chunks == 1
    assert bench.contents() == {}


def test_a_version_that_changes_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, downloads=1)
    bench.put("m/1/model.onnx", "one")
    bench.put("m/1/data", "old")
    changes = 0

    def meanwhile(chunk: bytes) -> bytes:
        nonlocal changes
        changes += 1
        if changes == 1:
            bench.put("m/1/data", "new")  # as long as before
        return chunk

    with monkeypatch.context() as changing:
        spoil(changing, "m/1/model.onnx", meanwhile)
        assert "changed while it was copied" in bench.sync().problems["m"]
    assert bench.contents() == {}
    bench.settle()
    assert bench.contents()["m/1/data"] == "new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    bench.sync()
    bench.put("m/2/a", "a")
    bench.put("m/2/model.onnx", "two")
    bench.sync()
    files = 0

    def full(_: int) -> None:
        nonlocal files
        files += 1
        if files > 1:
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as small:
        small.setattr(os, "fsync", full)
        assert "m" in bench.sync().problems
    assert set(bench.served()["m"].versions) == {1}
    assert bench.leftovers() == []  # what was copied in vain is not kept
    bench.settle()
    assert set(bench.served()["m"].versions) == {1, 2}


def test_what_came_whole_does_not_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, downloads=1)
    bench.put("m/1/a_first", "first")
    bench.put("m/1/model.onnx", "one")
    with monkeypatch.context() as broken:
        spoil(broken, "model.onnx", raising(ConnectionResetError("gone")))
        assert "gone" in bench.sync().problems["m"]
    opened: list[str] = []
    open_file = RemoteFolder.open

    def watched(self: RemoteFolder, name: str) -> Any:
        opened.append(name)
        return open_file(self, name)

    monkeypatch.setattr(RemoteFolder, "open", watched)
    bench.begin()
    assert bench.sync().problems == {}
    assert [name.rpartition("/")[2] for name in opened] == ["model.onnx"]
    assert bench.contents() == {"m/1/a_first": "first", "m/1/model.onnx": "one"}


def test_a_listing_that_vanishes_takes_nothing_away(bench: Bench) -> None:
    bench.sync()
    bench.memory.mv(bench.remote, bench.remote + "-away", recursive=True)
    for _ in range(3):
        with pytest.raises(MirrorError, match="memory://"):
            bench.sync()
    assert set(bench.served()) == {"m"}
    bench.memory.mkdir(bench.remote)
    for _ in range(3):
        with pytest.raises(MirrorError, match="empty"):
            bench.sync()
    assert set(bench.served()) == {"m"}


def test_one_listing_that_fails_is_one_models_trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("n/1/model.onnx", "n")
    bench.sync()
    bench.put("n/1/model.onnx", "other")
    entries = RemoteFolder.entries

    def failing(self: RemoteFolder, folder: str) -> Any:
        if folder.endswith("/m"):
            raise PermissionError("not yours")
        return entries(self, folder)

    monkeypatch.setattr(RemoteFolder, "entries", failing)
    for _ in range(3):
        outcome = bench.sync()
        assert outcome.problems == {"m": "PermissionError: not yours"}
    assert bench.contents() == {"m/1/model.onnx": "one", "n/1/model.onnx": "other"}


def test_there_is_a_limit_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, max_bytes=10)
    bench.put("m/1/model.onnx", "12345")
    bench.sync()
    bench.put("n/1/model.onnx", "123456")
    bench.sync()
    monkeypatch.setattr(RemoteFolder, "open", None)
    with pytest.raises(MirrorError, match=r"11 bytes are more than remote\.max_size"):
        bench.sync()
    assert set(bench.served()) == {"m"}


def test_a_disk_that_will_not_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(RemoteFolder, "open", None)
    with pytest.raises(MirrorError, match="3 bytes are to be copied, 2 are free"):
        bench.sync()


def test_more_files_than_there_may_be(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from servolley.mirror import folder

    for number in range(10):
        bench.put(f"m/1/{number}")
    monkeypatch.setattr(folder, "MOST_FILES", 9)
    assert "more than 9 files" in bench.sync().problems["m"]


def test_a_version_that_cannot_be_had_does_not_stand_in_the_way(bench: Bench) -> None:
    bench.put("m/2/a\\b", "no name here")
    bench.memory.makedirs(f"{bench.remote}/m/3")  # an upload begins
    outcome = bench.sync()
    assert "version 2: a remote name" in outcome.problems["m"]
    assert bench.contents() == {"m/1/model.onnx": "one"}
    bench.put("m/3/model.onnx", "three")
    bench.settle()
    assert set(bench.served()["m"].versions) == {1, 3}
    bench.put("m/3/a\\b", "no name here")  # what is here stays
    assert "a remote name" in bench.settle().problems["m"]
    assert bench.contents() == {"m/1/model.onnx": "one", "m/3/model.onnx": "three"}


def test_an_empty_folder_is_nothing_yet(bench: Bench) -> None:
    bench.memory.makedirs(f"{bench.remote}/n")
    assert bench.sync().problems == {}
    assert set(bench.served()) == {"m"}


def test_folders_that_lie_too_deep(bench: Bench) -> None:
    bench.put("m/1/" + "a/" * 20 + "x")
    assert "too deep" in bench.sync().problems["m"]


@pytest.mark.parametrize(
    "path",
    ["m/1/../../../escape", "m/1/..", "m/1/a\\b", "m/1/a\nb", "m/1/" + "x" * 250, "m/../x", "m/sub/../../x"],
)
def test_names_that_lead_elsewhere(bench: Bench, path: str, tmp_path: Path) -> None:
    bench.sync()
    # As an object store has them: a key is any text.
    bench.memory.store[f"{bench.remote}/{path}"] = bench.memory.store[f"{bench.remote}/m/1/model.onnx"]
    for _ in range(2):
        bench.sync()
    assert bench.contents() == {"m/1/model.onnx": "one"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cache"]


@pytest.mark.parametrize("name", ["..", ".", "a\\b", " m", "\x01"])
def test_models_whose_names_are_none(bench: Bench, name: str) -> None:
    bench.memory.store[f"{bench.remote}/{name}/1/model.onnx"] = bench.memory.store[
        f"{bench.remote}/m/1/model.onnx"
    ]
    bench.sync()
    assert set(bench.contents()) == {"m/1/model.onnx"}
