"""Log lines: one per record, as text or JSON, on standard error. Whatever a client sent is escaped, so that
no request can forge a line or send control sequences to a terminal."""

import json
import logging
import sys
import time
from typing import Any, TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# C0 and C1 controls, delete, line separators, bidirectional overrides, lone surrogates.
_UNPRINTABLE = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    )
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def escape(text: str) -> str:
    """``text`` with everything that is not plainly printable written as an escape."""
    return text if text.isascii() and text.isprintable() else text.translate(_UNPRINTABLE)


class _Formatter(logging.Formatter):
    def _timestamp(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = getattr(record, "fields", None)
        return fields if isinstance(fields, dict) else {}

    def _exception(self, record: logging.LogRecord) -> str:
        text = self.formatException(record.exc_info) if record.exc_info else ""
        return text or record.exc_text or ""


class TextFormatter(_Formatter):
    """``2025-01-31T12:00:00.123Z INFO servolley.server: message key=value``"""

    def format(self, record: logging.LogRecord) -> str:
        parts = [self._timestamp(record), record.levelname, record.name + ":", escape(record.getMessage())]
        for key, value in self._fields(record).items():
            text = str(value)
            parts.append(f"{key}={json.dumps(text) if ' ' in text or not text else escape(text)}")
        if exception := self._exception(record):
            parts.append("exception=" + escape(exception))
        return " ".join(parts)


class JsonFormatter(_Formatter):
    """One object with time, level, logger, message, the record's fields, and exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self._timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in self._fields(record).items():
            line.setdefault(key, value)
        if exception := self._exception(record):
            line["exception"] = exception
        # ASCII only: escapes lone surrogates and every control character.
        return json.dumps(line, default=str, separators=(",", ":")).replace("\x7f", "\\u007f")


class LevelGate(logging.Filter):
    """Lets records of some levels through: each of info, warning and error by itself, debug with a verbose
    level. A critical record counts as an error."""

    def __init__(self, level: str) -> None:
        super().__init__()
        least = LEVELS[level]
        self.open = {number: number >= least for number in LEVELS.values()}

    def filter(self, record: logging.LogRecord) -> bool:
        return self.open.get(min(record.levelno, logging.ERROR), True)

    def set(self, changes: dict[int, bool]) -> None:
        self.open |= changes
        # The root's level spares loggers the work for what would not be written.
        least = (number for number in sorted(self.open) if self.open[number])
        logging.getLogger().setLevel(next(least, logging.CRITICAL + 1))


def level_gate() -> LevelGate:
    """The gate that set_up_logging put before its handler; one that is in nobody's way if it did not."""
    for handler in logging.getLogger().handlers:
        for each in handler.filters:
            if isinstance(each, LevelGate):
                return each
    return LevelGate("info")


def set_up_logging(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Makes the root logger write to ``stream`` (standard error). Replaces earlier handlers."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(LevelGate(level))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
