"""Which names a model and a version may have."""

import re

LARGEST_VERSION = (1 << 63) - 1
_LONGEST_NAME_BYTES = 255
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DIGITS = re.compile(r"0*([1-9][0-9]*)", re.ASCII)


def valid_model_name(name: str) -> bool:
    """A name is a directory's name: no separators, no controls, no blanks at its ends, not hidden."""
    return (
        name != ""
        and not name.startswith(".")
        and name == name.strip()
        and _FORBIDDEN.search(name) is None
        and len(name.encode()) <= _LONGEST_NAME_BYTES
    )


def parse_version(name: str) -> int | None:
    """The version that a directory's name stands for: digits, perhaps zero-padded, 1 to 2^63-1; else None."""
    match = _DIGITS.fullmatch(name)
    if match is None or len(match[1]) > len(str(LARGEST_VERSION)):
        return None
    version = int(match[1])
    return version if version <= LARGEST_VERSION else None
