from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servolley.observe.logs import JsonFormatter, TextFormatter, escape, set_up_logging


def record(message: str, fields: dict[str, Any] | None = None, error: bool = False) -> logging.LogRecord:
    exc_info = None
    if error:
        try:
            raise ValueError("line one\nline two")
        except ValueError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("servolley.x", logging.WARNING, __file__, 1, message, None, exc_info)
    made.created, made.msecs = 1_700_000_000.5, 500.0
    if fields is not None:
        made.fields = fields
    return made


def test_text() -> None:
    line = TextFormatter().format(record("hello", {"model": "m", "path": "a b", "empty": "", "n": 3}))
    assert line == '2023-11-14T22:13:20.500Z WARNING servolley.x: hello model=m path="a b" empty="" n=3'


def test_json() -> None:
    line = JsonFormatter().format(record("hello", {"model": "m", "n": 3, "level": "forged"}))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "warning",
        "logger": "servolley.x",
        "message": "hello",
        "model": "m",
        "n": 3,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_stays_on_one_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("failed", error=True))
    assert len(line.splitlines()) == 1
    assert "ValueError" in line
    assert "line two" in line


@given(st.text() | st.text(alphabet=st.characters(max_codepoint=0x9F)), st.text())
def test_nothing_a_client_sends_can_forge_a_line(message: str, value: str) -> None:
    made = record("%s", {"name": value})
    made.args = (message,)
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(made)
        assert len(line.splitlines()) == 1
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", line)
        line.encode()


def test_escapes() -> None:
    assert escape("a\nb\x1b[31m\x85é\u202e") == "a\\nb\\x1b[31m\\x85é\\u202e"


def test_set_up() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        stream = io.StringIO()
        set_up_logging("json", "warning", stream)
        logging.getLogger("servolley.a").info("not this")
        logging.getLogger("servolley.a").warning("this %d", 1)
        assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["this 1"]
    finally:
        root.handlers[:], root.level = handlers, level
