"""The mirror's process, as the server drives it: the real one over a folder, and some that misbehave."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from servolley.config.settings import Remote, Repository
from servolley.mirror import process as process_module
from servolley.mirror.messages import Answer, Job
from servolley.mirror.names import MirrorError
from servolley.mirror.process import MirrorProcess
from servolley.mirror.repository import MirrorStats, RemoteControl, RemoteRepository
from servolley.repository.layout import RepositoryError
from servolley.status import Code, StatusError

#: Answers everything at once, and counts.
ECHO = """
import json, sys
sys.stdin.readline()
for line in sys.stdin:
    print(json.dumps({"number": 0}), flush=True)
    print(json.dumps({"number": json.loads(line)["number"], "names": ["m"]}), flush=True)
"""


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@asynccontextmanager
async def running(job: Job, program: str | None = None) -> AsyncIterator[MirrorProcess]:
    command = () if program is None else ((sys.executable, "-c", program),)
    process = MirrorProcess(job, *command)
    try:
        yield process
    finally:
        await process.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    put(tmp_path / "far" / "m" / "1" / "model.onnx", "one")
    return Job(
        url=f"file://{tmp_path}/far",
        name=None,
        cache=str(tmp_path / "cache"),
        max_bytes=1 << 20,
        downloads=2,
        options={},
    )


async def test_the_whole_way(job: Job, tmp_path: Path) -> None:
    async with running(job) as process:
        answer = await process.sync()
        assert (answer.changed, answer.problems) == (True, {})
        assert (tmp_path / "cache" / "m" / "1" / "model.onnx").read_text() == "one"
        assert not (await process.sync()).changed
        assert await process.names() == ["m"]
        put(tmp_path / "far" / "m" / "2" / "model.onnx", "two")
        assert (await process.sync()).unsettled
        assert (await process.sync()).changed
        both = await asyncio.gather(process.sync(), process.names())  # in turn
        assert both[1] == ["m"]


async def test_bytes_that_came_are_told_once(job: Job) -> None:
    async with running(job) as process:
        await process.sync()
        assert (process.came, process.restarts) == (3, 0)
        await process.sync()
        assert process.came == 3
        assert process._process is not None
        process._process.kill()
        with pytest.raises(MirrorError):
            await process.sync()
        await process.sync()
        assert (process.came, process.restarts) == (3, 1)


async def test_what_cannot_be_opened(job: Job) -> None:
    async with running(Job(**{**_fields(job), "url": "file:///absent/folder"})) as process:
        for _ in range(2):
            with pytest.raises(MirrorError, match="file:///absent/folder: FileNotFoundError"):
                await process.sync()
    async with running(Job(**{**_fields(job), "cache": "/proc/absent"})) as process:
        with pytest.raises(MirrorError, match="/proc/absent"):
            await process.sync()


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


@pytest.mark.parametrize("gone_for_long", [False, True])
async def test_a_process_that_died_is_started_again(job: Job, gone_for_long: bool) -> None:
    async with running(job, ECHO) as process:
        assert await process.names() == ["m"]
        first = process._process
        assert first is not None
        first.kill()
        if gone_for_long:
            await first.wait()
            await asyncio.sleep(0.05)  # the pipes' ends are noticed in later turns of the loop
        with pytest.raises(MirrorError, match="the mirror's process"):
            await process.names()
        assert await process.names() == ["m"]
        assert process._process is not first


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(3)",
        "print('no message', flush=True); input()",
        "print('[]', flush=True); input()",
        "import sys; sys.stdout.write('x' * 100000000); sys.stdout.flush(); input()",
        "raise RuntimeError('/secret')",
    ],
)
async def test_processes_that_make_no_sense(job: Job, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_LONGEST_LINE_BYTES", 1 << 16)
    async with running(job, program) as process:
        for _ in range(2):
            with pytest.raises(MirrorError, match="the mirror's process"):
                await process.sync()
        assert process._process is None


async def test_a_process_that_says_nothing_is_ended(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "SILENCE_S", 0.2)
    async with running(job, "import sys\nfor line in sys.stdin: pass") as process:
        with pytest.raises(MirrorError, match="TimeoutError"):
            await process.sync()
        assert process._process is None


async def test_a_caller_that_leaves_ends_what_it_asked_for(job: Job) -> None:
    """So that an answer is never taken for another's."""
    async with running(
        job, ECHO.replace("for line in sys.stdin:", "for line in sys.stdin:\n    input()")
    ) as process:
        asking = asyncio.create_task(process.names())
        while process._number == 0:  # noqa: ASYNC110 - it is being started
            await asyncio.sleep(0)
        child = process._process
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert process._process is None
        assert child is None or child.returncode is not None


async def test_it_ends_when_the_server_is_gone(job: Job) -> None:
    """However that came: standard input ends with it."""
    async with running(job) as process:
        await process.sync()
        child = process._process
        assert child is not None
        assert child.stdin is not None
        child.stdin.close()
        assert await asyncio.wait_for(child.wait(), 30) == 0


async def test_nothing_is_started_after_the_end(job: Job) -> None:
    async with running(job, ECHO) as process:
        await process.names()
    with pytest.raises(MirrorError, match="the server is ending"):
        await process.names()
    assert process._process is None


async def test_what_it_prints_is_logged(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    words = "oh, http://u:secret@host/"
    program = f"import sys\nprint({words!r}, file=sys.stderr, flush=True)\n" + ECHO
    with caplog.at_level(logging.WARNING):
        async with running(job, program) as process:
            await process.names()
    assert "mirror: oh, http://host/" in caplog.text


# --- in the server


class Process:
    """Says what a test wants, in turn; the last one again and again."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[list[str] | None] = []
        self.came = self.restarts = 0

    async def sync(self, models: list[str] | None = None) -> Answer:
        self.asked.append(models)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def names(self) -> list[str]:
        answer = self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer.names

    async def close(self) -> None:
        pass


def remote(tmp_path: Path, *answers: Answer | Exception, **settings: Any) -> tuple[RemoteRepository, Process]:
    made = RemoteRepository(
        Remote(cache_dir=str(tmp_path / "cache"), **settings), Repository(path="s3://bucket/models")
    )
    process = Process(*answers)
    made._process = process  # type: ignore[assignment]
    return made, process


def test_paths_that_nobody_opens() -> None:
    with pytest.raises(RepositoryError, match="not one of"):
        RemoteRepository(Remote(), Repository(path="ftp://host/models"))
    with pytest.raises(RepositoryError, match="/proc"):
        RemoteRepository(Remote(cache_dir="/proc/absent/x"), Repository(path="s3://bucket"))


def test_where_the_copy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = RemoteRepository(Remote(), Repository(path="s3://bucket/models"))
    assert made.folder.parent == tmp_path / "servolley"


async def test_the_start(tmp_path: Path) -> None:
    gone = MirrorError("it is gone")
    made, process = remote(tmp_path, gone)
    with pytest.raises(RepositoryError, match="it is gone"):
        await made.first(["m"])
    assert process.asked == [["m"]]
    (made.folder / "m").mkdir(parents=True)
    await made.first(None)  # what was copied before is served


async def test_looking_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    over = asyncio.Event()

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 9:
            over.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    gone = MirrorError("it is gone")
    made, _ = remote(
        tmp_path,
        *(Answer(changed=True), Answer(unsettled=True), gone, gone, gone, gone),
        *(Answer(problems={"m": "odd"}), Answer(problems={"m": "odd"}, changed=True)),
        poll_interval_s=30,
    )
    changes: list[int] = []
    task = asyncio.create_task(made.watch(lambda: changes.append(len(waits))))
    await over.wait()
    task.cancel()
    assert waits == [30, 30, 5, 10, 20, 30, 30, 30, 30]
    assert changes == [1, 8]
    assert caplog.text.count("it is gone: what is loaded keeps serving") == 1
    assert caplog.text.count("m: odd") == 1


async def test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, process = remote(
        tmp_path,
        *(MirrorError("gone"), Answer(changed=True, problems={"m": "odd", "n": "odd"}), Answer(), Answer()),
    )
    monkeypatch.setattr(time, "time", lambda: 12.5)
    assert made.stats() == MirrorStats()
    with pytest.raises(RepositoryError):
        await made.first(None)
    assert made.stats() == MirrorStats(syncs={"changed": 0, "unchanged": 0, "failed": 1})
    await made.first(None)
    process.came, process.restarts = 7, 2
    await made.look_for("other")  # says nothing of the problems with the others
    assert made.stats() == MirrorStats(
        syncs={"changed": 1, "unchanged": 1, "failed": 1},
        last_success_s=12.5,
        problems=2,
        bytes=7,
        restarts=2,
    )
    await made.first(None)
    assert made.stats().problems == 0


async def test_many_loads_are_one_look_or_two(tmp_path: Path) -> None:
    made, process = remote(tmp_path, Answer())
    goes_on = asyncio.Event()

    async def slow(models: list[str] | None = None) -> Answer:
        process.asked.append(models)
        await goes_on.wait()
        return Answer()

    process.sync = slow  # type: ignore[method-assign]
    first = asyncio.create_task(made.look_for("m"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert process.asked == [["m"]]
    more = [asyncio.create_task(made.look_for("m")) for _ in range(100)]
    await asyncio.sleep(0)
    first.cancel()  # who leaves stops nothing
    more[0].cancel()
    goes_on.set()
    await asyncio.gather(*more[1:])
    assert process.asked == [["m"]] * 2


class Control:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.load: Callable[[str, dict[str, Any]], Any] = self._call("load")
        self.unload: Callable[[str, dict[str, Any]], Any] = self._call("unload")

    def _call(self, what: str) -> Callable[[str, dict[str, Any]], Any]:
        async def call(name: str, _: dict[str, Any]) -> None:
            self.calls.append(f"{what} {name}")

        return call

    async def names(self) -> list[str]:
        return ["here"]

    def close(self) -> None:
        self.calls.append("close")


async def test_a_load_looks_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, process = remote(tmp_path, Answer(names=["there"], problems={"other": "odd"}))
    control = Control()
    remote_control = RemoteControl(made, control)
    await remote_control.load("m", {})
    await remote_control.unload("m", {})
    assert await remote_control.names() == ["here", "there"]
    assert (process.asked, control.calls) == ([["m"]], ["load m", "unload m"])
    for trouble in (MirrorError("secret://bucket is gone"), Answer(problems={"m": "secret"})):
        process.answers = [trouble]
        with pytest.raises(StatusError) as refused:
            await remote_control.load("m", {})
        assert (refused.value.code, "secret" in refused.value.message) == (Code.UNAVAILABLE, False)
    assert control.calls == ["load m", "unload m"]
    process.answers = [MirrorError("gone")]
    assert await remote_control.names() == ["here"]
    remote_control.close()
    assert control.calls[-1] == "close"
