"""What is logged, as Triton's clients read and change it while the server runs."""

import logging
from collections.abc import Mapping
from typing import Any

from servolley.observe.logs import LevelGate
from servolley.status import invalid_argument, unimplemented

_SWITCHES = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
_LARGEST_VERBOSE = (1 << 31) - 1


def log_settings(gate: LevelGate) -> dict[str, Any]:
    return {
        "log_file": "",
        **{name: gate.open[level] for name, level in _SWITCHES.items()},
        "log_verbose_level": int(gate.open[logging.DEBUG]),
        "log_format": "ISO8601",
    }


def change_log_settings(gate: LevelGate, sent: Mapping[str, Any]) -> None:
    """All of them or, with a StatusError, none. None as a value changes nothing; every verbose level above 0
    means the same."""
    changes: dict[int, bool] = {}
    for key, value in sent.items():
        if key == "log_file":
            raise unimplemented("'log_file' cannot be changed: the server writes to standard error")
        if key not in _SWITCHES and key not in ("log_verbose_level", "log_format"):
            raise invalid_argument(f"unknown log setting '{key[:100]}'")
        if value is None:
            continue
        if key in _SWITCHES:
            if not isinstance(value, bool):
                raise invalid_argument(f"'{key}' must be a boolean")
            changes[_SWITCHES[key]] = value
        elif key == "log_verbose_level":
            if type(value) is not int or not 0 <= value <= _LARGEST_VERBOSE:
                raise invalid_argument(f"'{key}' must be a number from 0 to {_LARGEST_VERBOSE}")
            changes[logging.DEBUG] = value > 0
        elif value == "default":
            raise unimplemented("log_format 'default' is not supported: lines carry ISO8601 times")
        elif value != "ISO8601":
            raise invalid_argument("'log_format' must be default or ISO8601")
    gate.set(changes)
