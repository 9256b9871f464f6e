from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from servolley.observe.log_settings import change_log_settings, log_settings
from servolley.observe.logs import level_gate, set_up_logging
from servolley.observe.trace_file import TraceFile
from servolley.observe.trace_settings import Sent, TraceBook, TraceChanges, TraceSettings
from servolley.observe.tracing import Tracing
from servolley.status import StatusError
from unit import fake_core


def trace(number: int) -> Any:
    return {
        "id": number,
        "model": "m",
        "version": 3,
        "request_id": "" if number % 2 else "odd \n one",
        "dialect": "oip_http",
        "code": "OK",
        "rows": 1,
        "batch_rows": 4,
        "stages": [("REQUEST_START", 100), ("REQUEST_END", 250)],
    }


def numbers(path: Path) -> list[int]:
    """The traces of a file, each of whose objects is checked."""
    objects = json.loads(path.read_text())
    found = []
    for about, times in zip(objects[::2], objects[1::2], strict=True):
        assert about["id"] == times["id"]
        assert (about["model_name"], about["model_version"], about["batch_rows"]) == ("m", 3, 4)
        assert times["timestamps"] == [
            {"name": "REQUEST_START", "ns": 100},
            {"name": "REQUEST_END", "ns": 250},
        ]
        found.append(about["id"])
    return found


# --- settings


def change(book: TraceBook, model: str | None, **sent: Sent) -> set[str | None]:
    return book.change(model, TraceChanges.parse(sent))


def test_a_model_has_what_it_changed_and_the_servers_rest() -> None:
    book = TraceBook(TraceSettings())
    assert change(book, "m", trace_rate="5", trace_level=["TIMESTAMPS"]) == {"m"}
    assert change(book, None, trace_rate="7", log_frequency="2") == {None, "m"}  # m has a new log_frequency
    assert book.settings("m") == TraceSettings(True, 5, -1, 2)
    assert book.settings(None) == book.settings("other") == TraceSettings(False, 7, -1, 2)


def test_what_is_reset_follows_the_server_again_and_the_server_its_start() -> None:
    book = TraceBook(TraceSettings(rate=50))
    change(book, "m", trace_rate="5")
    change(book, None, trace_rate="7")
    assert change(book, "m", trace_rate=None) == {"m"}
    assert book.models == set()
    assert book.settings("m").rate == 7
    assert change(book, None, trace_rate=[]) == {None}
    assert book.settings("m").rate == 50


def test_a_count_begins_anew_whenever_it_is_set() -> None:
    book = TraceBook(TraceSettings())
    assert change(book, None, trace_count="10") == {None}
    assert change(book, None, trace_count="10") == {None}
    assert change(book, None, trace_rate="1000") == set()


def test_nothing_is_remembered_of_models_that_have_gone() -> None:
    book = TraceBook(TraceSettings())
    change(book, "m", trace_rate="5")
    book.forget({"m", "never"})
    assert book.models == set()
    assert book.settings("m") == TraceSettings()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("trace_rate", value) for value in ("0", "-1", "x", "", "1.5", " 5", "9" * 30, ["1", "2"], True)),
        *(("trace_rate", value) for value in ("٣", "--1", 0, 1 << 63, {"a": 1})),
        *(("trace_count", value) for value in ("-2", "x", ["x"])),
        *(("log_frequency", value) for value in ("-1", [["1"]])),
        *(("trace_level", value) for value in ("ON", ["OFF", "TIMESTAMPS"], ["TIMESTAMPS", "TIMESTAMPS"], 1)),
        ("trace_speed", "1"),
    ],
)
def test_settings_that_are_none(key: str, value: Any) -> None:
    with pytest.raises(StatusError) as failure:
        TraceChanges.parse({key: value})
    assert failure.value.code.http_status == 400


@pytest.mark.parametrize("sent", [{"trace_file": "/x"}, {"trace_mode": "triton"}, {"trace_level": "TENSORS"}])
def test_settings_that_cannot_be_changed(sent: dict[str, Sent]) -> None:
    with pytest.raises(StatusError) as failure:
        TraceChanges.parse(sent)
    assert failure.value.code.http_status == 501


# --- files


def test_a_file_is_complete_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("something older")
    file = TraceFile(path, 1 << 20)
    file.write([], 0)
    assert path.read_text() == "something older"
    for end in (1, 3, 6):
        file.write([trace(number) for number in range(len(numbers(path)) if end > 1 else 0, end)], 0)
        assert numbers(path) == list(range(end))
    assert json.loads(path.read_text())[0]["request_id"] == "odd \n one"
    assert "request_id" not in json.loads(path.read_text())[2]


def test_files_of_a_number_of_traces(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(path, 1 << 20)
    file.write([trace(number) for number in range(5)], 2)
    file.write([trace(5), trace(6)], 2)
    parts = [numbers(tmp_path / f"trace.json.{part}") for part in range(4)]
    assert parts == [[0, 1], [2, 3], [4, 5], [6]]
    file.write([trace(7)], 0)
    assert numbers(path) == [7]
    file.write([trace(8)], 0)
    assert numbers(path) == [7, 8]


@pytest.mark.parametrize("per_file", [0, 1])
def test_files_have_a_size_in_all(tmp_path: Path, per_file: int) -> None:
    file = TraceFile(tmp_path / "trace.json", 1000)
    for _ in range(100):
        file.write([trace(0)], per_file)
    assert file.full
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 1000 <= size < 1300


# --- following


class Rig:
    def __init__(self, file: Path | None, at_start: TraceSettings | None = None) -> None:
        self.engine = fake_core.Engine()
        self.tracing = Tracing(cast("Any", self.engine), file, 1 << 20, at_start or TraceSettings())

    def change(self, model: str | None = None, **sent: Sent) -> None:
        self.tracing.change(model, sent, {"m", "n"})


async def test_the_core_follows_the_settings(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "t.json", TraceSettings(True, 2, 9))
    assert rig.engine.trace_rules == {None: (2, 9)}
    rig.change("m", trace_level=["OFF"])
    assert rig.engine.trace_rules == {None: (2, 9), "m": (0, 9)}
    rig.change(trace_rate="3")
    assert rig.engine.trace_rules == {None: (3, 9), "m": (0, 9)}
    rig.change("m", trace_level=None)
    assert rig.engine.trace_rules == {None: (3, 9)}
    rig.change("n", trace_count="4")
    rig.tracing.change(None, {"trace_rate": "1"}, {"m"})  # n has gone
    assert rig.engine.trace_rules == {None: (1, 9)}
    await rig.tracing.close()


async def test_what_the_core_saw_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    rig = Rig(path, TraceSettings(True, 1))
    rig.engine.traces = [trace(1), trace(2)]
    assert rig.tracing.settings(None)["trace_file"] == str(path)
    await rig.tracing.close()
    assert numbers(path) == [1, 2]


async def test_a_file_that_cannot_be_written_ends_tracing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path / "none" / "t.json", TraceSettings(True, 1))
    rig.change("m", trace_rate="5")
    rig.engine.traces = [trace(1)]
    rig.engine.traces_dropped = 3
    await rig.tracing.close()
    assert rig.engine.trace_rules == {None: (0, -1), "m": (0, -1)}
    assert "traces cannot be written: No such file or directory" in caplog.text
    assert "traces were dropped" in caplog.text


async def test_without_a_file_nothing_is_traced() -> None:
    rig = Rig(None)
    with pytest.raises(StatusError, match="--trace-file"):
        rig.change(trace_level="TIMESTAMPS")
    rig.change(trace_rate="2")
    assert rig.engine.trace_rules == {None: (0, -1)}
    await rig.tracing.close()
    assert len(asyncio.all_tasks()) == 1


# --- logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    out = io.StringIO()
    set_up_logging("text", "info", out)
    yield out
    root.handlers[:], level = before
    root.setLevel(level)


def test_levels_are_switched_one_by_one(stream: io.StringIO) -> None:
    gate, log = level_gate(), logging.getLogger("servolley.test")

    def written() -> list[str]:
        stream.seek(0)
        stream.truncate()
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "x")
        return [line.split()[1] for line in stream.getvalue().splitlines()]

    assert written() == ["INFO", "WARNING", "ERROR", "CRITICAL"]
    change_log_settings(gate, {"log_info": False, "log_verbose_level": 2, "log_error": None})
    assert written() == ["DEBUG", "WARNING", "ERROR", "CRITICAL"]
    assert log_settings(gate)["log_verbose_level"] == 1
    change_log_settings(gate, {"log_warning": False, "log_error": False, "log_verbose_level": 0})
    assert written() == []
    change_log_settings(gate, {"log_info": True, "log_format": "ISO8601"})
    assert written() == ["INFO"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"log_file": "/x"}, 501),
        ({"log_file": None}, 501),
        ({"log_format": "default"}, 501),
        ({"log_format": "xml"}, 400),
        ({"log_info": 1}, 400),
        ({"log_error": "true"}, 400),
        ({"log_verbose_level": -1}, 400),
        ({"log_verbose_level": 2**31}, 400),
        ({"log_verbose_level": True}, 400),
        ({"log_colour": True}, 400),
    ],
)
def test_log_settings_that_are_none_change_nothing(
    stream: io.StringIO, sent: dict[str, Any], status: int
) -> None:
    gate = level_gate()
    with pytest.raises(StatusError) as failure:
        change_log_settings(gate, {"log_warning": False} | sent)
    assert failure.value.code.http_status == status
    assert log_settings(gate)["log_warning"] is True
