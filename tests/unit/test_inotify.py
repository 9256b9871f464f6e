from __future__ import annotations

import asyncio
import os
import select
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from servolley.repository import discovery, inotify
from servolley.repository.discovery import Models, Poller
from servolley.repository.inotify import FolderWatch, is_local
from servolley.repository.layout import ModelOnDisk, Scanner

LOCAL = pytest.mark.skipif(not is_local(Path("/tmp")), reason="/tmp is on no local file system")


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def watching(root: Path, depth: int = 6) -> FolderWatch:
    watch = FolderWatch.open(lambda: [(root, depth)])
    assert watch is not None
    watch.refresh()
    return watch


def said(watch: FolderWatch) -> bool:
    """Whether something was said since the last refresh; the kernel says it before the call returns."""
    return bool(select.select([watch], [], [], 0)[0])


def is_rooted(watch: FolderWatch) -> bool:
    return watch.rooted


@LOCAL
def test_what_is_said(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1" / "model.onnx")
    watch = watching(tmp_path)
    changes: list[Callable[[], object]] = [
        lambda: put(tmp_path / "m" / "1" / "model.onnx", "yy"),
        lambda: (tmp_path / "m" / "2").mkdir(),
        lambda: put(tmp_path / "m" / "2" / "model.onnx"),  # in a folder that was not there before
        lambda: (tmp_path / "m" / "2").rename(tmp_path / "m" / "3"),
        lambda: os.utime(tmp_path / "m" / "3" / "model.onnx", (1, 1)),
        lambda: shutil.rmtree(tmp_path / "m" / "3"),
        lambda: (tmp_path / "n").symlink_to(tmp_path / "m"),
        lambda: shutil.rmtree(tmp_path / "m"),
    ]
    for number, change in enumerate(changes):
        assert not said(watch), number
        change()
        assert said(watch), number
        watch.refresh()
        assert is_rooted(watch)
    (tmp_path / "n").unlink()
    watch.refresh()
    assert not said(watch)
    shutil.rmtree(tmp_path)
    assert said(watch)
    watch.refresh()
    assert not is_rooted(watch)
    tmp_path.mkdir()
    watch.refresh()
    assert is_rooted(watch)
    put(tmp_path / "x")
    assert said(watch)
    watch.close()


@LOCAL
def test_reading_says_nothing(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1" / "model.onnx")
    watch = watching(tmp_path)
    assert (tmp_path / "m" / "1" / "model.onnx").read_text() == "x"
    Scanner(tmp_path).look()
    assert not said(watch)
    watch.close()


@LOCAL
def test_not_deeper_and_not_more_than_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(tmp_path / str(number) / "a" / "file")
    shallow = watching(tmp_path, depth=0)
    put(tmp_path / "1" / "file")
    assert not said(shallow)
    put(tmp_path / "file")
    assert said(shallow)
    shallow.close()
    monkeypatch.setattr(inotify, "MOST_FOLDERS", 3)
    some = watching(tmp_path)
    assert some.rooted  # and not tried again at every look
    put(tmp_path / "other")
    assert said(some)
    some.close()


@LOCAL
def test_folders_that_go_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    watch = watching(tmp_path)
    assert watch.rooted
    watch.close()


@LOCAL
def test_links_that_lead_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("a", "z"):
        (tmp_path / name).mkdir()
    assert not is_local(tmp_path / "loop")
    watch = FolderWatch.open(lambda: [(tmp_path / "loop", 6), (tmp_path, 6)])
    assert watch is not None
    watch.refresh()
    assert not watch.rooted
    for name in ("a", "z"):
        assert not said(watch)
        put(tmp_path / name / "file")
        assert said(watch)
        watch.refresh()
    watch.close()


@LOCAL
def test_a_queue_that_overflows_says_so(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watch = watching(tmp_path)
    one, other = tmp_path / "one", tmp_path / "other"
    put(one)
    for _ in range(limit // 2 + 10):  # each rename is two
        one.rename(other)
        other.rename(one)
    assert said(watch)
    watch.refresh()
    assert not said(watch)
    one.rename(other)
    assert said(watch)
    watch.close()


def test_where_it_does_not_work(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"2 1 0:50 / {tmp_path}/net rw - nfs4 server:/ rw\n"
        f"3 1 0:51 / {tmp_path}/net/disk\\040one rw shared:2 master:3 - xfs /dev/sdb rw\n"
        "odd\n"
    )
    for folder in ("net/a", "net/disk one/b", "networks"):
        (tmp_path / folder).mkdir(parents=True)
    assert is_local(tmp_path / "networks", mounts)
    assert not is_local(tmp_path / "net" / "a", mounts)
    assert is_local(tmp_path / "net" / "disk one" / "b", mounts)
    assert not is_local(tmp_path / "absent", mounts)
    assert not is_local(tmp_path, tmp_path / "absent")
    (tmp_path / "networks" / "link").symlink_to(tmp_path / "net" / "a")
    assert not is_local(tmp_path / "networks" / "link", mounts)
    assert FolderWatch.open(list) is None
    assert FolderWatch.open(lambda: [(tmp_path / "absent", 1)]) is None


class Told:
    """What a poller said, in turn."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, list[int]]] = asyncio.Queue()

    def __call__(self, models: Models) -> None:
        self.queue.put_nowait({name: list(model.versions) for name, model in models.items()})

    async def next(self) -> dict[str, list[int]]:
        return await asyncio.wait_for(self.queue.get(), 10)


@asynccontextmanager
async def polling(root: Path, interval_s: float, *, watch: bool = True) -> AsyncIterator[tuple[Told, Poller]]:
    source, told = Scanner(root), Told()
    poller = Poller(
        source, source.look(), interval_s, told, FolderWatch.open(source.folders) if watch else None
    )
    task = asyncio.create_task(poller.run())
    yield told, poller
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@LOCAL
async def test_a_poller_need_not_wait_for_its_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_SETTLE_S", 0.05)
    put(tmp_path / "m" / "1" / "model.onnx")
    async with polling(tmp_path, 3600) as (told, _):
        put(tmp_path / "m" / "2" / "model.onnx")
        assert await told.next() == {"m": [1, 2]}
        put(tmp_path / "n" / "7" / "model.onnx")
        put(tmp_path / "n" / "7" / ".complete")
        assert await told.next() == {"m": [1, 2], "n": [7]}
        shutil.rmtree(tmp_path / "m" / "1")
        assert await told.next() == {"m": [2], "n": [7]}


@LOCAL
async def test_a_poller_outlives_what_goes_wrong_with_its_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_SETTLE_S", 0.05)
    put(tmp_path / "m" / "1" / "model.onnx")
    refresh, calls = FolderWatch.refresh, iter((True, False, True))

    def fails_at_times(watch: FolderWatch) -> None:
        if next(calls, False):
            raise RuntimeError("odd")
        refresh(watch)

    monkeypatch.setattr(FolderWatch, "refresh", fails_at_times)
    async with polling(tmp_path, 3600) as (told, _):
        for version in (2, 3):
            put(tmp_path / "m" / str(version) / "model.onnx")
            assert await told.next() == {"m": list(range(1, version + 1))}


class Moving:
    """A source that becomes another, as after a reload of its configuration."""

    def __init__(self, root: Path) -> None:
        self.scanner = Scanner(root)

    def look(self) -> dict[str, ModelOnDisk]:
        return self.scanner.look()

    def folders(self) -> list[tuple[Path, int]]:
        return self.scanner.folders()


@LOCAL
async def test_the_folders_of_another_source_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_SETTLE_S", 0.05)
    for name in ("a", "b"):
        put(tmp_path / name / "m" / "1" / "model.onnx")
    source, told = Moving(tmp_path / "a"), Told()
    poller = Poller(source, source.look(), 3600, told, FolderWatch.open(source.folders))
    task = asyncio.create_task(poller.run())
    put(tmp_path / "a" / "m" / "2" / "model.onnx")
    assert await told.next() == {"m": [1, 2]}
    source.scanner = Scanner(tmp_path / "b")
    poller.adopt(source.look())
    put(tmp_path / "b" / "m" / "7" / "model.onnx")
    assert await told.next() == {"m": [1, 7]}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@LOCAL
async def test_a_copy_that_goes_on_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the kernel says that something happens: the looks that count are a while apart."""
    monkeypatch.setattr(discovery, "_SETTLE_S", 0.5)
    put(tmp_path / "m" / "1" / "model.onnx")
    looks: list[float] = []
    look = Scanner.look
    loop = asyncio.get_running_loop()

    def watched(self: Scanner) -> object:
        looks.append(loop.time())
        return look(self)

    async with polling(tmp_path, 3600) as (told, _):
        monkeypatch.setattr(Scanner, "look", watched)
        copying = (tmp_path / "m" / "2" / "model.onnx").open
        (tmp_path / "m" / "2").mkdir()
        until = loop.time() + 2
        with copying("w") as file:
            while loop.time() < until:
                file.write("more")
                file.flush()
                put(tmp_path / "swarm")
                await asyncio.sleep(0.01)
            assert told.queue.empty()
        assert await told.next() == {"m": [1, 2]}
    assert len(looks) > 2
    assert min(after - before for before, after in pairwise(looks[1:])) > 0.4


async def test_a_nudge_does_not_wait(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1" / "model.onnx")
    async with polling(tmp_path, 3600, watch=False) as (told, poller):
        put(tmp_path / "m" / "2" / "model.onnx")
        put(tmp_path / "m" / "2" / ".complete")
        poller.nudge()
        assert await told.next() == {"m": [1, 2]}


async def test_without_the_kernel_there_are_the_looks(tmp_path: Path) -> None:
    put(tmp_path / "m" / "1" / "model.onnx")
    async with polling(tmp_path, 0.02, watch=False) as (told, _):
        put(tmp_path / "m" / "2" / "model.onnx")
        assert await told.next() == {"m": [1, 2]}
