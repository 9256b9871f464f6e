"""TOML into structs; every key must be known, and an unknown one says what was probably meant."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from servolley.config.sizes import ByteSize, parse_size

_LARGEST_FILE_BYTES = 1 << 20

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """A configuration file or flag that cannot be used; the text names the file and the key."""


def load_toml(path: Path, struct: type[S]) -> S:
    """Reads ``path`` into ``struct``. Raises ConfigError naming the file."""
    return parse_toml(read_config(path), struct, source=str(path))


def read_config(path: Path) -> str:
    """A configuration file's text. Raises ConfigError naming the file."""
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {_LARGEST_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error


def parse_toml(text: str, struct: type[S], *, source: str) -> S:
    """Like load_toml, from text; ``source`` names it in errors."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply") from error
    unknown = list(_unknown_keys(document, struct, prefix=""))
    if unknown:
        raise ConfigError(f"{source}: " + "; ".join(unknown))
    try:
        return msgspec.convert(document, type=struct, dec_hook=_decode_custom, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_with_dotted_path(str(error))}") from error


def _unknown_keys(document: dict[str, Any], struct: type[msgspec.Struct], prefix: str) -> list[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    complaints = []
    for key, value in document.items():
        field = fields.get(key)
        if field is None:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f", did you mean '{close[0]}'?" if close else f" (known: {', '.join(sorted(fields))})"
            complaints.append(f"unknown key '{prefix}{key}'{hint}")
        elif (inner := _struct_in(field.type)) is not None:
            for name, table in _tables(value, field.type):
                if isinstance(table, dict):
                    below = f"{prefix}{key}.{name}." if name else f"{prefix}{key}."
                    complaints += _unknown_keys(table, inner, prefix=below)
    return complaints


def _tables(value: object, annotation: Any) -> Iterable[tuple[str, object]]:
    # A table of tables has names of its own, an array of them numbers; what they hold has keys.
    if isinstance(value, list):
        return ((str(number), table) for number, table in enumerate(value))
    if isinstance(value, dict):
        return value.items() if get_origin(annotation) is dict else [("", value)]
    return []


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    for candidate in get_args(annotation):
        if (found := _struct_in(candidate)) is not None:
            return found
    return None


def _decode_custom(kind: type, value: object) -> object:
    if kind is ByteSize:
        return parse_size(value)
    raise NotImplementedError(kind)


def _with_dotted_path(message: str) -> str:
    # msgspec ends its texts with " - at `$.batching.max_batch_size`", or " - at `key` in `$.traffic.split`".
    text, separator, path = message.replace(" - at `key` in `$", ": a key - at `$").rpartition(" - at `$")
    return f"'{path.rstrip('`').lstrip('.')}': {text}" if separator else message


def apply_flags(settings: S, flags: dict[str, dict[str, Any]]) -> S:
    """``settings`` with command-line values (section -> key -> value, None = not given) put over them."""
    document = msgspec.to_builtins(settings, enc_hook=int)  # a ByteSize is the only custom type
    for section, values in flags.items():
        document[section] |= {key: value for key, value in values.items() if value is not None}
    try:
        return msgspec.convert(document, type=type(settings), dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        raise ConfigError(_with_dotted_path(str(error))) from error
