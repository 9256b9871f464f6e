"""Which requests are traced: settings of the server and what models change of them. Pure: calls' values in,
settings out. Values are text, as Triton's clients send and read them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from servolley.status import invalid_argument, unimplemented

#: What a client may send of one setting: one value or several; None takes a change back.
Sent = str | int | list[str | int] | None

_LEVELS = ("OFF", "TIMESTAMPS")
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """on: whether requests are traced at all. rate: every rate-th is. count: as many still; -1 = any number.
    log_frequency: traces in one file; 0 = all."""

    on: bool = False
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0

    def changed(self, changes: "TraceChanges") -> Self:
        return replace(self, **changes.values)

    def document(self, remaining: int, file: str) -> dict[str, list[str] | str]:
        """As clients read it. ``remaining``: what is left of count."""
        return {
            "trace_level": ["TIMESTAMPS" if self.on else "OFF"],
            "trace_rate": str(self.rate),
            "trace_count": str(remaining),
            "log_frequency": str(self.log_frequency),
            "trace_file": file,
            "trace_mode": "triton",
        }


@dataclass(frozen=True, slots=True)
class TraceChanges:
    """Some of TraceSettings' fields. ``reset``: those whose change is taken back."""

    values: dict[str, Any]
    reset: frozenset[str]

    @classmethod
    def parse(cls, sent: Mapping[str, Sent]) -> Self:
        """Raises StatusError."""
        values: dict[str, Any] = {}
        reset = set()
        for key, value in sent.items():
            if key in ("trace_file", "trace_mode"):
                raise unimplemented(f"'{key}' is set when the server starts and cannot be changed")
            field = _FIELDS.get(key)
            if field is None:
                raise invalid_argument(f"unknown trace setting '{key[:100]}'")
            if value is None or value == []:
                reset.add(field)
            elif field == "on":
                values[field] = _level(value)
            else:
                values[field] = _number(key, value, least=-1 if field == "count" else _LEAST[field])
        return cls(values, frozenset(reset))


_FIELDS = {
    "trace_level": "on",
    "trace_rate": "rate",
    "trace_count": "count",
    "log_frequency": "log_frequency",
}
_LEAST = {"rate": 1, "log_frequency": 0}


def _level(value: Sent) -> bool:
    levels = value if isinstance(value, list) else [value]
    if "TENSORS" in levels:
        raise unimplemented("trace level TENSORS is not supported: a trace would hold clients' data")
    if levels not in (["OFF"], ["TIMESTAMPS"]):
        raise invalid_argument(f"'trace_level' must be one of {', '.join(_LEVELS)}")
    return levels == ["TIMESTAMPS"]


def _number(key: str, value: Sent, *, least: int) -> int:
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    number: int | None = None
    if isinstance(one, int) and not isinstance(one, bool):
        number = one
    elif isinstance(one, str) and len(one) <= len(str(_LARGEST)) and one.removeprefix("-").isdecimal():
        number = int(one) if one.isascii() else None
    if number is None or not least <= number <= _LARGEST:
        raise invalid_argument(f"'{key}' must be a number from {least} to {_LARGEST}")
    return number


class TraceBook:
    """The settings of the server and its models. ``at_start``: what a reset of the server's goes back to."""

    def __init__(self, at_start: TraceSettings) -> None:
        self._at_start = at_start
        self._general = at_start
        self._changes: dict[str, dict[str, Any]] = {}

    @property
    def models(self) -> set[str]:
        """Those with settings of their own."""
        return set(self._changes)

    def settings(self, model: str | None) -> TraceSettings:
        return replace(self._general, **self._changes.get(model, {})) if model is not None else self._general

    def change(self, model: str | None, changes: TraceChanges) -> set[str | None]:
        """For whom that makes a difference; None: the server's settings."""
        before = {name: self.settings(name) for name in (None, *self._changes)}
        if model is None:
            start = {field: getattr(self._at_start, field) for field in changes.reset}
            self._general = replace(self._general.changed(changes), **start)
        else:
            own = self._changes.get(model, {}) | changes.values
            own = {field: value for field, value in own.items() if field not in changes.reset}
            before.setdefault(model, self.settings(model))
            self._changes[model] = own
            if not own:
                del self._changes[model]
        touched = {name for name, settings in before.items() if self.settings(name) != settings}
        # Whoever says how many are to be traced starts the count again, and whoever takes everything back
        # follows the server's count.
        counted = "count" in changes.values or (model is not None and model not in self._changes)
        return touched | {model} if counted else touched

    def forget(self, models: set[str]) -> None:
        for name in models:
            self._changes.pop(name, None)
